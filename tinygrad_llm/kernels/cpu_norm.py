"""Layer norm and RMS norm tuned for NumPy: a tile of rows at a time, row sums as products, passes in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels import as_rows
from tinygrad_llm.kernels.threads import for_each
from tinygrad_llm.kernels.tiling import row_by_row, row_dots, row_sums, row_tiles

EACH = 8  # parts that are worth waking a thread for: the passes are so short that two threads mostly wait for the lock


def layer_norm(x: np.ndarray, weight: Any, bias: Any, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x - mean) rstd weight + bias."""
    columns = x.shape[-1]
    rows = as_rows(x)
    y = np.empty(rows.shape, x.dtype)
    mean, rstd = np.empty((len(rows), 1), x.dtype), np.empty((len(rows), 1), x.dtype)

    @row_by_row(columns)
    def work(part: slice) -> None:
        out = y[part]
        mean[part] = row_sums(rows[part]) / columns
        np.subtract(rows[part], mean[part], out=out)
        rstd[part] = 1 / np.sqrt(row_dots(out, out) / columns + eps)
        out *= rstd[part]
        if weight is not None:
            out *= weight
        if bias is not None:
            out += bias

    for_each(work, row_tiles(*rows.shape), EACH)
    return y.reshape(x.shape), mean, rstd


def layer_norm_backward(
    g: np.ndarray, x: np.ndarray, weight: Any, mean: Any, rstd: Any, needs: Any
) -> tuple[Any, Any, Any]:
    """dx = rstd (u - mean(u) - h mean(u h)), dweight = sum g h, dbias = sum g; h = rstd c, c = x - mean(x)."""
    columns = x.shape[-1]
    rows, g_rows = as_rows(x), as_rows(g)
    parts = row_tiles(*rows.shape)
    dx = np.empty(rows.shape, x.dtype) if needs[0] else None
    dweights, dbiases = np.zeros((2, len(parts), columns), x.dtype)  # a row for each tile, summed up at the end

    @row_by_row(columns)
    def work(i: int) -> None:
        part = parts[i]
        g_part = g_rows[part]
        c, r = rows[part] - mean[part], rstd[part]
        if needs[1]:
            np.matmul(r[:, 0], g_part * c, out=dweights[i])
        if needs[2]:
            np.matmul(np.ones(len(c), x.dtype), g_part, out=dbiases[i])
        if dx is not None:
            u = g_part if weight is None else np.multiply(g_part, weight, out=dx[part])
            mean_u, mean_uc = row_sums(u) / columns, row_dots(u, c) / columns
            c *= mean_uc * r * r
            np.subtract(u, c, out=dx[part])
            dx[part] -= mean_u
            dx[part] *= r

    for_each(work, range(len(parts)), EACH)
    return (
        None if dx is None else dx.reshape(x.shape),
        dweights.sum(axis=0) if needs[1] else None,
        dbiases.sum(axis=0) if needs[2] else None,
    )


def rms_norm(x: np.ndarray, weight: Any, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """x rstd weight."""
    columns = x.shape[-1]
    rows = as_rows(x)
    y, rstd = np.empty(rows.shape, x.dtype), np.empty((len(rows), 1), x.dtype)

    @row_by_row(columns)
    def work(part: slice) -> None:
        rstd[part] = 1 / np.sqrt(row_dots(rows[part], rows[part]) / columns + eps)
        np.multiply(rows[part], rstd[part], out=y[part])
        if weight is not None:
            y[part] *= weight

    for_each(work, row_tiles(*rows.shape), EACH)
    return y.reshape(x.shape), rstd


def rms_norm_backward(g: np.ndarray, x: np.ndarray, weight: Any, rstd: Any, needs: Any) -> tuple[Any, Any]:
    """dx = rstd (u - h mean(u h)), dweight = sum g h; h = x rstd, u = g weight."""
    columns = x.shape[-1]
    rows, g_rows = as_rows(x), as_rows(g)
    parts = row_tiles(*rows.shape)
    dx = np.empty(rows.shape, x.dtype) if needs[0] else None
    dweights = np.zeros((len(parts), columns), x.dtype)  # a row for each tile, summed up at the end

    @row_by_row(columns)
    def work(i: int) -> None:
        part = parts[i]
        r, g_part = rstd[part], g_rows[part]
        if needs[1]:
            np.matmul(r[:, 0], g_part * rows[part], out=dweights[i])
        if dx is not None:
            u = g_part if weight is None else np.multiply(g_part, weight, out=dx[part])
            shared = row_dots(u, rows[part]) / columns * r * r
            np.subtract(u, rows[part] * shared, out=dx[part])
            dx[part] *= r

    for_each(work, range(len(parts)), EACH)
    return None if dx is None else dx.reshape(x.shape), dweights.sum(axis=0) if needs[1] else None
