"""Worker threads for the kernels: NumPy lets go of the interpreter's lock while it computes.

Work is cut into parts whose number does not depend on the threads, and no two parts write to the same place, so the
result has the same bits whatever the number of threads.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController

PARTS_EACH = 4  # fewer parts a thread are not worth waking it: 80 ms a step of a small model without, 83 ms with

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_count = CORES


def get_num_threads() -> int:
    """How many threads the kernels use, the calling one included."""
    return _count


def set_num_threads(count: int) -> None:
    """Let the kernels and the BLAS use this many threads. More than there are cores to run on is a warning.

    Raises:
        RuntimeError: count is not a positive integer.
    """
    global _count
    if not isinstance(count, int) or count < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, not {count!r}")
    if count > CORES:
        warnings.warn(
            f"set_num_threads({count}): this process may run on {CORES} cores, and threads that share one wait for "
            f"each other at every product; set_num_threads({CORES}) is the fastest",
            stacklevel=2,
        )
    _count = count
    _blas().limit(limits=count, user_api="blas")


class _InWorker(threading.local):
    active = False


_in_worker = _InWorker()


@lru_cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="tinygrad_llm")


@lru_cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@lru_cache
def blas_uses_avx512() -> bool:
    """Whether the BLAS runs kernels for AVX-512, whose costs differ."""
    return any(lib.get("architecture") in ("SkylakeX", "Cooperlake", "Sapphirerapids") for lib in _blas().info())


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads: it starts its own
    os.register_at_fork(after_in_child=_pool.cache_clear)


def for_each(work: Callable[[Any], None], parts: Sequence[Any], each: int = PARTS_EACH) -> None:
    """work(part) for every part, the calling thread taking its share.

    each: so many parts a thread, at least, are worth waking it. An exception in one is raised here, after all ended.
    """
    workers = 1 if _in_worker.active else min(_count, len(parts) // each)
    if workers <= 1:
        for part in parts:
            work(part)
        return

    remaining = iter(parts)  # whoever is free takes the next one

    def share() -> None:
        _in_worker.active = (
            True  # work that calls for_each itself goes on alone: waiting for the pool could last for ever
        )
        try:
            for part in remaining:
                work(part)
        finally:
            _in_worker.active = False

    others = [_pool(_count).submit(share) for _ in range(1, workers)]
    try:
        share()
    finally:  # a thread that has not woken up yet is not waited for; one that works is, so that nobody writes later
        errors = [None if other.cancel() else other.exception() for other in others]
    for error in errors:
        if error is not None:
            raise error


class single_threaded_blas:
    """Inside, each BLAS product runs on the thread that calls it, so that for_each can run several side by side.

    The limit is the process's: of several threads inside at once, the first sets it and the last lifts it.
    """

    _lock = threading.Lock()
    _inside = 0
    _before: tuple[int, ...] = ()

    def __enter__(self) -> None:
        cls = single_threaded_blas
        with cls._lock:
            cls._inside += 1
            if cls._inside == 1:  # straight to the libraries: threadpoolctl's own limit takes four times as long
                cls._before = tuple(lib.num_threads for lib in _blas().lib_controllers)
                for lib in _blas().lib_controllers:
                    lib.set_num_threads(1)

    def __exit__(self, *exc: object) -> None:
        cls = single_threaded_blas
        with cls._lock:
            cls._inside -= 1
            if cls._inside == 0:
                for lib, before in zip(_blas().lib_controllers, cls._before, strict=True):
                    lib.set_num_threads(before)
