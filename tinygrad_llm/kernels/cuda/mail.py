"""Numbers that come from a GPU while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm import devices


class Mail:
    """Copies of a small array of a GPU to main memory, two of which may be on their way at once."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._places = [(devices.pinned(array.shape, array.dtype), devices.event(timing=False)) for _ in range(2)]
        devices.outlasts(self, *self._places)

    def send(self) -> Callable[[], np.ndarray]:
        """Start a copy of what the array has after all that the GPU was given so far; the result waits for it."""
        place, arrived = self._places[0]
        self._places.reverse()
        self._array.get(out=place, blocking=False)
        arrived.record()

        def read() -> np.ndarray:
            arrived.synchronize()
            return devices.waited(place.copy())

        return read
