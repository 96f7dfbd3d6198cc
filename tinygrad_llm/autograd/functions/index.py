"""Indexing as PyTorch indexes, and functions that find places or count."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd.functions.common import cast, check_tensor, number, on_one_device, outside
from tinygrad_llm.autograd.functions.shape import broadcast_shapes
from tinygrad_llm.autograd.in_place import check_writable, date_write, write
from tinygrad_llm.autograd.methods import method, near
from tinygrad_llm.autograd.ops import index as ops
from tinygrad_llm.autograd.registry import Op
from tinygrad_llm.autograd.tensor import Tensor, apply, printing, wrap
from tinygrad_llm.devices import array_module
from tinygrad_llm.kernels import in_order


def _near(k: Any, x: Any) -> Any:
    """An index array on the device of the indexed one: those in main memory may index a GPU's, as in PyTorch."""
    if isinstance(k, (np.ndarray, np.generic)):
        return devices.move(np.asarray(k), devices.of(x))
    if devices.of(k) != devices.of(x):
        raise RuntimeError(
            f"indices should be either on cpu or on the same device as the indexed tensor ({devices.of(x)}), not on "
            f"{devices.of(k)}; move one with .to()"
        )
    return k


def _near_all(key: tuple[Any, ...], x: Tensor) -> tuple[Any, ...]:
    """A key whose index arrays are on the device of the indexed tensor."""
    if not devices.in_use:
        return key
    return tuple(_near(k, x.array) if hasattr(k, "dtype") else k for k in key)


def _component(key: Any) -> Any:
    """One component of an index: int, slice, None, Ellipsis, or a NumPy/CuPy array of integers or bools."""
    if isinstance(key, Tensor):
        key = key.array
        if key.dtype not in (np.int64, np.int32, bool):
            raise IndexError(
                f"tensors used as indices must be long, int or bool tensors, not {key.dtype}; convert with .long()"
            )
        if key.ndim == 0:
            return bool(key) if key.dtype == bool else int(key)
    elif isinstance(key, (list, range, tuple)):
        key = np.asarray(
            [number(k.item() if isinstance(k, Tensor) else k) for k in key] if key else [], dtype=None if key else int
        )
        if key.dtype.kind == "f":
            raise IndexError(
                "only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices"
            )
    elif isinstance(key, slice):
        key = slice(*(None if v is None else int(v) for v in (key.start, key.stop, key.step)))
        if key.step is not None and key.step <= 0:
            raise ValueError("step must be greater than zero")
    elif isinstance(key, (np.integer, int)) and not isinstance(key, bool):
        return int(key)
    elif (
        key is not None and key is not Ellipsis and not isinstance(key, (bool, np.bool_)) and not hasattr(key, "dtype")
    ):
        error = TypeError if isinstance(key, str) else IndexError
        raise error(
            f"only integers, slices (`:`), ellipsis (`...`), None and long or byte Variables are valid indices (got "
            f"{type(key).__name__})"
        )
    return key


def parse(key: Any, ndim: int) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """An index as two steps: a basic key (ints, slices, None) that gives a view, and index arrays into it, or None.

    In PyTorch an int next to an index array picks a slice first; in NumPy it would count as an index array and could
    move the result's dimensions. Two steps give PyTorch's order.
    """
    if isinstance(key, list) and any(isinstance(k, (list, tuple, slice, Tensor)) or k in (None, Ellipsis) for k in key):
        key = tuple(key)  # as in PyTorch: a list of components is an index, a list of numbers a component
    parts = [_component(k) for k in (key if isinstance(key, tuple) else (key,))]
    used = sum(
        k.ndim
        if hasattr(k, "ndim") and k.dtype == bool
        else 0
        if k is None or k is Ellipsis or isinstance(k, bool)
        else 1
        for k in parts
    )
    dots = [i for i, k in enumerate(parts) if k is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if used > ndim:
        raise IndexError(f"too many indices for tensor of dimension {ndim}")
    if dots:
        parts[dots[0] : dots[0] + 1] = [slice(None)] * (ndim - used)
    basic: list[Any] = []
    advanced: list[Any] = []
    for k in parts:
        if hasattr(k, "dtype"):
            basic += [slice(None)] * (k.ndim if k.dtype == bool else 1)
            advanced.append(k)
        elif isinstance(k, (bool, np.bool_)):
            basic.append(None)
            advanced.append(np.array([bool(k)]))
        else:
            basic.append(k)
            if not isinstance(k, int):
                advanced.append(slice(None))
    arrays = any(hasattr(k, "dtype") for k in advanced)
    basic.append(Ellipsis)  # with ints alone NumPy would return a number; with it, a view
    return tuple(basic), tuple(advanced) if arrays else None


def _check_range(x: Any, advanced: tuple[Any, ...]) -> None:
    """Refuse index arrays that point outside, before NumPy words it its way."""
    axis = 0
    for k in advanced:
        if hasattr(k, "dtype") and k.dtype == bool:
            if x.shape[axis : axis + k.ndim] != k.shape:
                raise IndexError(
                    f"The shape of the mask {list(k.shape)} at index {axis} does not match the shape of the indexed "
                    f"tensor {list(x.shape)} at index {axis}"
                )
            axis += k.ndim
            continue
        n = x.shape[axis]
        bad = outside("index", k, -n, n) if hasattr(k, "dtype") and k.size else None
        if bad is not None:
            raise IndexError(f"index {bad} is out of bounds for dimension {axis} with size {n}")
        axis += 1


def _picks_once(advanced: tuple[Any, ...]) -> bool:
    """Whether index arrays can name no element twice: a mask alone, or no arrays."""
    return all(not hasattr(k, "dtype") or k.dtype == bool for k in advanced)


def _naming(basic: tuple[Any, ...]) -> Op:
    """The op under the name that PyTorch prints for a basic key: that of the last component that changes something."""
    for k in reversed(basic):
        if isinstance(k, int):
            return ops.select
        if k is None:
            return ops.new_axis
        if k is not Ellipsis and k != slice(None):
            return ops.slice_
    return ops.slice_ if len(basic) == 2 else ops.alias  # x[:], but x[...] and x[:, :]


def _view(input: Tensor, basic: tuple[Any, ...]) -> Tensor:
    try:
        return apply(_naming(basic), input, key=basic, unique=True)
    except IndexError as error:
        raise IndexError(str(error).replace("axis", "dimension")) from None


@method
@near
def __getitem__(input: Tensor, key: Any) -> Tensor:
    """input[key]: ints, slices, None and Ellipsis give a view; lists and tensors of integers or bools a copy."""
    basic, advanced = parse(key, input.ndim)
    x = _view(input, basic)
    if advanced is None:
        return x
    _check_range(x.array, advanced)  # before they are moved: to look at what lies on a GPU would wait for it
    advanced = _near_all(advanced, x)
    return apply(ops.index, x, key=advanced, unique=_picks_once(advanced))


@method
@near
def __setitem__(input: Tensor, key: Any, value: Any) -> None:
    """input[key] = value, which broadcasts into the place."""
    value = number(value)
    if isinstance(value, Tensor):
        value = cast(value, input.dtype)
    elif not isinstance(value, (bool, int, float)):
        raise TypeError(f"can't assign a {type(value).__name__} to a Tensor; write a number or a Tensor")
    else:
        value = dtypes.fill_value("__setitem__", value, input.dtype)
    basic, advanced = parse(key, input.ndim)
    place = _view(input, basic)
    if advanced is None:
        if isinstance(value, Tensor):
            place.copy_(_fit_into(value, place.array.shape))
        else:
            place.fill_(value)
        return
    _check_range(place.array, advanced)
    advanced = _near_all(advanced, place)
    if isinstance(value, Tensor) and devices.in_use:
        (_, value), _ = on_one_device("__setitem__", (place, value))
    check_writable(place, "__setitem__")
    if isinstance(value, Tensor):
        value = _fit_into(value, place.array[advanced].shape)
    if place.node is not None or (isinstance(value, Tensor) and value.node is not None):
        write(place, apply(ops.set_index, place, value, key=advanced), "__setitem__")
        return
    place.array[advanced] = value.array if isinstance(value, Tensor) else value  # without a copy
    date_write(place)


def _fit_into(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A value to be broadcast into a place: leading dimensions of size 1 that are too many fall away."""
    while value.ndim > len(shape) and value.array.shape[0] == 1:
        value = value.squeeze(0)
    lead = len(shape) - value.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(value.array.shape, shape[max(lead, 0) :], strict=False)):
        raise RuntimeError(
            f"shape mismatch: value tensor of shape {list(value.shape)} cannot be broadcast to indexing result of "
            f"shape {list(shape)}"
        )
    return value


@method
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where a bool mask that broadcasts holds, as a vector."""
    if check_tensor("masked_select", mask, "mask").dtype is not dtypes.bool_:
        raise RuntimeError(f"masked_select: expected BoolTensor for mask, not {mask.dtype}")
    shape = broadcast_shapes(input.array.shape, mask.array.shape)
    return printing(input.expand(shape)[mask.expand(shape)], "MaskedSelectBackward0")


@method
@near
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The places of the non-zero elements: (count, ndim), or with as_tuple a vector for each dimension."""
    places = np.nonzero(np.atleast_1d(input.array))
    if as_tuple:
        return tuple(wrap(p) for p in places)
    return wrap(np.stack(places, axis=1) if input.ndim else np.zeros_like(places[0], shape=(len(places[0]), 0)))


@method
def argwhere(input: Tensor) -> Tensor:
    """The indices of the elements that are not zero, a row each."""
    return nonzero(input)


@method
@near
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements in order; on request where each element of input went, and how often each occurs."""
    found = np.unique(input.array, return_inverse=True, return_counts=True, axis=dim)
    results = [wrap(found[0])]
    if return_inverse:
        results.append(wrap(found[1].reshape(input.array.shape if dim is None else -1)))
    if return_counts:
        results.append(wrap(found[2]))
    return results[0] if len(results) == 1 else tuple(results)


@method
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, 2, ... occurs in a vector."""
    if check_tensor("bincount", input).is_floating_point():
        raise NotImplementedError(f"bincount: not implemented for {input.dtype}; convert with .long()")
    if input.ndim != 1 or (input.array < 0).any():
        raise RuntimeError("bincount only supports 1-d non-negative integral inputs.")
    if weights is None:
        return wrap(np.bincount(input.array, minlength=minlength))
    if weights.array.shape != input.array.shape:
        raise RuntimeError(
            f"bincount: weights {list(weights.shape)} should be 1-d and have the same length as input "
            f"{list(input.shape)}"
        )
    counts = wrap(np.bincount(input.array, weights.array, minlength))
    return cast(counts, dtypes.float32) if weights.dtype is dtypes.float32 else counts


@near
def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Zeros with a 1 at each class number: ids (...) int64 -> (..., num_classes) int64."""
    if check_tensor("one_hot", tensor).dtype is not dtypes.int64:
        raise RuntimeError(f"one_hot is only applicable to index tensor of type LongTensor, not {tensor.dtype}")
    ids = tensor.array
    if ids.size == 0 and num_classes <= 0:
        raise RuntimeError("Can not infer total number of classes from empty tensor.")
    if ids.size and int(ids.min()) < 0:
        raise RuntimeError(f"Class values must be non-negative, not {int(ids.min())}")
    classes = int(ids.max()) + 1 if num_classes == -1 else num_classes
    if ids.size and int(ids.max()) >= classes:
        raise RuntimeError(
            f"Class values must be smaller than num_classes, but {int(ids.max())} is not below {classes}"
        )
    return wrap(in_order(ids[..., None] == array_module(ids).arange(classes)).astype(np.int64))
