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
        self._places = [(_pinned(array), devices.event(timing=False)) for _ in range(2)]

    def send(self) -> Callable[[], np.ndarray]:
        """Start a copy of what the array has after all that the GPU was given so far; the result waits for it."""
        place, arrived = self._places[0]
        self._places.reverse()
        self._array.get(out=place, blocking=False)
        arrived.record()

        def read() -> np.ndarray:
            arrived.synchronize()
            return place.copy()

        return read


def _pinned(like: Any) -> np.ndarray:
    """An array of main memory that a GPU writes to by itself."""
    cupy = devices.module_of(devices.device("cuda"))
    return np.ndarray(like.shape, like.dtype, buffer=cupy.cuda.alloc_pinned_memory(like.nbytes))
