"""Streams of a GPU, and memory that belongs to a graph: what CuPy has for both."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from typing import Any

from tinygrad_llm import devices
from tinygrad_llm.kernels.cuda import memory


def new(number: int | None = None, priority: int = 0) -> Any:
    """A stream of a GPU's; it and the default stream do not wait for each other."""
    target = devices.device("cuda", number)
    cupy = devices.module_of(target)
    with devices.on(target):
        return cupy.cuda.Stream(non_blocking=True, priority=priority)


def default(number: int | None = None) -> Any:
    """The stream that everything goes to unless another one is current."""
    return devices.module_of(devices.device("cuda", number)).cuda.Stream.null


def current(number: int | None = None) -> Any:
    """The stream that a GPU's work goes to in this thread."""
    number = devices.current() if number is None else number
    return devices.module_of(devices.device("cuda", number)).cuda.get_current_stream(number)


def is_capturing() -> bool:
    """Whether what the current stream is given is recorded as a graph, and not run."""
    stream = current()
    return bool(stream.ptr) and bool(stream.is_capturing())


class Pool:
    """Memory of one or several graphs: what they write to, nobody else is given for as long as one of them is there.

    CuPy's pool would give what no array holds back to a GPU that is full, and ask again: here that is where recorded
    launches write. So what was taken from the GPU is kept apart, and goes back when the pool is dropped.
    """

    def __init__(self) -> None:
        cupy = devices.module_of(devices.device("cuda"))
        kept: list[Any] = []

        def take(size: int) -> Any:
            kept.append(cupy.cuda.Memory(size))
            return cupy.cuda.MemoryPointer(kept[-1], 0)

        memory.free_retired()
        self._using, self.pool = cupy.cuda.using_allocator, cupy.cuda.MemoryPool(take)
        self.pool.set_limit(size=memory.left_to_take())
        memory.graphs.add(self)
        weakref.finalize(self, memory.retire, self.pool, kept).atexit = False

    def used(self) -> AbstractContextManager[None]:
        """Inside, new arrays of this thread lie in the pool."""
        return self._using(self.pool.malloc)
