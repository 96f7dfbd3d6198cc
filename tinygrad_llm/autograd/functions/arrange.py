"""More functions that lay elements out anew, composed of those in shape.py and index.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions import elementwise, index, linalg, shape
from tinygrad_llm.autograd.functions.common import check_tensor, dimension, distinct, sizes
from tinygrad_llm.autograd.functions.reduce import sum_
from tinygrad_llm.autograd.tensor import Tensor, method, near, wrap
from tinygrad_llm.devices import array_module
from tinygrad_llm.warning import warn


def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple[Tensor, ...]:
    """The coordinates of a grid: for vectors of n and m elements two (n, m) tensors, or (m, n) with indexing "xy"."""
    vectors = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else list(tensors)
    if indexing is None:
        warn(
            "meshgrid: in an upcoming release, it will be required to pass the indexing argument; it is 'ij' now",
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
    return shape.stack([shape.flatten(x) for x in meshgrid(*tensors, indexing="ij")], 1)


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
@autocasts
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix's diagonal."""
    if check_tensor("trace", input).ndim != 2:
        raise RuntimeError(f"trace: expected a matrix, but got tensor with dim {input.ndim}")
    return sum_(shape.diagonal(input))


@method
def ravel(input: Tensor) -> Tensor:
    """The elements in one row."""
    return shape.reshape(input, (-1,))


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Side by side, vectors as columns."""
    return shape.hstack([shape.reshape(x, (x.array.size, 1)) if x.ndim <= 1 else x for x in tensors])


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Behind each other, along a third dimension."""
    return shape.cat([atleast_3d(x) for x in tensors], 2)


def atleast_2d(input: Tensor) -> Tensor:
    """A number or vector as a matrix of one row."""
    return input if input.ndim >= 2 else shape.reshape(input, (1, input.array.size))


def atleast_3d(input: Tensor) -> Tensor:
    """With three dimensions at least: a vector becomes (1, n, 1), a matrix (n, m, 1)."""
    if input.ndim >= 3:
        return input
    return shape.unsqueeze(atleast_2d(input), -1)


@method
def fliplr(input: Tensor) -> Tensor:
    """The columns in reverse order."""
    if input.ndim < 2:
        raise RuntimeError("Input must be >= 2-d.")
    return shape.flip(input, 1)


@method
def flipud(input: Tensor) -> Tensor:
    """The rows in reverse order."""
    if input.ndim < 1:
        raise RuntimeError("Input must be >= 1-d.")
    return shape.flip(input, 0)


@method
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views along dim: so many of nearly equal size, the larger first, or cut at the indices."""
    axis = dimension(dim, input.ndim)
    n = input.array.shape[axis]
    if isinstance(indices_or_sections, int):
        if indices_or_sections <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {indices_or_sections}")
        small, larger = divmod(n, indices_or_sections)
        return shape.split(input, [small + (i < larger) for i in range(indices_or_sections)], axis)
    cuts = [0, *(slice(None, i).indices(n)[1] for i in sizes((tuple(indices_or_sections),))), n]
    lead = (slice(None),) * axis
    return tuple(input[(*lead, slice(a, max(a, b)))] for a, b in pairwise(cuts))


@method
def argwhere(input: Tensor) -> Tensor:
    """The indices of the elements that are not zero, a row each."""
    return index.nonzero(input)


@method
def diff(input: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """The difference of neighbours along dim, n times over."""
    axis = dimension(dim, input.ndim)
    for _ in range(n):
        length = input.array.shape[axis]
        after, before = (shape.narrow(input, axis, i, max(length - 1, 0)) for i in (min(1, length), 0))
        different = input.array.dtype == bool
        input = elementwise.logical_xor(after, before) if different else elementwise.sub(after, before)
    return input


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
    xp = array_module(self.array)
    places = xp.arange(0, n - size + 1, step)[:, None] + xp.arange(size)
    windows = index.index_select(self, axis, wrap(places.reshape(-1)))
    return shape.movedim(shape.unflatten(windows, axis, places.shape), axis + 1, -1)


@method
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimension of both."""
    if input.ndim == 0 or other.ndim == 0:
        return elementwise.mul(input, other)
    if input.array.shape[-1] != other.array.shape[-1]:
        raise RuntimeError(
            f"inner() the last dimension must match on both input tensors but got shapes {list(input.shape)} and "
            f"{list(other.shape)}"
        )
    return tensordot(input, other, ([-1], [-1]))


@autocasts
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over the last `dims` dimensions of a and the first of b, or over those that two lists name."""
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        left, right = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    else:
        left, right = ([dimension(d, x.ndim) for d in part] for part, x in zip(dims, (a, b), strict=True))
    if [a.array.shape[i] for i in left] != [b.array.shape[i] for i in right]:
        raise RuntimeError(
            f"contracted dimensions need to match, but shapes {list(a.shape)} and {list(b.shape)} have "
            f"{[a.array.shape[i] for i in left]} and {[b.array.shape[i] for i in right]} along them"
        )
    rows, columns = ([d for d in range(x.ndim) if d not in used] for x, used in ((a, left), (b, right)))
    outer = [a.array.shape[d] for d in rows] + [b.array.shape[d] for d in columns]
    count = int(np.prod([a.array.shape[d] for d in left]))
    first = shape.reshape(shape.permute(a, (*rows, *left)), (int(np.prod(outer[: len(rows)])), count))
    second = shape.reshape(shape.permute(b, (*right, *columns)), (count, int(np.prod(outer[len(rows) :]))))
    return shape.reshape(linalg.mm(first, second), tuple(outer))


moveaxis, swapdims, ger, vdot = shape.movedim, shape.swapaxes, linalg.outer, linalg.dot
for _second, _first in (("moveaxis", "movedim"), ("swapdims", "swapaxes"), ("ger", "outer"), ("vdot", "dot")):
    setattr(Tensor, _second, getattr(Tensor, _first))
