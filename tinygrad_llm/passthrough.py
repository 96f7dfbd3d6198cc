"""What PyTorch offers to go faster or be stricter, and what changes nothing here: accepted, so that scripts run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_precision = "highest"


def compile(
    model: Callable[..., Any] | None = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    disable: bool = False,
) -> Any:
    """The model or function itself; without one, a decorator. There is no compiler here: kernels are fused by hand."""
    return model if model is not None else lambda function: function


def set_float32_matmul_precision(precision: str) -> None:
    """Matrix products are computed in float32 whatever is asked; the wish is kept for get_float32_matmul_precision.

    Raises:
        RuntimeError: precision is none of highest, high, medium.
    """
    global _precision
    if precision not in ("highest", "high", "medium"):
        raise RuntimeError(f"set_float32_matmul_precision: {precision!r} is not one of highest, high, medium")
    _precision = precision


def get_float32_matmul_precision() -> str:
    """What was asked for last."""
    return _precision


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """All algorithms here give the same result every time, so there is nothing to choose."""


def are_deterministic_algorithms_enabled() -> bool:
    """True."""
    return True
