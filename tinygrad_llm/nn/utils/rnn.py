"""Sequences of unequal length as one batch."""

from __future__ import annotations

from collections.abc import Iterable

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.functions import stack
from tinygrad_llm.nn.functional import pad


def pad_sequence(
    sequences: Tensor | Iterable[Tensor], batch_first: bool = False, padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:  # fmt: skip
    """Tensors (L_i, *) -> (L, N, *), with batch_first (N, L, *): L the longest length, padding on one side of the rest.

    Raises:
        RuntimeError: no sequences, or padding_side is neither left nor right.
    """
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"padding_side must be one of left, right, not {padding_side!r}")
    given = list(sequences)
    if not given:
        raise RuntimeError("received an empty list of sequences")
    length = max(x.size(0) for x in given)
    padded = []
    for x in given:
        missing = length - x.size(0)
        ends = (missing, 0) if padding_side == "left" else (0, missing)
        padded.append(pad(x, (0, 0) * (x.ndim - 1) + ends, value=padding_value))
    return stack(padded, 0 if batch_first else 1)
