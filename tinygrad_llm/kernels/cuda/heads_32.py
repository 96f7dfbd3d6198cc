"""Launchers of attention in float32: attention.cu, and attention_tf32.cu where TF32 is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.kernels.cuda.asked import TILE, Asked, Mask, Way, definitions, dropout_of, has_work, steps_of
from tinygrad_llm.kernels.cuda.heads_16 import AMPERE
from tinygrad_llm.kernels.cuda.launch import launch
from tinygrad_llm.kernels.cuda.rows import blocks_of

WIDTHS = (32, 64, 128)  # that the kernels are compiled for


def _serves_tf32(asked: Asked, room: int) -> bool:
    return devices.tf32 and _serves(asked, room) and room >= AMPERE


def _serves(asked: Asked, room: int) -> bool:
    fits = asked.q.dtype == np.float32 and has_work(asked)
    return fits and _shared(_width(asked.q.shape[-1]), 4, True) <= room


class _Files:
    """One of the two files: its threads, the tiles that forward keeps in shared memory, whether scores lie there."""

    def __init__(self, file: str, threads: int, tiles: int, scores: bool):
        self.file, self.threads, self.tiles, self.scores = file, (threads,), tiles, scores

    def forward(self, asked: Asked) -> tuple[Any, Any]:
        """The result lies in memory as (B, T, H, D), so that joining the heads copies nothing."""
        q, k, v = (_rows_in_order(x) for x in asked[:3])
        (batch, heads, t, d), s = q.shape, k.shape[2]
        y = np.empty_like(q, order="C", shape=(batch, t, heads, d)).transpose(0, 2, 1, 3)
        lse = np.empty_like(q, order="C", shape=(batch, heads, t))
        width, mask = _width(d), Mask(asked)
        launch(
            self.file, "attention", (blocks_of(t, TILE), batch * heads), self.threads, q, k, v, y, lse,
            t, s, heads, heads // k.shape[1], d, *steps_of(q, k, v, y), asked.scale, asked.causal, *mask.arguments,
            *dropout_of(asked), shared=_shared(width, self.tiles, self.scores), VEC=_vec(d, q, k, v),
            **definitions(asked, width, mask),
        )  # fmt: skip
        return y, lse

    def backward(self, g: Any, asked: Asked, y: Any, lse: Any, into: Any) -> tuple[Any, Any, Any]:
        """dq, dk, dv; each has one writer, so that they are the same every time."""
        g, q, k, v = (_rows_in_order(x) for x in (g, *asked[:3]))
        (batch, heads, t, d), (shares, s) = q.shape, k.shape[1:3]
        dq, dk, dv = (np.empty_like(x, order="C") for x in (q, k, v)) if into is None else into
        delta = np.empty_like(lse)
        width, mask, drop = _width(d), Mask(asked), dropout_of(asked)
        defined = {"VEC": _vec(d, g, q, k, v), **definitions(asked, width, mask)}
        grid = (blocks_of(t, 4), batch * heads)
        launch("attention", "attention_delta", grid, (128,), g, y, delta, t, heads, d, *steps_of(g, y), **defined)
        sizes, room = (t, s, heads, heads // shares, d), _shared(width, 4, self.scores)
        launch(
            self.file, "attention_dq", (blocks_of(t, TILE), batch * heads), self.threads, g, q, k, v, lse, delta, dq,
            *sizes, *steps_of(g, q, k, v, dq), asked.scale, asked.causal, *mask.arguments, *drop,
            shared=room, **defined,
        )  # fmt: skip
        launch(
            self.file, "attention_dkv", (blocks_of(s, TILE), batch * shares), self.threads, g, q, k, v, lse, delta,
            dk, dv, *sizes, *steps_of(g, q, k, v, dk, dv), asked.scale, asked.causal, *mask.arguments, *drop,
            shared=room, **defined,
        )  # fmt: skip
        return dq, dk, dv


def _width(d: int) -> int:
    return next(width for width in WIDTHS if d <= width)


def _shared(width: int, tiles: int, scores: bool) -> int:
    """Bytes of shared memory for so many tiles, and one of scores."""
    return 4 * TILE * (tiles * (width + 4) + scores * (TILE + 4))


def _rows_in_order(x: Any) -> Any:
    """An array whose last axis lies side by side in memory."""
    return x if x.strides[-1] == x.itemsize else x.copy()


def _vec(d: int, *arrays: Any) -> int:
    """4 where each row of each array starts at a multiple of 16 bytes, else 1."""
    even = all(step % 4 == 0 for step in steps_of(*arrays))
    return 4 if d % 4 == 0 and even and all(a.data.ptr % 16 == 0 for a in arrays) else 1


_plain, _tf32 = _Files("attention", 256, 2, True), _Files("attention_tf32", 128, 3, False)
PLAIN = Way("attention.cu", _serves, _plain.forward, _plain.backward)
TENSOR_CORES_TF32 = Way("attention_tf32.cu", _serves_tf32, _tf32.forward, _tf32.backward)
