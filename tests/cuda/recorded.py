"""Streams, graphs and their memory for pretended arrays: what a stream is given while it is captured is repeated.

As on a GPU a graph knows addresses and no arrays. Nothing runs while it is captured: what was computed on the way, to
know its shape, is spoiled. What lies in a graph's own memory is spoiled after each replay where no array holds on to
it, as another graph may do that shares the memory; and to read or write what has been freed elsewhere is an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

recording: Recording | None = None  # what is being captured
allocator: MemoryPool | None = None  # where new arrays lie, if not in the usual pool
launched = 0  # graphs

NOT_WHILE_CAPTURING = "operation not permitted when stream is capturing"


class Memory(bytearray):
    """Bytes of a GPU, which are free again when nobody holds them."""


class MemoryPool:
    """Memory that is given to the next array that it is large enough for when none holds it, and stays in the pool.

    take: where more of it comes from. As CuPy's, the pool lets go of what no array holds when it is asked to.
    """

    def __init__(self, take: Any) -> None:
        self.take = take
        self.blocks: list[tuple[Memory, weakref.ref[np.ndarray]]] = []
        self.given: list[weakref.ref[Memory]] = []  # blocks in the order in which they were handed out

    def malloc(self, size: int) -> None: ...

    def set_limit(self, size: int) -> None: ...

    def used_bytes(self) -> int:
        return sum(len(raw) for raw, array in self.blocks if array() is not None)

    def total_bytes(self) -> int:
        return sum(len(raw) for raw, array in self.blocks)

    def free_all_blocks(self) -> None:
        self.blocks = [(raw, array) for raw, array in self.blocks if array() is not None]

    def array(self, like: np.ndarray) -> np.ndarray:
        """Memory of an array's shape, dtype and layout."""
        raw = self._free(like.nbytes + 32)
        start = -_bytes(raw).ctypes.data % 16
        array = np.ndarray(like.shape, like.dtype, memoryview(raw)[start:], strides=like.strides)  # type: ignore[call-overload]
        self.blocks.append((raw, weakref.ref(array)))
        self.given.append(weakref.ref(raw))
        return array

    def _free(self, size: int) -> Memory:
        """The smallest block of at least this size that no array holds, or a new one."""
        free = [i for i, (raw, array) in enumerate(self.blocks) if array() is None and len(raw) >= size]
        if not free:
            return self.take(size).mem
        return self.blocks.pop(min(free, key=lambda i: len(self.blocks[i][0])))[0]

    def holding(self, array: np.ndarray) -> Memory | None:
        """The block that an array lies in."""
        owner = owner_of(array)
        return next((raw for raw, block in self.blocks if block() is owner), None)

    def spoil(self, start: int | None = None) -> None:
        """Overwrite what no array holds with nan, or everything that was handed out from a moment on."""
        unheld = (raw for raw, array in self.blocks if array() is None)
        given = (raw for block in self.given[start or 0 :] if (raw := block()) is not None)
        for raw in unheld if start is None else given:
            _bytes(raw).fill(255)


def _bytes(raw: Memory) -> np.ndarray:
    return np.frombuffer(raw, np.uint8)


@contextlib.contextmanager
def using_allocator(malloc: Any) -> Iterator[None]:
    """Inside, new arrays lie in the pool whose method this is, or in the usual one."""
    global allocator
    outer, allocator = allocator, getattr(malloc, "__self__", None)
    try:
        yield
    finally:
        allocator = outer


def placed(array: np.ndarray) -> np.ndarray:
    """A fresh array in the memory in use."""
    return array if allocator is None else allocator.array(array)


def owner_of(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class Place:
    """Where an array lies, without holding on to it."""

    def __init__(self, array: np.ndarray):
        self.array = array.shape, array.strides, array.dtype
        self.low, self.high = np.lib.array_utils.byte_bounds(array)
        self.offset = array.ctypes.data - self.low
        block = None if allocator is None else allocator.holding(array)
        self.held: weakref.ref[Any] = weakref.ref(owner_of(array) if block is None else block)

    def there(self) -> np.ndarray:
        """The array."""
        assert self.held() is not None, "a graph reads or writes memory that was freed"
        shape, strides, dtype = self.array
        buffer = (ctypes.c_char * max(1, self.high - self.low)).from_address(self.low)
        return np.ndarray(shape, dtype, buffer, self.offset, strides)


def placeless(value: Any) -> Any:
    """Arguments with places for arrays."""
    if isinstance(value, np.ndarray):
        return Place(value)
    return type(value)(map(placeless, value)) if type(value) in (list, tuple) else value


def arrays_of(value: Any) -> Any:
    """Arguments with arrays for places."""
    if isinstance(value, Place):
        return value.there()
    return type(value)(map(arrays_of, value)) if type(value) in (list, tuple) else value


class Recording:
    """The calls that a stream was given."""

    def __init__(self) -> None:
        assert allocator is not None, "what is made during a capture must lie in memory of the graph's own"
        self.calls: list[tuple[Callable[..., Any], Any, dict[str, Any], Any]] = []
        self.pool, self.start = allocator, len(allocator.given)

    def write(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
        """A call that writes into its arguments: it is not run."""
        self.calls.append((function, placeless(args), {k: placeless(v) for k, v in kwargs.items()}, None))

    def compute(self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """A call that makes arrays: it is run for their shapes. Views of arguments are as good as they will be."""
        found = function(*args, **kwargs)
        made = self._placed(found, [a for a in _flat([args, list(kwargs.values())]) if isinstance(a, np.ndarray)])
        if made is not found and getattr(function, "__name__", "") not in ("empty", "empty_like"):
            where = placeless(made)
            self.calls.append((function, placeless(args), {k: placeless(v) for k, v in kwargs.items()}, where))
        return made

    def _placed(self, found: Any, given: list[np.ndarray]) -> Any:
        if isinstance(found, np.generic):
            found = np.asarray(found)
        if isinstance(found, np.ndarray):
            if any(np.may_share_memory(found, a) for a in given):
                return found
            made = placed(np.empty_like(found, subok=False))
            made[...] = found
            return made
        if isinstance(found, (list, tuple)):
            made_all = [self._placed(part, given) for part in found]
            return found if all(a is b for a, b in zip(made_all, found, strict=True)) else type(found)(made_all)
        return found


def do(function: Callable[[], Any]) -> None:
    """Run what writes to addresses, or record it."""
    if recording is None:
        function()
    else:
        recording.calls.append((function, (), {}, None))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _flat(part)
    else:
        yield value


class Graph:
    """What CuPy's end_capture returns."""

    def __init__(self, recording: Recording):
        self.calls, self.pool = recording.calls, weakref.ref(recording.pool)

    def launch(self, stream: Any = None) -> None:
        """Do it all again, in the same memory."""
        global launched
        launched += 1
        pool = self.pool()
        assert pool is not None, "the memory of a graph was freed"
        for function, args, kwargs, into in self.calls:
            found = function(*arrays_of(args), **{k: arrays_of(v) for k, v in kwargs.items()})
            if into is not None:
                for place, value in zip(_flat(into), _flat(found), strict=True):
                    if isinstance(place, Place):
                        place.there()[...] = value
        gc.collect()
        pool.spoil()


def _current_device() -> int:
    from tests.cuda import pretend

    return pretend.DEVICES[-1].id


class Stream:
    """A queue that is done at once."""

    null: Stream
    _pointers = itertools.count(0)

    def __init__(self, non_blocking: bool = False, priority: int = 0):
        self.ptr = next(self._pointers)
        self.device_id = _current_device() if self.ptr else -1

    def __enter__(self) -> Stream:
        if self.device_id not in (-1, _current_device()):
            raise RuntimeError(f"The device that the stream is created on ({self.device_id}) is not the current one")
        _current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert _current.pop() is self

    def begin_capture(self) -> None:
        global recording
        if not self.ptr:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        recording = Recording()

    def end_capture(self) -> Graph:
        global recording
        assert recording is not None
        done, recording = recording, None
        done.pool.spoil(done.start)
        return Graph(done)

    def is_capturing(self) -> bool:
        return recording is not None and _current[-1] is self

    def wait_event(self, event: Event) -> None:
        assert event.recorded, "to wait for an event that was never recorded is to wait for nothing"

    def synchronize(self) -> None:
        from tests.cuda import pretend

        pretend.wait("synchronize")
        arrived(self)

    done = True


Stream.null = Stream()
_current = [Stream.null]


class Event:
    """A moment that has passed."""

    done = True
    recorded = False

    def __init__(self, disable_timing: bool = True):
        self._before: list[weakref.ref[PinnedMemoryPointer]] = []

    def record(self, stream: Stream | None = None) -> None:
        self.recorded = True
        self._before = on_the_way(_current[-1] if stream is None else stream)

    def synchronize(self) -> None:
        for memory in filter(None, (reference() for reference in self._before)):
            memory.stream = None


class PinnedMemoryPointer(bytearray):
    """Main memory that stays where it is; a copy from it or to it is under way until somebody has waited for it."""

    stream: Stream | None = None  # that copies

    def __del__(self) -> None:
        if self.stream is not None:
            too_early.append(len(self))

    def copies(self) -> None:
        """The current stream is given a copy from it or to it."""
        self.stream = _current[-1]
        _moving.append(weakref.ref(self))


too_early: list[int] = []  # bytes of memory that others could have got while it was being copied
_moving: list[weakref.ref[PinnedMemoryPointer]] = []


def on_the_way(stream: Stream | None = None) -> list[weakref.ref[PinnedMemoryPointer]]:
    """What is being copied, by a stream or by any."""
    _moving[:] = [reference for reference in _moving if (memory := reference()) and memory.stream is not None]
    return [reference for reference in _moving if stream in (None, reference().stream)]  # type: ignore[union-attr]


def arrived(stream: Stream | None = None) -> None:
    """What a stream, or any, was given has been waited for."""
    for memory in filter(None, (reference() for reference in on_the_way(stream))):
        memory.stream = None


def copying(array: np.ndarray) -> None:
    """A copy of an array, or to it, begins, for which nobody waits."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, PinnedMemoryPointer):
        array.copies()
