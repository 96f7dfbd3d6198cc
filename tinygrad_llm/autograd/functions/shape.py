"""Functions that reshape, join, cut and repeat."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions.common import check_tensor, common, dimension, distinct, number, sizes
from tinygrad_llm.autograd.in_place import in_place, shape_in_place
from tinygrad_llm.autograd.methods import method
from tinygrad_llm.autograd.ops import elementwise, index
from tinygrad_llm.autograd.ops import shape as ops
from tinygrad_llm.autograd.registry import Op
from tinygrad_llm.autograd.size import Size
from tinygrad_llm.autograd.tensor import VIEW, Tensor, apply, printing, wrap


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
            f"size -1 "
            "can be any value and is ambiguous"
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
                "view size is not compatible with input tensor's size and stride (at least one dimension spans "
                "across two "
                "contiguous subspaces). Use .reshape(...) instead."
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
            f"the "
            "input tensor"
        )
    return reshape(input, (*shape[:axis], *part, *shape[axis + 1 :]))


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


swapaxes = transpose
Tensor.swapaxes = transpose  # type: ignore[attr-defined]


@method
def movedim(input: Tensor, source: Any, destination: Any) -> Tensor:
    """A view with the dimensions `source` moved to the places `destination`, the others in their order."""
    origins, targets = ([d] if isinstance(d, int) else list(d) for d in (source, destination))
    if len(origins) != len(targets):
        raise RuntimeError(f"movedim: source {origins} and destination {targets} must name as many dimensions")
    moved = dict(zip(distinct(targets, input.ndim), distinct(origins, input.ndim), strict=True))
    rest = iter([d for d in range(input.ndim) if d not in moved.values()])
    return apply(ops.permute, input, axes=tuple(moved[i] if i in moved else next(rest) for i in range(input.ndim)))


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
            f"dimensions in "
            f"the tensor ({len(shape)})"
        )
    full = tuple(shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(target))
    for i, n in enumerate(full):
        if n < 0 or (i >= lead and shape[i - lead] not in (1, n)):
            raise RuntimeError(
                f"The expanded size of the tensor ({n}) must match the existing size "
                f"({shape[i - lead] if i >= lead else 0}) at "
                f"non-singleton dimension {i}.  Target sizes: {list(target)}.  Tensor sizes: {list(shape)}"
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
def repeat(input: Tensor, *args: Any, repeats: Any = None) -> Tensor:
    """Laid out repeats[i] times along dimension i, new dimensions in front."""
    counts = sizes(args, repeats)
    lead = len(counts) - input.ndim
    if lead < 0:
        raise RuntimeError("Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor")
    if any(n < 0 for n in counts):
        raise RuntimeError(f"repeat: counts must not be negative, not {list(counts)}")
    x = reshape(input, (1,) * lead + input.array.shape) if lead else input
    return apply(ops.repeat, x, repeats=counts)


def tile(input: Tensor, dims: Sequence[int]) -> Tensor:
    """repeat, with missing counts in front taken as 1."""
    return repeat(input, (1,) * (input.ndim - len(dims)) + tuple(dims))


Tensor.tile = lambda self, *dims: tile(self, sizes(dims))  # type: ignore[attr-defined]


@method
def repeat_interleave(input: Tensor, repeats: Any, dim: int | None = None) -> Tensor:
    """Each element (each slice along dim) repeats times in a row; repeats is a number or one for each."""
    x = flatten(input) if dim is None else input
    axis = dimension(-1 if dim is None else dim, x.ndim)
    length = x.array.shape[axis]
    counts = repeats.numpy(force=True) if isinstance(repeats, Tensor) else np.asarray(repeats)
    if counts.ndim and len(counts) not in (1, length):
        raise RuntimeError(f"repeats must have the same size as input along dim, but got {len(counts)} and {length}")
    if (counts < 0).any():
        raise RuntimeError("repeats can not be negative")
    places = devices.move(np.repeat(np.arange(length), counts), input.device)
    return apply(index.take if counts.ndim else index.repeat_interleave, x, wrap(places), axis=axis)


def _check_joinable(name: str, tensors: Sequence[Tensor], axis: int) -> None:
    first = tensors[0].array.shape
    for i, x in enumerate(tensors):
        shape = x.array.shape
        if len(shape) != len(first):
            raise RuntimeError(
                f"{name}: Tensors must have same number of dimensions: got {len(first)} and {len(shape)} (tensor "
                f"number {i})"
            )
        for d, (m, n) in enumerate(zip(first, shape, strict=True)):
            if d != axis and m != n:
                raise RuntimeError(
                    f"{name}: Sizes of tensors must match except in dimension {axis}. Expected size {m} but got size "
                    f"{n} for "
                    f"tensor number {i} in the list."
                )


@autocasts
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along dim. One-dimensional empty tensors are passed over, as in PyTorch."""
    return _join(ops.cat, tensors, dim)


def _join(op: Op, tensors: Sequence[Tensor], dim: int) -> Tensor:
    tensors = common([check_tensor("cat", x, "tensors") for x in tensors]) if tensors else []
    if not tensors:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors")
    if builtins.any(x.ndim == 0 for x in tensors):
        raise RuntimeError("zero-dimensional tensor (at position 0) cannot be concatenated; use stack")
    full = [x for x in tensors if x.array.shape != (0,)] or tensors[:1]
    axis = dimension(dim, full[0].ndim)
    _check_joinable("cat", full, axis)
    return apply(op, *full, axis=axis)


concat = concatenate = cat


@autocasts
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new dimension."""
    if not tensors:
        raise RuntimeError("stack expects a non-empty TensorList")
    axis = dimension(dim, tensors[0].ndim + 1)
    for i, x in enumerate(tensors):
        if check_tensor("stack", x, "tensors").array.shape != tensors[0].array.shape:
            raise RuntimeError(
                f"stack expects each tensor to be equal size, but got {list(tensors[0].shape)} at entry 0 and "
                f"{list(x.shape)} at entry {i}"
            )
    return _join(ops.stack, [unsqueeze(x, axis) for x in tensors], axis)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Side by side: along dimension 1, or 0 for vectors."""
    tensors = [x if x.ndim else reshape(x, (1,)) for x in tensors]
    if not tensors:
        raise RuntimeError("hstack expects a non-empty TensorList")
    return cat(tensors, 0 if tensors[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """On top of each other: vectors become rows."""
    return cat([x if x.ndim > 1 else reshape(x, (1, -1)) for x in tensors], 0)


def _axis_to_cut(name: str, input: Tensor, dim: int) -> int:
    if not input.ndim:
        raise RuntimeError(f"{name}: a 0-d tensor has no dimension to cut; it needs at least 1 dimension")
    return dimension(dim, input.ndim)


@method
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A view of length slices from start along dim."""
    axis = _axis_to_cut("narrow", input, dim)
    n, start = input.array.shape[axis], int(number(start))
    if not -n <= start <= n:
        raise IndexError(f"start out of range (expected to be in range of [{-n}, {n}], but got {start})")
    first = start + n if start < 0 else start
    if not 0 <= length <= n - first:
        raise RuntimeError(f"start ({start}) + length ({length}) exceeds dimension size ({n}).")
    return _part(index.slice_, input, axis, first, first + length)


def _part(op: Op, input: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return apply(op, input, key=(slice(None),) * axis + (slice(start, stop),), unique=True)


@method
def split(input: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of parts along dim: of one size (the last may be smaller), or of the sizes listed."""
    axis = _axis_to_cut("split", input, dim)
    n = input.array.shape[axis]
    if isinstance(split_size_or_sections, int):
        op, size = index.split, split_size_or_sections
        if size < 0 or (size == 0 and n):
            raise RuntimeError(f"split expects split_size be non-negative, but got split_size={size}")
        lengths = [builtins.min(size, n - start) for start in range(0, n, size or 1)] or [0]
    else:
        op, lengths = index.split_with_sizes, list(split_size_or_sections)
        if sum(lengths) != n or builtins.any(m < 0 for m in lengths):
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at dimension "
                f"{axis}), "
                f"but got split_sizes={lengths}"
            )
    ends = np.cumsum(lengths).tolist()
    return tuple(_part(op, input, axis, end - m, end) for m, end in zip(lengths, ends, strict=True))


@method
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Up to that many views of equal size along dim, the last possibly smaller."""
    if chunks < 1:
        raise RuntimeError(f"chunk expects `chunks` to be greater than 0, got: {chunks}")
    n = input.array.shape[_axis_to_cut("chunk", input, dim)]
    return split(input, -(-n // chunks) if n else [0] * chunks, dim)


@method
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """A view of each slice along dim, without that dimension."""
    if not input.ndim:
        raise IndexError("unbind: a 0-d tensor has no dimension to take apart")
    axis = dimension(dim, input.ndim)
    lead = (slice(None),) * axis
    return tuple(apply(index.unbind, input, key=(*lead, i, ...), unique=True) for i in range(input.array.shape[axis]))


@method
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """A view of one slice along dim, without that dimension."""
    axis = dimension(dim, input.ndim)
    return input[(slice(None),) * axis + (int(index),)]


@method
def flip(input: Tensor, *args: Any, dims: Any = None) -> Tensor:
    """A copy with the order along the dims turned round."""
    return apply(ops.flip, input, axes=distinct(sizes(args, dims), input.ndim))


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
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A view of the diagonal of two dimensions as the last dimension: element i is at (i, i + offset)."""
    a, b = dimension(dim1, input.ndim), dimension(dim2, input.ndim)
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return apply(ops.diagonal, input, offset=offset, axes=(a, b))


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


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input.numel()


def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that these shapes broadcast to."""
    try:
        return Size(np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise RuntimeError(f"broadcast_shapes: {error}") from None


for _function in (tril, triu):
    in_place(_function)

for _function in (squeeze, unsqueeze, transpose, t):
    shape_in_place(_function)
Tensor.swapaxes_ = Tensor.swapdims_ = Tensor.transpose_  # type: ignore[attr-defined]
