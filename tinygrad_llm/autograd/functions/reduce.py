"""Functions over a dimension, several, or all of them: sums, extremes, softmax, sorting."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import dtypes
from tinygrad_llm.autograd import return_types
from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions.common import cast, check_tensor, dimension, dimensions, floating, number
from tinygrad_llm.autograd.functions.elementwise import maximum, minimum
from tinygrad_llm.autograd.functions.gathering import gather
from tinygrad_llm.autograd.functions.shape import clone, reshape, squeeze
from tinygrad_llm.autograd.methods import method, near
from tinygrad_llm.autograd.ops import reduce as ops
from tinygrad_llm.autograd.registry import Op
from tinygrad_llm.autograd.tensor import Tensor, apply, printing, wrap
from tinygrad_llm.kernels import in_order


def _summable(input: Tensor, dtype: dtypes.dtype | None) -> Tensor:
    """input in the dtype that its sums are taken in: int64 for integers and bools."""
    if dtype is None and not check_tensor("sum", input).is_floating_point():
        dtype = dtypes.int64
    return input if dtype is None else cast(input, dtype)


@method
@autocasts
def sum_(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: dtypes.dtype | None = None) -> Tensor:
    """The sum over dim; integers and bools are summed as int64."""
    x = _summable(input, dtype)
    op = ops.sum_ if dim is None and not keepdim else ops.sum_along
    y = apply(op, x, axes=dimensions(dim, x.ndim), keepdims=keepdim)
    return y if dtype is None else cast(y, dtype)  # NumPy widens the narrow integers


def _check_float(name: str, input: Tensor) -> Tensor:
    if not check_tensor(name, input).is_floating_point():
        raise RuntimeError(
            f"{name}(): could not infer output dtype. Input dtype must be a floating point dtype. Got: {input.dtype}"
        )
    return input


@method
def mean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: dtypes.dtype | None = None) -> Tensor:
    """The mean over dim."""
    input = _check_float("mean", input if dtype is None else cast(input, dtype))
    op = ops.mean if dim is None and not keepdim else ops.mean_along
    return apply(op, input, axes=dimensions(dim, input.ndim), keepdims=keepdim)


def _spread_of(
    op: Op, input: Tensor, dim: Any, unbiased: bool | None, correction: float | None, keepdim: bool
) -> Tensor:
    if isinstance(dim, bool):  # var(False) means unbiased=False
        dim, unbiased = None, dim
    if correction is None:
        correction = 1.0 if unbiased is None else float(unbiased)
    _check_float(op.name, input)
    return apply(op, input, axes=dimensions(dim, input.ndim), correction=correction, keepdims=keepdim)


@method
def var(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """sum (x - mean)^2 / (n - correction); the correction is 1 unless unbiased=False or it is given."""
    return _spread_of(ops.var, input, dim, unbiased, correction, keepdim)


@method
def std(
    input: Tensor,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The square root of var."""
    return _spread_of(ops.std, input, dim, unbiased, correction, keepdim)


def _one_dim(dim: int | None, input: Tensor) -> int | None:
    """dim counted from the front; None where it means everything."""
    axis = None if dim is None else dimension(dim, input.ndim)
    return axis if input.ndim else None


@method
@autocasts
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: dtypes.dtype | None = None) -> Tensor:
    """The product over one dimension or all."""
    x = _summable(input, dtype)
    y = apply(ops.prod if dim is None else ops.prod_along, x, axes=_one_dim(dim, x), keepdims=keepdim)
    return y if dtype is None else cast(y, dtype)


def _check_not_empty(name: str, input: Tensor, axes: tuple[int, ...] | None) -> None:
    if axes is None and not input.array.size:
        raise RuntimeError(
            f"{name}(): Expected reduction dim to be specified for an empty tensor; the shape is {tuple(input.shape)}"
        )
    if axes is not None and 0 in [input.array.shape[a] for a in axes]:
        raise IndexError(f"{name}(): Expected reduction dim to have non-zero size; the shape is {tuple(input.shape)}")


@method
def amax(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The largest over dim; elements that tie share the gradient."""
    axes = dimensions(dim, input.ndim)
    _check_not_empty("amax", input, axes)
    return apply(ops.amax, input, axes=axes, keepdims=keepdim)


@method
def amin(input: Tensor, dim: Any = (), keepdim: bool = False) -> Tensor:
    """The smallest over dim; elements that tie share the gradient."""
    axes = dimensions(dim, input.ndim)
    _check_not_empty("amin", input, axes)
    return apply(ops.amin, input, axes=axes, keepdims=keepdim)


@method
def max_(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest of all; with a dim (values, indices) along it; with a second tensor the elementwise maximum."""
    if dim is None:
        return printing(amax(input), "MaxBackward1")
    return maximum(input, dim) if isinstance(dim, Tensor) else _pick(np.argmax, return_types.max, input, dim, keepdim)


@method
def min_(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest of all; with a dim (values, indices) along it; with a second tensor the elementwise minimum."""
    if dim is None:
        return printing(amin(input), "MinBackward1")
    return minimum(input, dim) if isinstance(dim, Tensor) else _pick(np.argmin, return_types.min, input, dim, keepdim)


def _pick(choose: Any, returned: Any, input: Tensor, dim: int, keepdim: bool) -> Any:
    """Values and places of the elements that an arg-function chooses along dim."""
    if not input.ndim:
        dimension(dim, 0)
        return returned(reshape(input, ()), wrap(np.zeros_like(input.array, dtype=np.int64)))
    indices = _arg(choose, returned.__name__, input, dim, keepdim=True)
    values = gather(input, dim, indices)
    if not keepdim:
        values, indices = squeeze(values, dim), squeeze(indices, dim)
    return returned(printing(values, f"{returned.__name__.capitalize()}Backward0"), indices)


@near
def _arg(function: Any, name: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    axis = _one_dim(dim, check_tensor(name, input))
    if 0 in (input.array.shape if axis is None else (input.array.shape[axis],)):
        raise IndexError(f"{name}(): Expected reduction dim to have non-zero size; the shape is {tuple(input.shape)}")
    return wrap(function(input.array, axis=axis, keepdims=keepdim and bool(input.ndim)))


def _no_bool(name: str, input: Tensor) -> Tensor:
    if check_tensor(name, input).dtype is dtypes.bool_:
        raise RuntimeError(f"{name}(): does not support bool input; convert with .int()")
    return input


@method
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest is along dim, the first of several; over all dimensions its place in the flattened order."""
    return _arg(np.argmax, "argmax", _no_bool("argmax", input), dim, keepdim)


@method
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the smallest is along dim, the first of several; over all dimensions its place in the flattened order."""
    return _arg(np.argmin, "argmin", _no_bool("argmin", input), dim, keepdim)


@method
@autocasts
def logsumexp(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """ln sum e^x over dim."""
    return apply(ops.logsumexp, floating(input), axes=dimensions(dim, input.ndim), keepdims=keepdim)


def _along(op: Op, input: Tensor, dim: int, dtype: dtypes.dtype | None) -> Tensor:
    """softmax or log_softmax; a 0-d tensor counts as one element."""
    input = input if dtype is None else cast(input, dtype)
    if not check_tensor(op.name, input).is_floating_point():
        raise NotImplementedError(
            f"{op.name}: not implemented for {input.dtype}; pass dtype=, or convert with .float()"
        )
    axis = dimension(dim, input.ndim)
    if not input.array.size:
        return clone(input)
    return apply(op, input, axis=axis) if input.ndim else reshape(apply(op, reshape(input, (1,)), axis=0), ())


@method
@autocasts
def softmax(input: Tensor, dim: int, dtype: dtypes.dtype | None = None) -> Tensor:
    """e^x / sum e^x along dim."""
    return _along(ops.softmax, input, dim, dtype)


@method
@autocasts
def log_softmax(input: Tensor, dim: int, dtype: dtypes.dtype | None = None) -> Tensor:
    """x - ln sum e^x along dim."""
    return _along(ops.log_softmax, input, dim, dtype)


@method
@autocasts
def cumsum(input: Tensor, dim: int, *, dtype: dtypes.dtype | None = None) -> Tensor:
    """Running sums along dim."""
    axis = dimension(dim, input.ndim)
    x = _summable(input, dtype)
    y = apply(ops.cumsum, x, axis=axis) if x.ndim else reshape(x, ())
    return y if dtype is None else cast(y, dtype)


@method
@autocasts
def norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False) -> Tensor:
    """(sum |x|^p)^(1/p) over dim, the matrix taken as a vector; "fro" is p = 2."""
    if p == "fro" or p is None:
        p = 2.0
    if isinstance(p, str):
        raise ValueError(f"norm: p is a number, inf, -inf or 'fro', not {p!r}")
    _check_float("norm", input)
    return apply(ops.norm, input, p=float(number(p)), axes=dimensions(dim, input.ndim), keepdims=keepdim)


@near
def _truth(function: Any, input: Tensor, dim: Any, keepdim: bool) -> Tensor:
    truth = in_order(function(input.array.astype(bool), axis=dimensions(dim, input.ndim), keepdims=keepdim))
    return wrap(truth.astype(np.uint8) if input.dtype is dtypes.uint8 else truth)  # uint8 was PyTorch's bool once


@method
def all_(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether every element is true, over dim."""
    return _truth(np.all, input, dim, keepdim)


@method
def any_(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """Whether some element is true, over dim."""
    return _truth(np.any, input, dim, keepdim)


@method
@near
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The order that sorts along dim; equal elements keep their order, nan counts as the largest."""
    if not input.ndim:
        dimension(dim, 0)
        return wrap(np.zeros_like(input.array, dtype=np.int64))
    axis = dimension(dim, input.ndim)
    array = input.array.astype(np.float32) if input.dtype is dtypes.bfloat16 else input.array  # NumPy misplaces its nan
    if not descending:
        return wrap(np.argsort(array, axis=axis, kind="stable"))
    # sorting the reversed array and reversing the order keeps equal elements in theirs
    order = np.argsort(np.flip(array, axis), axis=axis, kind="stable")
    return wrap(in_order(np.flip(input.array.shape[axis] - 1 - order, axis)))


@method
@near
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = True) -> return_types.sort:
    """The elements in order along dim, and where they were."""
    indices = argsort(input, dim, descending)
    values = gather(input, dim, indices) if input.ndim else reshape(input, ())
    return return_types.sort(printing(values, "SortBackward0"), indices)


@method
@near
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> return_types.topk:
    """The k largest (or smallest) along dim, in order, and where they were.

    Raises:
        RuntimeError: there are fewer than k.
    """
    axis = dimension(dim, input.ndim)
    length = input.array.shape[axis] if input.ndim else 1
    if not 0 <= k <= length:
        raise RuntimeError(f"selected index k out of range: topk of {k} along a dimension of {length} elements")
    if not input.ndim:
        return return_types.topk(reshape(input, ()), wrap(np.zeros_like(input.array, dtype=np.int64)))
    order = argsort(input, dim, descending=largest).array
    indices = wrap(in_order(order[(slice(None),) * axis + (slice(0, k),)]))
    return return_types.topk(printing(gather(input, dim, indices), "TopkBackward0"), indices)


@method
@near
def count_nonzero(input: Tensor, dim: Any = None) -> Tensor:
    """How many elements are not zero, over dim."""
    return wrap(in_order((input.array != 0).sum(axis=dimensions(dim, input.ndim), dtype=np.int64)))
