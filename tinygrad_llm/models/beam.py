"""Beam search: the continuation that is likeliest as a whole, as far as a few candidates at a time can tell."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.nn import Module

from .cache import Reader
from .generation import Ends, ends_of, filled_up
from .scoring import log_softmax

Beam = tuple[float, list[int]]  # the sum of log-probabilities of a continuation, and all its ids


def beam_search(
    model: Module,
    ids: Tensor,
    max_new_tokens: int,
    beams: int = 4,
    length_penalty: float = 1.0,
    context_size: int | None = None,
    eos_id: Ends = None,
    *,
    slide: int = 1,
    cache: bool = True,
) -> Tensor:
    """The best continuation found for each row: ids (B, T) -> (B, T + up to max_new_tokens), the prompt included.

    At each step the `beams` best continuations are lengthened by every token, and the best of these stay. One of n
    tokens is worth (sum of ln p) / n^length_penalty, nats: the larger the penalty, the longer what wins; 0 compares
    sums. One that writes an eos_id is finished; all stops when none that goes on is worth more, at its present length,
    than the worst of `beams` finished ones. Rows that end early are filled up with their eos_id.

    Raises: ValueError for options out of range, an empty prompt or a model whose logits are nan.
    Source: Wu et al., Google's neural machine translation system (2016), section 7, with the penalty n^a for theirs.
    """
    if ids.ndim != 2 or ids.shape[1] < 1:
        raise ValueError(f"beam_search: ids must have shape (B, T) with T of at least 1, not {tuple(ids.shape)}")
    if max_new_tokens < 0:
        raise ValueError(f"beam_search: max_new_tokens must not be negative, but is {max_new_tokens}")
    if beams < 1:
        raise ValueError(f"beam_search: beams must be at least 1, not {beams}")
    if not np.isfinite(length_penalty):
        raise ValueError(f"beam_search: length_penalty must be a finite number, not {length_penalty}")
    rows = []
    for prompt in ids.tolist():
        reader = Reader(model, context_size, slide, cache, most=len(prompt) + max_new_tokens)
        rows.append(_search(reader, prompt, max_new_tokens, beams, length_penalty, ends_of(eos_id)))
    return filled_up(rows, ids)


def _search(
    reader: Reader, prompt: list[int], max_new_tokens: int, beams: int, length_penalty: float, ends: set[int]
) -> list[int]:
    """The best continuation of one prompt."""
    going: list[Beam] = [(0.0, prompt)]
    finished: list[Beam] = []  # with what each is worth in place of its sum, best first
    for length in range(1, max_new_tokens + 1):
        logits = devices.move(reader([row for _, row in going]), devices.CPU)
        sums = np.array([[total] for total, _ in going]) + log_softmax(logits)  # (beams, V)
        parents, tokens = _best(sums, 2 * beams)
        here, going_on = [], []
        for rank, (parent, token) in enumerate(zip(parents, tokens, strict=True)):
            beam = float(sums[parent, token]), [*going[parent][1], token]
            if token not in ends:
                going_on.append((beam, parent))
            elif rank < beams:
                here.append((beam[0] / length**length_penalty, beam[1]))
        finished = sorted(finished + here, key=lambda beam: -beam[0])[:beams]
        going = [beam for beam, _ in going_on[:beams]]
        if not going or (len(finished) == beams and going[0][0] / length**length_penalty <= finished[-1][0]):
            going = []
            break
        reader.select([parent for _, parent in going_on[:beams]])
    finished += [(total / max(max_new_tokens, 1) ** length_penalty, row) for total, row in going]
    return max(finished, key=lambda beam: beam[0])[1]


def _best(sums: np.ndarray, number: int) -> tuple[list[int], list[int]]:
    """Row and column of the largest numbers, best first; -inf is none of them."""
    flat = sums.reshape(-1)
    number = min(number, flat.size)
    some = np.argpartition(-flat, number - 1)[:number]
    some = some[np.argsort(-flat[some], kind="stable")]
    some = some[np.isfinite(flat[some])]
    parents, tokens = np.divmod(some, sums.shape[1])
    return parents.tolist(), tokens.tolist()
