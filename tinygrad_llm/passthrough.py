"""What PyTorch offers to go faster or be stricter. Most of it changes nothing here, but scripts that say it run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinygrad_llm import devices

_wish = "highest"


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
    """How products of float32 are computed on a GPU: "highest" in float32, "high" and "medium" from factors in TF32.

    On the CPU they are computed in float32 whatever is asked.

    Raises:
        RuntimeError: precision is none of highest, high, medium.
    """
    global _wish
    if precision not in ("highest", "high", "medium"):
        raise RuntimeError(f"set_float32_matmul_precision: {precision!r} is not one of highest, high, medium")
    _wish = precision
    devices.allow_tf32(precision != "highest")


def get_float32_matmul_precision() -> str:
    """highest, high or medium; `backends.cuda.matmul.allow_tf32` is the same switch."""
    return "highest" if not devices.tf32 else _wish if _wish != "highest" else "high"


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Whether a run must give the same bits every time.

    On the CPU it always does. On a GPU attention then goes one way, which adds in one order, instead of the one that
    was measured to be the fastest. Sums by index that CuPy makes (docs/gpu.md) come in any order all the same.
    """
    devices.deterministic = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    """Whether that was asked for."""
    return devices.deterministic
