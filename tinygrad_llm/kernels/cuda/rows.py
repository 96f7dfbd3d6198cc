"""Launchers of the kernels that work on rows: softmax, the losses made of it, sums of columns, tables, tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.devices import array_module
from tinygrad_llm.kernels import as_rows
from tinygrad_llm.kernels.cuda.launch import REAL_OF, aligned, in_order, instead_of, kinds, launch, shared_memory
from tinygrad_llm.kernels.reference import REFERENCE

BLOCKS = 768  # that share the rows in a norm's backward: about six for each multiprocessor
AT_ONCE = 256  # rows that sums of columns take in one launch
PITCH = 64  # numbers
PACK = 16  # bytes that a thread loads at once
SHARPEST = 1e30  # of an inverse temperature: beyond it only the likeliest has a chance
LOGITS = 268_435_456  # that stand in memory at once between the head and its loss: 1 GiB in float32


def blocks_of(count: int, size: int) -> int:
    """Blocks of a size that hold so many."""
    return -(-count // size)


def threads_for(packs: int, most: int) -> int:
    """Threads of a block for a row of so many packs: whole warps, no more than can be used."""
    return min(most, 32 * max(1, blocks_of(packs, 32)))


@instead_of(REFERENCE.column_sums, real="x", gives="-")
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


def softmax_threads(v: int, each: int = 16) -> tuple[int]:
    """Threads of a block for a row of v numbers, about `each` of them a thread: fewer threads wait less."""
    return (threads_for(blocks_of(v, each), 512),)


@instead_of(REFERENCE.softmax, real="x", gives="x")
def softmax(x: Any) -> Any:
    """exp(x - top) / sum along the last axis."""
    x = aligned(x)
    y, (n, v) = np.empty_like(x), as_rows(x).shape
    launch("softmax", "softmax", (n,), softmax_threads(v), x, y, v, **kinds(REAL=[x]))
    return y


@instead_of(REFERENCE.softmax_backward, real="g y", gives="y")
def softmax_backward(g: Any, y: Any) -> Any:
    """y (g - sum(g y))."""
    g, y = aligned(g), aligned(y)
    dx, (n, v) = np.empty_like(y), as_rows(y).shape
    launch("softmax", "softmax_backward", (n,), softmax_threads(v, 4), g, y, dx, v, **kinds(REAL=[y]))
    return dx


@instead_of(REFERENCE.cross_entropy, real="x", gives="- -")
def cross_entropy(x: Any, targets: Any) -> tuple[Any, Any]:
    """-ln softmax(x)[target] and the logsumexp of each row."""
    n, v = x.shape
    nll, lse = np.empty_like(x, np.float32, shape=n), np.empty_like(x, np.float32, shape=n)
    arrays = (x, _int64(targets), nll, lse)
    launch("softmax", "cross_entropy", (n,), softmax_threads(v), *arrays, v, **kinds(REAL=[x]))
    return nll, lse


@instead_of(REFERENCE.cross_entropy_backward, real="x", gives="x")
def cross_entropy_backward(x: Any, targets: Any, lse: Any, g_target: Any, g_softmax: Any, g_all: Any) -> Any:
    """g_softmax softmax(x) - g_target onehot(target) + g_all."""
    x = aligned(x)
    dx, (n, v) = np.empty_like(x), x.shape
    arrays = (x, _int64(targets), lse, g_target, g_softmax, g_all, dx)
    launch("softmax", "cross_entropy_backward", (n,), softmax_threads(v), *arrays, v, **kinds(REAL=[x]))
    return dx


@instead_of(REFERENCE.linear_cross_entropy, real="x", param="weight", gives="- x -")
def linear_cross_entropy(x: Any, weight: Any, targets: Any, g: Any, needs: tuple[bool, bool]) -> tuple[Any, Any, Any]:
    """Cross-entropy of the logits x weight^T and the gradients of sum(g nll): LOGITS of them at a time.

    A block of rows has its logits, their loss and their gradient in the same memory, all in the dtype of x; dweight is
    added up in float32.
    """
    (n, c), v = x.shape, len(weight)
    weight = padded(weight, x)
    pitch = len(weight)
    nll = np.empty_like(x, np.float32, shape=n)
    dx = np.empty_like(x) if needs[0] else None
    dweight = np.empty_like(x, np.float32, shape=(pitch, c)) if needs[1] else None
    size = max(1, min(n, LOGITS // pitch))
    room = np.empty_like(x, shape=(size, pitch))
    targets, threads = _int64(targets), (threads_for(blocks_of(v, PACK // x.itemsize), 1024),)
    shared = v * x.itemsize + PACK
    in_shared = any(needs) and shared <= shared_memory(x.device.id) - 1024
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        d = product(x[rows], weight.T, room[: rows.stop - start])
        arrays = (d, targets[rows], g[rows], nll[rows])
        launch(
            "softmax", "loss_then_gradient", (len(d),), threads, *arrays, v, pitch, any(needs), in_shared,
            shared=shared if in_shared else 0, **kinds(REAL=[x]),
        )  # fmt: skip
        if dx is not None:
            product(d, weight, dx[rows])
        if dweight is not None:
            product(d.T, x[rows], dweight, add=start > 0)
    return nll, dx, None if dweight is None else dweight[:v]


def padded(weight: Any, like: Any) -> Any:
    """The weight of a head (V, C) in another array's dtype, with rows of zeros below up to a multiple of PITCH.

    The tensor cores take factors whose rows start at multiples of 16 bytes: GPT-2's 50,257 classes would make the three
    products of its head three times as slow. A copy is made where rows are missing, or the dtype is another: of GPT-2's
    weight 154 MB in and 77 MB out in 16 bits, a thousandth of what a step on a GPU moves; what would save it, weights
    that lie padded from the beginning, or a second product for the last rows, costs more lines than time.
    """
    v, c = weight.shape
    pitch = PITCH * blocks_of(v, PITCH)
    if pitch == v:
        return weight.astype(like.dtype, copy=False)
    room = np.empty_like(like, shape=(pitch, c))
    room[:v], room[v:] = weight, 0
    return room


def product(a: Any, b: Any, out: Any, add: bool = False) -> Any:
    """a b, two matrices of one dtype, into out or added to it: rounded once where that is of 16 bits, else float32."""
    if a.dtype != out.dtype:
        a, b = a.astype(out.dtype), b.astype(out.dtype)
    if add:
        out += np.matmul(a, b)
        return out
    return np.matmul(a, b, out=out)


def _int64(ids: Any) -> Any:
    return ids if ids.dtype == np.int64 else ids.astype(np.int64)


def add_at(buffer: Any, index: Any, values: Any) -> None:
    """buffer[index] += values, repeated places in order: the same bits every time.

    Places are sorted, so that equal ones are neighbours; whole rows by number, anything else element by element.
    """
    if buffer.dtype not in REAL_OF or not buffer.flags.c_contiguous or not buffer.size:
        REFERENCE.add_at(buffer, index, values)
        return
    xp = array_module(buffer)
    if hasattr(index, "dtype") and index.dtype.kind == "i" and buffer.ndim == 2:
        ids, table = index.reshape(-1), buffer
    else:
        ids, table = xp.arange(buffer.size).reshape(buffer.shape)[index].reshape(-1), buffer.reshape(-1, 1)
    if not ids.size:
        return
    ids = xp.where(ids < 0, ids + len(table), ids)
    order = xp.argsort(ids)  # a stable sort
    rows = xp.broadcast_to(values, (*index.shape, table.shape[1]) if table is buffer else buffer[index].shape)
    rows = xp.ascontiguousarray(rows if rows.dtype in REAL_OF else rows.astype(np.float32))
    n, c = ids.size, table.shape[1]
    arrays = (table, _int64(ids[order]), _int64(order), rows)
    launch("table", "add_runs", (blocks_of(n * c, 256),), (256,), *arrays, n, c, **kinds(REAL=[rows], PARAM=[table]))


def sample(x: Any, u: Any, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None) -> Any:
    """A token a row, drawn on the GPU: the numbers u go there, and nothing comes back. Nothing is waited for."""
    if x.dtype not in REAL_OF or not x.size:
        return REFERENCE.sample(x, u, temperature, top_k, top_p, min_p)
    x, (n, v) = in_order(x), x.shape
    if temperature == 0:
        u, top_k, temperature = np.zeros((n, 1)), 1, 1.0
    tokens = np.empty_like(x, np.int64, shape=n)
    draws = array_module(x).asarray(u)
    options = (min(1 / temperature, SHARPEST), top_k or 0, 1.0 if top_p is None else top_p, min_p or 0.0)
    threads = threads_for(blocks_of(v, 4), 1024)
    launch("sample", "sample", (n,), (threads,), x, draws, tokens, v, *options, **kinds(REAL=[x]))
    return tokens
