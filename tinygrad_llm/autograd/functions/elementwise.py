"""Functions of each element that gradients go through: exp, add, clamp, where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd.autocast import autocasts, if_listed
from tinygrad_llm.autograd.functions.common import (
    cast,
    check_broadcast,
    check_tensor,
    floating,
    number,
    pair,
    raw,
    result_type,
)
from tinygrad_llm.autograd.functions.compare import gt, lt
from tinygrad_llm.autograd.in_place import in_place
from tinygrad_llm.autograd.methods import method, near
from tinygrad_llm.autograd.ops import elementwise as ops
from tinygrad_llm.autograd.registry import Op
from tinygrad_llm.autograd.tensor import Tensor, apply, printing, wrap


def _unary(op: Op) -> Callable[[Tensor], Tensor]:
    """The function and method of an op of one floating argument."""

    def function(input: Tensor) -> Tensor:
        return apply(op, floating(input))

    function.__name__ = op.name
    function.__doc__ = op.__doc__
    in_place(function)
    return method(if_listed(function))


exp, log, log1p, sqrt, rsqrt = map(_unary, (ops.exp, ops.log, ops.log1p, ops.sqrt, ops.rsqrt))
tanh, sigmoid, erf, sin, cos = map(_unary, (ops.tanh, ops.sigmoid, ops.erf, ops.sin, ops.cos))


def _no_bool(name: str, input: Any) -> Tensor:
    if check_tensor(name, input).dtype is dtypes.bool_:
        raise NotImplementedError(f"{name}: not implemented for bool tensors; convert with .int() or .float()")
    return input


@method
def relu(input: Tensor) -> Tensor:
    """max(x, 0)."""
    if check_tensor("relu", input).dtype is dtypes.bool_:
        raise RuntimeError("Boolean inputs not supported for relu; convert with .int() or .float()")
    return apply(ops.relu, input)


@method
def neg(input: Tensor) -> Tensor:
    """-x."""
    if check_tensor("neg", input).dtype is dtypes.bool_:
        raise RuntimeError(
            "Negation, the `-` operator, on a bool tensor is not supported. Use ~ or logical_not() instead."
        )
    return apply(ops.neg, input)


@method
def abs_(input: Tensor) -> Tensor:
    """|x|."""
    return apply(ops.abs_, _no_bool("abs", input))


@method
def square(input: Tensor) -> Tensor:
    """x^2."""
    return pow_(input, 2)


@method
@autocasts
def reciprocal(input: Tensor) -> Tensor:
    """1 / x."""
    return printing(div(1.0, input), "ReciprocalBackward0")


def _binary(op: Op, a: Any, b: Any, at_least: int = dtypes.BOOL) -> Tensor:
    """An op of two operands that promote and broadcast."""
    a, b = pair(a, b, at_least)
    try:
        return apply(op, a, b)
    except ValueError:
        check_broadcast(op.name, a, b)
        raise


@method
def add(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input + alpha other."""
    return _binary(ops.add, input, other if alpha == 1 else _scaled("add", input, other, alpha))


def _scaled(name: str, input: Any, other: Any, alpha: Any) -> Any:
    """alpha other, which must not lift the dtype of the sum."""
    if isinstance(alpha, float) and not result_type(input, other).is_floating_point:
        raise RuntimeError(
            f"{name}: For integral input tensors, argument alpha must not be a floating point number, not {alpha}"
        )
    alpha = dtypes.fill_value(name, alpha, result_type(input, other))
    return cast(mul(other, alpha), other.dtype) if isinstance(other, Tensor) else other * alpha


@method
def sub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """input - alpha other."""
    for x in (input, other):
        if isinstance(x, bool) or (isinstance(x, Tensor) and x.array.dtype == bool):
            raise RuntimeError(
                "Subtraction, the `-` operator, with a bool is not supported. Use ~, ^ or logical_not()."
            )
    return _binary(ops.sub, input, other if alpha == 1 else _scaled("sub", input, other, alpha))


@method
def mul(input: Any, other: Any) -> Tensor:
    """input times other."""
    return _binary(ops.mul, input, other)


@method
def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """input / other, in floats; rounding_mode "floor" or "trunc" rounds and keeps integers integers."""
    if rounding_mode is None:
        return _binary(ops.div, input, other, at_least=dtypes.FLOAT)
    if rounding_mode not in ("floor", "trunc"):
        raise RuntimeError(
            f"div expected rounding_mode to be one of None, 'trunc', or 'floor' but found {rounding_mode!r}"
        )
    a, b = divisible("div", input, other)
    return apply(ops.rounded_div, a, b, mode=rounding_mode)


def divisible(name: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Two operands of a division with a whole quotient.

    Raises:
        RuntimeError: integers are to be divided by 0, for which they have no inf. NotImplementedError: bools.
    """
    a, b = pair(a, b)
    check_broadcast(name, a, b)
    dtype = result_type(a, b)
    if dtype is dtypes.bool_:
        raise NotImplementedError(f"{name}: not implemented for bool tensors; convert with .int()")
    if not dtype.is_floating_point and np.size(raw(a)) and not np.all(raw(b)):
        raise RuntimeError(f"ZeroDivisionError: {name} of integers by 0; convert with .float() for inf and nan")
    return a, b


@method
def floor_divide(input: Any, other: Any) -> Tensor:
    """input / other, rounded down."""
    return div(input, other, rounding_mode="floor")


@method
def remainder(input: Any, other: Any) -> Tensor:
    """input - other floor(input / other): the sign is other's, as Python's %."""
    return apply(ops.remainder, *divisible("remainder", input, other))


@method
@autocasts
def pow_(input: Any, exponent: Any) -> Tensor:
    """input ** exponent."""
    exponent = number(exponent)
    if isinstance(exponent, int) and exponent < 0 and isinstance(input, Tensor) and not input.is_floating_point():
        raise RuntimeError("Integers to negative integer powers are not allowed.")
    if isinstance(exponent, (int, float)) and isinstance(input, Tensor) and input.is_floating_point():
        return apply(ops.pow, input, exponent)
    a, b = pair(input, exponent)
    if isinstance(exponent, int) and isinstance(a, Tensor):
        dtypes.fill_value("pow", exponent, a.dtype)
    if not isinstance(a, Tensor):
        a = wrap(devices.filled(b.array, (), a))  # d/db needs an array to take the logarithm of
    op = ops.pow if not isinstance(exponent, Tensor) else ops.pow_of if isinstance(input, Tensor) else ops.exponential
    return _binary(op, a, b)


@method
def maximum(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two, elementwise."""
    return _binary(ops.maximum, check_tensor("maximum", input), check_tensor("maximum", other, "other"))


@method
def minimum(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two, elementwise."""
    return _binary(ops.minimum, check_tensor("minimum", input), check_tensor("minimum", other, "other"))


@method
def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """min(max(x, min), max); bounds are two numbers, or two tensors that broadcast.

    At a bound the gradient goes to x.
    """
    bounds = [number(b) for b in (min, max) if b is not None]
    if not bounds:
        raise RuntimeError("torch.clamp: At least one of 'min' or 'max' must not be None")
    if isinstance(bounds[0], Tensor) or isinstance(bounds[-1], Tensor):
        low = input if min is None else where(lt(input, check_tensor("clamp", min, "min")), min, input)
        y = low if max is None else where(gt(low, check_tensor("clamp", max, "max")), max, low)
        return printing(y, "ClampBackward0")
    input = _no_bool("clamp", cast(input, result_type(input, *bounds)))
    low, high = (None if b is None else dtypes.fill_value("clamp", b, input.dtype) for b in (min, max))
    return apply(ops.clamp, input, min=low, max=high)


def _like(value: Any, tensor: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else wrap(devices.filled(tensor.array, (), value))


clip = clamp
Tensor.clip = clamp  # type: ignore[attr-defined]


@method
def clamp_min(input: Tensor, min: Any) -> Tensor:
    """max(x, min)."""
    return printing(clamp(input, min=min), "ClampMinBackward0")


@near
def where(condition: Tensor, input: Any = None, other: Any = None) -> Any:
    """input where the condition holds, else other.

    With the condition alone: where it holds, an index tensor a dimension.
    """
    if input is None and other is None:
        return tuple(wrap(i) for i in np.nonzero(np.atleast_1d(check_tensor("where", condition, "condition").array)))
    if check_tensor("where", condition, "condition").dtype is not dtypes.bool_:
        raise RuntimeError(
            f"where expected condition to be a boolean tensor, but got a tensor with dtype {condition.dtype}"
        )
    a, b = pair(input, other)
    for x in (input, other):
        if isinstance(number(x), (int, float)):
            dtypes.fill_value("where", x, result_type(a, b))
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = wrap(devices.filled(condition.array, (), a, result_type(a, b).numpy))
    check_broadcast("where", *(x for x in (condition, a, b) if isinstance(x, Tensor)))
    like = a if isinstance(a, Tensor) else b
    return apply(ops.where, condition, _like(a, like), _like(b, like))


def _where_method(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """self where the condition holds, else other."""
    return where(condition, self, other)


Tensor.where = _where_method  # type: ignore[attr-defined]


@method
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """value where the bool mask holds, else input; the mask broadcasts."""
    if check_tensor("masked_fill", mask, "mask").dtype is not dtypes.bool_:
        raise RuntimeError(f"masked_fill only supports boolean masks, but got mask with dtype {mask.dtype}")
    if isinstance(value, Tensor) and value.ndim:
        raise RuntimeError(
            f"masked_fill only supports a 0-dimensional value tensor, but got tensor with {value.ndim} dimension(s)."
        )
    check_broadcast("masked_fill", input, mask)
    op = ops.masked_fill_tensor if isinstance(value, Tensor) else ops.masked_fill
    if not isinstance(value, Tensor) or value.node is None:
        value = dtypes.fill_value("masked_fill", value.item() if isinstance(value, Tensor) else value, input.dtype)
    return apply(op, input, mask, value)


def _rounding(ufunc: Any, name: str, words: str) -> Callable[..., Tensor]:
    """A function that rounds floats and leaves integers as they are; its gradient is 0."""
    op = ops.step.printing(f"{name.capitalize()}Backward0")

    def function(input: Tensor) -> Tensor:
        return apply(op, _no_bool(name, input), function=ufunc if input.is_floating_point() else np.copy)

    function.__name__ = name
    function.__doc__ = f"{words}; the gradient is 0."
    return method(function)


floor, ceil = _rounding(np.floor, "floor", "Rounded down"), _rounding(np.ceil, "ceil", "Rounded up")
trunc = _rounding(np.trunc, "trunc", "Rounded towards 0")


@method
def round_(input: Tensor, *, decimals: int = 0) -> Tensor:
    """To the nearest number of that many decimals, halves to even; the gradient is 0."""
    return apply(ops.round_, _no_bool("round", input), function=lambda x: np.round(x, decimals))


@method
@near
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1, and 0 for nan; the gradient is 0."""
    if check_tensor("sign", input).dtype is dtypes.bool_:
        return wrap(input.array.copy())
    return apply(ops.sign, input, function=lambda x: np.nan_to_num(np.sign(x)))


for _function in (
    add, sub, mul, div, pow_, remainder, neg, abs_, relu, clamp, masked_fill, floor, ceil, round_, square, clamp_min,
):  # fmt: skip
    in_place(_function)
Tensor.clip_ = Tensor.clamp_  # type: ignore[attr-defined]
