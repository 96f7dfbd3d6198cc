"""Attention on a GPU: which implementation serves a call.

`WAYS` lists the implementations, the best first; a call goes to the first that serves it, and its way back to the same.
Another one is another `Way` in the list.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.kernels.cuda.asked import Asked, Way, placed
from tinygrad_llm.kernels.cuda.heads_16 import TENSOR_CORES_16
from tinygrad_llm.kernels.cuda.heads_32 import PLAIN, TENSOR_CORES_TF32
from tinygrad_llm.kernels.cuda.launch import REALS
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
    """The first way that serves a call; warns, once a reason, where that takes much memory and time."""
    way = next(way for way in WAYS if way.serves(asked))
    if way is BY_REFERENCE:
        _warn(asked)
    return way


def _warn(asked: Asked) -> None:
    (batch, heads, t, d), s = asked.q.shape, asked.k.shape[2]
    if batch * heads * t * s < LARGE or asked.q.dtype not in REALS:
        return
    if asked.v.shape[-1] != d or d > 128:
        why = f"heads are {d} and {asked.v.shape[-1]} wide, and the kernels know one width of at most 128"
    elif not (asked.keep is None or isinstance(asked.keep, int)):
        why = "dropout was given as a mask in memory"
    else:
        why = f"no kernel serves {asked.q.dtype} with a scale of {asked.scale:g} on this GPU"
    if why not in _warned:
        _warned.add(why)
        warnings.warn(f"attention: scores ({batch}, {heads}, {t}, {s}) stand in memory, since {why}", stacklevel=2)


_warned: set[str] = set()


# --- what no kernel serves ---


def _by_reference(asked: Asked) -> tuple[Any, Any]:
    y, p = REFERENCE.attention(*_wide(asked))
    return y.astype(asked.q.dtype, copy=False), p


def _back_by_reference(g: Any, asked: Asked, y: Any, p: Any, into: Any) -> tuple[Any, Any, Any]:
    wide = _wide(asked)
    found = REFERENCE.attention_backward(
        g.astype(wide.q.dtype, copy=False), *wide[:3], p, asked.scale, asked.keep, asked.drop, False
    )
    dq, dk, dv = (d.astype(asked.q.dtype, copy=False) for d in found[:3])
    return placed((dq, dk, dv), into)


def _scores_gradient(g: Any, asked: Asked) -> Any:
    """(B, H, T, S), which only a mask that is differentiated asks for."""
    wide = _wide(asked)
    p = REFERENCE.attention(*wide)[1]
    g = g.astype(wide.q.dtype, copy=False)
    ds = REFERENCE.attention_backward(g, *wide[:3], p, asked.scale, asked.keep, asked.drop, True)[3]
    return ds.astype(asked.q.dtype, copy=False)


def _wide(asked: Asked) -> Asked:
    """The same in float32 where it was in 16 bits."""
    if asked.q.dtype not in REALS[1:]:
        return asked
    q, k, v, mask = (None if x is None else x.astype(np.float32) if x.dtype in REALS[1:] else x for x in asked[:4])
    return asked._replace(q=q, k=k, v=v, mask=mask)


BY_REFERENCE = Way("reference", lambda asked: True, _by_reference, _back_by_reference)
WAYS = [TENSOR_CORES_16, TENSOR_CORES_TF32, PLAIN, BY_REFERENCE]
