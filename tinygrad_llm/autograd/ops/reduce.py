"""Reductions over one axis, several axes, or (axes=None) all of them.

`keepdims` is the op's business only for the shape of the result: `spread` puts the summed axes back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd.registry import register
from tinygrad_llm.kernels import in_order, largest, sums
from tinygrad_llm.kernels.half import wide


def spread(r: Any, shape: tuple[int, ...], axes: Any, keepdims: bool) -> Any:
    """A reduced array with its summed axes back as ones, so that it broadcasts against `shape`."""
    if keepdims or axes is None:
        return r.reshape((1,) * len(shape)) if axes is None and not keepdims else r
    return np.expand_dims(r, axes)


@register(bare=True)
def sum_(x: Any, *, axes: Any, keepdims: bool) -> Any:
    """The sum over the axes. Captures the shape alone: the gradient is a view that repeats g."""
    shape = x.shape
    return sums(x, axes, keepdims), (lambda g: np.broadcast_to(spread(g, shape, axes, keepdims), shape),)


sum_along = sum_.printing("SumBackward1")


@register(bare=True)
def mean(x: Any, *, axes: Any, keepdims: bool) -> Any:
    """The mean over the axes. Captures the shape alone."""
    shape = x.shape
    count = _count(x, axes)
    share = 1 / count if count else math.nan
    return sums(x, axes, keepdims) / count, (
        lambda g: np.broadcast_to(spread(g * share, shape, axes, keepdims), shape),
    )


mean_along = mean.printing("MeanBackward1")


def _count(x: Any, axes: Any) -> int:
    """How many elements go into each result."""
    return x.size if axes is None else math.prod([x.shape[axis] for axis in axes])


def _deviations(x: Any, axes: Any, correction: float) -> tuple[Any, float]:
    """x - mean, and the divisor count - correction, never below 0."""
    count = _count(x, axes)
    return x - sums(x, axes, True) / count, max(count - correction, 0.0)


def _ratio(total: Any, divisor: float) -> Any:
    return total / divisor if divisor else total * float("inf")  # nan or inf, as 0/0 and x/0 are


@register
def var(x: Any, *, axes: Any, correction: float, keepdims: bool) -> Any:
    """sum (x - mean)^2 / (n - correction). Captures x; dx = 2 g (x - mean) / (n - correction)."""
    centred, divisor = _deviations(x, axes, correction)
    y = _ratio(sums(centred * centred, axes, keepdims), divisor)

    def dx(g: Any) -> Any:
        deviations, n = _deviations(x, axes, correction)
        return spread(g, x.shape, axes, keepdims) * _ratio(2 * deviations, n)

    return y, (dx,)


@register
def std(x: Any, *, axes: Any, correction: float, keepdims: bool) -> Any:
    """The square root of var. Captures x and the result y; dx = g (x - mean) / (y (n - correction)), 0 where y is 0."""
    centred, divisor = _deviations(x, axes, correction)
    y = np.sqrt(_ratio(sums(centred * centred, axes, keepdims), divisor))

    def dx(g: Any) -> Any:
        deviations, n = _deviations(x, axes, correction)
        ratio = np.where(y == 0, np.zeros_like(y), g / np.where(y == 0, np.ones_like(y), y))
        return spread(ratio, x.shape, axes, keepdims) * _ratio(deviations, n)

    return y, (dx,)


@register
def prod(x: Any, *, axes: Any, keepdims: bool) -> Any:
    """The product over one axis or all. dx = g times the product of the others, right also where some are 0."""
    options = {"axis": axes, "keepdims": keepdims}
    y = np.multiply.reduce(x, **options) if isinstance(x, np.ndarray) else x.prod(**options)  # see sums

    def dx(g: Any) -> Any:
        axis = -1 if axes is None else axes
        flat = x.reshape(-1) if axes is None else x
        last = (slice(None),) * (axis % flat.ndim) + (slice(0, max(flat.shape[axis] - 1, 0)),)
        one = np.ones_like(flat[(slice(None),) * (axis % flat.ndim) + (slice(0, 1),)])
        inner = flat[last]
        before = np.cumprod(np.concatenate([one, inner], axis=axis), axis=axis)
        reverse = np.flip(flat, axis)[last]
        after = np.flip(np.cumprod(np.concatenate([one, reverse], axis=axis), axis=axis), axis)
        others = (before * after).reshape(x.shape) if x.size else x
        return spread(g, x.shape, axes, keepdims) * others

    return in_order(y), (dx,)


prod_along = prod.printing("ProdBackward1")


def _extreme(x: Any, y: Any, axes: Any, keepdims: bool) -> Any:
    """The pullback of a maximum or minimum: elements that tie share the gradient."""

    def dx(g: Any) -> Any:
        chosen = x == spread(y, x.shape, axes, keepdims)
        ties = chosen.sum(axis=axes, keepdims=True)
        return spread(g, x.shape, axes, keepdims) * chosen / ties.astype(x.dtype)

    return dx


@register
def amax(x: Any, *, axes: Any, keepdims: bool) -> Any:
    """The largest over the axes. Captures x and the result; elements that tie share the gradient."""
    y = in_order(x.max(axis=axes, keepdims=keepdims))
    return y, (_extreme(x, y, axes, keepdims),)


@register
def amin(x: Any, *, axes: Any, keepdims: bool) -> Any:
    """The smallest over the axes. Captures x and the result; elements that tie share the gradient."""
    y = in_order(x.min(axis=axes, keepdims=keepdims))
    return y, (_extreme(x, y, axes, keepdims),)


@register
def logsumexp(x: Any, *, axes: Any, keepdims: bool) -> Any:
    """ln sum e^x, with the largest taken out. Captures x and the result y; dx = g e^(x - y)."""
    top = largest(x, axes)
    top = np.where(np.isfinite(top), top, np.zeros_like(top))
    with np.errstate(divide="ignore"):  # a row of -inf alone has the logarithm of 0
        y = np.log(sums(np.exp(x - top), axes, True)) + top
    out = y if keepdims else y.squeeze(axes)
    return out, (
        lambda g: spread(g, x.shape, axes, keepdims) * np.exp(x - np.where(np.isneginf(y), np.zeros_like(y), y)),
    )


@register(half=True)
def softmax(x: Any, *, axis: int) -> Any:
    """e^x / sum e^x along an axis. Captures the result y; dx = y (g - sum(g y))."""
    if axis == x.ndim - 1:
        k = kernels.of(x)
        y = k.softmax(x)
        return y, (lambda g: k.softmax_backward(g, y),)
    e = np.exp(wide(x) - wide(largest(x, (axis,))))
    y = in_order(e / sums(e, (axis,), True))

    def dx(g: Any) -> Any:
        g = wide(g)
        return y * (g - sums(g * y, (axis,), True))

    return y.astype(x.dtype, copy=False), (dx,)


@register
def log_softmax(x: Any, *, axis: int) -> Any:
    """x - ln sum e^x along an axis. Captures the result y; dx = g - e^y sum(g)."""
    shifted = x - largest(x, (axis,))
    with np.errstate(divide="ignore"):  # over no classes at all
        y = in_order(shifted - np.log(sums(np.exp(shifted), (axis,), True)))
    return y, (lambda g: g - np.exp(y) * sums(g, (axis,), True),)


@register(bare=True)
def cumsum(x: Any, *, axis: int) -> Any:
    """Running sums along an axis. Captures nothing; the gradient is the running sum of g from the end.

    Floats are summed in float64: after 50,000 probabilities a float32 sum is off in the fourth digit.
    """

    def running(a: Any) -> Any:
        return np.cumsum(a, axis=axis, dtype=np.float64).astype(a.dtype) if a.dtype.kind == "f" else a.cumsum(axis=axis)

    return in_order(running(x)), (lambda g: np.flip(running(np.flip(g, axis)), axis),)


@register(prints="LinalgVectorNormBackward0")
def norm(x: Any, *, p: float, axes: Any, keepdims: bool) -> Any:
    """(sum |x|^p)^(1/p) over the axes; p may be 0 (count of non-zeros), inf or -inf. The gradient at norm 0 is 0.

    Captures x and the result y; dx = g x |x|^(p-2) / y^(p-1); for p = inf the elements that tie share g.
    """
    if p in (np.inf, -np.inf):
        pick = np.max if p > 0 else np.min
        y = pick(np.abs(x), axis=axes, keepdims=True)
    elif p == 0:
        y = sums((x != 0).astype(x.dtype), axes, True)
    elif p == 2:
        y = np.sqrt(sums(x * x, axes, True))
    else:
        y = sums(np.abs(x) ** p, axes, True) ** (1 / p)
    out = y if keepdims else y.squeeze(axes)

    def dx(g: Any) -> Any:
        g = spread(g, x.shape, axes, keepdims)
        if p == 0:
            return np.zeros_like(x)
        if p in (np.inf, -np.inf):
            chosen = np.abs(x) == y
            return g * np.sign(x) * chosen / chosen.sum(axis=axes, keepdims=True).astype(x.dtype)
        safe = np.where(y == 0, np.ones_like(y), y)
        if p == 1:
            return g * np.sign(x)
        if p == 2:
            return g * x / safe
        slope = np.sign(x) * np.where(x == 0, np.ones_like(x), np.abs(x)) ** (p - 1) * (x != 0)
        return g * slope / safe ** (p - 1)

    return out, (dx,)
