"""Launchers of attention without a T x S array: in float32, or on the tensor cores where TF32 is allowed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.kernels.cuda import cudnn, sdp
from tinygrad_llm.kernels.cuda.launch import launch, shared_memory
from tinygrad_llm.kernels.cuda.rows import blocks_of
from tinygrad_llm.kernels.reference import REFERENCE

TILE = 64  # as in both files
WIDTHS = (32, 64, 128)  # that the kernels are compiled for


class Saved(NamedTuple):
    """What the way back needs: the result, and for each query the logarithm of the sum of its exponentials."""

    y: Any
    lse: Any
    causal: bool


def attention(
    q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, keep: Any, keep_scale: float
) -> tuple[Any, Any]:
    """softmax(q k^T scale) v; with a mask, dropout, or wide heads as the reference.

    The result lies in memory as (B, T, H, D), so that joining the heads copies nothing.
    """
    if sdp.by_cudnn(q, k, v, mask, causal, scale, keep, None):
        return cudnn.attention(q, k, v, causal, scale)
    if mask is not None or keep is not None or not sdp.allowed["flash"] or not _fits(q, k, v):
        sdp.must_be_allowed()
        return REFERENCE.attention(q, k, v, mask, causal, scale, keep, keep_scale)
    q, k, v = (_rows_in_order(x) for x in (q, k, v))
    (batch, heads, t, d), s = q.shape, k.shape[2]
    y = np.empty_like(q, order="C", shape=(batch, t, heads, d)).transpose(0, 2, 1, 3)
    lse = np.empty_like(q, order="C", shape=(batch, heads, t))
    width, (file, threads, tiles, scores) = _width(d), _way()
    launch(
        file, "attention", (blocks_of(t, TILE), batch * heads), threads, q, k, v, y, lse, t, s, heads, d,
        *_steps(q, k, v, y), scale, causal, shared=_shared(width, tiles, scores), D=width, VEC=_vec(d, q, k, v),
    )  # fmt: skip
    return y, Saved(y, lse, causal)


def attention_backward(
    g: Any, q: Any, k: Any, v: Any, saved: Any, scale: float, keep: Any, keep_scale: float, need_scores: bool,
    into: Any = None,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """dq, dk, dv; each has one writer, so that they are the same every time."""
    if isinstance(saved, cudnn.Saved):
        return *cudnn.attention_backward(g, q, k, v, saved, scale, into), None
    if not isinstance(saved, Saved):
        return REFERENCE.attention_backward(g, q, k, v, saved, scale, keep, keep_scale, need_scores, into)
    y, lse, causal = saved
    g, q, k, v = (_rows_in_order(x) for x in (g, q, k, v))
    (batch, heads, t, d), s = q.shape, k.shape[2]
    dq, dk, dv = (np.empty_like(x, order="C") for x in (q, k, v)) if into is None else into
    delta = np.empty_like(lse)
    width = _width(d)
    common = {"D": width, "VEC": _vec(d, g, q, k, v)}
    grid = (blocks_of(t, 4), batch * heads)
    launch("attention", "attention_delta", grid, (128,), g, y, delta, t, heads, d, *_steps(g, y), **common)
    file, threads, _, scores = _way()
    sizes, room = (t, s, heads, d), _shared(width, 4, scores)
    launch(
        file, "attention_dq", (blocks_of(t, TILE), batch * heads), threads, g, q, k, v, lse, delta, dq,
        *sizes, *_steps(g, q, k, v, dq), scale, causal, shared=room, **common,
    )  # fmt: skip
    launch(
        file, "attention_dkv", (blocks_of(s, TILE), batch * heads), threads, g, q, k, v, lse, delta, dk, dv,
        *sizes, *_steps(g, q, k, v, dk, dv), scale, causal, shared=room, **common,
    )  # fmt: skip
    return dq, dk, dv, _scores_gradient(g, q, k, v, saved, scale) if need_scores else None


def _scores_gradient(g: Any, q: Any, k: Any, v: Any, saved: Saved, scale: float) -> Any:
    """(B, H, T, S), which only a mask that is differentiated asks for: by the reference."""
    p = REFERENCE.attention(q, k, v, None, saved.causal, scale, None, 1.0)[1]
    return REFERENCE.attention_backward(g, q, k, v, p, scale, None, 1.0, True)[3]


def _fits(q: Any, k: Any, v: Any) -> bool:
    """Whether the kernels can take it: float32, something to do, heads of one width that is not too large."""
    d = q.shape[-1]
    if q.dtype != np.float32 or not (q.size and k.size and v.size) or v.shape[-1] != d or d > WIDTHS[-1]:
        return False
    return q.shape[0] * q.shape[1] < 65536 and _shared(_width(d), 4, True) <= shared_memory(q.device.id)


def _width(d: int) -> int:
    return next(width for width in WIDTHS if d <= width)


def _way() -> tuple[str, tuple[int], int, bool]:
    """The file, the threads of a block, the tiles that forward keeps in shared memory, and whether scores lie there."""
    return ("attention_tf32", (128,), 3, False) if devices.tf32 else ("attention", (256,), 2, True)


def _shared(width: int, tiles: int, scores: bool) -> int:
    """Bytes of shared memory for so many tiles, and one of scores."""
    return 4 * TILE * (tiles * (width + 4) + scores * (TILE + 4))


def _rows_in_order(x: Any) -> Any:
    """An array whose last axis lies side by side in memory."""
    return x if x.strides[-1] == x.itemsize else x.copy()


def _steps(*arrays: Any) -> list[int]:
    """The distances between sequences, heads and rows of each array (B, H, T, D), in elements."""
    return [stride // a.itemsize for a in arrays for stride in a.strides[:3]]


def _vec(d: int, *arrays: Any) -> int:
    """4 where each row of each array starts at a multiple of 16 bytes, else 1."""
    even = all(step % 4 == 0 for step in _steps(*arrays))
    return 4 if d % 4 == 0 and even and all(a.data.ptr % 16 == 0 for a in arrays) else 1
