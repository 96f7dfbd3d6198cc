"""Freed memory kept for the next step.

A training step allocates and frees the same large arrays again and again. By default glibc gives such memory back to
the system each time, and fetching it anew costs a page fault every 4 KiB: at four layers of 128 channels 7,000 of them
a step, a sixth of its time. On a virtual machine, whose host has to find the page too, a fault costs several times as
much: half a second of a step of GPT-2's. Here glibc is told to keep it, large arrays included.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from typing import Any

import numpy as np

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # from malloc.h
KEPT = 2**31 - 1  # bytes of freed memory at the heap's end that stay; glibc accepts no higher value
LARGE, HUGE = 1 << 20, 1 << 26  # bytes


def keep_freed_memory() -> bool:
    """Keep freed arrays' memory in this process for reuse. Returns whether this C library could be told so."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library than glibc
        return False
    # without a mapping of its own for each large array, all of them come from one heap, and go back to it
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_TOP_PAD, 16 << 20))


def zeros_apart(like: Any, shape: tuple[int, ...] | None = None, least: int = LARGE) -> Any:
    """Zeros of an array's kind and dtype and of its shape or another; from `least` bytes on outside the heap.

    For arrays that stay while others come and go, as an optimizer's moments do, and for the few that are so large that
    the heap seldom has a hole for them: made inside it they would let it grow, by 300 MB in a step of GPT-2's.
    """
    shape = like.shape if shape is None else shape
    size = math.prod(shape) * like.dtype.itemsize
    if not isinstance(like, np.ndarray) or size < least or not sys.platform.startswith("linux"):
        return np.zeros_like(like, shape=shape)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.ndarray(shape, like.dtype, buffer=memory)
