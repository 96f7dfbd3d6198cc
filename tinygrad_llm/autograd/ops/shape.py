"""Ops that move elements: shapes change, values do not. None captures more than shapes; most results are views."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.autograd.registry import Partial, register
from tinygrad_llm.kernels import in_order


@register(moves=True, bare=True, prints="ViewBackward0")
def reshape(x: Any, *, shape: tuple[int, ...]) -> Any:
    """The same elements in order, in another shape; a view where the strides allow."""
    before = x.shape
    return x.reshape(shape), (lambda g: g.reshape(before),)


unsqueeze = reshape.printing("UnsqueezeBackward0")
squeeze, squeeze_one, squeeze_some = (reshape.printing(f"SqueezeBackward{i}") for i in range(3))
expand_nothing = reshape.printing("ExpandBackward0")


@register(moves=True, bare=True)
def permute(x: Any, *, axes: tuple[int, ...]) -> Any:
    """A view whose axis i is x's axis axes[i]."""
    back = tuple(sorted(range(len(axes)), key=axes.__getitem__))
    return x.transpose(axes), (lambda g: g.transpose(back),)


transpose, t = permute.printing("TransposeBackward0"), permute.printing("TBackward0")


@register(moves=True, broadcasts=True, bare=True)
def expand(x: Any, *, shape: tuple[int, ...]) -> Any:
    """A read-only view that repeats x along new axes and axes of length 1; the engine sums the gradient back."""
    return np.broadcast_to(x, shape), (lambda g: g,)


def _diagonal(x: Any, offset: int, axes: tuple[int, int]) -> Any:
    view = x.diagonal(offset, *axes)
    if isinstance(x, np.ndarray):
        view.flags.writeable = x.flags.writeable  # NumPy locks it for the sake of old programs
    return view


@register(moves=True, bare=True)
def diagonal(x: Any, *, offset: int, axes: tuple[int, int]) -> Any:
    """A view of the elements (i, i + offset) of two axes, as the last axis."""
    shape = x.shape

    def dx(g: Any) -> Any:
        d = np.zeros_like(g, shape=shape)
        _diagonal(d, offset, axes)[...] = g
        return d

    return _diagonal(x, offset, axes), (dx,)


@register(moves=True, prints="CopySlices")
def set_view(x: Any, value: Any, *, path: tuple[tuple[Any, dict[str, Any]], ...]) -> Any:
    """A copy of x in which value stands in the view that a path of ops leads to: value in the view's shape.

    path: pairs of an op that gives a view and its static arguments. The gradient of what was overwritten goes to value.
    Captures a mask of x's shape.
    """

    def follow(array: Any) -> Any:
        for op, static in path:
            array, _ = op.function(array, **static)
        return array

    y = x.copy(order="K")  # x's layout, in which every step of the path gives a view again
    follow(y)[...] = value
    over = np.zeros_like(x, dtype=bool)
    follow(over)[...] = True

    def dx(g: Any) -> Any:
        d = g.copy()
        d[over] = 0  # CuPy's where knows no bfloat16
        return d

    return y, (dx, follow)


@register(moves=True, bare=True)
def flip(x: Any, *, axes: tuple[int, ...]) -> Any:
    """A copy with the order along the axes turned round."""
    return np.flip(x, axes).copy(), (lambda g: np.flip(g, axes),)


@register(moves=True, bare=True)
def roll(x: Any, *, shifts: Any, axes: Any) -> Any:
    """Elements moved on by shifts along the axes, those that fall off the end coming in at the front."""
    back = tuple(-s for s in shifts) if isinstance(shifts, tuple) else -shifts
    return in_order(np.roll(x, shifts, axes)), (lambda g: np.roll(g, back, axes),)


@register(bare=True)
def tril(x: Any, *, diagonal: int) -> Any:
    """The lower triangle of the last two axes, zero above the diagonal."""
    return in_order(np.tril(x, diagonal)), (lambda g: np.tril(g, diagonal),)


@register(bare=True)
def triu(x: Any, *, diagonal: int) -> Any:
    """The upper triangle of the last two axes, zero below the diagonal."""
    return in_order(np.triu(x, diagonal)), (lambda g: np.triu(g, diagonal),)


@register(moves=True, bare=True, prints="ConstantPadNdBackward0")
def pad(x: Any, *, widths: tuple[tuple[int, int], ...], value: float) -> Any:
    """x with widths[i] = (before, after) elements of `value` around axis i; a negative width cuts off."""
    grown = tuple((max(a, 0), max(b, 0)) for a, b in widths)
    inside = tuple(
        slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(widths, x.shape, strict=True)
    )  # what is left of x
    kept = x[inside]
    middle = tuple(slice(a, a + n) for (a, _), n in zip(grown, kept.shape, strict=True))
    shape = x.shape
    y = np.pad(kept, grown, constant_values=value)
    return in_order(y), (lambda g: Partial(shape, inside, g[middle]),)


@register(moves=True, bare=True)
def cat(*xs: Any, axis: int) -> Any:
    """The arrays one after the other along an axis. Each gradient is a view of its part of g."""

    def part(start: int, stop: int) -> Any:
        index = (slice(None),) * axis + (slice(start, stop),)
        return lambda g: g[index]

    ends = np.cumsum([x.shape[axis] for x in xs]).tolist()
    starts = [0, *ends[:-1]]
    return in_order(np.concatenate(xs, axis=axis)), tuple(map(part, starts, ends))


stack = cat.printing("StackBackward0")


@register(moves=True, bare=True)
def repeat(x: Any, *, repeats: tuple[int, ...]) -> Any:
    """x laid out repeats[i] times along axis i; as many repeats as x has axes. The gradient sums over the copies."""
    shape = x.shape

    def dx(g: Any) -> Any:
        paired = tuple(n for pair in zip(repeats, shape, strict=True) for n in pair)
        return g.reshape(paired).sum(axis=tuple(range(0, len(paired), 2)))

    return np.tile(x, repeats), (dx,)


@register(moves=True, bare=True)
def transfer(x: Any, *, to: Any, back: Any) -> Any:
    """x through a function that moves it to another device; the gradient goes through its counterpart."""
    return to(x), (back,)
