"""Matrix products shared out among our threads, each with a BLAS of one."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels.cpu_decoding import few_rows, is_few_rows
from tinygrad_llm.kernels.threads import blas_on_one_thread, for_each, threads_here
from tinygrad_llm.kernels.tiling import cut

PART = 40_000_000  # operations that are worth waking a thread for, some 0.2 ms
PARTS = 4  # of a long inner axis, at most: their sum depends on their number, which the threads must not change
LONG = 8  # times as long as the result's sides are, the inner axis is the one to cut
STEP = 64  # parts begin at its multiples: whole cache lines, and whole rows of the BLAS' inner kernels


def matmul(a: np.ndarray, b: np.ndarray, out: Any = None) -> np.ndarray:
    """a @ b, cut along the rows or the columns of the result, whichever are more, a long inner or a leading axis.

    Into one part a thread, since each packs the whole of the other factor for itself.
    """
    blas_on_one_thread()
    if is_few_rows(a, b):
        return few_rows(a, b, out)
    columns = b.shape[-1]
    operations = 2 * a.size * columns if a.ndim == 2 else 2 * max(a.size * columns, b.size * a.shape[-2])
    flat = a.ndim == b.ndim == 2
    if flat and a.shape[1] > LONG * max(len(a), columns) and operations >= 2 * PART:
        return _added(a, b, min(PARTS, operations // PART), out)
    number = min(threads_here(), operations // PART)
    if number < 2:
        return np.matmul(a, b, out=out)
    if not flat:
        return _stacked(a, b, number, out)
    rows = len(a)
    y = np.empty((rows, columns), np.result_type(a, b)) if out is None else out
    if rows >= columns:
        for_each(lambda part: np.matmul(a[part], b, out=y[part]), cut(rows, number, STEP), each=1)
    else:
        for_each(lambda part: np.matmul(a, b[:, part], out=y[:, part]), cut(columns, number, STEP), each=1)
    return y


def _added(a: np.ndarray, b: np.ndarray, number: int, out: Any) -> np.ndarray:
    """A product over a long inner axis, which is cut: the parts are added in their order."""
    y = np.empty((len(a), b.shape[1]), np.result_type(a, b)) if out is None else out
    parts = cut(a.shape[1], number, STEP)
    terms = [y, *(np.empty_like(y, order="C") for _ in parts[1:])]
    for_each(lambda i: np.matmul(a[:, parts[i]], b[parts[i]], out=terms[i]), range(len(parts)), each=1)
    for term in terms[1:]:
        y += term
    return y


def _stacked(a: np.ndarray, b: np.ndarray, number: int, out: Any) -> np.ndarray:
    """Many products, shared out along the longest of the result's leading axes."""
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    y = np.empty(shape, np.result_type(a, b)) if out is None else out
    axis = int(np.argmax(shape[:-2])) - len(shape)  # counted from the end, as broadcasting does

    def of(x: np.ndarray, part: slice) -> np.ndarray:
        if x.ndim < -axis or x.shape[axis] == 1:
            return x
        index: Any = (..., part, *[slice(None)] * (-axis - 1))
        return x[index]

    each = -(-shape[axis] // number)
    parts = [slice(start, start + each) for start in range(0, shape[axis], each)]
    for_each(lambda part: np.matmul(of(a, part), of(b, part), out=of(y, part)), parts, each=1)
    return y
