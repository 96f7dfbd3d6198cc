"""More functions of each element: the elementary ones by a table, and what is composed of others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm.autograd.autocast import autocasts, if_listed
from tinygrad_llm.autograd.functions import compare
from tinygrad_llm.autograd.functions import elementwise as base
from tinygrad_llm.autograd.functions.common import check_broadcast, check_tensor, floating, pair
from tinygrad_llm.autograd.in_place import in_place
from tinygrad_llm.autograd.methods import method
from tinygrad_llm.autograd.ops import elementwise as ops
from tinygrad_llm.autograd.tensor import Tensor, apply, wrap
from tinygrad_llm.devices import array_module, filled, special
from tinygrad_llm.dtypes import FLOAT, finfo

LN2, LN10 = math.log(2), math.log(10)


def _erfc(x: Any) -> Any:
    """1 - erf(x), number by number in main memory, since NumPy has none."""
    if array_module(x) is not np:
        return special("erfc")(x)
    return np.asarray(np.frompyfunc(math.erfc, 1, 1)(x)).astype(x.dtype)


FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {  # name -> (function, derivative)
    "tan": (np.tan, lambda x: 1 + np.tan(x) ** 2),
    "asin": (np.arcsin, lambda x: 1 / np.sqrt(1 - x * x)),
    "acos": (np.arccos, lambda x: -1 / np.sqrt(1 - x * x)),
    "atan": (np.arctan, lambda x: 1 / (1 + x * x)),
    "sinh": (np.sinh, np.cosh),
    "cosh": (np.cosh, np.sinh),
    "asinh": (np.arcsinh, lambda x: 1 / np.sqrt(x * x + 1)),
    "acosh": (np.arccosh, lambda x: 1 / np.sqrt(x * x - 1)),
    "atanh": (np.arctanh, lambda x: 1 / (1 - x * x)),
    "exp2": (np.exp2, lambda x: LN2 * np.exp2(x)),
    "expm1": (np.expm1, np.exp),
    "log2": (np.log2, lambda x: 1 / (LN2 * x)),
    "log10": (np.log10, lambda x: 1 / (LN10 * x)),
    "erfc": (_erfc, lambda x: -2 / math.sqrt(math.pi) * np.exp(-x * x)),
    "deg2rad": (np.deg2rad, lambda x: np.full_like(x, math.pi / 180)),
    "rad2deg": (np.rad2deg, lambda x: np.full_like(x, 180 / math.pi)),
}


def _elementary(name: str) -> Callable[[Tensor], Tensor]:
    op = ops.smooth.printing(f"{name.capitalize()}Backward0")
    value, slope = FUNCTIONS[name]

    def function(input: Tensor) -> Tensor:
        return apply(op, floating(input), function=value, slope=slope)

    function.__name__ = name
    function.__doc__ = f"Elementwise {name}."
    in_place(function)
    return method(if_listed(function))


tan, asin, acos, atan, sinh, cosh = map(_elementary, ("tan", "asin", "acos", "atan", "sinh", "cosh"))
asinh, acosh, atanh, exp2, expm1, log2, log10 = map(
    _elementary, ("asinh", "acosh", "atanh", "exp2", "expm1", "log2", "log10")
)
erfc, deg2rad, rad2deg = map(_elementary, ("erfc", "deg2rad", "rad2deg"))


@method
@autocasts
def atan2(input: Tensor, other: Tensor) -> Tensor:
    """The angle of the point (other, input), in (-pi, pi]."""
    a, b = pair(check_tensor("atan2", input), check_tensor("atan2", other, "other"), FLOAT)
    check_broadcast("atan2", a, b)
    return apply(ops.atan2, a, b)


@method
def hypot(input: Tensor, other: Tensor) -> Tensor:
    """sqrt(input^2 + other^2)."""
    return base.sqrt(base.add(base.square(input), base.square(other)))


@method
def lerp(input: Tensor, end: Tensor, weight: Any) -> Tensor:
    """input + weight (end - input)."""
    return base.add(input, base.mul(base.sub(end, input), weight))


@method
@autocasts
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value tensor1 tensor2."""
    return base.add(input, base.mul(tensor1, tensor2), alpha=value)


@method
@autocasts
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value tensor1 / tensor2."""
    return base.add(input, base.div(tensor1, tensor2), alpha=value)


@method
def nan_to_num(input: Tensor, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Tensor:
    """nan, inf and -inf as numbers: by default 0, the dtype's largest and its smallest."""
    if not check_tensor("nan_to_num", input).is_floating_point():
        return input.clone()
    limits = finfo(input.dtype)
    for where, value, default in (
        (compare.isnan(input), nan, 0.0),
        (compare.eq(input, math.inf), posinf, limits.max),
        (compare.eq(input, -math.inf), neginf, limits.min),
    ):
        input = base.masked_fill(input, where, default if value is None else value)
    return input


@method
def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """ln(e^input + e^other), without overflow."""
    above = base.maximum(input, other)
    return base.add(above, base.log1p(base.exp(base.neg(base.abs_(base.sub(input, other))))))


@method
def frac(input: Tensor) -> Tensor:
    """x - trunc(x)."""
    return base.sub(input, base.trunc(input))


@method
def clamp_max(input: Tensor, max: Any) -> Tensor:
    """min(x, max)."""
    return base.clamp(input, max=max)


@method
def fmod(input: Tensor, other: Any) -> Tensor:
    """input - other trunc(input / other): the sign is input's, as C's %."""
    return apply(ops.fmod, *base.divisible("fmod", check_tensor("fmod", input), other))


@method
def xlogy(input: Tensor, other: Any) -> Tensor:
    """x ln y, and 0 where x is 0 and y is a number."""
    x, y = pair(check_tensor("xlogy", input), other, FLOAT)
    y = y if isinstance(y, Tensor) else wrap(filled(x.array, (), y))
    zero = compare.logical_and(compare.eq(x, 0), compare.logical_not(compare.isnan(y)))
    return base.where(zero, base.mul(x, 0), base.mul(x, base.log(base.where(zero, 1.0, y))))


@method
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """ln(x / (1 - x)), x first moved into [eps, 1 - eps] if eps is given."""
    x = floating(input) if eps is None else base.clamp(floating(input), eps, 1 - eps)
    return base.log(base.div(x, base.sub(1, x)))


@method
def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two, the other one where one is nan."""
    x, y = base.where(compare.isnan(input), other, input), base.where(compare.isnan(other), input, other)
    return base.maximum(x, y)


@method
def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two, the other one where one is nan."""
    x, y = base.where(compare.isnan(input), other, input), base.where(compare.isnan(other), input, other)
    return base.minimum(x, y)


for _function in (atan2, hypot, lerp, addcmul, addcdiv, nan_to_num, frac, clamp_max, fmod, xlogy, logit):
    in_place(_function)

# --- second names ---

absolute, negative, multiply, subtract, divide, true_divide = (
    base.abs_, base.neg, base.mul, base.sub, base.div, base.div,
)  # fmt: skip
greater, greater_equal, less, less_equal, not_equal = compare.gt, compare.ge, compare.lt, compare.le, compare.ne
arcsin, arccos, arctan, arcsinh, arccosh, arctanh, arctan2 = asin, acos, atan, asinh, acosh, atanh, atan2
fix = base.trunc
SECOND_NAMES = {
    "absolute": "abs", "negative": "neg", "multiply": "mul", "subtract": "sub", "divide": "div", "true_divide": "div",
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne", "fix": "trunc",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh",
    "arctan2": "atan2",
}  # fmt: skip
for _second, _first in SECOND_NAMES.items():
    for _ending in ("", "_"):
        if hasattr(Tensor, _first + _ending):
            setattr(Tensor, _second + _ending, getattr(Tensor, _first + _ending))
