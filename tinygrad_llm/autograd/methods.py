"""Decorators of the functions that users call: what makes one a method of Tensor, and where it runs."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from functools import wraps
from typing import Any

from tinygrad_llm import devices
from tinygrad_llm.autograd.tensor import Tensor


def method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of a tensor a method of Tensor too, under its own name."""
    setattr(Tensor, public_name(function), function)
    return function


def public_name(function: Callable[..., Any]) -> str:
    """The name that users see: `sum_` is called so in the source only because `sum` would hide Python's own."""
    name = function.__name__
    return name[:-1] if hasattr(builtins, name[:-1]) else name


def near(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where there are several GPUs, run a function that works on raw arrays on the one that its tensors are on."""

    @wraps(function)
    def placed(*args: Any, **kwargs: Any) -> Any:
        if not devices.several:
            return function(*args, **kwargs)
        with devices.near_to(a.array if isinstance(a, Tensor) else a for a in (*args, *kwargs.values())):
            return function(*args, **kwargs)

    return placed
