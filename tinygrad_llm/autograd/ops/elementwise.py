"""Elementwise ops: (...) -> (...), and those of two or three arguments for shapes that broadcast.

Where the derivative is cheap to have from the result, the result is captured; else the argument.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd.registry import register
from tinygrad_llm.kernels import in_order


@register(broadcasts=True, bare=True)
def add(a: Any, b: Any) -> Any:
    """a + b. Captures nothing."""
    return a + b, (lambda g: g, lambda g: g)


@register(broadcasts=True, bare=True)
def sub(a: Any, b: Any) -> Any:
    """a - b. Captures nothing."""
    return a - b, (lambda g: g, lambda g: -g)


@register(broadcasts=True)
def mul(a: Any, b: Any) -> Any:
    """a * b. Captures each factor that the other's gradient needs."""
    return a * b, (lambda g: g * b, lambda g: g * a)


@register(broadcasts=True)
def div(a: Any, b: Any) -> Any:
    """a / b. d/db = -(a / b) / b."""
    return a / b, (lambda g: g / b, lambda g: -g * (a / b) / b)


@register(broadcasts=True)
def remainder(a: Any, b: Any) -> Any:
    """a - b floor(a / b), with the sign of b."""
    return np.remainder(a, b), (lambda g: g, lambda g: -g * np.floor_divide(a, b))


@register(broadcasts=True)
def fmod(a: Any, b: Any) -> Any:
    """a - b trunc(a / b), with the sign of a."""
    return np.fmod(a, b), (lambda g: g, lambda g: -g * np.trunc(a / b))


@register(broadcasts=True, bare=True, prints="DivBackward2")
def rounded_div(a: Any, b: Any, *, mode: str) -> Any:
    """a / b rounded down (mode "floor") or towards 0 ("trunc"). The gradients are 0."""
    if mode == "floor":
        y = np.floor_divide(a, b)
    else:  # integers never become floats, which would round the large ones
        y = np.trunc(a / b) if np.result_type(a, b).kind == "f" else (a - np.fmod(a, b)) // b
    return y, (np.zeros_like, np.zeros_like)


@register(bare=True)
def neg(x: Any) -> Any:
    """-x. Captures nothing."""
    return -x, (lambda g: -g,)


def power(x: Any, p: Any) -> Any:
    """x ** p, by products for the small exponents: NumPy's float32 power is a hundred times slower."""
    if not isinstance(p, (int, float)):
        return np.power(x, p)
    if p == 2:
        return x * x
    if p == 3:
        return x * x * x
    if p == 0.5:
        return np.sqrt(x)
    if p == -1:
        return 1 / x
    return np.power(x, p)


@register(broadcasts=True)
def pow(a: Any, b: Any) -> Any:
    """a ** b. d/da = b a^(b-1), 0 where b is 0; d/db = a^b ln a, 0 where a is 0 and b >= 0.

    A scalar b is not captured twice.
    """
    y = power(a, b)

    def da(g: Any) -> Any:
        if isinstance(b, (int, float)):
            return np.zeros_like(g) if b == 0 else g * (b * power(a, b - 1))
        slope = b * np.power(a, np.where(b == 0, np.ones_like(b), b - 1))
        return g * np.where(b == 0, np.zeros_like(slope), slope)

    def db(g: Any) -> Any:
        zero = (a == 0) & (b >= 0)
        return g * np.where(zero, np.zeros_like(y), y * np.log(np.where(zero, np.ones_like(y), a)))

    return y, (da, db)


pow_of, exponential = pow.printing("PowBackward1"), pow.printing("PowBackward2")  # of a tensor, of a number


@register
def exp(x: Any) -> Any:
    """e^x. Captures the result."""
    y = np.exp(x)
    return y, (lambda g: g * y,)


@register
def log(x: Any) -> Any:
    """ln x."""
    return np.log(x), (lambda g: g / x,)


@register(prints="Log1PBackward0")
def log1p(x: Any) -> Any:
    """ln(1 + x)."""
    return np.log1p(x), (lambda g: g / (1 + x),)


@register
def sqrt(x: Any) -> Any:
    """Square root. Captures the result y: dx = g / (2 y)."""
    y = np.sqrt(x)
    return y, (lambda g: g / (2 * y),)


@register
def rsqrt(x: Any) -> Any:
    """1 / sqrt(x). Captures the result y: dx = -g y^3 / 2."""
    y = 1 / np.sqrt(x)
    return y, (lambda g: g * (-0.5 * (y * y * y)),)


@register
def tanh(x: Any) -> Any:
    """Hyperbolic tangent. Captures the result y: dx = g (1 - y^2)."""
    y = np.tanh(x)
    return y, (lambda g: g * (1 - y * y),)


def logistic(x: Any) -> Any:
    """1 / (1 + e^-x) = (1 + tanh(x / 2)) / 2, which cannot overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


@register
def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x). Captures the result y: dx = g y (1 - y). e^-|x| never overflows, and small results stay exact."""
    e = np.exp(-np.abs(x))
    y = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    return y, (lambda g: g * (y * (1 - y)),)


@register
def relu(x: Any) -> Any:
    """max(x, 0), nan where x is nan. Captures the result: the gradient at 0 is 0."""
    y = np.maximum(x, 0)
    return y, (lambda g: g * (y > 0),)


@register
def leaky_relu(x: Any, *, negative_slope: float) -> Any:
    """x where x > 0, else negative_slope x. Source: Maas et al., Rectifier Nonlinearities (2013)."""
    positive = x > 0
    return np.where(positive, x, negative_slope * x), (lambda g: np.where(positive, g, negative_slope * g),)


@register(half=True)
def silu(x: Any) -> Any:
    """x sigmoid(x). Captures x; the sigmoid is computed again."""
    return _activated(x, "silu")


def _activated(x: Any, form: str) -> Any:
    k = kernels.of(x)
    return k.activate(x, None, form), (lambda g: k.activate_backward(g, x, None, form, (True, False))[0],)


@register
def softplus(x: Any, *, beta: float, threshold: float) -> Any:
    """ln(1 + e^(beta x)) / beta, x itself where beta x > threshold."""
    linear = beta * x > threshold
    y = np.where(linear, x, np.log1p(np.exp(np.where(linear, np.zeros_like(x), beta * x))) / beta)
    return y, (lambda g: np.where(linear, g, g * logistic(beta * x)),)


GELU_FORMS = {"none": "gelu", "tanh": "gelu_tanh"}  # PyTorch's names of the approximations -> the kernels'


@register(half=True)
def gelu(x: Any, *, approximate: str) -> Any:
    """x Phi(x), or its tanh form. Captures x; what the forward computed inside is computed again."""
    return _activated(x, GELU_FORMS[approximate])


@register
def erf(x: Any) -> Any:
    """The error function. dx = g 2/sqrt(pi) e^(-x^2)."""
    return kernels.of(x).erf(x), (lambda g: g * (2 / math.sqrt(math.pi) * np.exp(-x * x)),)


@register
def abs_(x: Any) -> Any:
    """|x|. The gradient at 0 is 0."""
    return np.abs(x), (lambda g: g * np.sign(x),)


@register(bare=True)
def step(x: Any, *, function: Any) -> Any:
    """A piecewise constant function of each element: sign, floor, round. The gradient is 0."""
    return function(x), (lambda g: np.zeros_like(g),)


round_, sign = step.printing("RoundBackward0"), step.printing("SignBackward0")


@register
def sin(x: Any) -> Any:
    """Sine."""
    return np.sin(x), (lambda g: g * np.cos(x),)


@register
def cos(x: Any) -> Any:
    """Cosine."""
    return np.cos(x), (lambda g: -g * np.sin(x),)


def share(g: Any, wins: Any, ties: Any) -> Any:
    """g where an argument wins, half of it where both tie, else 0."""
    return g * np.where(ties, g.dtype.type(0.5), wins.astype(g.dtype))


@register(broadcasts=True)
def maximum(a: Any, b: Any) -> Any:
    """The larger of a and b, nan if either is. Equal arguments share the gradient."""
    return np.maximum(a, b), (lambda g: share(g, a > b, a == b), lambda g: share(g, b > a, a == b))


@register(broadcasts=True)
def minimum(a: Any, b: Any) -> Any:
    """The smaller of a and b, nan if either is. Equal arguments share the gradient."""
    return np.minimum(a, b), (lambda g: share(g, a < b, a == b), lambda g: share(g, b < a, a == b))


@register(prints="ClampBackward1")
def clamp(x: Any, *, min: Any, max: Any) -> Any:
    """min(max(x, min), max); a bound of None does not bind. The gradient passes where min <= x <= max."""
    y = x if min is None else np.maximum(x, min)
    y = y if max is None else np.minimum(y, max)
    inside = np.ones(x.shape, bool) if isinstance(x, np.ndarray) else (x == x) | True
    if min is not None:
        inside = inside & (x >= min)
    if max is not None:
        inside = inside & (x <= max)
    return y if y is not x else x.copy(), (lambda g: g * inside,)


@register(broadcasts=True)
def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the bool condition holds, else b. Captures the condition."""
    return np.where(condition, a, b), (
        None,
        lambda g: np.where(condition, g, np.zeros_like(g)),
        lambda g: np.where(condition, np.zeros_like(g), g),
    )


@register(broadcasts=True)
def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """value where the bool mask holds, else x. Captures the mask; the gradient of a 0-d value is the masked sum."""
    y = np.where(mask, x.dtype.type(value) if isinstance(value, (int, float)) else value.astype(x.dtype), x)
    return in_order(y), (
        lambda g: np.where(mask, np.zeros_like(g), g),
        None,
        lambda g: np.where(mask, g, np.zeros_like(g)),
    )


masked_fill_tensor = masked_fill.printing("MaskedFillBackward1")


@register(prints="MulBackward0", half=True)
def dropout(x: Any, keep: Any, *, p: float) -> Any:
    """x / (1 - p) where it is kept, else 0: x (...), keep bool (...) or the key of a stream that decides it.

    Captures keep: one byte an element, or one number. Source: Srivastava et al., Dropout (2014).
    """
    k = kernels.of(x)
    return k.dropout(x, keep, p), (lambda g: k.dropout(g, keep, p), None)


@register(prints="AddBackward0", half=True)
def dropout_add(x: Any, keep: Any, shortcut: Any, *, p: float) -> Any:
    """shortcut + dropout(x), in shortcut's dtype: x and shortcut (...), keep bool (...) or a key. Captures keep."""
    k = kernels.of(x)
    return k.dropout(x, keep, p, shortcut), (lambda g: k.dropout(g, keep, p), None, lambda g: g)


@register(moves=True, bare=True)
def clone(x: Any) -> Any:
    """A copy of x. Captures nothing."""
    return x.copy(), (lambda g: g,)


@register(moves=True, bare=True, prints="ToCopyBackward0")
def cast(x: Any, *, dtype: Any) -> Any:
    """x in another NumPy dtype. Captures nothing; the engine casts the gradient back."""
    return x.astype(dtype), (lambda g: g,)


@register
def smooth(x: Any, *, function: Any, slope: Any) -> Any:
    """function(x), elementwise, for a function whose derivative is slope. Captures x."""
    return function(x), (lambda g: g * slope(x),)


@register(broadcasts=True)
def atan2(y: Any, x: Any) -> Any:
    """The angle of the point (x, y): dy = g x / (x^2 + y^2), dx = -g y / (x^2 + y^2)."""
    return np.arctan2(y, x), (lambda g: g * x / (x * x + y * y), lambda g: -g * y / (x * x + y * y))
