"""Launchers of attention in bfloat16 and float16, on the tensor cores: attention_16.cuh says how."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels.cuda.asked import Asked, Mask, Way, definitions, dropout_of, has_work, placed, steps_of
from tinygrad_llm.kernels.cuda.launch import REALS, launch
from tinygrad_llm.kernels.cuda.rows import blocks_of

ROWS = 128  # of a block's tile
WIDTHS = (32, 64, 96, 128)  # that the kernels are compiled for
AMPERE = 99 * 1024  # bytes of shared memory for a block, at least: older GPUs, without the instructions, have 96 KiB


def serves(asked: Asked, room: int) -> bool:
    """16-bit numbers, on a GPU that has the instructions."""
    return asked.q.dtype in REALS[1:] and has_work(asked) and room >= AMPERE


def forward(asked: Asked) -> tuple[Any, Any]:
    """The result lies in memory as (B, T, H, D), so that joining the heads copies nothing."""
    (batch, heads, t, d), s = asked.q.shape, asked.k.shape[2]
    q, k, v = (_in_chunks(x) for x in asked[:3])
    columns, width = q.shape[-1], _width(d)
    y = np.empty_like(q, order="C", shape=(batch, t, heads, columns)).transpose(0, 2, 1, 3)
    lse = np.empty_like(q, order="C", shape=(batch, heads, t), dtype=np.float32)
    mask = Mask(asked)
    threads = _threads(width > 64 and mask.is_lean)
    launch(
        "attention_16", "attention", (blocks_of(t, ROWS), batch * heads), threads, q, k, v, y, lse,
        t, s, heads, heads // k.shape[1], columns, *steps_of(q, k, v, y), asked.scale, asked.causal,
        *mask.arguments, *dropout_of(asked), shared=2 * width * (ROWS + 4 * 64), **definitions(asked, width, mask),
    )  # fmt: skip
    return y[..., :d], lse


def backward(g: Any, asked: Asked, y: Any, lse: Any, into: Any) -> tuple[Any, Any, Any]:
    """dq by one kernel, dk and dv by another: each number has one writer, so that it is the same every time."""
    (batch, heads, t, d), s = asked.q.shape, asked.k.shape[2]
    g, q, k, v, y = (_in_chunks(x) for x in (g.astype(y.dtype, copy=False), *asked[:3], y))
    shares, columns, width = k.shape[1], q.shape[-1], _width(d)
    places = (None, None, None) if into is None else into
    dq, dk, dv = (
        place if place is not None and _is_in_chunks(place) else np.empty_like(x, order="C")
        for place, x in zip(places, (q, k, v), strict=True)
    )
    mask, drop = Mask(asked), dropout_of(asked)
    defined = definitions(asked, width, mask)
    numbers = np.empty_like(lse, shape=(batch, heads, t, 2))
    launch(
        "attention_16_backward", "attention_delta", (blocks_of(t, 16), batch * heads), (128,), g, y, lse, numbers,
        t, heads, columns, *steps_of(g, y), **defined,
    )  # fmt: skip
    sizes = (t, s, heads, heads // shares, columns)
    launch(
        "attention_16_backward", "attention_dq", (blocks_of(t, ROWS), batch * heads),
        _threads(width > 64 and mask.is_lean), g, q, k, v, numbers, dq, *sizes, *steps_of(g, q, k, v, dq),
        asked.scale, asked.causal, *mask.arguments, *drop,
        shared=2 * width * (2 * ROWS + 4 * 32), **defined,
    )  # fmt: skip
    launch(
        "attention_16_backward", "attention_dkv", (blocks_of(s, ROWS), batch * shares), _threads(mask.is_lean),
        g, q, k, v, numbers, dk, dv, *sizes, *steps_of(g, q, k, v, dk, dv), asked.scale, asked.causal,
        *mask.arguments, *drop, shared=2 * width * (2 * ROWS + 4 * 32) + 16 * 32, **defined,
    )  # fmt: skip
    return placed((dq[..., :d], dk[..., :d], dv[..., :d]), into)


def _width(d: int) -> int:
    return next(width for width in WIDTHS if d <= width)


def _threads(lean: bool) -> tuple[int]:
    """Of a block: a warp has 32 rows, or 16 where masks and dropout want registers."""
    return (256 if lean else 128,)


def _in_chunks(x: Any) -> Any:
    """An array (B, H, T, D) whose rows are whole chunks of 16 bytes: itself, or a copy with zeros behind each row."""
    if _is_in_chunks(x):
        return x
    d = x.shape[-1]
    copy = np.zeros_like(x, order="C", shape=(*x.shape[:-1], -(-d // 8) * 8))
    copy[..., :d] = x
    return copy


def _is_in_chunks(x: Any) -> bool:
    return (
        x.shape[-1] % 8 == 0
        and x.strides[-1] == x.itemsize
        and x.data.ptr % 16 == 0
        and all(stride % 16 == 0 for stride in x.strides[:3])
    )


TENSOR_CORES_16 = Way("attention_16.cu", serves, forward, backward)
