"""Elementwise chains tuned for NumPy: each tile goes through the whole chain while the cache holds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from tinygrad_llm.kernels import as_rows
from tinygrad_llm.kernels.reference import GELU_CUBIC, REFERENCE, SQRT_2_OVER_PI
from tinygrad_llm.kernels.threads import for_each
from tinygrad_llm.kernels.tiling import row_tiles, tiles

ERF_LIMIT = 4.0  # from here on erf is 1 in float32


@lru_cache
def _erf_series() -> np.ndarray:
    """The Chebyshev series of erf(sqrt(u)) / sqrt(u) for u up to the square of the limit, in float32.

    It is half a unit in the last place too large, so that no rounding keeps erf below 1 where it is 1.
    """

    def ratio(t: np.ndarray) -> np.ndarray:
        roots = np.sqrt((t + 1) * (ERF_LIMIT * ERF_LIMIT / 2))
        return np.array([math.erf(r) / r for r in roots])

    series: Any = chebyshev.chebinterpolate(ratio, 18)
    return (series * (1 + 2**-24)).astype(np.float32)


def erf(x: np.ndarray) -> np.ndarray:
    """x C(x^2), C a Chebyshev series: right to a few units in the last place of float32. float64 is the reference's."""
    if x.dtype != np.float32:
        return REFERENCE.erf(x)
    out = np.empty(x.shape, x.dtype)
    flat_x, flat_out, series = x.reshape(-1), out.reshape(-1), _erf_series()

    def work(part: slice) -> None:
        clipped = np.clip(flat_x[part], -ERF_LIMIT, ERF_LIMIT)
        t = clipped * clipped
        t *= 2 / (ERF_LIMIT * ERF_LIMIT)
        t -= 1
        y = np.multiply(clipped, chebyshev.chebval(t, series), out=flat_out[part])
        np.clip(y, -1, 1, out=y)

    for_each(work, tiles(x.size))
    return out


def activate(x: np.ndarray, bias: Any, form: str) -> np.ndarray:
    """z s, z = x + bias, s = sigmoid(2 sqrt(2/pi) (z + 0.044715 z^3)), sigmoid(z) or (1 + erf(z / sqrt(2))) / 2.

    The first is (1 + tanh) / 2 of half its argument, by an exp, which NumPy computes with vectors on every processor.
    """
    y = np.empty(x.shape, x.dtype)
    (x_rows, y_rows), parts = _cut(bias is not None, x, y)

    def work(part: slice) -> None:
        out = y_rows[part]
        z = x_rows[part] if bias is None else x_rows[part] + bias
        if form == "gelu":
            np.multiply(z, _normal_share(z, out), out=out)
        else:
            np.divide(z, _one_over_sigmoid(z, form, out), out=out)

    for_each(work, parts)
    return y


def _cut(by_column: bool, *arrays: Any) -> tuple[list[Any], Sequence[slice]]:
    """Arrays of one shape, or None, as rows where columns matter, else flat; and tiles of their first axis."""
    cut = [None if a is None else as_rows(a) if by_column else a.reshape(-1) for a in arrays]
    return cut, row_tiles(*as_rows(arrays[0]).shape) if by_column else tiles(arrays[0].size)


def _normal_share(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """(1 + erf(x / sqrt(2))) / 2 into out."""
    out[...] = erf(x * math.sqrt(0.5))
    out += 1
    out *= 0.5
    return out


def _one_over_sigmoid(x: np.ndarray, form: str, out: np.ndarray, square: Any = None) -> np.ndarray:
    """1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3)) or 1 + exp(-x) into out: inf where x is far below 0.

    square: x^2 where it is at hand.
    """
    if form == "silu":
        np.negative(x, out=out)
    else:
        np.multiply(np.multiply(x, x, out=out) if square is None else square, -2 * SQRT_2_OVER_PI * GELU_CUBIC, out=out)
        out -= 2 * SQRT_2_OVER_PI
        out *= x
    np.exp(out, out=out)
    out += 1
    return out


def activate_backward(
    g: np.ndarray, x: np.ndarray, bias: Any, form: str, needs: Any, y: Any = None, into: Any = None
) -> tuple[Any, Any]:
    """dx = g (s + z s'), dbias = sum dx: s is computed again rather than kept, and y = z s with it where it is wanted.

    A tile's gradients are added up for the bias while they are in the cache.
    """
    dx = np.empty(x.shape, x.dtype) if into is None and needs[0] else into
    (x_rows, g_rows, dx_rows, y_rows), parts = _cut(bias is not None or needs[1], x, g, dx, y)
    dbiases = np.zeros((len(parts), x.shape[-1]), x.dtype) if needs[1] else None  # a row for each tile

    def work(i: int) -> None:
        part = parts[i]
        z = x_rows[part] if bias is None else x_rows[part] + bias
        s = np.empty_like(z) if y is None else y_rows[part]
        d = dx_rows[part] if dx is not None and into is None else np.empty_like(z)  # into may be g, still to be read
        _share_and_derivative(z, form, s, d)
        d = np.multiply(d, g_rows[part], out=d if dx is None else dx_rows[part])
        if dbiases is not None:
            np.matmul(np.ones(len(d), d.dtype), d, out=dbiases[i])
        if y is not None:
            s *= z

    for_each(work, range(len(parts)))
    return dx if needs[0] else None, None if dbiases is None else dbiases.sum(axis=0)


def _share_and_derivative(x: np.ndarray, form: str, s: np.ndarray, d: np.ndarray) -> None:
    """s, and into d the derivative of x s, s + x s'."""
    if form == "gelu":  # x s' = x exp(-x^2 / 2) / sqrt(2 pi)
        _normal_share(x, s)
        np.multiply(x, x, out=d)
        d *= -0.5
        np.exp(d, out=d)
        d *= x
        d *= 1 / math.sqrt(2 * math.pi)
    elif form == "silu":  # x s' = x s (1 - s)
        np.reciprocal(_one_over_sigmoid(x, form, s), out=s)
        np.subtract(1, s, out=d)
        d *= s
        d *= x
    else:  # x s' = s (1 - s) 2 sqrt(2/pi) (x + 3 0.044715 x^3)
        np.multiply(x, x, out=d)
        np.reciprocal(_one_over_sigmoid(x, form, s, d), out=s)
        d *= 6 * GELU_CUBIC * SQRT_2_OVER_PI
        d += 2 * SQRT_2_OVER_PI
        d *= 1 - s
        d *= s  # 0 where x is large: before the factor x, with which large numbers would overflow
        d *= x
    d += s


def dropout(x: np.ndarray, keep: Any, p: float, plus: Any = None) -> np.ndarray:
    """x keep / (1 - p) + plus, in one pass over the memory."""
    arrays = [x, keep, *([] if plus is None else [plus])]
    if isinstance(keep, int) or not all(a.flags.c_contiguous for a in arrays):
        return REFERENCE.dropout(x, keep, p, plus)
    y = np.empty(x.shape, x.dtype)
    flat_x, flat_keep, flat_y = x.reshape(-1), keep.reshape(-1), y.reshape(-1)
    flat_plus = None if plus is None else plus.reshape(-1)

    def work(part: slice) -> None:
        out = np.multiply(flat_keep[part], 1 / (1 - p), out=flat_y[part], dtype=y.dtype)
        out *= flat_x[part]
        if flat_plus is not None:
            out += flat_plus[part]

    for_each(work, tiles(x.size))
    return y
