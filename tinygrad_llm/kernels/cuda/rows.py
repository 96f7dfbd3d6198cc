"""Launchers of the kernels that work on rows: softmax, sums of columns, tables, tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.devices import array_module
from tinygrad_llm.kernels import as_rows
from tinygrad_llm.kernels.cuda.launch import REAL_OF, aligned, in_order, instead_of, kinds, launch
from tinygrad_llm.kernels.cuda.sort import in_order_of
from tinygrad_llm.kernels.reference import REFERENCE

AT_ONCE = 256  # rows that sums of columns take in one launch
WARPS_OF_A_ROW = 128  # that read a row of logits at most, and threads that look at what they left
FEW_ROWS = 128  # of logits: more do not need a whole multiprocessor for each
SHARPEST = 1e30  # of an inverse temperature: beyond it only the likeliest has a chance


def blocks_of(count: int, size: int) -> int:
    """Blocks of a size that hold so many."""
    return -(-count // size)


def threads_for(packs: int, most: int) -> int:
    """Threads of a block for a row of so many packs: whole warps, no more than can be used."""
    return min(most, 32 * max(1, blocks_of(packs, 32)))


@instead_of(REFERENCE.column_sums, real="x")
def column_sums(x: Any) -> Any:
    """The sums over the rows in float32, by blocks of rows and then over the blocks."""
    n, c = x.shape
    if n > AT_ONCE:
        chunk, vec = max(64, blocks_of(n, 64)), 4 // x.itemsize
        parts, vec = blocks_of(n, chunk), vec if c % vec == 0 and x.data.ptr % 4 == 0 else 1
        out = np.empty_like(x, np.float32, shape=(parts, 1, c))
        grid = (blocks_of(c, 32 * vec), parts)
        launch("sums", "sum_columns", grid, (32, 8), x, out, n, c, chunk, VEC=vec, **kinds(REAL=[x]))
        x = out
    y = np.empty_like(x, np.float32, shape=c)
    add_blocks(x.reshape(len(x), 1, c), y)
    return y


def add_blocks(x: Any, first: Any, second: Any = None) -> None:
    """The sums over the rows of x (n, 1 or 2, c) into first (c,) and second."""
    n, parts, c = x.shape
    launch("sums", "sum_blocks", (blocks_of(c, 32), parts), (32, 32), x, first, second, n, c, **kinds(REAL=[x]))


def softmax_threads(x: Any, each: int = 64) -> tuple[int]:
    """Threads of a block for a row of x, with about `each` bytes of it: fewer threads wait less."""
    return (threads_for(blocks_of(x.shape[-1] * x.itemsize, each), 512),)


@instead_of(REFERENCE.softmax, real="x")
def softmax(x: Any) -> Any:
    """exp(x - top) / sum along the last axis."""
    x = aligned(x)
    y, (n, v) = np.empty_like(x), as_rows(x).shape
    launch("softmax", "softmax", (n,), softmax_threads(x), x, y, v, **kinds(REAL=[x]))
    return y


@instead_of(REFERENCE.softmax_backward, real="g y")
def softmax_backward(g: Any, y: Any) -> Any:
    """y (g - sum(g y))."""
    g, y = aligned(g), aligned(y)
    dx, (n, v) = np.empty_like(y), as_rows(y).shape
    launch("softmax", "softmax_backward", (n,), softmax_threads(y, 16), g, y, dx, v, **kinds(REAL=[y]))
    return dx


def int64(ids: Any) -> Any:
    """Whole numbers as the kernels take them."""
    return ids if ids.dtype == np.int64 else ids.astype(np.int64)


def add_at(buffer: Any, index: Any, values: Any) -> None:
    """buffer[index] += values, repeated places in order: the same bits every time.

    Places are sorted, so that equal ones are neighbours; whole rows by number, anything else element by element.
    """
    if buffer.dtype not in REAL_OF or not buffer.flags.c_contiguous or not buffer.size:
        REFERENCE.add_at(buffer, index, values)
        return
    xp = array_module(buffer)
    ids, table = _row_numbers(buffer, index), as_rows(buffer)
    if ids is None:
        ids, table = xp.arange(buffer.size).reshape(buffer.shape)[index], buffer.reshape(-1, 1)
        shape = ids.shape
    else:
        shape = *ids.shape, table.shape[1]
    if not ids.size:
        return
    ids, order = in_order_of(xp.ascontiguousarray(int64(ids.reshape(-1))), len(table))
    rows = xp.broadcast_to(values, shape)
    rows = xp.ascontiguousarray(rows if rows.dtype in REAL_OF else rows.astype(np.float32))
    n, c = ids.size, table.shape[1]
    arrays = (table, ids, order, rows)
    launch("table", "add_runs", (blocks_of(n * c, 256),), (256,), *arrays, n, c, **kinds(REAL=[rows], PARAM=[table]))


def _row_numbers(buffer: Any, index: Any) -> Any:
    """Which rows of `as_rows(buffer)` whole numbers for all axes but the last name; None for another index."""
    numbers = index if isinstance(index, tuple) else (index,)
    whole = all(hasattr(n, "dtype") and n.dtype.kind == "i" for n in numbers)
    if not numbers or len(numbers) != buffer.ndim - 1 or not whole:
        return None
    found = numbers[0]
    for axis, number in enumerate(numbers[1:], 1):
        before, length = buffer.shape[axis - 1 : axis + 1]
        found = (found % before if axis == 1 else found) * length + number % length
    return found


def sample(
    x: Any, u: Any, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None, into: Any = None
) -> Any:
    """A token a row, drawn on the GPU: the numbers u go there, and nothing comes back. Nothing is waited for."""
    if x.dtype not in REAL_OF or not x.size:
        return REFERENCE.sample(x, u, temperature, top_k, top_p, min_p, into)
    x, (n, v) = in_order(x), x.shape
    tokens = np.empty_like(x, np.int64, shape=n) if into is None else into
    if temperature == 0:
        threads = (threads_for(blocks_of(v, 4), 1024),)
        launch("step", "likeliest", (n,), threads, x, tokens, v, **kinds(REAL=[x]))
        return tokens
    draws = array_module(x).asarray(u)
    options = (top_k or 0, 1.0 if top_p is None else top_p, min_p or 0.0)
    each = 32 * blocks_of(v, 32 * 32 * WARPS_OF_A_ROW)  # tokens of a thread
    chunks, sharpness = blocks_of(v, 32 * each), min(1 / temperature, SHARPEST)
    stats = np.empty_like(x, np.float32, shape=(n, chunks, 2))
    maxima = None if options == (0, 1.0, 0.0) else np.empty_like(x, np.float32, shape=(n, chunks, 32))
    sizes, few = (v, chunks, each, sharpness), n <= FEW_ROWS
    warps = 2 if few else 8
    launch(
        "sample", "survey", (n, blocks_of(chunks, warps)), (32 * warps,), x, stats, maxima, *sizes, **kinds(REAL=[x])
    )
    arrays, threads = (x, draws, stats, maxima, tokens), (1024 if few else WARPS_OF_A_ROW,)
    launch("sample", "sample", (n,), threads, *arrays, *sizes, *options, **kinds(REAL=[x]))
    return tokens
