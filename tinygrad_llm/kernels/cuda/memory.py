"""The GPU's memory as CuPy's pool keeps it. CuPy is imported on first use."""

from __future__ import annotations

import importlib
import weakref
from collections import defaultdict
from typing import Any

from tinygrad_llm import devices

graphs: weakref.WeakSet[Any] = weakref.WeakSet()  # what has a pool of its own, called `pool`, beside the usual one
_retired: list[Any] = []  # pools of graphs that were dropped: arrays may still lie there


def _all_pools(number: int | None) -> tuple[list[Any], Any]:
    """CuPy's memory pools, and the context of the device that they are to be asked about."""
    pool, here = _pool(number)
    return [pool, *(graph.pool for graph in graphs), *_retired], here


def _pool(number: int | None) -> tuple[Any, Any]:
    """CuPy's memory pool, and the context of the device that it is to be asked about."""
    cupy = devices.module_of(devices.device("cuda", number))
    return cupy.get_default_memory_pool(), devices.on(devices.device("cuda", number))


def used(number: int | None) -> int:
    """Bytes that arrays hold."""
    every, here = _all_pools(number)
    with here:
        return sum(pool.used_bytes() for pool in every)


def reserved(number: int | None) -> int:
    """Bytes taken from the GPU, for arrays and for reuse."""
    every, here = _all_pools(number)
    with here:
        return sum(pool.total_bytes() for pool in every)


def free_and_total(number: int | None) -> tuple[int, int]:
    """Free and total bytes of the GPU."""
    cupy = devices.module_of(devices.device("cuda", number))
    with devices.on(devices.device("cuda", number)):
        return cupy.cuda.runtime.memGetInfo()


def available() -> int:
    """Bytes of the current GPU that new arrays can have: what is free or kept by the pool, within its limit."""
    pool, free = _pool(None)[0], free_and_total(None)[0]
    kept = pool.total_bytes() - pool.used_bytes()
    return min(free + kept, pool.get_limit() - pool.used_bytes()) if pool.get_limit() else free + kept


def left_to_take() -> int:
    """Bytes that another pool of the current GPU may take under the limit; 0 where there is none.

    What the usual pool keeps for later goes back first: under a limit it would be nobody's.
    """
    pool = _pool(None)[0]
    if not pool.get_limit():
        return 0
    free_unused()
    return max(1, pool.get_limit() - reserved(None))


def free_unused() -> None:
    """Give memory that the pool keeps for later back to the GPU."""
    note_reserved(devices.current())
    _pool(None)[0].free_all_blocks()
    free_retired()


def retire(pool: Any, kept: list[Any]) -> None:
    """Let the memory of a pool that nobody uses go back when the next one is made. Frees nothing: that would wait.

    kept: what holds the pool's memory beside itself. A pool of CuPy's that is only dropped never gives its memory back,
    for its parts hold each other.
    """
    kept.clear()
    _retired.append(pool)


def free_retired() -> None:
    """Give memory of dropped pools back to the GPU, but for what arrays hold."""
    for pool in _retired:
        pool.free_all_blocks()
    _retired[:] = [pool for pool in _retired if pool.total_bytes()]


def lasting(shape: Any, dtype: Any) -> Any:
    """A new array of the current GPU in the usual pool, also where a graph's own memory is in use."""
    cupy = devices.module_of(devices.device("cuda"))
    with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
        return cupy.empty(shape, dtype)


def limit(fraction: float, number: int | None) -> None:
    """Let the pool take no more than a fraction of the GPU's memory."""
    pool, here = _pool(number)
    with here:
        total = free_and_total(number)[1]
        pool.set_limit(size=max(1, int(fraction * total)))  # 0 would be no limit


# --- the most at once: a hook of the pool counts, once somebody has asked for it ---

_now: dict[int, int] = defaultdict(int)  # device -> bytes that arrays hold
_most: dict[int, int] = {}
_most_reserved: dict[int, int] = defaultdict(int)
_hook: Any = None


def _counter() -> Any:
    """A hook that follows what arrays hold; the pool calls it in the thread that made it."""
    cupy_cuda: Any = importlib.import_module("cupy.cuda")
    base: Any = cupy_cuda.MemoryHook

    class Counter(base):
        name = "tinygrad_llm: the most memory held at once"

        def malloc_postprocess(self, device_id: int, size: int, mem_size: int, mem_ptr: int, pmem_id: int) -> None:
            _now[device_id] += mem_size if mem_ptr else 0  # 0: the GPU was full
            _most[device_id] = max(_most.get(device_id, 0), _now[device_id])

        def free_postprocess(self, device_id: int, mem_size: int, mem_ptr: int, pmem_id: int) -> None:
            _now[device_id] -= mem_size

    return Counter()


def count_anew(number: int | None) -> None:
    """Start counting from what is held now."""
    global _hook
    if _hook is None:
        _hook = _counter()
        _hook.__enter__()
    index = devices.current() if number is None else number
    _now[index] = _most[index] = used(number)
    _most_reserved[index] = reserved(number)


def peak(number: int | None) -> int:
    """The most bytes held at once since `count_anew`; where nobody has asked to count, what was taken from the GPU."""
    index = devices.current() if number is None else number
    return _most.get(index, reserved(number))


def note_reserved(number: int | None) -> int:
    """The most bytes taken from the GPU at once since `count_anew`, as seen now, in calls before, and in free_unused.

    The pool only grows in between, save where it gives back what it kept because the GPU was full.
    """
    index = devices.current() if number is None else number
    _most_reserved[index] = max(_most_reserved[index], reserved(number))
    return _most_reserved[index]
