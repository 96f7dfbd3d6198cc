"""Ctrl-C and SIGTERM as requests, so that a step, a file or a record is never cut in two."""

import signal
from types import FrameType
from typing import Any


class StopOnInterrupt:
    """Inside `with StopOnInterrupt() as stop:` the first Ctrl-C or SIGTERM makes stop() true.

    A second Ctrl-C raises KeyboardInterrupt. `number` is the signal that came, None before. Works in the main thread,
    the only one that signals reach; elsewhere stop() stays false.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.number is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = self.number or number

    def __enter__(self) -> "StopOnInterrupt":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        except ValueError:  # not the main thread
            pass
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
