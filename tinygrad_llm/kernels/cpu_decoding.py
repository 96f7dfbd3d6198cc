"""What writing one token at a time needs: products and attention of a few rows, as fast as memory delivers the rest.

A weight that is read for a single token is used once for each number in it. Time is then that of reading it, provided
that every core reads, and that the BLAS does not first copy it into the order that its large products like.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tinygrad_llm.kernels.threads import for_each, on_blas_threads
from tinygrad_llm.kernels.tiling import cut, row_sums, tiles

FEW = 16  # rows; with more, a product is bound by arithmetic and OpenBLAS' usual way is as fast
PARTS = 4  # at most, for the threads to share
PART = 1_048_576  # bytes of the other factor that are worth waking a thread for
BLOCK = 1_000_000  # multiplications of a product that OpenBLAS does without copying its factors first
STEP = 8  # rows of a block are a multiple of it: OpenBLAS adds up those of a group in an order of their own
LATE = 0.002  # seconds more than the fastest product of a size took: another program has the other core
LEAST, MOST = 25, 1000  # products that are then left to our threads: twice as many each time


def is_few_rows(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a @ b is a few rows (m, k) times a large matrix (k, n) that lies in memory by its columns.

    That is how `linear` hands over its weight (n, k): transposed.
    """
    return (
        a.ndim == b.ndim == 2
        and 0 < len(a) <= FEW
        and b.nbytes >= PART
        and a.dtype == b.dtype
        and a.dtype in (np.float32, np.float64)
        and b.T.flags.c_contiguous
    )


def few_rows(a: np.ndarray, b: np.ndarray, out: Any = None) -> np.ndarray:
    """a @ b for such factors: (m, k) @ (k, n) -> (m, n), shared out along n.

    One row is a matrix times a vector. A few are the transposed product b^T a^T, in blocks of rows of b^T so small that
    OpenBLAS reads them where they lie: at 8 rows more than twice as fast as the product as it stands.
    """
    weight, m = b.T, len(a)
    n, k = weight.shape
    y = np.empty((m, n), a.dtype) if out is None else out
    if m == 1 and _spinning.pays():
        _one_row(weight, a[0], y[0])
        return y
    columns = np.ascontiguousarray(a.T)  # (k, m)
    block = max(STEP, BLOCK // (m * k) // STEP * STEP) if m > 1 else n

    def work(part: slice) -> None:
        for start in range(part.start, part.stop, block):
            rows = slice(start, min(start + block, part.stop))
            y[:, rows] = (weight[rows] @ columns).T

    for_each(work, cut(n, min(PARTS, b.nbytes // PART), STEP), each=1)
    return y


def _one_row(weight: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """weight x into y, shared out among the BLAS' own threads, whole groups of STEP rows to each."""

    def work(threads: int) -> None:
        rest = len(y) % (STEP * threads)
        shared = len(y) - (rest if rest != 1 else 1 + STEP * threads)  # as `cut` does
        np.matmul(weight[:shared], x, out=y[:shared])
        if shared < len(y):
            np.matmul(weight[shared:], x, out=y[shared:])

    start = time.perf_counter()
    on_blas_threads(work)
    _spinning.took(time.perf_counter() - start, weight.nbytes)


class _Spinning:
    """Whether the BLAS' threads may wait for each other: not for a while after other programs kept the cores busy.

    A product then waits until the system lets the other thread run, which may take longer than many products. Ours
    would go on with what a thread that does not run has not begun.
    """

    def __init__(self) -> None:
        self.fastest: dict[int, float] = {}  # seconds of a product, by the size of its weight
        self.pause, self.next_pause = 0, LEAST  # products to come that are left to our threads

    def pays(self) -> bool:
        self.pause = max(0, self.pause - 1)
        return not self.pause

    def took(self, seconds: float, size: int) -> None:
        fastest = self.fastest[size] = min(seconds, self.fastest.get(size, seconds))
        if seconds > fastest + LATE:
            self.pause, self.next_pause = self.next_pause, min(2 * self.next_pause, MOST)
        else:
            self.next_pause = max(self.next_pause - 1, LEAST)


_spinning = _Spinning()


def attention_of_one(q: np.ndarray, k: np.ndarray, v: np.ndarray, added: Any, scale: float) -> tuple[Any, Any]:
    """softmax(q k^T scale + added) v for one query a head: q (B, H, 1, D), k, v (B, H, S, D) -> y, the softmax.

    Keys are read where they lie, heads shared out among the threads. What may look nowhere gets 0.
    """
    batch, heads, _, _ = q.shape
    s = k.shape[-2]
    y = np.empty_like(q, shape=(batch, heads, 1, v.shape[-1]))
    p = np.empty((batch, heads, 1, s), q.dtype)
    added = None if added is None else np.broadcast_to(added, p.shape)

    def work(group: tuple[slice, slice]) -> None:
        e = p[group]
        np.matmul(k[group], (q[group] * scale).swapaxes(-1, -2), out=e.swapaxes(-1, -2))
        if added is not None:
            e += added[group]
        shift = e.max(axis=-1, keepdims=True, initial=-np.inf)
        if added is not None:
            shift[np.isneginf(shift)] = 0
        e -= shift
        sums = row_sums(np.exp(e, out=e))
        if added is not None:
            sums[sums == 0] = 1
        e /= sums
        np.matmul(e, v[group], out=y[group])

    number = max(1, min(PARTS, k.nbytes // PART))
    if batch >= number:
        for_each(work, [(part, slice(0, heads)) for part in tiles(batch, -(-batch // number))], each=1)
    else:
        each = -(-heads // number)
        for_each(work, [(slice(b, b + 1), part) for b in range(batch) for part in tiles(heads, each)], each=1)
    return y, p
