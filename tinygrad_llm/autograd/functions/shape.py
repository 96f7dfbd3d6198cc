"""Functions that show the same elements in another shape, most of them as views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_llm import dtypes
from tinygrad_llm.autograd.functions.common import check_tensor, dimension, distinct, sizes
from tinygrad_llm.autograd.in_place import shape_in_place
from tinygrad_llm.autograd.methods import method
from tinygrad_llm.autograd.ops import elementwise
from tinygrad_llm.autograd.ops import shape as ops
from tinygrad_llm.autograd.size import Size
from tinygrad_llm.autograd.tensor import VIEW, Tensor, apply, printing


def _full_shape(input: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A target shape with its -1 worked out.

    Raises:
        RuntimeError: the elements do not fit, or more than one -1 or a negative size is given.
    """
    unknown = shape.count(-1)
    if unknown > 1:
        raise RuntimeError("only one dimension can be inferred")
    if any(n < -1 for n in shape):
        raise RuntimeError(f"invalid shape dimension {min(shape)}")
    known = int(np.prod([n for n in shape if n != -1], dtype=np.int64))
    count = input.array.size
    if unknown and known == 0:
        raise RuntimeError(
            f"cannot reshape tensor of {count} elements into shape {list(shape)} because the unspecified dimension "
            "size -1 can be any value and is ambiguous"
        )
    if count % known if unknown else count != known:
        raise RuntimeError(f"shape '{list(shape)}' is invalid for input of size {count}")
    return tuple(count // known if n == -1 else n for n in shape)


@method
def reshape(input: Tensor, *args: Any, shape: Any = None) -> Tensor:
    """The same elements in order in another shape; one size may be -1. A view where the strides allow, else a copy."""
    y = apply(ops.reshape, input, shape=_full_shape(check_tensor("reshape", input), sizes(args, shape)))
    return y if y.flags & VIEW else printing(y, "UnsafeViewBackward0")  # as in PyTorch, which views a copy then


@method
def view(input: Tensor, *shape: Any) -> Tensor:
    """The same memory in another shape. With a dtype of the same width: the same bits read as that dtype.

    Raises:
        RuntimeError: the elements do not fit, or their strides allow no view.
    """
    if len(shape) == 1 and isinstance(shape[0], (dtypes.dtype, type)):
        dtype = dtypes.argument(shape[0])
        if dtype.itemsize != input.itemsize:
            raise RuntimeError(f"view: {dtype} has {dtype.itemsize} bytes an element and the tensor {input.itemsize}")
        return Tensor(input.array.view(dtype.numpy))
    full = _full_shape(input, sizes(shape))
    if not input.is_contiguous():
        probe = input.array.view()
        try:
            probe.shape = full  # NumPy's own test whether the strides allow it
        except AttributeError:
            raise RuntimeError(
                "view size is not compatible with input tensor's size and stride (at least one dimension spans across "
                "two contiguous subspaces). Use .reshape(...) instead."
            ) from None
    return apply(ops.reshape, input, shape=full)


@method
def view_as(input: Tensor, other: Tensor) -> Tensor:
    """The same memory in other's shape."""
    return view(input, other.array.shape)


@method
def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """The same elements in other's shape."""
    return reshape(input, other.array.shape)


@method
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions start_dim to end_dim as one."""
    shape = input.array.shape
    start, end = dimension(start_dim, len(shape)), dimension(end_dim, len(shape))
    if start > end:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    if not shape:
        return reshape(input, (1,))
    joined = int(np.prod(shape[start : end + 1], dtype=np.int64))
    return reshape(input, (*shape[:start], joined, *shape[end + 1 :]))


@method
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """One dimension as several; one size may be -1."""
    shape, axis = input.array.shape, dimension(dim, input.ndim)
    part = list(sizes)
    if part.count(-1) == 1:
        known = int(np.prod([n for n in part if n != -1]))
        part[part.index(-1)] = shape[axis] // known if known else 0
    if int(np.prod(part)) != shape[axis]:
        raise RuntimeError(
            f"unflatten: Provided sizes {list(sizes)} don't multiply up to the size of dim {dim} ({shape[axis]}) in "
            "the input tensor"
        )
    return reshape(input, (*shape[:axis], *part, *shape[axis + 1 :]))


@method
def ravel(input: Tensor) -> Tensor:
    """The elements in one row."""
    return reshape(input, (-1,))


@method
def permute(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """A view whose dimension i is dims[i] of the input."""
    axes = tuple(dimension(d, input.ndim) for d in sizes(args, dims))
    if sorted(axes) != list(range(input.ndim)):
        raise RuntimeError(f"permute: dims {list(axes)} must name each of the {input.ndim} dimensions once")
    return apply(ops.permute, input, axes=axes)


@method
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """A view with two dimensions swapped."""
    axes = list(range(input.ndim))
    a, b = dimension(dim0, input.ndim), dimension(dim1, input.ndim)
    if axes:
        axes[a], axes[b] = axes[b], axes[a]
    return apply(ops.transpose, input, axes=tuple(axes))


swapaxes = swapdims = transpose
Tensor.swapaxes = Tensor.swapdims = transpose  # type: ignore[attr-defined]


@method
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """A view with the dimensions `source` moved to the places `destination`, the others in their order."""
    origins, targets = ([d] if isinstance(d, int) else list(d) for d in (source, destination))
    if len(origins) != len(targets):
        raise RuntimeError(f"movedim: source {origins} and destination {targets} must name as many dimensions")
    moved = dict(zip(distinct(targets, input.ndim), distinct(origins, input.ndim), strict=True))
    rest = iter([d for d in range(input.ndim) if d not in moved.values()])
    return apply(ops.permute, input, axes=tuple(moved[i] if i in moved else next(rest) for i in range(input.ndim)))


moveaxis = movedim
Tensor.moveaxis = movedim  # type: ignore[attr-defined]


@method
def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; a vector or number as it is."""
    if input.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {input.ndim}D")
    return apply(ops.t, input, axes=(1, 0)) if input.ndim == 2 else input


def _reversed_dimensions(self: Tensor) -> Tensor:
    """All dimensions in reverse order."""
    return permute(self, tuple(reversed(range(self.ndim))))


def _matrix_transpose(self: Tensor) -> Tensor:
    """The last two dimensions swapped."""
    if self.ndim < 2:
        raise RuntimeError(f"tensor.mT is only supported on matrices or batches of matrices. Got {self.ndim}-D tensor.")
    return transpose(self, -1, -2)


Tensor.T = property(_reversed_dimensions)  # type: ignore[attr-defined]
Tensor.mT = property(_matrix_transpose)  # type: ignore[attr-defined]


@method
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A view of the diagonal of two dimensions as the last dimension: element i is at (i, i + offset)."""
    a, b = dimension(dim1, input.ndim), dimension(dim2, input.ndim)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return apply(ops.diagonal, input, offset=offset, axes=(a, b))


@method
def squeeze(input: Tensor, dim: Any = None) -> Tensor:
    """Without the dimensions of size 1, or without those named where they have size 1."""
    shape = input.array.shape
    if dim is None:
        op, drop = ops.squeeze, set(range(len(shape)))
    else:
        op = ops.squeeze_one if isinstance(dim, int) else ops.squeeze_some
        drop = set(distinct([dim] if isinstance(dim, int) else dim, len(shape)))
    return apply(op, input, shape=tuple(n for i, n in enumerate(shape) if i not in drop or n != 1))


@method
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new dimension of size 1 at dim."""
    axis = dimension(dim, input.ndim + 1)
    shape = input.array.shape
    return apply(ops.unsqueeze, input, shape=(*shape[:axis], 1, *shape[axis:]))


@method
def expand(input: Tensor, *args: Any, size: Any = None) -> Tensor:
    """A view that repeats dimensions of size 1 and adds new ones in front; -1 keeps a size."""
    target, shape = sizes(args, size), input.array.shape
    lead = len(target) - len(shape)
    if lead < 0:
        raise RuntimeError(
            f"expand: the number of sizes provided ({len(target)}) must be greater or equal to the number of "
            f"dimensions in the tensor ({len(shape)})"
        )
    full = tuple(shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(target))
    for i, n in enumerate(full):
        if n < 0 or (i >= lead and shape[i - lead] not in (1, n)):
            raise RuntimeError(
                f"The expanded size of the tensor ({n}) must match the existing size "
                f"({shape[i - lead] if i >= lead else 0}) at non-singleton dimension {i}.  Target sizes: "
                f"{list(target)}.  Tensor sizes: {list(shape)}"
            )
    return apply(ops.expand_nothing if full == shape else ops.expand, input, shape=full)


@method
def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """Expanded to other's shape."""
    return expand(input, other.array.shape)


@method
def broadcast_to(input: Tensor, *args: Any, size: Any = None) -> Tensor:
    """Expanded to a shape."""
    return expand(input, sizes(args, size))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors expanded to the shape that they broadcast to."""
    shape = broadcast_shapes(*(x.array.shape for x in tensors))
    return tuple(expand(x, shape) for x in tensors)


@method
def contiguous(input: Tensor) -> Tensor:
    """The tensor itself where its elements lie in order in memory, else a copy in which they do."""
    return input if input.is_contiguous() else clone(input)


@method
def clone(input: Tensor) -> Tensor:
    """A copy that passes its gradient on."""
    return apply(elementwise.clone, input)


def atleast_1d(input: Tensor) -> Tensor:
    """A 0-d tensor as a vector of one element."""
    return input if input.ndim else reshape(input, (1,))


def atleast_2d(input: Tensor) -> Tensor:
    """A number or vector as a matrix of one row."""
    return input if input.ndim >= 2 else reshape(input, (1, input.array.size))


def atleast_3d(input: Tensor) -> Tensor:
    """With three dimensions at least: a vector becomes (1, n, 1), a matrix (n, m, 1)."""
    if input.ndim >= 3:
        return input
    return unsqueeze(atleast_2d(input), -1)


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input.numel()


def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that these shapes broadcast to."""
    try:
        return Size(np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise RuntimeError(f"broadcast_shapes: {error}") from None


for _function in (squeeze, unsqueeze, transpose, t):
    shape_in_place(_function)
Tensor.swapaxes_ = Tensor.swapdims_ = Tensor.transpose_  # type: ignore[attr-defined]
