"""Python's operators on tensors, conversions, and the methods that fill in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes, random
from tinygrad_llm.autograd.functions import compare, elementwise, linalg
from tinygrad_llm.autograd.functions.common import cast
from tinygrad_llm.autograd.in_place import check_writable, date_write, update, write
from tinygrad_llm.autograd.methods import method, near
from tinygrad_llm.autograd.ops import elementwise as elementwise_ops
from tinygrad_llm.autograd.ops import shape as ops
from tinygrad_llm.autograd.tensor import Tensor, apply, printing


def _or_not_implemented(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def operator(self: Tensor, other: Any) -> Any:
        try:
            return function(self, other)
        except TypeError:
            if isinstance(other, (Tensor, bool, int, float, np.generic)):
                raise
            return NotImplemented  # so that Python asks the other operand, and names both if it cannot either

    return operator


REFLECTED = {"sub": "RsubBackward1", "truediv": "MulBackward0"}  # what PyTorch prints for 1 - x and 1 / x


def _operator(name: str, function: Callable[..., Tensor], reflected: bool = False, in_place: bool = False) -> None:
    """Give Tensor `__name__`, and on request `__rname__` and `__iname__`."""
    setattr(Tensor, f"__{name}__", _or_not_implemented(function))
    if reflected:

        def operate(self: Tensor, other: Any) -> Tensor:
            y = function(other, self)
            return printing(y, REFLECTED[name]) if name in REFLECTED else y

        setattr(Tensor, f"__r{name}__", _or_not_implemented(operate))
    if in_place:
        setattr(Tensor, f"__i{name}__", lambda self, other: update(self, function, f"__i{name}__", other))


for _name, _function in (
    ("add", elementwise.add),
    ("sub", elementwise.sub),
    ("mul", elementwise.mul),
    ("truediv", elementwise.div),
    ("floordiv", elementwise.floor_divide),
    ("mod", elementwise.remainder),
    ("pow", elementwise.pow_),
):
    _operator(_name, _function, reflected=True, in_place=True)
for _name, _function in (
    ("and", compare.bitwise_and),
    ("or", compare.bitwise_or),
    ("xor", compare.bitwise_xor),
):
    _operator(_name, _function, reflected=True, in_place=True)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _operator(_name, getattr(compare, _name))
_operator("matmul", linalg.matmul)


def _invert(self: Tensor) -> Tensor:
    """The bits turned round; for bools the negation."""
    if self.is_floating_point():
        raise TypeError(f"~ is only implemented on integer and bool tensors, not on {self.dtype}")
    return compare.bitwise_not(self)


for _name, _function in (
    ("neg", elementwise.neg),
    ("pos", lambda self: self),
    ("abs", elementwise.abs_),
    ("invert", _invert),
):
    setattr(Tensor, f"__{_name}__", _function)


# --- conversions ---


@method
def to(
    self: Tensor, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False, copy: bool = False
) -> Tensor:
    """The tensor in another dtype, on another device, or as another tensor: `to(float64)`, `to("cuda")`, `to(other)`.

    The tensor itself where nothing changes, unless copy. Gradients go the way back. non_blocking: the copy may still be
    under way: from pinned memory, which must not be written to before the GPU was waited for (`cuda.synchronize()`);
    into main memory, where nothing must be read before.
    """
    for arg in args:
        if isinstance(arg, Tensor):
            dtype, device = arg.dtype, arg.device
        elif isinstance(arg, (dtypes.dtype, type)):
            dtype = dtypes.argument(arg)
        elif isinstance(arg, (str, devices.device)):
            device = arg
        elif not isinstance(arg, bool) and arg is not None:
            raise TypeError(f"to(): expected a dtype, a device or a Tensor, not {type(arg).__name__}")
    result = self
    if device is not None:
        target, home = devices.device(device), self.device
        if target.type != home.type or target.index not in (None, home.index):
            result = apply(
                ops.transfer,
                self,
                to=lambda a: devices.move(a, target, not non_blocking),
                back=lambda g: devices.move(g, home),
            )
    if dtype is not None:
        result = cast(result, dtype)
    return result.clone() if copy and result is self else result


def _converter(name: str, dtype: dtypes.dtype) -> None:
    def convert(self: Tensor) -> Tensor:
        return cast(self, dtype)

    convert.__name__, convert.__doc__ = name, f"The tensor as {dtype.name}."
    setattr(Tensor, name, convert)


for _name, _dtype in (
    ("float", dtypes.float32),
    ("double", dtypes.float64),
    ("half", dtypes.float16),
    ("bfloat16", dtypes.bfloat16),
    ("int", dtypes.int32),
    ("long", dtypes.int64),
    ("short", dtypes.int16),
    ("char", dtypes.int8),
    ("byte", dtypes.uint8),
    ("bool", dtypes.bool_),
):
    _converter(_name, _dtype)


@method
def cpu(self: Tensor) -> Tensor:
    """The tensor in main memory."""
    return to(self, "cpu")


@method
def cuda(self: Tensor, device: Any = "cuda", non_blocking: bool = False) -> Tensor:
    """The tensor on a GPU; non_blocking as for `to`."""
    return to(self, device=f"cuda:{device}" if isinstance(device, int) else device, non_blocking=non_blocking)


# --- filling in place: straight into the memory ---


@near
def _filled(self: Tensor, name: str, values: Any) -> Tensor:
    if not self.is_leaf:  # a recorded result stays one, though what it was no longer matters
        prints = {"copy_": "CopyBackwards"}.get(name, f"{name[:-1].capitalize()}Backward0")
        filled = apply(elementwise_ops.step.printing(prints), self, function=lambda x: np.full_like(x, values))
        return write(self, filled, name)
    check_writable(self, name)
    self.array[...] = values
    date_write(self)
    return self


@method
def fill_(self: Tensor, value: Any) -> Tensor:
    """Every element becomes a number."""
    if not isinstance(value, Tensor):
        value = dtypes.fill_value("fill_", value, self.dtype)
    return _filled(self, "fill_", devices.move(value.array, self.device) if isinstance(value, Tensor) else value)


@method
def zero_(self: Tensor) -> Tensor:
    """Every element becomes 0."""
    return _filled(self, "zero_", 0)


@method
def copy_(self: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """The elements of a tensor that broadcasts to this one, in this one's dtype; a gradient goes to the source.

    non_blocking: a source in pinned memory may still be read when this returns, see `to`.
    """
    if source.node is None:
        try:
            return _filled(self, "copy_", devices.move(source.array, self.device, not non_blocking))
        except ValueError:
            raise RuntimeError(
                f"copy_: a source of shape {list(source.shape)} does not broadcast to {list(self.shape)}"
            ) from None
    values = cast(source.to(self.device), self.dtype).expand(self.array.shape).clone()
    return write(self, printing(values, "CopyBackwards"), "copy_")


@method
def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0, *, generator: random.Generator | None = None) -> Tensor:
    """Uniform numbers in [a, b)."""
    if a > b:
        raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={a} > to={b}")
    draw = (generator or random.default_generator).uniform(self.array.shape, _float_dtype("uniform_", self))
    draw *= draw.dtype.type(b - a)
    draw += draw.dtype.type(a)
    return _filled(self, "uniform_", _on(self, draw))


@method
def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: random.Generator | None = None) -> Tensor:
    """Normal numbers of that mean and standard deviation."""
    if std < 0:
        raise RuntimeError(f"normal expects std >= 0.0, but found std {std}")
    dtype, array, out = _float_dtype("normal_", self), self.array, None
    if self.is_leaf and isinstance(array, np.ndarray) and array.dtype == dtype and array.flags.c_contiguous:
        check_writable(self, "normal_")
        out = array.reshape(-1)  # the weights of a model are large: drawn where they are to be
    draw = (generator or random.default_generator).normal(array.shape, dtype, out)
    draw *= draw.dtype.type(std)
    draw += draw.dtype.type(mean)
    return _filled(self, "normal_", _on(self, draw))


@method
def random_(
    self: Tensor, low: int | None = None, high: int | None = None, *, generator: random.Generator | None = None
) -> Tensor:
    """Integers in [low, high), or in [0, low); of all that the dtype holds exactly, from 0 on, if neither is given."""
    if low is None:
        low, high = 0, _whole_numbers(self)
    elif high is None:
        low, high = 0, low
    if low >= high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    for bound in (low, high - 1):
        dtypes.fill_value("random_", bound, self.dtype)
    draw = (generator or random.default_generator).integers(low, high, self.array.shape)
    return _filled(self, "random_", _on(self, draw))


def _whole_numbers(tensor: Tensor) -> int:
    """How many numbers from 0 on the dtype holds without a gap."""
    if tensor.is_floating_point():
        return 2 ** (np.finfo(tensor.array.dtype).nmant + 1) + 1
    return 2 if tensor.dtype is dtypes.bool_ else dtypes.iinfo(tensor.dtype).max + 1


@method
def bernoulli_(self: Tensor, p: Tensor | float = 0.5, *, generator: random.Generator | None = None) -> Tensor:
    """1 with probability p, else 0; p a number, or a tensor of them that broadcasts to this one.

    Raises:
        RuntimeError: p is no probability.
    """
    stream = generator or random.default_generator
    if not isinstance(p, Tensor):
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
        return _filled(self, "bernoulli_", _on(self, stream.uniform(self.array.shape, np.float64) < p))
    chances = devices.move(p.array, devices.CPU)
    if not ((chances >= 0) & (chances <= 1)).all():
        raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but an element of p is outside [0, 1]")
    draw = stream.uniform(self.array.shape, np.float64 if chances.dtype == np.float64 else np.float32)
    return _filled(self, "bernoulli_", _on(self, draw < chances))


def _float_dtype(name: str, tensor: Tensor) -> np.dtype:
    if not tensor.is_floating_point():
        raise NotImplementedError(f"{name}: not implemented for {tensor.dtype}; use random_ for integers")
    return tensor.array.dtype


def _on(tensor: Tensor, array: Any) -> Any:
    return devices.move(np.asarray(array), tensor.device)
