"""Softmax and the losses over a vocabulary tuned for NumPy: rows at a time, and no shift where none is needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels import as_rows
from tinygrad_llm.kernels.cpu_matmul import matmul
from tinygrad_llm.kernels.memory import empty_again
from tinygrad_llm.kernels.threads import for_each
from tinygrad_llm.kernels.tiling import FAINT, MODERATE, row_dots, row_sums, row_tiles, tiles

LOGITS = 33_554_432  # that stand in memory at once between the head and its loss: fewer rows slow the products down
STRIP = 8192  # rows of the head's gradient that a product adds to at a time


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x - max) / sum along the last axis."""
    y = np.empty(x.shape, x.dtype)
    rows, out = as_rows(x), as_rows(y)

    def work(part: slice) -> None:
        sums, _ = exp_sums(rows[part], out=out[part])
        out[part] /= sums

    for_each(work, row_tiles(*rows.shape))
    return y


def exp_sums(x: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, Any]:
    """exp(x - shift) into out, its sums along the last axis (..., 1), and the shift.

    Where the largest of all is moderate no shift is needed, unless some row lies so far below it that its sum vanishes;
    only then is each row's own maximum taken out, which costs more than the exp.
    """
    top = x.max(initial=-np.inf)
    if -MODERATE < top < MODERATE:
        sums = row_sums(np.exp(x, out=out))
        if sums.min(initial=1.0) > FAINT:
            return sums, 0.0
    shift = x.max(axis=-1, keepdims=True, initial=-np.inf)
    np.subtract(x, shift, out=out)
    return row_sums(np.exp(out, out=out)), shift


def softmax_backward(g: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y (g - sum(g y))."""
    dx = np.empty(y.shape, y.dtype)
    g_rows, y_rows, out = as_rows(g), as_rows(y), as_rows(dx)

    def work(part: slice) -> None:
        np.subtract(g_rows[part], row_dots(g_rows[part], y_rows[part]), out=out[part])
        out[part] *= y_rows[part]

    for_each(work, row_tiles(*y_rows.shape))
    return dx


def cross_entropy(x: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-ln softmax(x)[target] and the logsumexp of each row."""
    n, v = x.shape
    lse = np.empty(n, x.dtype)

    def work(part: slice) -> None:
        rows = x[part]
        sums, shift = exp_sums(rows, out=np.empty(rows.shape, x.dtype))
        lse[part] = (np.log(sums) + shift)[:, 0]

    for_each(work, row_tiles(n, v))
    return lse - x[np.arange(n), targets], lse


def cross_entropy_backward(
    x: np.ndarray, targets: np.ndarray, lse: np.ndarray, g_target: np.ndarray, g_softmax: np.ndarray, g_all: np.ndarray
) -> np.ndarray:
    """g_softmax softmax(x) - g_target onehot(target) + g_all."""
    dx = np.empty(x.shape, x.dtype)
    smoothed = bool(g_all.any())

    def work(part: slice) -> None:
        d = dx[part]
        np.subtract(x[part], lse[part, None], out=d)
        np.exp(d, out=d)
        d *= g_softmax[part, None]
        if smoothed:
            d += g_all[part, None]

    for_each(work, row_tiles(*x.shape))
    dx[np.arange(len(x)), targets] -= g_target
    return dx


def linear_cross_entropy(
    x: np.ndarray, weight: np.ndarray, targets: np.ndarray, g: np.ndarray, needs: tuple[bool, bool]
) -> tuple[np.ndarray, Any, Any]:
    """Cross-entropy of the logits x weight^T, and the gradients of sum(g nll): LOGITS of them at a time.

    A block of rows has its logits, their loss, their gradient in the same memory, and from it its part of dx and
    dweight: nothing is computed again in backward, and the logits of all rows never stand in memory.
    """
    (n, c), v = x.shape, len(weight)
    nll = np.empty(n, x.dtype)
    dx = np.empty((n, c), x.dtype) if needs[0] else None
    dweight = empty_again(x, (v, c)) if needs[1] else None
    if dweight is not None and not n:
        dweight.fill(0)  # no block of rows writes it
    blocks = tiles(n, max(1, LOGITS // max(v, 1)))
    most = max((b.stop - b.start for b in blocks), default=0)
    buffer = empty_again(x, (most, v), room=v * c)  # where the gradient of an embedding will lie, later in the step
    for block in blocks:
        d = matmul(x[block], weight.T, out=buffer[: block.stop - block.start])
        nll[block] = _loss_then_gradient(d, targets[block], g[block], any(needs))
        if dx is not None:
            matmul(d, weight, out=dx[block])
        if dweight is not None and block.start == 0:
            matmul(d.T, x[block], out=dweight)
        elif dweight is not None:
            _add_products(dweight, d.T, x[block])
    return nll, dx, dweight


def _add_products(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """y += a @ b, STRIP rows at a time: their product stays in the cache until it is added."""

    def work(some: slice) -> None:
        y[some] += a[some] @ b

    for_each(work, tiles(len(y), STRIP), each=1)


def _loss_then_gradient(x: np.ndarray, targets: np.ndarray, g: np.ndarray, needed: bool) -> np.ndarray:
    """The loss of each row of logits, which become their gradients, g (softmax(x) - onehot(target)), where needed."""
    nll = np.empty(len(x), x.dtype)

    def work(part: slice) -> None:
        rows, at = x[part], (np.arange(part.stop - part.start), targets[part])
        exps = np.empty(rows.shape, x.dtype)
        sums, shift = exp_sums(rows, out=exps)
        nll[part] = (np.log(sums) + shift)[:, 0] - rows[at]
        if needed:
            np.multiply(exps, g[part, None] / sums, out=rows)
            rows[at] -= g[part]

    for_each(work, row_tiles(*x.shape))
    return nll
