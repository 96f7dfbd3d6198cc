"""What writing one token at a time needs: products and attention of a few rows, as fast as memory delivers the rest.

A weight that is read for a single token is used once for each number in it. Time is then that of reading it, provided
that every core reads, and that the BLAS does not first copy it into the order that its large products like.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels.threads import for_each
from tinygrad_llm.kernels.tiling import row_sums, tiles

FEW = 16  # rows; with more, a product is bound by arithmetic and OpenBLAS' usual way is as fast
PARTS = 4  # at most, for the threads to share
PART = 1_048_576  # bytes of the other factor that are worth waking a thread for
BLOCK = 1_000_000  # multiplications of a product that OpenBLAS does without copying its factors first
STEP = 8  # rows of a block are a multiple of it


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
    columns = np.ascontiguousarray(a.T)  # (k, m)
    block = max(STEP, BLOCK // (m * k) // STEP * STEP) if m > 1 else n

    def work(part: slice) -> None:
        for start in range(part.start, part.stop, block):
            rows = slice(start, min(start + block, part.stop))
            y[:, rows] = (weight[rows] @ columns).T

    for_each(work, tiles(n, -(-n // min(PARTS, b.nbytes // PART))), each=1)
    return y


def attention_of_one(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, added: Any, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """softmax(q k^T scale + added) v for one query a head: q (B, H, 1, D), k, v (B, H, S, D) -> y, p, ln sum exp.

    Keys are read where they lie, heads shared out among the threads. What may look nowhere gets 0.
    """
    batch, heads, _, _ = q.shape
    s = k.shape[-2]
    y = np.empty_like(q, shape=(batch, heads, 1, v.shape[-1]))
    p = np.empty((batch, heads, 1, s), q.dtype)
    lse = np.empty((batch, heads, 1, 1), q.dtype)
    added = None if added is None else np.broadcast_to(added, p.shape)

    def work(group: tuple[slice, slice]) -> None:
        e = p[group]
        np.matmul(k[group], (q[group] * scale).swapaxes(-1, -2), out=e.swapaxes(-1, -2))
        if added is not None:
            e += added[group]
        shift = e.max(axis=-1, keepdims=True, initial=-np.inf)
        shift[np.isneginf(shift)] = 0
        e -= shift
        sums = row_sums(np.exp(e, out=e))
        nowhere = sums == 0
        sums[nowhere] = 1
        e /= sums
        np.matmul(e, v[group], out=y[group])
        lse[group] = np.where(nowhere, np.inf, np.log(sums) + shift)

    number = max(1, min(PARTS, k.nbytes // PART))
    if batch >= number:
        for_each(work, [(part, slice(0, heads)) for part in tiles(batch, -(-batch // number))], each=1)
    else:
        each = -(-heads // number)
        for_each(work, [(slice(b, b + 1), part) for b in range(batch) for part in tiles(heads, each)], each=1)
    return y, p, lse
