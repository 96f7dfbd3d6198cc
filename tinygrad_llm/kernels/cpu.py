"""The kernels tuned for NumPy: tiles that stay in the cache, spread over threads, work in place, row sums as products.

Each function computes what `reference` specifies under the same name.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from tinygrad_llm.kernels.cpu_attention import attention, attention_backward
from tinygrad_llm.kernels.cpu_int8 import int8_pack, int8_unpack
from tinygrad_llm.kernels.cpu_loss import (
    cross_entropy,
    cross_entropy_backward,
    linear_cross_entropy,
    softmax,
    softmax_backward,
)
from tinygrad_llm.kernels.cpu_matmul import matmul
from tinygrad_llm.kernels.cpu_norm import layer_norm, layer_norm_backward, rms_norm, rms_norm_backward
from tinygrad_llm.kernels.cpu_update import adamw, clip, sum_squares
from tinygrad_llm.kernels.memory import keep_freed_memory
from tinygrad_llm.kernels.reference import GELU_CUBIC, REFERENCE, SQRT_2_OVER_PI
from tinygrad_llm.kernels.threads import for_each
from tinygrad_llm.kernels.tiling import tiles

keep_freed_memory()


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


def gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    """x s, s = sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) or (1 + erf(x / sqrt(2))) / 2.

    The sigmoid is (1 + tanh) / 2 of half its argument, by an exp, which NumPy computes with vectors on every processor.
    """
    y = np.empty(x.shape, x.dtype)
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)

    def work(part: slice) -> None:
        a, out = flat_x[part], flat_y[part]
        if approximate == "none":
            np.multiply(a, _normal_share(a, out), out=out)
        else:
            np.divide(a, _one_over_sigmoid(a, np.multiply(a, a, out=out), out), out=out)

    for_each(work, tiles(x.size))
    return y


def _normal_share(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """(1 + erf(x / sqrt(2))) / 2 into out."""
    out[...] = erf(x * math.sqrt(0.5))
    out += 1
    out *= 0.5
    return out


def _one_over_sigmoid(x: np.ndarray, square: np.ndarray, out: np.ndarray) -> np.ndarray:
    """1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3)) into out, which may be square itself: inf where x is far below 0."""
    np.multiply(square, -2 * SQRT_2_OVER_PI * GELU_CUBIC, out=out)
    out -= 2 * SQRT_2_OVER_PI
    out *= x
    np.exp(out, out=out)
    out += 1
    return out


def gelu_backward(g: np.ndarray, x: np.ndarray, approximate: str, y: np.ndarray | None = None) -> np.ndarray:
    """g (s + x s'): s is computed again rather than kept, and y = x s with it where it is wanted."""
    dx = np.empty(x.shape, x.dtype)
    flat_y = None if y is None else y.reshape(-1)
    flat_g, flat_x, flat_dx = g.reshape(-1), x.reshape(-1), dx.reshape(-1)

    def work(part: slice) -> None:
        a, d = flat_x[part], flat_dx[part]
        s = np.empty(a.shape, a.dtype)
        np.multiply(a, a, out=d)
        if approximate == "none":  # x s' = x exp(-x^2 / 2) / sqrt(2 pi)
            _normal_share(a, s)
            d *= -0.5
            np.exp(d, out=d)
            d *= a
            d *= 1 / math.sqrt(2 * math.pi)
            d += s
        else:  # x s' = s (1 - s) 2 sqrt(2/pi) (x + 3 0.044715 x^3)
            np.reciprocal(_one_over_sigmoid(a, d, s), out=s)
            d *= 6 * GELU_CUBIC * SQRT_2_OVER_PI
            d += 2 * SQRT_2_OVER_PI
            d *= 1 - s
            d *= s  # 0 where x is large: before the factor x, with which large numbers would overflow
            d *= a
            d += s
        d *= flat_g[part]
        if flat_y is not None:
            np.multiply(a, s, out=flat_y[part])

    for_each(work, tiles(x.size))
    return dx


def add_at(buffer: np.ndarray, index: Any, values: np.ndarray) -> None:
    """buffer[index] += values.

    Whole rows by number: a product with one-hot rows for a small table, else row after row.
    """
    rows = isinstance(index, np.ndarray) and index.dtype.kind == "i" and buffer.ndim == 2
    if not rows or buffer.shape[1] < 16:
        np.add.at(buffer, index, values)
        return
    ids, values = index.reshape(-1), values.reshape(-1, buffer.shape[1])
    if len(buffer) <= 128 and np.isfinite(values).all():  # the product would spread inf and nan over all rows
        one_hot = np.zeros((len(buffer), ids.size), buffer.dtype)
        one_hot[ids, np.arange(ids.size)] = 1
        buffer += one_hot @ values
        return
    for i, row in zip(ids.tolist(), values, strict=True):
        buffer[i] += row


CPU = dataclasses.replace(
    REFERENCE,
    matmul=matmul,
    erf=erf,
    gelu=gelu,
    gelu_backward=gelu_backward,
    softmax=softmax,
    softmax_backward=softmax_backward,
    layer_norm=layer_norm,
    layer_norm_backward=layer_norm_backward,
    rms_norm=rms_norm,
    rms_norm_backward=rms_norm_backward,
    attention=attention,
    attention_backward=attention_backward,
    cross_entropy=cross_entropy,
    cross_entropy_backward=cross_entropy_backward,
    linear_cross_entropy=linear_cross_entropy,
    add_at=add_at,
    adamw=adamw,
    sum_squares=sum_squares,
    clip=clip,
    int8_pack=int8_pack,
    int8_unpack=int8_unpack,
)
