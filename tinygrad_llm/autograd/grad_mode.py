"""Whether ops record themselves: a switch per thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any


class _State(threading.local):
    enabled = True
    inference = False


state = _State()


def is_grad_enabled() -> bool:
    """Whether ops on tensors that require a gradient are recorded in this thread."""
    return state.enabled


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside `inference_mode()`."""
    return state.inference


class _Mode:
    """A context manager and a decorator that sets the switch and puts it back."""

    def __init__(self, enabled: bool, inference: bool | None = None):
        self._enabled, self._inference = enabled, inference
        self._saved: list[tuple[bool, bool]] = []

    def __enter__(self) -> None:
        self._saved.append((state.enabled, state.inference))
        state.enabled = self._enabled
        if self._inference is not None:
            state.inference = self._inference

    def __exit__(self, *exc: object) -> None:
        state.enabled, state.inference = self._saved.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            # a mode of its own for each call, so that recursion and threads do not share the saved switch
            with _Mode(self._enabled, self._inference):
                return function(*args, **kwargs)

        return wrapped


class no_grad(_Mode):
    """Record nothing inside: no graph, no captured activations. `with no_grad():` or `@no_grad()`."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        mode = super().__new__(cls)
        if function is None:
            return mode
        mode.__init__()  # type: ignore[misc]  # `@no_grad` without brackets, as PyTorch allows
        return mode(function)

    def __init__(self, function: Any = None) -> None:
        super().__init__(False)


class enable_grad(_Mode):
    """Record again inside a no_grad block."""

    def __init__(self) -> None:
        super().__init__(True, inference=False)


class inference_mode(_Mode):
    """no_grad whose results stay outside every graph for good: they cannot be made to require a gradient."""

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode, inference=mode) if mode else super().__init__(state.enabled, inference=False)


class set_grad_enabled(_Mode):
    """Switch recording on or off: at once, and for a block when used as a context manager."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        self._before = (state.enabled, state.inference)
        state.enabled = bool(mode)

    def __enter__(self) -> None:
        self._saved.append(self._before)
        state.enabled = self._enabled
