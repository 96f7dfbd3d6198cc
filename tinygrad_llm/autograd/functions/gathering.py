"""Picking along a dimension by an index tensor, and writing or adding there: gather, scatter and their kin."""

from __future__ import annotations

from typing import Any

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions.common import check_tensor, dimension, number, outside
from tinygrad_llm.autograd.functions.shape import broadcast_shapes, reshape
from tinygrad_llm.autograd.in_place import in_place, write
from tinygrad_llm.autograd.methods import method, near
from tinygrad_llm.autograd.ops import index as ops
from tinygrad_llm.autograd.tensor import Tensor, apply, printing, wrap


def _ids(name: str, index: Tensor) -> Tensor:
    if check_tensor(name, index, "index").dtype not in (dtypes.int64, dtypes.int32):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index, not {index.dtype}")
    return index


def _check_ids(name: str, index: Tensor, size: int, axis: int, error: type[Exception] = RuntimeError) -> None:
    bad = outside(name, index.array, 0, size)
    if bad is not None:
        raise error(f"{name}: index {bad} is out of bounds for dimension {axis} with size {size}")


@method
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of input that a vector of indices names along dim: a copy."""
    axis = dimension(dim, input.ndim)
    ids = _ids("index_select", index).array.reshape(-1)
    if index.ndim > 1:
        raise IndexError(f"index_select(): Index is supposed to be a vector, but has {index.ndim} dimensions")
    if not input.ndim:
        return input.reshape(1)[wrap(ids)].reshape(())
    _check_ids("index_select", index, input.array.shape[axis], axis, IndexError)
    return apply(ops.take, input, wrap(ids), axis=axis)


def _check_along(name: str, input: Tensor, index: Tensor, axis: int, source: Any = None) -> None:
    """The rules of gather and scatter: equal rank, index no longer than input except along axis, in range."""
    _ids(name, index)
    if index.array.size == 0:
        return
    if index.ndim != input.ndim:
        raise RuntimeError(
            f"{name}: Index tensor must have the same number of dimensions as input tensor ({index.ndim} and "
            f"{input.ndim})"
        )
    for d, (n, m) in enumerate(zip(index.array.shape, input.array.shape, strict=True)):
        if d != axis and n > m:
            raise RuntimeError(
                f"{name}: Size does not match at dimension {d} expected index {list(index.shape)} to be no larger "
                f"than self {list(input.shape)} apart from dimension {axis}"
            )
    if isinstance(source, Tensor) and (
        source.ndim != index.ndim or any(n > m for n, m in zip(index.shape, source.shape, strict=True))
    ):
        raise RuntimeError(f"{name}: expected index {list(index.shape)} to be no larger than src {list(source.shape)}")
    if isinstance(source, Tensor) and source.dtype is not input.dtype:
        raise RuntimeError(
            f"{name}(): Expected self.dtype to be equal to src.dtype, not {input.dtype} and {source.dtype}"
        )
    _check_ids(name, index, input.array.shape[axis], axis)


@method
def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """out[i][j]... = input with index[i][j]... in the place of dim's own: the shape is index's."""
    axis = dimension(dim, input.ndim)
    if not input.ndim or not index.ndim:
        return gather(input.reshape(-1), 0, index.reshape(-1)).reshape(index.shape)
    _check_along("gather", input, index, axis)
    if index.array.size == 0:
        return input.reshape(-1)[index]
    return apply(ops.gather, input, index, axis=axis)


@method
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """gather for indices that broadcast against input; without dim over the flattened order."""
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    axis = dimension(dim, input.ndim)
    shape = list(broadcast_shapes(*(x.shape[:axis] + (1,) + x.shape[axis + 1 :] for x in (input.array, indices.array))))
    wide = input.expand([input.array.shape[axis] if d == axis else n for d, n in enumerate(shape)])
    ids = indices.expand([indices.array.shape[axis] if d == axis else n for d, n in enumerate(shape)])
    return gather(wide, dim, ids)


def _as_vector(source: Any) -> Any:
    return source.reshape(-1) if isinstance(source, Tensor) else source


@method
def scatter(input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None) -> Tensor:
    """A copy of input with src (a tensor, or one number) written at index along dim."""
    source = value if src is None else src
    axis = dimension(dim, input.ndim)
    if not input.ndim:
        return scatter(input.reshape(1), 0, index.reshape(-1), _as_vector(source)).reshape(())
    _check_along("scatter", input, index, axis, source)
    if isinstance(source, Tensor):
        source = source[tuple(slice(n) for n in index.array.shape)]
    else:
        source = dtypes.fill_value("scatter", source, input.dtype)
    if index.array.size == 0:
        return input.clone()
    y = apply(ops.scatter, input, index, source, axis=axis)
    return y if isinstance(source, Tensor) else printing(y, "ScatterBackward1")


@method
@autocasts
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of input with src added at index along dim."""
    axis = dimension(dim, input.ndim)
    if not input.ndim:
        return scatter_add(input.reshape(1), 0, index.reshape(-1), _as_vector(src)).reshape(())
    _check_along("scatter_add", input, index, axis, check_tensor("scatter_add", src, "src"))
    if index.array.size == 0:
        return input.clone()
    return apply(ops.scatter_add, input, index, src[tuple(slice(n) for n in index.array.shape)], axis=axis)


@method
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """A copy of input with alpha source's slices added to those that a vector of indices names along dim."""
    axis = dimension(dim, input.ndim)
    if not input.ndim and not source.ndim:
        return index_add(input.reshape(1), 0, index.reshape(-1), source.reshape(1), alpha=alpha).reshape(())
    ids = _ids("index_add", index).array.reshape(-1)
    if index.ndim > 1:
        raise IndexError(f"index_add_(): Index is supposed to be a vector, but has {index.ndim} dimensions")
    if source.dtype is not input.dtype:
        raise RuntimeError(
            f"index_add: self ({input.dtype}) and source ({source.dtype}) must have the same scalar type"
        )
    if not input.ndim:
        raise RuntimeError(f"index_add: a 0-d tensor takes a 0-d source, not one of shape {list(source.shape)}")
    _check_ids("index_add", index, input.array.shape[axis], axis, IndexError if input.ndim == 1 else RuntimeError)
    if source.array.shape != (*input.array.shape[:axis], len(ids), *input.array.shape[axis + 1 :]):
        raise RuntimeError(
            f"index_add: source of shape {list(source.shape)} does not fit {len(ids)} indices along dimension {axis} "
            f"of {list(input.shape)}"
        )
    return apply(ops.index_add, input, wrap(ids), source, axis=axis, alpha=number(alpha))


@method
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy with a number in the slices that a vector of indices names along dim."""
    copy = input.clone()
    copy[(slice(None),) * dimension(dim, input.ndim) + (index,)] = value
    return copy


@method
@near
def index_put_(self: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """self[indices] = values; with accumulate the values are added, each as often as its place is named."""
    key = tuple(indices)
    if accumulate:
        flat = wrap(devices.array_module(self.array).arange(self.array.size).reshape(self.array.shape))[key]
        added = reshape(values.expand(flat.array.shape), (-1,))
        total = index_add(reshape(self, (-1,)), 0, reshape(flat, (-1,)), added)
        return write(self, reshape(total, self.array.shape), "index_put_")
    self[key] = values
    return self


for _function in (scatter, scatter_add, index_add):
    in_place(_function)
