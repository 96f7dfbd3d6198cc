"""Where the time of a run goes, op by op: each forward and backward, its calls, time and bytes.

    with tinygrad_llm.profiler.profile() as p:
        loss = model.loss(ids, targets)
        loss.backward()
        optimizer.step()
    print(p.table())
    p.export_chrome_trace("trace.json")      # open it in chrome://tracing or https://ui.perfetto.dev

While nobody measures, an op pays for one comparison.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

from tinygrad_llm.autograd import registry
from tinygrad_llm.files import write_atomically

SORTS = ("self", "total", "calls", "bytes")


class Event(NamedTuple):
    """One run of an op, of its pullbacks, or of a region that record_function named."""

    name: str
    kind: str  # "forward", "backward" or "region"
    start: int  # ns on the clock of time.perf_counter_ns
    duration: int  # ns
    inside: int  # ns of them in other events: ops of a region, ops that a checkpoint runs again
    nbytes: int  # the result's size, or the gradients' together
    shape: tuple[int, ...]  # of the result; () for several
    thread: int


@dataclass
class Row:
    """All events of one name and kind: how often, nanoseconds without and with what ran inside, bytes made."""

    name: str
    kind: str
    calls: int = 0
    self_ns: int = 0
    total_ns: int = 0
    nbytes: int = 0


class _Inside(threading.local):
    """For each event that is open in this thread, the time of the events inside it."""

    def __init__(self) -> None:
        self.open: list[int] = []


class profile:
    """A context manager that notes each op, pullback and named region while it is entered, in every thread.

    An event takes about 200 bytes. The time of an event is that of the Python call; work that a GPU does later is not
    waited for.

    Raises: RuntimeError when another profile is running.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.seconds = 0.0  # between enter and exit
        self._inside = _Inside()

    def __enter__(self) -> profile:
        if registry.watch is not None:
            raise RuntimeError("profile: another profile is running; leave its `with` block first")
        self._thread = threading.get_ident()
        self._start = time.perf_counter_ns()
        registry.watch = self._watch
        return self

    def __exit__(self, *exc: object) -> None:
        registry.watch = None
        self.seconds += (time.perf_counter_ns() - self._start) / 1e9

    def _watch(self, name: str, kind: str, run: Callable[[], Any]) -> Any:
        """run(), noted."""
        stack = self._inside.open
        stack.append(0)
        result = None
        start = time.perf_counter_ns()
        try:
            result = run()
            return result
        finally:
            duration = time.perf_counter_ns() - start
            inside = stack.pop()
            if stack:
                stack[-1] += duration
            nbytes, shape = _size(result, kind)
            self.events.append(
                Event(name, kind, start, duration, inside, nbytes, shape, threading.get_ident())
            )

    def rows(self, sort_by: str = "self") -> list[Row]:
        """A row for each name and kind, the largest first by "self" time, "total" time, "calls" or "bytes".

        Raises: ValueError for another order.
        """
        if sort_by not in SORTS:
            raise ValueError(f"profile: sort_by {sort_by!r} is unknown; choose one of {', '.join(SORTS)}")
        found: dict[tuple[str, str], Row] = {}
        for event in self.events:
            row = found.setdefault((event.name, event.kind), Row(event.name, event.kind))
            row.calls += 1
            row.self_ns += event.duration - event.inside
            row.total_ns += event.duration
            row.nbytes += event.nbytes
        column = {"self": "self_ns", "total": "total_ns", "calls": "calls", "bytes": "nbytes"}[sort_by]
        return sorted(found.values(), key=lambda row: getattr(row, column), reverse=True)

    def table(self, sort_by: str = "self", row_limit: int = 30) -> str:
        """The rows as text. "self" is without what ran inside; the shares of self time and of Python add up to 1.

        MB are those of results (forward) and gradients (backward), 10^6 bytes.
        """
        rows = self.rows(sort_by)
        wall = self.seconds * 1e9
        width = max([len(row.name) for row in rows] + [len("between the ops")])
        lines = [
            f"{'op':{width}} {'pass':9}{'calls':>8}{'self ms':>11}{'total ms':>11}{'us a call':>11}{'MB':>10}"
            f"{'share':>8}"
        ]
        for row in rows[:row_limit]:
            lines.append(
                f"{row.name:{width}} {row.kind:9}{row.calls:8}{row.self_ns / 1e6:11.2f}{row.total_ns / 1e6:11.2f}"
                f"{row.self_ns / 1e3 / row.calls:11.1f}{row.nbytes / 1e6:10.1f}{_share(row.self_ns, wall):>8}"
            )
        if len(rows) > row_limit:
            rest = sum(row.self_ns for row in rows[row_limit:])
            lines.append(f"{f'{len(rows) - row_limit} more':{width}} {'':9}{'':8}{rest / 1e6:11.2f}{'':32}"
                         f"{_share(rest, wall):>8}")  # fmt: skip
        ours = sum(e.duration - e.inside for e in self.events if e.thread == self._thread) if self.events else 0
        between = max(wall - ours, 0)
        lines.append(f"{'between the ops':{width}} {'python':9}{'':8}{between / 1e6:11.2f}{'':32}"
                     f"{_share(between, wall):>8}")  # fmt: skip
        lines.append(f"{'in all':{width}} {'':9}{'':8}{wall / 1e6:11.2f}")
        return "\n".join(lines)

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> None:
        """Write every event to a JSON file in the trace format of Chrome, which Perfetto reads too.

        Raises: OSError when the file cannot be written; one that stood there is then what it was.
        """
        origin = min((event.start for event in self.events), default=0)
        write_atomically(path, json.dumps({"traceEvents": list(_trace(self.events, origin))}).encode())


class record_function:
    """Names a stretch of a program in the profile: `with record_function("data"): ...`, or above a function."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> record_function:
        self._profile = getattr(registry.watch, "__self__", None)
        if self._profile is not None:
            self._profile._inside.open.append(0)
            self._start = time.perf_counter_ns()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._profile is None:
            return
        duration = time.perf_counter_ns() - self._start
        stack = self._profile._inside.open
        inside = stack.pop()
        if stack:
            stack[-1] += duration
        event = Event(self.name, "region", self._start, duration, inside, 0, (), threading.get_ident())
        self._profile.events.append(event)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def named(*args: Any, **kwargs: Any) -> Any:
            with record_function(self.name):
                return function(*args, **kwargs)

        return named


def _size(result: Any, kind: str) -> tuple[int, tuple[int, ...]]:
    """The bytes and the shape of what an op or its pullbacks gave."""
    if result is None:
        return 0, ()
    if kind == "forward":
        found = result[0] if isinstance(result[0], tuple) else (result[0],)
        return sum(y.nbytes for y in found), found[0].shape
    return sum(getattr(getattr(d, "values", d), "nbytes", 0) for d in result), ()


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _trace(events: Iterable[Event], origin: int) -> Iterable[dict[str, Any]]:
    """The events as Chrome's complete events, in microseconds since the first."""
    for e in events:
        yield {
            "name": e.name,
            "cat": e.kind,
            "ph": "X",
            "ts": (e.start - origin) / 1e3,
            "dur": e.duration / 1e3,
            "pid": os.getpid(),
            "tid": e.thread,
            "args": {"bytes": e.nbytes, "shape": list(e.shape)},
        }
