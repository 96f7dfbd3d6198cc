"""Ctrl-C as a request, so that a step, a file or a record is never cut in two."""

import signal
from types import FrameType
from typing import Any


class StopOnInterrupt:
    """Inside `with StopOnInterrupt() as stop:` the first Ctrl-C makes stop() true; a second raises KeyboardInterrupt.

    Works in the main thread, the only one that signals reach; elsewhere stop() stays false.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __call__(self) -> bool:
        return self.requested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> "StopOnInterrupt":
        try:
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        except ValueError:  # not the main thread
            self._before = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
