"""New tensors of a tensor's dtype, and PyTorch's older classes of tensors of one dtype: FloatTensor, LongTensor."""

from __future__ import annotations

from typing import Any

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd.functions.common import cast
from tinygrad_llm.autograd.functions.operators import to
from tinygrad_llm.autograd.methods import method, near
from tinygrad_llm.autograd.tensor import Tensor, wrap


@method
def new_zeros(self: Tensor, *size: Any, dtype: dtypes.dtype | None = None) -> Tensor:
    """Zeros of this dtype and device."""
    return new_full(self, _size(size), 0, dtype=dtype)


@method
def new_ones(self: Tensor, *size: Any, dtype: dtypes.dtype | None = None) -> Tensor:
    """Ones of this dtype and device."""
    return new_full(self, _size(size), 1, dtype=dtype)


@method
@near
def new_full(self: Tensor, size: Any, fill_value: Any, *, dtype: dtypes.dtype | None = None) -> Tensor:
    """One number throughout, of this dtype and device."""
    kind = dtypes.argument(dtype) or self.dtype
    value = dtypes.fill_value("new_full", fill_value, kind)
    return wrap(devices.filled(self.array, _size((size,)), value, kind.numpy))


@method
def new_tensor(self: Tensor, data: Any, *, dtype: dtypes.dtype | None = None) -> Tensor:
    """Data as a tensor of this dtype and device."""
    from tinygrad_llm.autograd.creation import tensor

    return tensor(data, dtype=dtype or self.dtype, device=self.device)


def _size(size: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else tuple(size)


@method
def new_empty(self: Tensor, *size: Any, dtype: dtypes.dtype | None = None) -> Tensor:
    """A tensor of this dtype and device whose elements mean nothing yet."""
    return new_full(self, _size(size), 0, dtype=dtype)


@method
def new(self: Tensor, *data: Any) -> Tensor:
    """A tensor of this dtype and device from sizes or from data."""
    return TypedTensor.of(self.dtype)(*data).to(self.device)


@method
def type_as(self: Tensor, other: Tensor) -> Tensor:
    """The tensor in other's dtype and on its device."""
    return to(self, other)


@method
def type_(self: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """Without a dtype the name "torch.FloatTensor"; else the tensor as a dtype, such a name or such a class.

    Raises:
        ValueError: there is no such name.
    """
    if dtype is None:
        place = "torch." if self.device.type == "cpu" else "torch.cuda."
        return f"{place}{dtypes.CLASS_NAMES[self.dtype]}Tensor"
    if isinstance(dtype, TypedTensor):
        return cast(self, dtype.dtype)
    if isinstance(dtype, str):
        place, _, name = dtype.rpartition(".")
        known = {f"{word}Tensor": kind for kind, word in dtypes.CLASS_NAMES.items()}
        if place not in ("torch", "torch.cuda") or name not in known:
            raise ValueError(f"invalid type: {dtype!r}")
        return to(self, "cuda" if place == "torch.cuda" else "cpu", known[name])
    return cast(self, dtype)


class TypedTensor(type):
    """FloatTensor and its kin: `FloatTensor([1, 2])` holds data, `FloatTensor(2, 3)` has that size.

    They are no classes of their own: isinstance asks for the dtype.
    """

    dtype: dtypes.dtype
    _made: dict[dtypes.dtype, TypedTensor] = {}  # noqa: RUF012 (a metaclass has no instances to share it)

    @classmethod
    def of(cls, dtype: dtypes.dtype) -> TypedTensor:
        """The class for a dtype."""
        if dtype not in cls._made:
            made = cls(f"{dtypes.CLASS_NAMES[dtype]}Tensor", (), {"__module__": "torch"})
            made.dtype = dtype
            cls._made[dtype] = made
        return cls._made[dtype]

    def __call__(cls, *data: Any) -> Tensor:
        tensor = data[0] if len(data) == 1 and isinstance(data[0], Tensor) else Tensor(*data)
        return cast(tensor, cls.dtype)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dtype is cls.dtype


FloatTensor, DoubleTensor, HalfTensor, BFloat16Tensor = map(
    TypedTensor.of, (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16)
)
ByteTensor, CharTensor, ShortTensor, IntTensor, LongTensor, BoolTensor = map(
    TypedTensor.of, (dtypes.uint8, dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64, dtypes.bool_)
)


@method
def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """The tensor in main memory that a GPU copies from by itself; itself where it lies there, or there is no GPU.

    Raises: RuntimeError for a tensor on a GPU.
    """
    if not self.is_cpu:
        raise RuntimeError(f"cannot pin a tensor on {self.device}; only tensors in main memory can be pinned")
    if devices.cuda_problem() or devices.is_pinned(self.array):
        return self
    array = devices.pinned(self.array.shape, self.array.dtype)
    array[...] = self.array
    return wrap(array)


@method
def is_pinned(self: Tensor, device: Any = None) -> bool:
    """Whether the tensor lies in pinned memory."""
    return devices.is_pinned(self.array)


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a floating one."""
    return input.is_floating_point()


def is_complex(input: Tensor) -> bool:
    """Whether the dtype is a complex one: there are none."""
    return input.is_complex()


def typename(obj: Any) -> str:
    """The name of a tensor's type, "torch.FloatTensor", or of another object's class with its module."""
    if isinstance(obj, Tensor):
        return type_(obj)
    kind = obj if isinstance(obj, type) else type(obj)
    return kind.__qualname__ if kind.__module__ in ("builtins", None) else f"{kind.__module__}.{kind.__qualname__}"
