"""What a graph needs beside its launches: numbers that Python gives anew for each replay, and tables that stay.

A replay repeats launches with the arguments that they were captured with, and runs no Python. What differs from one to
the next (a learning rate, the number of a step, the key of a mask) therefore lies in an array on the GPU, which is
filled before each replay by the very code that an ordinary step runs: the same numbers, in the same order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.interrupts import uninterrupted
from tinygrad_llm.kernels.cuda import memory

PLACES = 8192  # of 8 bytes, for the numbers of a graph
TURNS = 4  # rows of main memory, so that none is written to while it is still being copied


class Capture:
    """The numbers and the tables of one graph. Made where the graph's memory is in use, before its first launch."""

    def __init__(self) -> None:
        cupy, self._number = devices.module_of(devices.device("cuda")), devices.current()
        self._there = cupy.empty(PLACES, np.int64)
        self._rows = [(devices.pinned((PLACES,), np.int64), devices.event(timing=False)) for _ in range(TURNS)]
        devices.outlasts(self, *self._rows)
        self._turn = self._used = 0
        self._fills: list[tuple[slice, np.dtype, Callable[[], Sequence[float]]]] = []
        self._tables: list[tuple[Any, np.ndarray]] = []
        self.held: list[Any] = []  # arrays that the graph reads, and that may be nobody's otherwise
        self.keys: list[Any] = []  # of masks, in the order in which they were drawn
        self._key_again: int | None = None

    def numbers(self, draw: Callable[[], Sequence[float]], count: int, dtype: Any) -> Any:
        """An array (count,) of int64 or float64 on the GPU that has what draw() returns, called before each replay."""
        places = slice(self._used, self._used + count)
        if places.stop > PLACES:
            raise RuntimeError(f"CUDAGraph: a graph takes at most {PLACES} numbers from Python; capture less at once")
        self._used = places.stop
        self._fills.append((places, np.dtype(dtype), draw))
        return self._there[places].view(dtype)

    def table(self, array: np.ndarray) -> Any:
        """An array on the GPU that has these values in every replay: they are moved when the capture has ended.

        It lies outside of the graph's memory, where it could get a place that an earlier launch writes to.
        """
        there = memory.lasting(array.shape, array.dtype)
        self._tables.append((there, array))
        return there

    def key(self, draw: Callable[[], int]) -> Any:
        """Where the key of a mask will lie: int64 (1,). Where a forward pass is run again, that of the first time."""
        if self._key_again is not None:
            self._key_again += 1
            return self.keys[self._key_again - 1]
        self.keys.append(self.numbers(lambda: [draw()], 1, np.int64))
        return self.keys[-1]

    @contextmanager
    def again(self, start: int) -> Iterator[None]:
        """Inside, keys are those that were drawn from this number on."""
        outer, self._key_again = self._key_again, start
        try:
            yield
        finally:
            self._key_again = outer

    def check_here(self, arrays: Sequence[Any]) -> None:
        """Raise where a launch with these arguments goes to another GPU's stream, which is not captured."""
        for a in arrays:
            if hasattr(a, "data") and not isinstance(a, np.generic) and a.device.id != self._number:
                raise RuntimeError(
                    f"a graph is captured on cuda:{self._number}, and this is work for cuda:{a.device.id}; capture it "
                    f"inside torch.cuda.device({a.device.id})"
                )

    def move_tables(self) -> None:
        """Give the tables their values: once, before the first replay."""
        for there, array in self._tables:
            there.set(array)

    def fill(self) -> None:
        """Draw all numbers, and let them be copied before whatever the current stream is given next."""
        if not self._fills:
            return
        row, copied = self._rows[self._turn]
        self._turn = (self._turn + 1) % TURNS
        copied.synchronize()  # TURNS replays ago; never recorded, it is passed at once
        with uninterrupted():
            for places, dtype, draw in self._fills:
                row[places].view(dtype)[:] = draw()
            self._there[: self._used].set(row[: self._used])
            copied.record()


class _Here(threading.local):
    """What this thread captures."""

    capture: Capture | None = None


_here = _Here()


def at_work() -> Capture | None:
    """What is being captured in this thread; None where work is run as it is given."""
    return _here.capture


def begin(capture: Capture) -> None:
    """From now on this thread's work is captured."""
    _here.capture = capture


def end() -> None:
    """From now on this thread's work is run again."""
    _here.capture = None
