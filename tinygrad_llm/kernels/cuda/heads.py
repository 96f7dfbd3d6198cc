"""Attention on a GPU: which implementation serves a call.

`WAYS` lists our own, the best first. A call goes to the first that serves it, or to cuDNN where that was faster, or to
the reference where nobody else serves it; its way back goes to the same. Another one is another `Way` in the list.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, NamedTuple

from tinygrad_llm.kernels import philox
from tinygrad_llm.kernels.cuda import cudnn, sdp
from tinygrad_llm.kernels.cuda.asked import Asked, Way
from tinygrad_llm.kernels.cuda.heads_16 import TENSOR_CORES_16
from tinygrad_llm.kernels.cuda.heads_32 import PLAIN, TENSOR_CORES_TF32
from tinygrad_llm.kernels.cuda.launch import REALS, shared_memory
from tinygrad_llm.kernels.reference import REFERENCE

LARGE = 1 << 24  # scores, from which on it is worth a warning that they stand in memory


class Saved(NamedTuple):
    """What the way back needs: who went there, the result and what that way kept, the mask and the order."""

    way: Way
    y: Any
    kept: Any
    mask: Any
    causal: bool


def attention(
    q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, keep: Any, drop: float
) -> tuple[Any, Any]:
    """softmax(q k^T scale + mask) v by the first way that serves it."""
    asked = Asked(q, k, v, mask, causal, scale, keep, drop)
    way = choose(asked)
    y, kept = way.forward(asked)
    return y, Saved(way, y, kept, mask, causal)


def attention_backward(
    g: Any, q: Any, k: Any, v: Any, saved: Saved, scale: float, keep: Any, drop: float, need_scores: bool,
    into: Any = None,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """dq, dk, dv by the way that went there; dscores (B, H, T, S), which a mask may ask for, by the reference."""
    asked = Asked(q, k, v, saved.mask, saved.causal, scale, keep, drop)
    gradients = saved.way.backward(g, asked, saved.y, saved.kept, into)
    return *gradients, _scores_gradient(g, asked) if need_scores else None


def choose(asked: Asked) -> Way:
    """The way of a call, of those that are allowed (`sdp`).

    Warns, once a reason, where that takes much memory and time. Raises: RuntimeError where none is allowed.
    """
    room = shared_memory(asked.q.device.id)
    ours = next((way for way in WAYS if sdp.allowed["flash"] and way.serves(asked, room)), None)
    once = None if ours is None else partial(_once, ours, asked)
    if sdp.by_cudnn(*asked[:7], once):
        return BY_CUDNN
    if ours is not None:
        return ours
    sdp.must_be_allowed()
    _warn(asked)
    return BY_REFERENCE


def _once(way: Way, asked: Asked) -> None:
    """There and back; the result stands for its gradient: as many numbers."""
    y, kept = way.forward(asked)
    way.backward(y, asked, y, kept, None)


def _warn(asked: Asked) -> None:
    (batch, heads, t, d), s = asked.q.shape, asked.k.shape[2]
    if batch * heads * t * s < LARGE or asked.q.dtype not in REALS or not sdp.allowed["flash"]:
        return
    if asked.v.shape[-1] != d or d > 128:
        why = f"heads are {d} and {asked.v.shape[-1]} wide, and the kernels know one width of at most 128"
    elif not (asked.keep is None or philox.is_key(asked.keep)):
        why = "dropout was given as a mask in memory"
    else:
        why = f"no kernel serves {asked.q.dtype} with a scale of {asked.scale:g} on this GPU"
    if why not in _warned:
        _warned.add(why)
        warnings.warn(f"attention: scores ({batch}, {heads}, {t}, {s}) stand in memory, since {why}", stacklevel=2)


_warned: set[str] = set()


# --- those of others ---


def _by_cudnn(asked: Asked) -> tuple[Any, Any]:
    return cudnn.attention(*asked[:3], asked.causal, asked.scale)


def _back_by_cudnn(g: Any, asked: Asked, y: Any, kept: Any, into: Any) -> tuple[Any, Any, Any]:
    return cudnn.attention_backward(g, *asked[:3], kept, asked.scale, into)


def _by_reference(asked: Asked) -> tuple[Any, Any]:
    return REFERENCE.attention(*asked)


def _back_by_reference(g: Any, asked: Asked, y: Any, p: Any, into: Any) -> tuple[Any, Any, Any]:
    how = (asked.scale, asked.keep, asked.drop, False, into)
    return REFERENCE.attention_backward(g, *asked[:3], p, *how)[:3]


def _scores_gradient(g: Any, asked: Asked) -> Any:
    """(B, H, T, S), which only a mask that is differentiated asks for."""
    p = REFERENCE.attention(*asked)[1]
    return REFERENCE.attention_backward(g, *asked[:3], p, asked.scale, asked.keep, asked.drop, True)[3]


BY_CUDNN = Way("cuDNN", lambda asked, room: cudnn.serves(*asked[:4], asked.keep), _by_cudnn, _back_by_cudnn)
BY_REFERENCE = Way("reference", lambda asked, room: True, _by_reference, _back_by_reference)
WAYS = [TENSOR_CORES_16, TENSOR_CORES_TF32, PLAIN]
