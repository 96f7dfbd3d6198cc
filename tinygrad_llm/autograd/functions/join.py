"""Functions that join tensors, and that cut one into views."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions.common import check_tensor, common, dimension, number, sizes
from tinygrad_llm.autograd.functions.shape import atleast_3d, reshape, unsqueeze
from tinygrad_llm.autograd.methods import method
from tinygrad_llm.autograd.ops import index as index_ops
from tinygrad_llm.autograd.ops import shape as ops
from tinygrad_llm.autograd.registry import Op
from tinygrad_llm.autograd.tensor import Tensor, apply


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
                    f"{n} for tensor number {i} in the list."
                )


@autocasts
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along dim. One-dimensional empty tensors are passed over, as in PyTorch."""
    return _join(ops.cat, tensors, dim)


def _join(op: Op, tensors: Sequence[Tensor], dim: int) -> Tensor:
    tensors = common([check_tensor("cat", x, "tensors") for x in tensors]) if tensors else []
    if not tensors:
        raise ValueError("torch.cat(): expected a non-empty list of Tensors")
    if any(x.ndim == 0 for x in tensors):
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


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Behind each other, along a third dimension."""
    return cat([atleast_3d(x) for x in tensors], 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Side by side, vectors as columns."""
    return hstack([reshape(x, (x.array.size, 1)) if x.ndim <= 1 else x for x in tensors])


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
    return _part(index_ops.slice_, input, axis, first, first + length)


def _part(op: Op, input: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return apply(op, input, key=(slice(None),) * axis + (slice(start, stop),), unique=True)


@method
def split(input: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of parts along dim: of one size (the last may be smaller), or of the sizes listed."""
    axis = _axis_to_cut("split", input, dim)
    n = input.array.shape[axis]
    if isinstance(split_size_or_sections, int):
        op, size = index_ops.split, split_size_or_sections
        if size < 0 or (size == 0 and n):
            raise RuntimeError(f"split expects split_size be non-negative, but got split_size={size}")
        lengths = [min(size, n - start) for start in range(0, n, size or 1)] or [0]
    else:
        op, lengths = index_ops.split_with_sizes, list(split_size_or_sections)
        if sum(lengths) != n or any(m < 0 for m in lengths):
            raise RuntimeError(
                f"split_with_sizes expects split_sizes to sum exactly to {n} (input tensor's size at dimension "
                f"{axis}), but got split_sizes={lengths}"
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
def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Views along dim: so many of nearly equal size, the larger first, or cut at the indices."""
    axis = dimension(dim, input.ndim)
    n = input.array.shape[axis]
    if isinstance(indices_or_sections, int):
        if indices_or_sections <= 0:
            raise RuntimeError(f"number of sections must be larger than 0, got {indices_or_sections}")
        small, larger = divmod(n, indices_or_sections)
        return split(input, [small + (i < larger) for i in range(indices_or_sections)], axis)
    cuts = [0, *(slice(None, i).indices(n)[1] for i in sizes((tuple(indices_or_sections),))), n]
    lead = (slice(None),) * axis
    return tuple(input[(*lead, slice(a, max(a, b)))] for a, b in pairwise(cuts))


@method
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """A view of each slice along dim, without that dimension."""
    if not input.ndim:
        raise IndexError("unbind: a 0-d tensor has no dimension to take apart")
    axis = dimension(dim, input.ndim)
    lead = (slice(None),) * axis
    places = range(input.array.shape[axis])
    return tuple(apply(index_ops.unbind, input, key=(*lead, i, ...), unique=True) for i in places)


@method
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """A view of one slice along dim, without that dimension."""
    axis = dimension(dim, input.ndim)
    return input[(slice(None),) * axis + (int(index),)]
