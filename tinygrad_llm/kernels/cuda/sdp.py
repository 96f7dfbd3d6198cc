"""Which kernels attention on a GPU may use, as in `backends.cuda`: ours (flash), cuDNN's, the reference's (math)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygrad_llm.kernels.cuda import cudnn
from tinygrad_llm.kernels.cuda.choice import Choice

allowed = {"flash": True, "mem_efficient": True, "cudnn": True, "math": True}
chosen = Choice("attention")  # between ours and cuDNN's, for each kind of arrays

Both = Callable[[], Any]  # attention forward and backward, once


def enable(kind: str, enabled: bool) -> None:
    """Allow kernels or not. cuDNN's, if they are asked for and cannot be used, are a line of warning."""
    allowed[kind] = enabled
    problem = cudnn.problem() if enabled and kind == "cudnn" else None
    if problem:
        cudnn.warn(problem)


def by_cudnn(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, keep: Any, ours: Both | None) -> bool:
    """Whether cuDNN is to compute attention: it is allowed, serves these arrays, and was faster than ours.

    ours: forward and backward by our kernels, for the trial; None where they do not serve these arrays.
    """
    if not allowed["cudnn"] or not scale > 0 or not cudnn.serves(q, k, v, mask, keep):
        return False
    if ours is None or not allowed["flash"]:
        return True

    def theirs() -> None:
        y, saved = cudnn.attention(q, k, v, causal, scale)
        cudnn.attention_backward(y, q, k, v, saved, scale)  # y stands for its gradient: as many numbers

    kind = (str(q.dtype), q.shape, k.shape, _order(q), _order(k), "causal" if causal else "all", q.device.id)
    return chosen.of(kind, {"ours": ours, "cuDNN": theirs}) == "cuDNN"


def _order(a: Any) -> str:
    """How an array of heads lies: rows of a head after each other, or heads of a row."""
    return "BHTD" if a.strides[1] >= a.strides[2] else "BTHD"


def must_be_allowed() -> None:
    """Raises: RuntimeError where the reference is all that serves, and is not allowed."""
    if not allowed["math"]:
        raise RuntimeError(
            "scaled_dot_product_attention: No available kernel. Aborting execution. (Those that are allowed do not "
            "serve these arrays; backends.cuda.enable_math_sdp(True) lets the reference do it)"
        )
