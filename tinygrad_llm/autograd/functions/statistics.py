"""Order statistics and other summaries, composed of sorting, gathering and sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import return_types
from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions import compare, elementwise, join, reduce, shape
from tinygrad_llm.autograd.functions.common import check_tensor, dimension
from tinygrad_llm.autograd.methods import method, near
from tinygrad_llm.autograd.tensor import Tensor, wrap
from tinygrad_llm.dtypes import float32, float64, int32, int64


@method
def var_mean(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> tuple[Tensor, Tensor]:
    """The variance and the mean."""
    correction = int(unbiased) if correction is None else correction
    spread = reduce.var(input, dim, correction=correction, keepdim=keepdim)
    return spread, reduce.mean(input, dim, keepdim)


@method
def std_mean(
    input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: Any = None
) -> tuple[Tensor, Tensor]:
    """The standard deviation and the mean."""
    correction = int(unbiased) if correction is None else correction
    spread = reduce.std(input, dim, correction=correction, keepdim=keepdim)
    return spread, reduce.mean(input, dim, keepdim)


@method
@near
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """The k-th smallest along dim, and where it is; k counts from 1."""
    axis = dimension(dim, input.ndim)
    n = input.array.shape[axis] if input.ndim else 1
    if not 1 <= k <= n:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {axis}: {k} of {n}")
    values, indices = (join.select(x, axis, k - 1) if input.ndim else x for x in reduce.sort(input, axis))
    if keepdim and input.ndim:
        values, indices = shape.unsqueeze(values, axis), shape.unsqueeze(indices, axis)
    return return_types.kthvalue(values, indices)


@method
@near
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element, the lower one of two; with dim also where it is. nan where there is a nan."""
    if dim is None:
        flat = shape.reshape(input, (-1,))
        n = flat.array.size
        if n == 0:
            return wrap(devices.filled(input.array, (), np.nan))
        nans = input.is_floating_point() and bool(np.isnan(flat.array).any())
        return join.select(reduce.sort(flat).values, 0, n - 1 if nans else (n - 1) // 2)
    axis = dimension(dim, input.ndim)
    n = input.array.shape[axis] if input.ndim else 1
    if n == 0:
        raise IndexError(f"median(): Expected reduction dim {axis} to have non-zero size.")
    ordered = kthvalue(input, (n + 1) // 2, axis, keepdim)
    if input.is_floating_point() and np.isnan(input.array).any():
        last = kthvalue(input, n, axis, keepdim)  # nan is sorted to the end
        nan = wrap(np.isnan(last.values.array))
        ordered = [elementwise.where(nan, theirs, ours) for ours, theirs in zip(ordered, last, strict=True)]
    return return_types.median(*ordered)


@method
@autocasts
@near
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The value below which a share q of the elements lies, between neighbours by interpolation.

    q: a number, or a vector of them, which becomes the first dimension. interpolation: linear, lower, higher, nearest
    or midpoint.
    """
    if check_tensor("quantile", input).dtype not in (float32, float64):
        raise RuntimeError(f"quantile() input tensor must be either float or double dtype, not {input.dtype}")
    if interpolation not in ("linear", "lower", "higher", "nearest", "midpoint"):
        raise RuntimeError(f"quantile() interpolation must be one of linear, lower, higher, nearest, midpoint, not "
                           f"{interpolation!r}")  # fmt: skip
    shares = np.atleast_1d(q.numpy(force=True) if isinstance(q, Tensor) else np.asarray(q, input.array.dtype))
    if ((shares < 0) | (shares > 1)).any():
        raise RuntimeError(f"quantile() q must be in the range [0, 1] but got {shares.tolist()}")
    x = shape.reshape(input, (-1,)) if dim is None else input
    axis = 0 if dim is None else dimension(dim, input.ndim)
    if x.array.shape[axis] == 0:
        raise RuntimeError("quantile() input tensor must be non-empty")
    ordered = shape.movedim(reduce.sort(x, axis).values, axis, 0)
    found = join.stack([_at(ordered, float(share) * (len(ordered) - 1), interpolation) for share in shares])
    if np.isnan(x.array).any():
        nan = wrap(np.isnan(np.moveaxis(x.array, axis, 0)).any(0))
        found = elementwise.masked_fill(found, nan, float("nan"))
    if keepdim:
        found = shape.unsqueeze(found, axis + 1) if dim is not None else shape.reshape(found, (-1,) + (1,) * input.ndim)
    return found if np.ndim(q.array if isinstance(q, Tensor) else q) else join.select(found, 0, 0)


def _at(ordered: Tensor, place: float, interpolation: str) -> Tensor:
    """The slice of sorted slices at a place that need not be whole."""
    below = int(np.floor(place))
    above = min(below + 1, len(ordered) - 1)
    part = place - below
    if interpolation == "nearest":
        part = float(np.round(place) - below)  # half to even, as PyTorch rounds
    elif interpolation != "linear":
        part = {"lower": 0.0, "higher": float(part > 0), "midpoint": 0.5 * (part > 0)}[interpolation]
    low, high = ordered[below], ordered[above]
    return elementwise.add(low, elementwise.mul(elementwise.sub(high, low), part))


@method
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The smallest and the largest."""
    over = () if dim is None else dim
    return return_types.aminmax(reduce.amin(input, over, keepdim), reduce.amax(input, over, keepdim))


@method
@autocasts
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Products of the elements up to each place along dim, multiplied one after the other."""
    x = input if dtype is None else input.to(dtype)
    if not x.is_floating_point():
        x = x.to(int64)
    axis = dimension(dim, x.ndim)
    if x.ndim == 0 or x.array.shape[axis] == 0:
        return x.clone()
    products = [join.select(x, axis, 0)]
    for i in range(1, x.array.shape[axis]):
        products.append(elementwise.mul(products[-1], join.select(x, axis, i)))
    return join.stack(products, axis)


@method
def nansum(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The sum, with nan counted as 0."""
    return reduce.sum_(elementwise.masked_fill(input, compare.isnan(input), 0), dim, keepdim, dtype=dtype)


@method
def nanmean(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """The mean of the elements that are not nan."""
    counted = reduce.sum_(compare.logical_not(compare.isnan(input)), dim, keepdim)
    return elementwise.div(nansum(input, dim, keepdim, dtype=dtype), counted)


@near
def searchsorted(sorted_sequence: Tensor, input: Any, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """Where each element of input belongs in a sorted vector: before equal ones, or with right behind them."""
    if sorted_sequence.ndim != 1:
        raise NotImplementedError(f"searchsorted: only a vector can be searched, not {list(sorted_sequence.shape)}")
    values = input.array if isinstance(input, Tensor) else np.asarray(input)
    values = devices.move(values, sorted_sequence.device)
    places = np.searchsorted(sorted_sequence.array, values, "right" if right else "left")
    return wrap(places).to(int32 if out_int32 else int64)


@near
def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """searchsorted with its arguments the other way round."""
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


@near
def isin(elements: Tensor, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each element is among the test elements."""
    known = test_elements.array if isinstance(test_elements, Tensor) else np.asarray(test_elements)
    known = devices.move(known, elements.device)
    return wrap(np.isin(elements.array, known, invert=invert))
