"""Whether ops record themselves: a switch per thread."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Generator
from typing import Any


class _State(threading.local):
    enabled = True
    inference = False
    inference_seen = False  # by any thread: so long as none has, no tensor can be an inference tensor


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
            _State.inference_seen |= self._inference

    def __exit__(self, *exc: object) -> None:
        state.enabled, state.inference = self._saved.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # a mode of its own for each call, so that recursion and threads do not share the saved switch
        def mode() -> _Mode:
            return _Mode(self._enabled, self._inference)

        if inspect.isgeneratorfunction(function):
            return functools.wraps(function)(lambda *args, **kwargs: _stepwise(mode, function(*args, **kwargs)))

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with mode():
                return function(*args, **kwargs)

        return wrapped


def _stepwise(mode: Callable[[], _Mode], generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """A generator whose every step runs in a mode, and whose caller does not."""
    try:
        with mode():
            out = next(generator)
        while True:
            try:
                received = yield out
            except GeneratorExit:
                with mode():
                    generator.close()
                raise
            except BaseException as error:
                with mode():
                    out = generator.throw(error)
            else:
                with mode():
                    out = generator.send(received)
    except StopIteration as end:
        return end.value


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
    """no_grad whose results stay outside every graph for good: they cannot be made to require a gradient.

    inference_mode(False) is its opposite: ops are recorded inside, whatever holds around.
    """

    def __init__(self, mode: bool = True) -> None:
        super().__init__(not mode, inference=mode)


class set_grad_enabled(_Mode):
    """Switch recording on or off: at once, and for a block when used as a context manager."""

    def __init__(self, mode: bool) -> None:
        super().__init__(bool(mode))
        self._before = (state.enabled, state.inference)
        state.enabled = bool(mode)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        state.enabled = self._before[0]  # decorating a function switches nothing; calling it does
        return super().__call__(function)

    def __enter__(self) -> None:
        self._saved.append(self._before)
        state.enabled = self._enabled
