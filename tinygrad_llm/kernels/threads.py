"""Worker threads for the kernels: NumPy lets go of the interpreter's lock while it computes.

Work is cut into parts whose number does not depend on the threads, and no two parts write to the same place, so the
result has the same bits whatever the number of threads.

The BLAS under NumPy gets one thread, for good: its own would spin on the cores that ours need, for some 25 ms after
each product, and wait for each other at barriers, which on a busy machine makes a step ten times slower.
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

PARTS_EACH = 2  # fewer parts a thread are not worth waking it

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_count = CORES


def get_num_threads() -> int:
    """How many threads the kernels use, the calling one included."""
    return _count


def set_num_threads(count: int) -> None:
    """Let the kernels use this many threads. More than there are cores to run on is a warning.

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


def threads_here() -> int:
    """How many threads the calling one may share work with, itself included: fewer inside a part of other work."""
    return _share.threads or _count


class _Share(threading.local):
    threads: int | None = None  # what work inside a part may use; None outside of any


_share = _Share()


@lru_cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="tinygrad_llm")


@lru_cache
def blas_on_one_thread() -> list[Any]:
    """Give the BLAS one thread for the rest of the process, so that ours share out the work; what controls it.

    NumPy's products outside of this package run on one thread then, too.
    """
    blas = ThreadpoolController().select(user_api="blas")
    blas.limit(limits=1)
    return list(blas.lib_controllers)


def on_blas_threads(work: Callable[[int], Any]) -> None:
    """work(count), the BLAS sharing out its products for that time among count threads of its own.

    For a stream of small products alone: its threads spin from one to the next, and so begin at once where ours,
    asleep, would have to be woken. A product that another thread computes meanwhile is shared out, too.
    """
    count = threads_here()
    try:
        for library in blas_on_one_thread():
            library.set_num_threads(count)
        work(count)
    finally:
        for library in blas_on_one_thread():
            library.set_num_threads(1)


@lru_cache
def blas_uses_avx512() -> bool:
    """Whether the BLAS runs kernels for AVX-512, whose costs differ."""
    return any(library.info().get("architecture") in _AVX512 for library in blas_on_one_thread())


_AVX512 = {"SkylakeX", "Cooperlake", "Sapphirerapids"}


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads: it starts its own
    os.register_at_fork(after_in_child=_pool.cache_clear)


def for_each(work: Callable[[Any], Any], parts: Sequence[Any], each: int = PARTS_EACH) -> None:
    """work(part) for every part, the calling thread taking its share.

    each: so many parts a thread, at least, are worth waking it. An exception in one is raised here, after all ended.
    """
    available = threads_here()
    workers = min(available, len(parts) // each)
    if workers <= 1:
        for part in parts:
            work(part)
        return

    remaining = iter(parts)  # whoever is free takes the next one

    def share() -> None:
        outer, _share.threads = _share.threads, max(1, available // workers)
        try:
            for part in remaining:
                work(part)
        finally:
            _share.threads = outer

    others = [_pool(_count).submit(share) for _ in range(1, workers)]
    try:
        share()
    finally:  # a thread that has not woken up yet is not waited for; one that works is, so that nobody writes later
        errors = [None if other.cancel() else other.exception() for other in others]
    for error in errors:
        if error is not None:
            raise error
