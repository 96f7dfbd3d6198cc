"""Launchers of AdamW's step and of the sum of squares."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm.devices import array_module
from tinygrad_llm.kernels.cuda.launch import in_order, launch, vector
from tinygrad_llm.kernels.cuda.rows import blocks_of
from tinygrad_llm.kernels.reference import REFERENCE

MOST_BLOCKS = 4096  # a thread takes several packs where there are more
PIECE = 65_536  # elements that a block squares and adds up


def _grid(count: int, vec: int) -> tuple[int]:
    return (min(MOST_BLOCKS, blocks_of(count, 256 * vec)),)


def adamw(
    ps: Any, gs: Any, ms: Any, vs: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    step: int,
) -> None:  # fmt: skip
    """One step of AdamW, in place on each p, m and v: a launch an array."""
    rates = (1 - lr * weight_decay, lr / (1 - beta1**step), 1 - beta1, 1 - beta2, math.sqrt(1 - beta2**step), eps)
    for p, g, m, v in zip(ps, gs, ms, vs, strict=True):
        ours = all(a.dtype == np.float32 and a.flags.c_contiguous for a in (p, m, v)) and g.dtype == np.float32
        if ours and p.size:
            g = g if g.flags.c_contiguous else g.copy()
            vec = vector(p.size, p, g, m, v)
            launch("update", "adamw", _grid(p.size, vec), (256,), p, g, m, v, p.size, *rates, VEC=vec)
        else:
            REFERENCE.adamw([p], [g], [m], [v], lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
                            step=step)  # fmt: skip


def sum_squares(x: Any) -> Any:
    """sum x^2, a 0-d array."""
    if x.dtype != np.float32:
        return REFERENCE.sum_squares(x)
    x = in_order(x)
    return _squares(x, _pieces([x.data.ptr], [x.size])).astype(x.dtype)


def clip(arrays: Any, max_norm: float) -> Any:
    """Every array times max_norm / (norm + 1e-6) where that is below 1: three launches, whatever their number."""
    if not all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays):
        return REFERENCE.clip(arrays, max_norm)
    pieces = _pieces([a.data.ptr for a in arrays], [a.size for a in arrays])
    squares = _squares(arrays[0], pieces)
    if len(pieces):
        table = array_module(squares).asarray(pieces)
        launch("update", "scale", (len(pieces),), (512,), table, squares, max_norm, VEC=4)
    return np.sqrt(squares)


def _squares(like: Any, pieces: np.ndarray) -> Any:
    """The sum of squares over all pieces, a 0-d array of float64."""
    xp = array_module(like)
    out = xp.zeros((), np.float64)
    if len(pieces):
        table, sums = xp.asarray(pieces), xp.empty(len(pieces), np.float64)
        launch("update", "squares", (len(pieces),), (512,), table, sums, VEC=4)
        launch("update", "total", (1,), (256,), sums, out, len(pieces), VEC=4)
    return out


def _pieces(addresses: list[int], sizes: list[int]) -> np.ndarray:
    """The address and the length of every piece of arrays of float32 at these addresses: (pieces, 2)."""
    lengths = np.array(sizes, np.int64)
    counts = -(-lengths // PIECE)
    first = np.cumsum(counts) - counts
    start = (np.arange(counts.sum()) - np.repeat(first, counts)) * PIECE  # in its array
    addressed = np.repeat(np.array(addresses, np.int64), counts) + 4 * start
    return np.stack([addressed, np.minimum(PIECE, np.repeat(lengths, counts) - start)], axis=1)
