"""Comparisons, logic and bits of each element: no gradient goes through them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd.functions.common import check_broadcast, check_tensor, pair, raw, result_type
from tinygrad_llm.autograd.in_place import in_place
from tinygrad_llm.autograd.methods import method, near
from tinygrad_llm.autograd.tensor import Tensor, on_one_device, wrap


def _test(ufunc: Any, name: str) -> Callable[..., Tensor]:
    """A bool function of one tensor."""

    @near
    def function(input: Tensor) -> Tensor:
        return wrap(ufunc(check_tensor(name, input).array))

    function.__name__ = name
    function.__doc__ = f"{name} of each element: a bool tensor."
    return method(function)


isnan, isinf, isfinite = _test(np.isnan, "isnan"), _test(np.isinf, "isinf"), _test(np.isfinite, "isfinite")
logical_not = _test(np.logical_not, "logical_not")


def _comparison(ufunc: Any, name: str) -> Callable[..., Tensor]:
    """A bool function of two operands that promote and broadcast."""

    @near
    def function(input: Any, other: Any) -> Tensor:
        a, b = pair(input, other)
        check_broadcast(name, a, b)
        return wrap(ufunc(raw(a), raw(b)))

    function.__name__ = name
    function.__doc__ = f"Elementwise {name}: a bool tensor."
    return method(function)


eq, ne = _comparison(np.equal, "eq"), _comparison(np.not_equal, "ne")
lt, le = _comparison(np.less, "lt"), _comparison(np.less_equal, "le")
gt, ge = _comparison(np.greater, "gt"), _comparison(np.greater_equal, "ge")
logical_and = _comparison(np.logical_and, "logical_and")
logical_or = _comparison(np.logical_or, "logical_or")
logical_xor = _comparison(np.logical_xor, "logical_xor")


def _bitwise(ufunc: Any, name: str) -> Callable[..., Tensor]:
    """A bitwise function of integers or bools."""

    @near
    def function(input: Any, other: Any) -> Tensor:
        a, b = pair(input, other)
        if result_type(a, b).is_floating_point:
            raise NotImplementedError(
                f"{name} is not defined for floating tensors; compare first, or use an integer dtype"
            )
        check_broadcast(name, a, b)
        return wrap(ufunc(raw(a), raw(b)))

    function.__name__ = name
    function.__doc__ = f"Elementwise {name} of integers or bools."
    return method(function)


bitwise_and = _bitwise(np.bitwise_and, "bitwise_and")
bitwise_or = _bitwise(np.bitwise_or, "bitwise_or")
bitwise_xor = _bitwise(np.bitwise_xor, "bitwise_xor")


@method
@near
def bitwise_not(input: Tensor) -> Tensor:
    """The bits turned round; for bools the negation."""
    if input.is_floating_point():
        raise NotImplementedError(
            f"bitwise_not is not defined for {input.dtype}; compare first, or use an integer dtype"
        )
    return wrap(np.invert(input.array))


@method
def signbit(input: Tensor) -> Tensor:
    """Whether the sign is a minus, of zeros too."""
    array = check_tensor("signbit", input).array
    return wrap(np.signbit(array) if input.is_floating_point() else array < 0)


@method
def isposinf(input: Tensor) -> Tensor:
    """Whether it is inf."""
    return eq(input, math.inf)


@method
def isneginf(input: Tensor) -> Tensor:
    """Whether it is -inf."""
    return eq(input, -math.inf)


@method
def is_nonzero(input: Tensor) -> bool:
    """Whether the one element is not zero."""
    if input.array.size != 1:
        raise RuntimeError("Boolean value of Tensor with more than one value is ambiguous")
    return bool(input.array.item())


@method
@near
def isclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """|input - other| <= atol + rtol |other|, elementwise.

    Raises:
        RuntimeError: the dtypes differ, the shapes do not broadcast, or a tolerance is negative.
    """
    if check_tensor("isclose", input).array.dtype != check_tensor("isclose", other, "other").array.dtype:
        raise RuntimeError(f"isclose: {input.dtype} did not match {other.dtype}; convert one with .to()")
    if not (rtol >= 0 and atol >= 0):
        raise RuntimeError(f"isclose: rtol and atol must be greater than or equal to zero, but got {rtol} and {atol}")
    check_broadcast("isclose", input, other)
    (input, other), _ = on_one_device("isclose", (input, other))
    return wrap(np.isclose(input.array, other.array, rtol, atol, equal_nan))


@method
@near
def allclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether every element is close (see isclose)."""
    return bool(isclose(input, other, rtol, atol, equal_nan).array.all())


@method
@near
def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    check_tensor("equal", other, "other")
    devices.together("equal", [input.array, other.array], lend=False)
    return input.shape == other.shape and bool((input.array == other.array).all())


for _function in (bitwise_and, bitwise_or, bitwise_xor, bitwise_not):
    in_place(_function)
