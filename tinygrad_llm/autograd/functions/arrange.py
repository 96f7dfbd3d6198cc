"""Functions that lay elements out anew: repeated, turned round, cut to triangles, padded, in windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions import compare, elementwise, shape
from tinygrad_llm.autograd.functions.common import check_tensor, dimension, distinct, sizes
from tinygrad_llm.autograd.functions.gathering import index_select
from tinygrad_llm.autograd.functions.join import narrow, stack
from tinygrad_llm.autograd.functions.reduce import sum_
from tinygrad_llm.autograd.in_place import in_place
from tinygrad_llm.autograd.methods import method, near
from tinygrad_llm.autograd.ops import index as index_ops
from tinygrad_llm.autograd.ops import shape as ops
from tinygrad_llm.autograd.tensor import Tensor, apply, wrap
from tinygrad_llm.warning import warn


@method
def repeat(input: Tensor, *args: Any, repeats: Any = None) -> Tensor:
    """Laid out repeats[i] times along dimension i, new dimensions in front."""
    counts = sizes(args, repeats)
    lead = len(counts) - input.ndim
    if lead < 0:
        raise RuntimeError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    if any(n < 0 for n in counts):
        raise RuntimeError(f"repeat: counts must not be negative, not {list(counts)}")
    x = shape.reshape(input, (1,) * lead + input.array.shape) if lead else input
    return apply(ops.repeat, x, repeats=counts)


def tile(input: Tensor, dims: Sequence[int]) -> Tensor:
    """repeat, with missing counts in front taken as 1."""
    return repeat(input, (1,) * (input.ndim - len(dims)) + tuple(dims))


Tensor.tile = lambda self, *dims: tile(self, sizes(dims))  # type: ignore[attr-defined]


@method
def repeat_interleave(input: Tensor, repeats: Any, dim: int | None = None) -> Tensor:
    """Each element (each slice along dim) repeats times in a row; repeats is a number or one for each."""
    x = shape.flatten(input) if dim is None else input
    axis = dimension(-1 if dim is None else dim, x.ndim)
    length = x.array.shape[axis]
    counts = repeats.numpy(force=True) if isinstance(repeats, Tensor) else np.asarray(repeats)
    if counts.ndim and len(counts) not in (1, length):
        raise RuntimeError(f"repeats must have the same size as input along dim, but got {len(counts)} and {length}")
    if (counts < 0).any():
        raise RuntimeError("repeats can not be negative")
    places = devices.move(np.repeat(np.arange(length), counts), input.device)
    return apply(index_ops.take if counts.ndim else index_ops.repeat_interleave, x, wrap(places), axis=axis)


@method
def flip(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """A copy with the order along the dims turned round."""
    return apply(ops.flip, input, axes=distinct(sizes(args, dims), input.ndim))


@method
def fliplr(input: Tensor) -> Tensor:
    """The columns in reverse order."""
    if input.ndim < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return flip(input, 1)


@method
def flipud(input: Tensor) -> Tensor:
    """The rows in reverse order."""
    if input.ndim < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return flip(input, 0)


@method
def roll(input: Tensor, shifts: Any, dims: Any = None) -> Tensor:
    """Elements moved on by shifts along dims (without: in the flat order), those that fall off coming in in front."""
    shifts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    if dims is None and len(shifts) == 1:
        return apply(ops.roll, input, shifts=shifts[0], axes=None)
    dims = () if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
    if len(shifts) != len(dims):
        raise RuntimeError(f"shifts and dimensions must align. shifts: {len(shifts)}, dims:{len(dims)}")
    return apply(ops.roll, input, shifts=shifts, axes=tuple(dimension(d, input.ndim) for d in dims))


def _check_matrix(name: str, input: Tensor) -> Tensor:
    if check_tensor(name, input).ndim < 2:
        raise RuntimeError(f"{name}: input tensor must have at least 2 dimensions")
    return input


@method
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of each matrix, zeros above the diagonal."""
    return apply(ops.tril, _check_matrix("tril", input), diagonal=diagonal)


@method
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of each matrix, zeros below the diagonal."""
    return apply(ops.triu, _check_matrix("triu", input), diagonal=diagonal)


@method
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix, or the matrix with a vector as its diagonal."""
    if check_tensor("diag", input).ndim == 2:
        return shape.diagonal(input, diagonal).clone()
    if input.ndim != 1:
        raise RuntimeError(f"diag(): Supports 1D or 2D tensors. Got {input.ndim}D")
    n = input.array.size + abs(diagonal)
    matrix = input.new_zeros(n, n)
    shape.diagonal(matrix, diagonal).copy_(input)
    return matrix


@method
@near
def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Write a number onto the diagonal of a matrix."""
    if self.ndim != 2 or wrap:
        raise NotImplementedError("fill_diagonal_: only matrices are supported, without wrap")
    shape.diagonal(self).fill_(fill_value)
    return self


@method
@autocasts
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if check_tensor("trace", input).ndim != 2:
        raise RuntimeError(f"trace: expected a matrix, but got tensor with dim {input.ndim}")
    return sum_(shape.diagonal(input))


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """With pad = (before, after) elements of `value` around the last dimension, then the one before it, and so on."""
    if mode != "constant":
        raise NotImplementedError(f"pad: mode {mode!r} is not supported; only 'constant' is")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise RuntimeError(f"pad: expected pairs for up to {input.ndim} dimensions, not {list(pad)}")
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    widths = (*((0, 0),) * (input.ndim - len(pairs)), *reversed(pairs))
    for (before, after), n in zip(widths, input.array.shape, strict=True):
        if n + before + after < 0 or -before > n or -after > n:
            raise RuntimeError(f"pad: {list(pad)} cuts off more than a dimension of {n} has")
    return apply(ops.pad, input, widths=widths, value=dtypes.fill_value("pad", float(value or 0), input.dtype))


@method
@near
def unfold(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of `size` elements along a dimension, every step elements, as a new last dimension."""
    axis = distinct([dimension], self.ndim)[0]
    n = self.array.shape[axis] if self.ndim else 1
    if not 0 <= size <= n:
        raise RuntimeError(f"maximum size for tensor at dimension {axis} is {n} but size is {size}")
    if step <= 0:
        raise RuntimeError(f"step is {step} but must be > 0")
    xp = devices.array_module(self.array)
    places = xp.arange(0, n - size + 1, step)[:, None] + xp.arange(size)
    windows = index_select(self, axis, wrap(places.reshape(-1)))
    return shape.movedim(shape.unflatten(windows, axis, places.shape), axis + 1, -1)


@method
def diff(input: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """The difference of neighbours along dim, n times over."""
    axis = dimension(dim, input.ndim)
    for _ in range(n):
        length = input.array.shape[axis]
        after, before = (narrow(input, axis, i, max(length - 1, 0)) for i in (min(1, length), 0))
        different = input.array.dtype == bool
        input = compare.logical_xor(after, before) if different else elementwise.sub(after, before)
    return input


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """The coordinates of a grid: for vectors of n and m elements two (n, m) tensors, or (m, n) with indexing "xy"."""
    vectors = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else list(tensors)
    if indexing is None:
        warn(
            "meshgrid: in an upcoming release, it will be required to pass the indexing argument; it is 'ij' now"
        )
        indexing = "ij"
    if indexing not in ("ij", "xy"):
        raise RuntimeError(f"meshgrid: indexing must be one of 'xy' or 'ij', but received: {indexing}")
    if not vectors:
        raise RuntimeError("meshgrid expects a non-empty TensorList")
    if any(v.ndim > 1 for v in vectors):
        raise RuntimeError("meshgrid: Expected 0D or 1D tensors in the tensor list")
    n = len(vectors)
    places = [1, 0, *range(2, n)] if indexing == "xy" and n > 1 else range(n)
    sides = [0] * n
    for v, place in zip(vectors, places, strict=True):
        sides[place] = v.array.size
    full = [[-1 if d == place else 1 for d in range(n)] for place in places]
    return tuple(shape.expand(shape.reshape(v, s), sides) for v, s in zip(vectors, full, strict=True))


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """Every combination of the vectors' elements, a row each."""
    if len(tensors) == 1:
        return tensors[0]
    return stack([shape.flatten(x) for x in meshgrid(*tensors, indexing="ij")], 1)


for _function in (tril, triu):
    in_place(_function)
