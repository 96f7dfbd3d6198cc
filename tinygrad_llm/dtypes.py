"""Element types: PyTorch's names and promotion rules over NumPy's types.

bfloat16 comes from ml_dtypes, since NumPy has none. The 16-bit floats are storage: arithmetic on them is done
in float32 and rounded once (see `autograd.tensor.apply`).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

BOOL, INTEGER, FLOAT = range(3)  # the categories of PyTorch's promotion, lowest first


class dtype:
    """One element type. There is one object of each, so `is` compares them."""

    __slots__ = ("category", "itemsize", "name", "numpy")

    def __init__(self, name: str, numpy: Any):
        self.name = name
        self.numpy = np.dtype(numpy)
        self.itemsize = self.numpy.itemsize
        self.category = BOOL if name == "bool" else INTEGER if "int" in name else FLOAT

    @property
    def is_floating_point(self) -> bool:
        return self.category == FLOAT

    @property
    def is_complex(self) -> bool:
        return False

    @property
    def is_signed(self) -> bool:
        return self.name not in ("bool", "uint8")

    def __repr__(self) -> str:
        return f"torch.{self.name}"

    def __reduce__(self) -> str:
        return {"bool": "bool_"}.get(self.name, self.name)  # pickled by name: a copy would break `is`


float32 = dtype("float32", np.float32)
float64 = dtype("float64", np.float64)
float16 = dtype("float16", np.float16)
bfloat16 = dtype("bfloat16", ml_dtypes.bfloat16)
uint8 = dtype("uint8", np.uint8)
int8 = dtype("int8", np.int8)
int16 = dtype("int16", np.int16)
int32 = dtype("int32", np.int32)
int64 = dtype("int64", np.int64)
bool_ = dtype("bool", np.bool_)


class _Named(dtype):
    """A dtype that tables of other libraries name. No tensor has it: where it is used, `argument` refuses it."""

    __slots__ = ()
    is_complex, is_floating_point = True, False


complex64 = _Named("complex64", np.complex64)

ALL = (float32, float64, float16, bfloat16, uint8, int8, int16, int32, int64, bool_)
BY_NUMPY = {d.numpy: d for d in ALL}
BY_PYTHON = {float: float64, int: int64, bool: bool_}
CLASS_NAMES = {  # PyTorch's older names of tensors of a dtype: torch.FloatTensor
    float32: "Float", float64: "Double", float16: "Half", bfloat16: "BFloat16", uint8: "Byte", int8: "Char",
    int16: "Short", int32: "Int", int64: "Long", bool_: "Bool",
}  # fmt: skip
_default = float32


def of(array: Any) -> dtype:
    """The dtype of a raw array.

    Raises:
        TypeError: no such element type here (complex numbers, strings, objects, wide unsigned integers).
    """
    found = BY_NUMPY.get(array.dtype)
    if found is None:
        found = BY_NUMPY.get(array.dtype.newbyteorder("="))
    if found is None:
        names = ", ".join(d.name for d in ALL)
        raise TypeError(f"an array of {array.dtype} has no dtype here; the supported ones are {names}")
    return found


def argument(d: Any) -> Any:
    """What a `dtype=` argument names: one of the dtypes, or Python's float (float64), int (int64), bool. None is None.

    Raises:
        TypeError: anything else, NumPy's dtypes and names included, and complex64, of which there is only the name.
    """
    if d is None or type(d) is dtype:
        return d
    if isinstance(d, dtype):
        raise TypeError(f"no tensor has dtype {d} here: complex numbers are not computed with; use {float32}")
    if isinstance(d, type) and d in BY_PYTHON:
        return BY_PYTHON[d]
    raise TypeError(
        f"argument 'dtype' must be torch.dtype, not {type(d).__name__}: {d!r} is none; float32 is one, and Python's "
        f"float, int and bool will do"
    )


def get_default_dtype() -> dtype:
    """The floating dtype of new tensors made from Python floats."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Let new floating tensors have dtype d.

    Raises:
        TypeError: d is not a floating dtype.
    """
    global _default
    if not isinstance(d, dtype) or not d.is_floating_point:
        raise TypeError(f"only floating-point types are supported as the default type, not {d}")
    _default = d


def promote_types(a: dtype, b: dtype) -> dtype:
    """The smallest dtype that both go into: a float wins over integers whatever the widths, as in PyTorch."""
    if a is b:
        return argument(a)
    a, b = argument(a), argument(b)
    if a.category != b.category and FLOAT in (a.category, b.category):
        return a if a.category == FLOAT else b
    if {a, b} == {float16, bfloat16}:
        return float32  # neither holds the other
    return BY_NUMPY[np.promote_types(a.numpy, b.numpy)]


def of_scalar(value: Any) -> dtype:
    """The dtype that a Python number stands for."""
    if isinstance(value, (bool, np.bool_)):
        return bool_
    if isinstance(value, (int, np.integer)):
        return int64
    if isinstance(value, (float, np.floating)):
        return _default
    raise TypeError(f"expected a number, a bool or a Tensor, not {type(value).__name__}")


@cache
def _limits(d: dtype) -> tuple[float, float]:
    info: Any = finfo(d) if d.is_floating_point else iinfo(d)
    return info.min, info.max


def fill_value(name: str, value: Any, d: dtype) -> Any:
    """A number as elements of dtype d hold it: in integers a fraction is cut off, in uint8 -1 becomes 255.

    Raises:
        RuntimeError: d cannot hold it. TypeError: it is no number.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number or a bool, not {type(value).__name__}")
    if d.category == BOOL:
        return bool(value)
    low, high = _limits(d)
    if d is uint8 and isinstance(value, int):
        low = -high
    if not low <= value <= high and not (d.category == FLOAT and not math.isfinite(value)):
        raise RuntimeError(
            f"value cannot be converted to type {d.name} without overflow: {name}: {value} is not in [{low}, {high}]"
        )
    return float(value) if d.category == FLOAT else int(value) % 256 if d is uint8 else int(value)


def wrapped(value: int, d: dtype) -> int:
    """An integer in arithmetic with elements of an integer dtype d: modulo 2^bits, so that 300 in int8 is 44.

    Raises:
        OverflowError: it has more than 64 bits.
    """
    if not -(2**63) <= value < 2**64:
        raise OverflowError(f"int too big to convert: {value} has more than 64 bits; use a float")
    low = _limits(d)[0] if d.is_signed else 0
    return int((value - low) % 2 ** (8 * d.itemsize) + low)


class finfo:
    """Limits of a floating dtype: eps, max, min, tiny, smallest_normal, resolution, bits."""

    def __init__(self, d: dtype | None = None):
        d = argument(d) or _default
        if not d.is_floating_point:
            raise TypeError(f"finfo: {d} is not a floating dtype; use iinfo")
        info = ml_dtypes.finfo(d.numpy)
        self.dtype, self.bits = d.name, d.itemsize * 8
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.smallest_normal)
        self.resolution = 10.0**-info.precision

    def __repr__(self) -> str:
        fields = ("resolution", "min", "max", "eps", "smallest_normal", "tiny")
        return f"finfo({', '.join(f'{k}={getattr(self, k):g}' for k in fields)}, dtype={self.dtype})"


class iinfo:
    """Limits of an integer dtype: min, max, bits."""

    def __init__(self, d: dtype):
        d = argument(d)
        if d.category != INTEGER:
            raise TypeError(f"iinfo: {d} is not an integer dtype; use finfo")
        info = np.iinfo(d.numpy)
        self.dtype, self.bits, self.min, self.max = d.name, int(info.bits), int(info.min), int(info.max)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
