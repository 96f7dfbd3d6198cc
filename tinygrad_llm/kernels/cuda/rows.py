"""Launchers of the kernels that work on rows: norms, softmax, the losses made of it, sums of columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.devices import array_module
from tinygrad_llm.kernels import as_rows
from tinygrad_llm.kernels.cuda.launch import REALS, aligned, in_order, instead_of, launch, shared_memory, vector
from tinygrad_llm.kernels.cuda.sort import in_order_of
from tinygrad_llm.kernels.reference import REFERENCE

BLOCKS = 768  # that share the rows in a norm's backward: about six for each multiprocessor
MOST_PACKS = 8  # of columns that a thread of a norm's backward keeps in registers
AT_ONCE = 256  # rows that sums of columns take in one launch
PITCH = 64  # floats
SHARPEST = 1e30  # of an inverse temperature: beyond it only the likeliest has a chance
LOGITS = 268_435_456  # that stand in memory at once between the head and its loss: 1 GiB


def blocks_of(count: int, size: int) -> int:
    """Blocks of a size that hold so many."""
    return -(-count // size)


def threads_for(packs: int, most: int) -> int:
    """Threads of a block for a row of so many packs: whole warps, no more than can be used."""
    return min(most, 32 * max(1, blocks_of(packs, 32)))


@instead_of(REFERENCE.layer_norm)
def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    """(x - mean) rstd weight + bias."""
    rows = as_rows(x)
    n, c = rows.shape
    y, mean, rstd = np.empty_like(x), np.empty_like(x, shape=(n, 1)), np.empty_like(x, shape=(n, 1))
    grid, vec = (blocks_of(n, 4),), vector(c, x, y)
    launch("norm", "layer_norm", grid, (128,), x, weight, bias, y, mean, rstd, n, c, eps, VEC=vec)
    return y, mean, rstd


@instead_of(REFERENCE.rms_norm)
def rms_norm(x: Any, weight: Any, eps: float) -> tuple[Any, Any]:
    """x rstd weight."""
    rows = as_rows(x)
    n, c = rows.shape
    y, rstd = np.empty_like(x), np.empty_like(x, shape=(n, 1))
    launch("norm", "rms_norm", (blocks_of(n, 4),), (128,), x, weight, y, rstd, n, c, eps, VEC=vector(c, x, y))
    return y, rstd


@instead_of(REFERENCE.layer_norm_backward)
def layer_norm_backward(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, needs: Any) -> tuple[Any, Any, Any]:
    """dx, dweight, dbias in two launches."""
    way = _Backward(g, x, needs[1:3])
    if way.packs > MOST_PACKS:
        return REFERENCE.layer_norm_backward(g, x, weight, mean, rstd, needs)
    dx = np.empty_like(x) if needs[0] else None
    sums = way.room(x)
    arrays = (g, x, weight, mean, rstd, dx, sums)
    launch("norm", "layer_norm_backward", *way.launch, *arrays, *way.needs, way.n, way.c, VEC=way.vec, PACKS=way.packs)
    return dx, *way.added(sums)


@instead_of(REFERENCE.rms_norm_backward)
def rms_norm_backward(g: Any, x: Any, weight: Any, rstd: Any, needs: Any) -> tuple[Any, Any]:
    """dx, dweight in two launches."""
    way = _Backward(g, x, (needs[1], False))
    if way.packs > MOST_PACKS:
        return REFERENCE.rms_norm_backward(g, x, weight, rstd, needs)
    dx = np.empty_like(x) if needs[0] else None
    sums = way.room(x)
    arrays = (g, x, weight, rstd, dx, sums)
    launch("norm", "rms_norm_backward", *way.launch, *arrays, needs[1], way.n, way.c, VEC=way.vec, PACKS=way.packs)
    return dx, way.added(sums)[0]


class _Backward:
    """How a norm's backward is laid out over the GPU: rows n, columns c, grid and block, columns a thread.

    Each block leaves its sums of columns in a row, for dweight, dbias or both as they are needed; they are added next.
    """

    def __init__(self, g: Any, x: Any, needs: tuple[bool, bool]):
        self.n, self.c = as_rows(x).shape
        self.needs, self.parts = needs, sum(needs)
        self.vec = vector(self.c, g, x)
        threads = threads_for(blocks_of(self.c, self.vec), 256)
        self.packs = blocks_of(self.c, threads * self.vec)
        self.launch = (min(self.n, BLOCKS),), (threads,)

    def room(self, like: Any) -> Any:
        """Room for each block's sums."""
        return np.empty_like(like, shape=(*self.launch[0], self.parts, self.c)) if self.parts else None

    def added(self, sums: Any) -> list[Any]:
        """dweight and dbias, each None where it is not needed."""
        found = [np.empty_like(sums, shape=(self.c,)) if needed else None for needed in self.needs]
        if self.parts:
            first, *rest = (d for d in found if d is not None)
            grid = (blocks_of(self.c, 32), self.parts)
            launch("norm", "sum_blocks", grid, (32, 32), sums, first, rest[0] if rest else None, len(sums), self.c,
                   VEC=self.vec)  # fmt: skip
        return found


@instead_of(REFERENCE.column_sums)
def column_sums(x: Any) -> Any:
    """The sums over the rows, by blocks of rows and then over the blocks."""
    n, c = x.shape
    if n > AT_ONCE:
        chunk = max(64, blocks_of(n, 64))
        parts = blocks_of(n, chunk)
        out = np.empty_like(x, shape=(parts, c))
        launch("norm", "sum_columns", (blocks_of(c, 32), parts), (32, 8), x, out, n, c, chunk, VEC=1)
        x, n = out, parts
    y = np.empty_like(x, shape=(c,))
    launch("norm", "sum_blocks", (blocks_of(c, 32),), (32, 32), x, y, None, n, c, VEC=1)
    return y


def softmax_threads(v: int, each: int = 16) -> tuple[int]:
    """Threads of a block for a row of v numbers, about `each` of them a thread: fewer threads wait less."""
    return (threads_for(blocks_of(v, each), 512),)


@instead_of(REFERENCE.softmax)
def softmax(x: Any) -> Any:
    """exp(x - top) / sum along the last axis."""
    x = aligned(x)
    y, (n, v) = np.empty_like(x), as_rows(x).shape
    launch("softmax", "softmax", (n,), softmax_threads(v), x, y, v)
    return y


@instead_of(REFERENCE.softmax_backward)
def softmax_backward(g: Any, y: Any) -> Any:
    """y (g - sum(g y))."""
    g, y = aligned(g), aligned(y)
    dx, (n, v) = np.empty_like(y), as_rows(y).shape
    launch("softmax", "softmax_backward", (n,), softmax_threads(v, 4), g, y, dx, v)
    return dx


@instead_of(REFERENCE.cross_entropy)
def cross_entropy(x: Any, targets: Any) -> tuple[Any, Any]:
    """-ln softmax(x)[target] and the logsumexp of each row."""
    n, v = x.shape
    nll, lse = np.empty_like(x, shape=n), np.empty_like(x, shape=n)
    launch("softmax", "cross_entropy", (n,), softmax_threads(v), x, _int64(targets), nll, lse, v)
    return nll, lse


@instead_of(REFERENCE.cross_entropy_backward)
def cross_entropy_backward(x: Any, targets: Any, lse: Any, g_target: Any, g_softmax: Any, g_all: Any) -> Any:
    """g_softmax softmax(x) - g_target onehot(target) + g_all."""
    x = aligned(x)
    dx, (n, v) = np.empty_like(x), x.shape
    arrays = (x, _int64(targets), lse, g_target, g_softmax, g_all, dx)
    launch("softmax", "cross_entropy_backward", (n,), softmax_threads(v), *arrays, v)
    return dx


@instead_of(REFERENCE.linear_cross_entropy)
def linear_cross_entropy(x: Any, weight: Any, targets: Any, g: Any, needs: tuple[bool, bool]) -> tuple[Any, Any, Any]:
    """Cross-entropy of the logits x weight^T and the gradients of sum(g nll): LOGITS of them at a time.

    A block of rows has its logits, their loss and their gradient in the same memory. Rows of logits are filled up to a
    multiple of PITCH, by rows of zeros below the weight: the tensor cores take factors whose rows start at multiples of
    16 bytes, and GPT-2's 50,257 classes would make the three products three times as slow.
    """
    (n, c), v = x.shape, len(weight)
    pitch = PITCH * blocks_of(v, PITCH)
    if pitch > v:
        weight, narrow = np.empty_like(weight, shape=(pitch, c)), weight
        weight[:v], weight[v:] = narrow, 0
    nll = np.empty_like(x, shape=n)
    dx = np.empty_like(x) if needs[0] else None
    dweight = None
    size = max(1, min(n, LOGITS // pitch))
    room = np.empty_like(x, shape=(size, pitch))
    targets, threads, shared = _int64(targets), (threads_for(blocks_of(v, 4), 1024),), 4 * (v + 4)
    in_shared = any(needs) and shared <= shared_memory(x.device.id) - 1024
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        d = np.matmul(x[rows], weight.T, out=room[: rows.stop - start])
        arrays = (d, targets[rows], g[rows], nll[rows])
        launch(
            "softmax", "loss_then_gradient", (len(d),), threads, *arrays, v, pitch, any(needs), in_shared,
            shared=shared if in_shared else 0,
        )  # fmt: skip
        if dx is not None:
            np.matmul(d, weight, out=dx[rows])
        if needs[1]:
            part = d.T @ x[rows]
            dweight = part if dweight is None else np.add(dweight, part, out=dweight)
    return nll, dx, None if dweight is None else dweight[:v]


def _int64(ids: Any) -> Any:
    return ids if ids.dtype == np.int64 else ids.astype(np.int64)


def add_at(buffer: Any, index: Any, values: Any) -> None:
    """buffer[index] += values, repeated places in order: the same bits every time.

    Places are sorted, so that equal ones are neighbours; whole rows by number, anything else element by element.
    """
    if buffer.dtype != np.float32 or not buffer.flags.c_contiguous or not buffer.size:
        REFERENCE.add_at(buffer, index, values)
        return
    xp = array_module(buffer)
    if hasattr(index, "dtype") and index.dtype.kind == "i" and buffer.ndim == 2:
        ids, table = index.reshape(-1), buffer
    else:
        ids, table = xp.arange(buffer.size).reshape(buffer.shape)[index].reshape(-1), buffer.reshape(-1, 1)
    if not ids.size:
        return
    ids, order = in_order_of(xp.ascontiguousarray(_int64(ids)), len(table))
    rows = xp.broadcast_to(values, (*index.shape, table.shape[1]) if table is buffer else buffer[index].shape)
    rows = xp.ascontiguousarray(rows.astype(np.float32, copy=False))
    n, c = ids.size, table.shape[1]
    launch("table", "add_runs", (blocks_of(n * c, 256),), (256,), table, ids, order, rows, n, c)


def sample(
    x: Any, u: Any, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None, into: Any = None
) -> Any:
    """A token a row, drawn on the GPU: the numbers u go there, and nothing comes back. Nothing is waited for."""
    if x.dtype != np.float32 or not x.size:
        return REFERENCE.sample(x, u, temperature, top_k, top_p, min_p, into)
    x, (n, v) = in_order(x), x.shape
    tokens = np.empty_like(x, np.int64, shape=n) if into is None else into
    threads = (threads_for(blocks_of(v, 4), 1024),)
    if temperature == 0:
        launch("step", "likeliest", (n,), threads, x, tokens, v, REAL=REALS.index(x.dtype))
        return tokens
    draws = array_module(x).asarray(u)
    options = (min(1 / temperature, SHARPEST), top_k or 0, 1.0 if top_p is None else top_p, min_p or 0.0)
    launch("sample", "sample", (n,), threads, x, draws, tokens, v, *options)
    return tokens
