"""Which of several ways a GPU computes something: the first, or the one that was faster when all were tried.

A kind of call (shapes, dtype, ...) is tried when it comes back for the third time, since what comes once is not worth
it, and the result holds for the process. What is chosen is told to the logger "tinygrad_llm.kernels", at level DEBUG.
"""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from tinygrad_llm import devices

TRIES = 3  # runs that are timed, of each way
BEFORE = 2  # calls of a kind that take the first way untried
GAIN = 0.97  # another way than the first must take less than this much of its time
KINDS = 512  # that are remembered, those used last

log = logging.getLogger("tinygrad_llm.kernels")


class Choice:
    """The way chosen for each kind of call of one op."""

    def __init__(self, op: str):
        self.op = op
        self.seen: OrderedDict[Hashable, int | str] = OrderedDict()  # how often untried, or the way that was chosen

    def of(self, kind: Hashable, ways: dict[str, Callable[[], Any]]) -> str:
        """The name of the way for a call of this kind. Each of the `ways` makes such a call; the first is ours.

        While a graph is captured, nothing is tried.
        """
        first = next(iter(ways))
        before = self.seen.setdefault(kind, 0)
        self.seen.move_to_end(kind)
        if len(self.seen) > KINDS:
            self.seen.popitem(last=False)
        if isinstance(before, str):
            return before if before in ways else first
        if len(ways) == 1 or _capturing():
            return first
        if before < BEFORE:
            self.seen[kind] = before + 1
            return first
        times = {name: self._tried(name, call) for name, call in ways.items()}
        fastest = min(times, key=lambda name: times[name] * (1 if name == first else 1 / GAIN))
        told = ", ".join(f"{name} {ms:.3f} ms" for name, ms in times.items())
        log.debug("%s %s: %s; %s it is", self.op, kind, told, fastest)
        self.seen[kind] = fastest
        return fastest

    def _tried(self, name: str, call: Callable[[], Any]) -> float:
        """The median milliseconds of a few calls; infinitely many where it cannot be called, which is a warning."""
        try:
            return milliseconds(call, TRIES)
        except MemoryError:
            raise
        except Exception as error:  # whatever a library raises where it does not serve after all
            reason = " ".join(str(error).split())[:300]
            warnings.warn(f"{self.op} by {name} fails and is left alone: {reason}", RuntimeWarning, stacklevel=2)
            return float("inf")

    def forget(self) -> None:
        """Choose anew from now on."""
        self.seen.clear()


def milliseconds(call: Callable[[], Any], runs: int) -> float:
    """The median time of so many calls on the GPU, after one that is not timed. Waits for them."""
    call()
    times = []
    for _ in range(runs):
        start, end = devices.event(True), devices.event(True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(devices.milliseconds(start, end))
    return sorted(times)[runs // 2]


def _capturing() -> bool:
    stream = devices.module_of(devices.device("cuda")).cuda.get_current_stream()
    return bool(stream.ptr) and bool(stream.is_capturing())
