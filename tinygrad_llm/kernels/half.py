"""Kernels that compute in float32, for arrays of 16-bit floats: arguments are widened, and results rounded once.

NumPy's own arithmetic on 16-bit floats rounds after every operation, and its products of them are hundreds of times
slower than those of float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tinygrad_llm.kernels import Kernels

RESULTS: dict[str, tuple[str | None, ...]] = {
    "linear": ("x",),
    "linear_gradients": (None, None),  # into is float32 as well
    "linear_activate": ("x", "x"),
    "erf": ("x",),
    "activate": ("x",),
    "softmax": ("x",),
    "softmax_backward": ("y",),
    "layer_norm": ("x", None, None),
    "layer_norm_backward": ("x", None, None),
    "rms_norm": ("x", None),
    "rms_norm_backward": ("x", None),
    "dropout_add_norm": ("shortcut", "x", None, None),
    "dropout_add_norm_backward": ("g", "s", None, None),
    "attention": ("q", None),
    "cross_entropy": (None, None),
    "cross_entropy_backward": ("x",),
    "linear_cross_entropy": (None, "x", None),
    "column_sums": (None,),
}
"""The argument whose dtype each result takes; None: float32, for statistics and the gradients of weights."""


def is_half(x: Any) -> bool:
    """Whether an array holds 16-bit floats."""
    return x.itemsize == 2 and x.dtype.kind in "fV"  # ml_dtypes' bfloat16 is of kind V


def sum_dtype(x: Any) -> np.dtype:
    """The dtype for sums of an array's elements: float32 for 16-bit floats, else the array's own."""
    return np.dtype(np.float32) if is_half(x) else x.dtype


def wide(x: Any) -> Any:
    """16-bit floats as float32; anything else as it is."""
    return x.astype(np.float32) if hasattr(x, "dtype") and is_half(x) else x


def takes_half(kernels: Kernels) -> Kernels:
    """The same kernels for 16-bit arrays, too."""
    changes = {name: _widening(getattr(kernels, name), results) for name, results in RESULTS.items()}
    special = (_matmul, _dropout, _activate_backward, _attention_backward)
    changes |= {make.__name__[1:]: make(getattr(kernels, make.__name__[1:])) for make in special}
    return dataclasses.replace(kernels, **changes)


def _widening(function: Callable[..., Any], results: tuple[str | None, ...]) -> Any:
    parameters = signature(function)

    @wraps(function)
    def widening(*args: Any, **kwargs: Any) -> Any:
        if not is_half(args[0]):
            return function(*args, **kwargs)
        given = parameters.bind(*args, **kwargs).arguments
        computed = function(**{name: wide(value) for name, value in given.items()})
        if len(results) == 1:
            return _rounded(computed, given, results[0])
        return tuple(_rounded(y, given, name) for y, name in zip(computed, results, strict=True))

    return widening


def _rounded(y: Any, given: dict[str, Any], name: str | None) -> Any:
    return y if name is None or y is None else y.astype(given[name].dtype, copy=False)


def _matmul(function: Callable[..., Any]) -> Any:
    @wraps(function)
    def matmul(a: Any, b: Any, out: Any = None) -> Any:
        """a @ b in the dtype of out where it is given, else in that of a."""
        if not is_half(a):
            return function(a, b, out)
        y = function(wide(a), wide(b), out if out is not None and not is_half(out) else None)
        if out is None:
            return y.astype(a.dtype)
        if y is not out:
            out[...] = y
        return out

    return matmul


def _dropout(function: Callable[..., Any]) -> Any:
    @wraps(function)
    def dropout(x: Any, keep: Any, p: float, plus: Any = None) -> Any:
        """In the dtype of plus where it is given, else in that of x."""
        like = x if plus is None else plus
        if not is_half(x) and not is_half(like):
            return function(x, keep, p, plus)
        return function(wide(x), keep, p, wide(plus)).astype(like.dtype, copy=False)

    return dropout


def _activate_backward(function: Callable[..., Any]) -> Any:
    @wraps(function)
    def activate_backward(
        g: Any, x: Any, bias: Any, form: str, needs: Any, y: Any = None, into: Any = None
    ) -> tuple[Any, Any]:
        """dx in the dtype of x, dbias in float32."""
        if not is_half(x):
            return function(g, x, bias, form, needs, y, into)
        hidden = None if y is None else np.empty_like(y, np.float32)
        dx, dbias = function(wide(g), wide(x), wide(bias), form, needs, hidden)
        if y is not None:
            y[...] = hidden
        if dx is not None and into is not None:
            into[...] = dx
            dx = into
        return None if dx is None else dx.astype(x.dtype, copy=False), dbias

    return activate_backward


def _attention_backward(function: Callable[..., Any]) -> Any:
    @wraps(function)
    def attention_backward(
        g: Any, q: Any, k: Any, v: Any, saved: Any, scale: float, keep: Any, drop: float, need_scores: bool,
        into: Any = None,
    ) -> tuple[Any, Any, Any, Any]:  # fmt: skip
        """dq, dk, dv in the dtype of q, dscores in float32."""
        if not is_half(q):
            return function(g, q, k, v, saved, scale, keep, drop, need_scores, into)
        factors = map(wide, (g, q, k, v))
        *gradients, dscores = function(*factors, saved, scale, keep, drop, need_scores)
        for place, gradient in zip(into or (), gradients, strict=False):
            place[...] = gradient
        dq, dk, dv = into or (d.astype(q.dtype) for d in gradients)
        return dq, dk, dv, dscores

    return attention_backward
