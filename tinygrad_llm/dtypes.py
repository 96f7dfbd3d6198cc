"""Element types: PyTorch's names and promotion rules over NumPy's types.

bfloat16 comes from ml_dtypes, since NumPy has none. The 16-bit floats are storage: arithmetic on them is done
in float32 and rounded once (see `autograd.tensor.apply`).
"""

from __future__ import annotations

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

ALL = (float32, float64, float16, bfloat16, uint8, int8, int16, int32, int64, bool_)
BY_NUMPY = {d.numpy: d for d in ALL}
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
        return a
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


class finfo:
    """Limits of a floating dtype: eps, max, min, tiny, smallest_normal, resolution, bits."""

    def __init__(self, d: dtype | None = None):
        d = d or _default
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
        if d.category != INTEGER:
            raise TypeError(f"iinfo: {d} is not an integer dtype; use finfo")
        info = np.iinfo(d.numpy)
        self.dtype, self.bits, self.min, self.max = d.name, int(info.bits), int(info.min), int(info.max)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
