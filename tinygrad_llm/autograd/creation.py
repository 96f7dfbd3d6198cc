"""Functions that make tensors: from data, filled, counted, random."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd.functions.common import sizes
from tinygrad_llm.autograd.methods import near
from tinygrad_llm.autograd.tensor import Tensor
from tinygrad_llm.warning import warn


def finish(array: Any, dtype: dtypes.dtype | None, device: Any, requires_grad: bool) -> Tensor:
    """A raw array as a tensor in a dtype, on a device."""
    dtype = dtypes.argument(dtype)
    if dtype is not None and array.dtype != dtype.numpy:
        array = array.astype(dtype.numpy)
    if device is not None:
        array = devices.move(array, devices.device(device))
    tensor = Tensor(array)
    return tensor.requires_grad_() if requires_grad else tensor


def placed(device: Any) -> Any:
    """The device that was given, else the one of new tensors (`set_default_device`), None for main memory."""
    return devices.default.now if device is None else device


def _infer(data: Any, dtype: Any = None) -> Any:
    """Nested numbers, arrays and tensors as one array: floats in the default dtype, integers as int64.

    Raises: RuntimeError for numbers that a given integer dtype cannot hold; arrays wrap round.
    """
    if isinstance(data, np.ndarray) or hasattr(data, "__cuda_array_interface__"):
        return data.copy()
    dtype = dtypes.argument(dtype)
    array = _nested(data, dtype)
    if dtype is not None and dtype.category == dtypes.INTEGER and array.size:
        for extreme in (array.min(), array.max()):  # both are nan where one element is
            dtypes.fill_value("tensor", extreme, dtype)
    return array


def _nested(data: Any, dtype: Any) -> np.ndarray:
    """Numbers in nested lists as an array whose dtype they decide, but for integers too large for int64."""
    if isinstance(data, np.generic):
        return np.array(data)
    if isinstance(data, (list, tuple)) and any(isinstance(x, Tensor) for x in data):
        data = [x.detach().tolist() if isinstance(x, Tensor) else x for x in data]
    try:
        array = np.array(data)
    except ValueError:
        raise ValueError("tensor: expected sequences of equal lengths at every depth, but they differ") from None
    if array.dtype.kind == "O" or (array.dtype.kind == "u" and not _holds_numpy(data)):
        array = _large(array, dtype)
    if array.dtype.kind in "US":
        _refuse(array)
    if array.dtype.kind == "f" and dtype is None and not _holds_numpy(data):
        array = array.astype(dtypes.get_default_dtype().numpy)
    return array.astype(dtypes.get_default_dtype().numpy) if array.size == 0 and array.dtype == np.float64 else array


def _large(array: np.ndarray, dtype: Any) -> np.ndarray:
    """An array of integers beyond int64, as floats where there is a float among them or another dtype is asked for."""
    leaves = list(array.flat)
    if not all(isinstance(x, (int, float, np.integer)) for x in leaves):
        _refuse(array)
    if any(isinstance(x, float) for x in leaves) or (dtype is not None and dtype.category != dtypes.INTEGER):
        return array.astype(np.float64)
    raise ValueError(f"Overflow when unpacking long long: tensor: {max(leaves, key=abs)} does not fit into int64")


def _refuse(array: np.ndarray) -> None:
    """Raise as PyTorch does on text, None and other objects."""
    if array.dtype.kind in "US":
        error = ValueError if array.ndim else TypeError
        raise error("tensor: text has no dtype; encode it with a tokenizer first")
    raise RuntimeError(f"tensor: Could not infer dtype of {type(next(array.flat)).__name__}; expected numbers or bools")


def _holds_numpy(data: Any) -> bool:
    """Whether nested lists end in NumPy scalars or arrays, whose dtype counts."""
    while isinstance(data, (list, tuple)) and len(data):
        data = data[0]
    return isinstance(data, (np.generic, np.ndarray))


def tensor(data: Any, *, dtype: dtypes.dtype | None = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of the data: numbers, nested lists, arrays.

    Raises:
        ValueError: rows of unequal length, or of text. TypeError: text. RuntimeError: something else that is no number.
    """
    if isinstance(data, Tensor):
        warn(
            "To copy construct from a tensor, it is recommended to use sourceTensor.detach().clone() rather than "
            "torch.tensor(sourceTensor).",
        )
        data = data.array
    return finish(_infer(data, dtype), dtype, placed(device), requires_grad)


def as_tensor(data: Any, dtype: dtypes.dtype | None = None, device: Any = None) -> Tensor:
    """data as a tensor, without a copy where it is a tensor or an array of that dtype already."""
    device = placed(device)
    if isinstance(data, Tensor):
        return data.to(dtype=dtype, device=device)
    return finish(data if isinstance(data, np.ndarray) else _infer(data, dtype), dtype, device, False)


asarray = as_tensor


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares an array's memory.

    Raises:
        TypeError: array is no NumPy array, or its dtype has no counterpart.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
    return Tensor(np.asarray(array))


def frombuffer(
    buffer: Any, *, dtype: dtypes.dtype, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """(count,) elements of a buffer from byte offset on, -1 for all of them; the memory is shared where it is writable.

    Of memory that is read-only the tensor has a copy, so that no write to it can harm what others read.

    Raises:
        ValueError: the bytes do not fit, or the object is no buffer.
    """
    kind = dtypes.argument(dtype)
    try:
        data = np.frombuffer(memoryview(buffer).cast("B"), np.uint8)
    except TypeError as error:
        raise ValueError(f"object does not implement Python buffer protocol. (frombuffer: {error})") from None
    size, width = data.size, kind.itemsize
    if not size or not count:
        raise ValueError(f"both buffer length ({size}) and count ({count}) must not be 0")
    if not 0 <= offset < size:
        raise ValueError(
            f"offset ({offset} bytes) must be non-negative and no greater than buffer length ({size} bytes) minus 1"
        )
    if count < 0 and (size - offset) % width:
        raise ValueError(
            f"buffer length ({size} bytes) after offset ({offset} bytes) must be a multiple of element size ({width})"
        )
    count = (size - offset) // width if count < 0 else count
    if count * width > size - offset:
        raise ValueError(
            f"requested buffer length ({count} * {width} bytes) after offset ({offset} bytes) must not be greater than "
            f"actual buffer length ({size} bytes)"
        )
    array = data[offset : offset + count * width].view(kind.numpy)
    return Tensor(array if array.flags.writeable else array.copy(), requires_grad=requires_grad)


def checked(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, if no dimension of it is negative."""
    if any(n < 0 for n in shape):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")
    return shape


def _filled(shape: Any, value: Any, dtype: dtypes.dtype | None, device: Any, requires_grad: bool) -> Tensor:
    device = placed(device)
    target = devices.CPU if device is None else devices.device(device)
    xp = devices.module_of(target)
    shape = checked(sizes(shape))
    kind = dtypes.argument(dtype) or dtypes.get_default_dtype()
    value = dtypes.fill_value("full", value, kind)
    with devices.on(target):  # zeros are not touched until used
        array = xp.zeros(shape, kind.numpy) if value == 0 else xp.full(shape, value, kind.numpy)
    return finish(array, None, None, requires_grad)


def zeros(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape."""
    return _filled(size, 0, dtype, device, requires_grad)


def ones(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape."""
    return _filled(size, 1, dtype, device, requires_grad)


def empty(*size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor of a shape whose elements are still to be written; they are zeros here."""
    return _filled(size, 0, dtype, device, requires_grad)


def full(size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """One number throughout; its kind decides the dtype unless one is given."""
    value = fill_value.item() if isinstance(fill_value, Tensor) else fill_value
    return _filled((tuple(size),), value, dtype or dtypes.of_scalar(value), device, requires_grad)


@near
def _like(input: Tensor, value: Any, dtype: Any, device: Any, requires_grad: bool) -> Tensor:
    kind = dtypes.argument(dtype) or input.dtype
    value = dtypes.fill_value("full_like", value, kind)
    return finish(np.full_like(input.array, value, dtype=kind.numpy), None, device, requires_grad)


def zeros_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros in input's shape, dtype and device."""
    return _like(input, 0, dtype, device, requires_grad)


def ones_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones in input's shape, dtype and device."""
    return _like(input, 1, dtype, device, requires_grad)


def empty_like(input: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor to be written, in input's shape, dtype and device."""
    return _like(input, 0, dtype, device, requires_grad)


def full_like(
    input: Tensor, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One number throughout, in input's shape, dtype and device."""
    return _like(input, fill_value, dtype, device, requires_grad)


def arange(
    start: Any = 0, end: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """start, start + step, ... below end; int64 for integers, the default float otherwise."""
    if end is None:
        start, end = 0, start
    start, end, step = (x.item() if hasattr(x, "item") else x for x in (start, end, step))
    if step == 0:
        raise RuntimeError("step must be nonzero")
    if (end - start) / step < 0:
        raise RuntimeError(f"upper bound and lower bound inconsistent with step sign: arange({start}, {end}, {step})")
    whole = all(isinstance(x, int) for x in (start, end, step))
    for bound in (start, end):
        dtypes.fill_value("arange", bound, dtypes.int64 if whole else dtypes.float64)
    count = -((start - end) // step) if whole else int(np.ceil((end - start) / step))
    device = placed(device)
    target = devices.CPU if device is None else devices.device(device)
    with devices.on(target):
        values = devices.module_of(target).arange(count, dtype=np.int64 if whole else np.float64) * step + start
        kind = dtype or (dtypes.int64 if whole else dtypes.get_default_dtype())
        return finish(values, kind, device, requires_grad)


def linspace(
    start: float, end: float, steps: int, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """steps numbers from start to end, both included, equally far apart."""
    if steps < 0:
        raise RuntimeError(f"linspace: number of steps must be non-negative, not {steps}")
    kind = dtypes.argument(dtype) or dtypes.get_default_dtype()
    for bound in (start, end):
        dtypes.fill_value("linspace", bound, kind)
    return finish(np.linspace(start, end, steps), kind, placed(device), requires_grad)


def logspace(
    start: float, end: float, steps: int, base: float = 10.0, *, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """base^start, ..., base^end, the exponents evenly spaced."""
    checked((steps,))
    powers = np.power(float(base), np.linspace(start, end, steps))
    return finish(powers, dtype or dtypes.get_default_dtype(), placed(device), requires_grad)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """The identity matrix (n, m): ones on the diagonal."""
    checked((n, n if m is None else m))
    return finish(np.eye(n, m), dtype or dtypes.get_default_dtype(), placed(device), requires_grad)


def tril_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Rows and columns of the lower triangle: (2, count)."""
    return finish(np.stack(np.tril_indices(row, offset, col)), dtypes.int64, placed(None), False)


def triu_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Rows and columns of the upper triangle: (2, count)."""
    return finish(np.stack(np.triu_indices(row, offset, col)), dtypes.int64, placed(None), False)


def is_tensor(obj: Any) -> bool:
    """Whether something is a Tensor."""
    return isinstance(obj, Tensor)
