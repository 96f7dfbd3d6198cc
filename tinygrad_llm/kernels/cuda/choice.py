"""Which of several ways a GPU computes something: the first, or the one that was faster when all were tried.

A kind of call (shapes, dtype, ...) is tried when it comes back for the third time, since what comes once is not worth
it, and the result holds for the process. A way that then gives other numbers than the first is never taken, however
fast it is. What is chosen is told to the logger "tinygrad_llm.kernels", at level DEBUG.

Attention in 16 bits by two that round other things on the way, weights above all, is 0.1 % of a head apart and 0.5 %
of a row (as `difference` measures; 2,048 tokens); 2 % and 12 % where keys are so much alike that the gradients of
queries cancel. A row or a head that is read or written elsewhere is 36 to 150 % of a row apart, a tile of 64 keys that
was passed over 39 %; a tenth too little, as of dropout that nobody made up for, is 5 % of a head. What may be lies
between.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.kernels.half import is_half, wide

TRIES = 3  # runs that are timed, of each way
BEFORE = 2  # calls of a kind that take the first way untried
GAIN = 0.97  # another way than the first must take less than this much of its time
KINDS = 512  # that are remembered, those used last
APART = 2.0**-5, 2.0**-10  # share of a head's numbers that other ways may be off by: in 16 bits, and in more
LEAST = float(np.finfo(np.float32).tiny)
ROW = 6  # times as much for a row

log = logging.getLogger("tinygrad_llm.kernels")

Call = Callable[[], Sequence[Any]]  # gives its results, arrays (B, H, T, D) or (B, H, T)


class Choice:
    """The way chosen for each kind of call of one op."""

    def __init__(self, op: str):
        self.op = op
        self.seen: OrderedDict[Hashable, int | str] = OrderedDict()  # how often untried, or the way that was chosen

    def of(self, kind: Hashable, ways: dict[str, Call]) -> str:
        """The name of the way for a call of this kind. Each of the `ways` makes such a call; the first is trusted.

        While a graph is captured, nothing is tried. Raises: what the first way raises when it is tried.
        """
        first, *rivals = ways
        kind = (kind, *ways)
        before = self.seen.setdefault(kind, 0)
        self.seen.move_to_end(kind)
        if len(self.seen) > KINDS:
            self.seen.popitem(last=False)
        if isinstance(before, str):
            return before
        if not rivals or _capturing():
            return first
        if before < BEFORE:
            self.seen[kind] = before + 1
            return first
        tried = {name: self._tried(name, ways[name], first, ways[first]) for name in rivals}
        if any(ms != ms for ms in tried.values()):
            self.seen[kind] = 0
            return first
        times = {first: milliseconds(ways[first], TRIES), **tried}
        fastest = min(times, key=lambda name: times[name] * (1 if name == first else 1 / GAIN))
        told = ", ".join(f"{name} {ms:.3f} ms" for name, ms in times.items())
        log.debug("%s %s: %s; %s it is", self.op, kind[0], told, fastest)
        self.seen[kind] = fastest
        return fastest

    def _tried(self, name: str, call: Call, first: str, trusted: Call) -> float:
        """The median milliseconds of a few calls of a rival; nan where numbers of the moment tell nothing of it.

        Infinitely many where it is left alone: as it fails or gives other numbers, which is a line of warning, or for
        want of memory, which is none.
        """
        try:
            wanted = trusted()
            _spoil([a.nbytes for a in wanted], wanted[0])
            apart = difference(wanted, call())
            del wanted
            if not apart > 1:
                return apart if apart != apart else milliseconds(call, TRIES)
            problem = f"gives other numbers than {first} and is left alone: {apart:.3g} times what rounding explains"
        except MemoryError as error:
            log.debug("%s by %s is left alone: %s", self.op, name, error)
            return math.inf
        except Exception as error:  # whatever a library raises where it does not serve after all
            problem = f"fails and is left alone: {' '.join(str(error).split())[:300]}"
        warnings.warn(f"{self.op} by {name} {problem}", RuntimeWarning, stacklevel=2)
        return math.inf

    def forget(self) -> None:
        """Choose anew from now on."""
        self.seen.clear()


def difference(wanted: Sequence[Any], found: Sequence[Any]) -> float:
    """How far arrays are from those wanted: 1 is as far as they may be, nan where those wanted tell nothing.

    Measured are sums of |difference| over those of |number|, of a row and of a head, to each of which the mean one is
    added, since what cancels to next to nothing is all rounding. Nothing is told by nothing but zeros, by nans, and by
    infinities of 16 bits, which overflowed; those of float32 are meant (a query that sees nothing) and must be there.
    """
    shares = [0.0]
    for a, b in zip(wanted, found, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return math.inf
        half, total = is_half(a), 0.0
        may = APART[0 if half else 1]
        for x, y in zip(a, b, strict=True):  # a sequence at a time: twice all of it in float32 may not fit
            x, y = wide(x), wide(y)
            off = np.where(x == y, 0, abs(x - y))
            size = abs(x if half else np.where(np.isinf(x), 0, x))
            off, size = (z.sum(-1).reshape(len(x), -1) for z in (off, size))  # of each row, by heads
            total += float(size.sum())
            shares += [_largest(off, size) / (ROW * may), _largest(off.sum(-1), size.sum(-1)) / may]
        if not 0 < total < math.inf:
            return math.nan
    return max(shares)


def _spoil(sizes: list[int], like: Any) -> None:
    """Fill memory that the next call is likely to get with nans: it may hold what another way put there before.

    A way that writes nothing would else seem to be right.
    """
    _ = [np.full_like(like, 255, order="C", shape=size, dtype=np.uint8) for size in (*sizes, sum(sizes))]


def _largest(off: Any, size: Any) -> float:
    """The largest share; infinite where one is no number."""
    share = float((off / (size + size.mean(-1, keepdims=True) + LEAST)).max())
    return math.inf if share != share else share


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
