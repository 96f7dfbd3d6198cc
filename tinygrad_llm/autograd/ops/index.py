"""Ops that pick and place elements by index. Their gradients are Partials: the engine adds them into the buffer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinygrad_llm.autograd.graph import sum_to_shape
from tinygrad_llm.autograd.registry import Partial, register
from tinygrad_llm.devices import array_module
from tinygrad_llm.kernels import in_order


@register(moves=True)
def index(x: Any, *, key: Any, unique: bool) -> Any:
    """x[key]: a view for ints and slices, a copy for index arrays. unique: no element is picked twice."""
    shape = x.shape
    return _picked(x, key), (lambda g: Partial(shape, key, g, unique),)


def _picked(x: Any, key: Any) -> Any:
    """x[key], in order in memory where it is a copy: NumPy lays the axes of index arrays outermost."""
    y = x[key]
    copied = isinstance(key, tuple) and any(hasattr(k, "dtype") for k in key)
    return in_order(y) if copied else y


@register(moves=True, prints="IndexSelectBackward0")
def take(x: Any, ids: Any, *, axis: int) -> Any:
    """The slices ids (n,) of an axis: a copy."""
    shape, key = x.shape, (slice(None),) * axis + (ids,)
    return x.take(ids, axis=axis), (lambda g: Partial(shape, key, g, unique=False), None)


_basic = replace(index, bare=True)  # with ints and slices alone
select, slice_, alias = (_basic.printing(f"{name}Backward0") for name in ("Select", "Slice", "Alias"))
split, split_with_sizes = (_basic.printing(f"{name}Backward0") for name in ("Split", "SplitWithSizes"))
new_axis, unbind = _basic.printing("UnsqueezeBackward0"), _basic.printing("UnbindBackward0")
repeat_interleave = take.printing("ViewBackward0")


@register(moves=True, prints="IndexPutBackward0")
def set_index(x: Any, value: Any, *, key: Any) -> Any:
    """A copy of x with x[key] = value, which broadcasts. The gradient of what was overwritten goes to value."""
    shape = getattr(value, "shape", ())

    def dx(g: Any) -> Any:
        d = g.copy()
        d[key] = 0
        return d

    y = x.copy()
    y[key] = value
    return y, (dx, lambda g: sum_to_shape(g[key], shape))


@register(moves=True)
def embedding(weight: Any, ids: Any) -> Any:
    """weight[ids]: weight (V, C), ids (...) int -> (..., C). Captures the shape and the ids, never the table."""
    shape = weight.shape
    return weight[ids], (lambda g: Partial(shape, ids, g, unique=False), None)


def along(ids: Any, axis: int) -> tuple[Any, ...]:
    """The index arrays that pick element ids[i, j, ...] of an axis and the own place of every other one."""
    places = list(array_module(ids).ogrid[tuple(slice(n) for n in ids.shape)])
    if len(places) == 1 or ids.ndim == 1:
        return (ids,)
    places[axis] = ids
    return tuple(places)


@register(moves=True)
def gather(x: Any, ids: Any, *, axis: int) -> Any:
    """x[..., ids[i, j, ...], ...] along an axis: ids as x in rank, no longer than x elsewhere -> ids' shape."""
    places, shape = along(ids, axis), x.shape
    return x[places], (lambda g: Partial(shape, places, g, unique=False), None)


@register(moves=True)
def scatter(x: Any, ids: Any, source: Any, *, axis: int) -> Any:
    """A copy of x with source written at ids along an axis; which of two writes to one place stays is not defined."""
    places = along(ids, axis)
    y = x.copy()
    y[places] = source

    def dx(g: Any) -> Any:
        d = g.copy()
        d[places] = 0
        return d

    one = not getattr(source, "ndim", 0)
    return y, (dx, None, lambda g: g[places].sum() if one else g[places])


@register
def scatter_add(x: Any, ids: Any, source: Any, *, axis: int) -> Any:
    """A copy of x with source added at ids along an axis."""
    places = along(ids, axis)
    y = x.copy()
    Partial(x.shape, places, source, unique=False).add_into(y)
    return y, (lambda g: g, None, lambda g: g[places])


@register
def index_add(x: Any, ids: Any, source: Any, *, axis: int, alpha: float) -> Any:
    """A copy of x with alpha source added to its slices ids along an axis: ids (n,), source with n slices."""
    places = (slice(None),) * axis + (ids,)
    y = x.copy()
    Partial(x.shape, places, alpha * source, unique=False).add_into(y)
    return y, (lambda g: g, None, lambda g: alpha * g[places])
