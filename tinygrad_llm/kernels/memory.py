"""Freed memory kept for the next step.

A training step allocates and frees the same large arrays again and again. By default glibc gives such memory back to
the system each time, and fetching it anew costs a page fault every 4 KiB: at four layers of 128 channels 7,000 of them
a step, a sixth of its time. Here glibc is told to keep it.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # from malloc.h
LARGEST_KEPT = 32 << 20  # bytes: larger arrays are still mapped one by one; glibc accepts no higher value
KEPT = 1 << 30  # bytes of freed memory at the end of the heap that stay with the process


def keep_freed_memory() -> bool:
    """Keep freed arrays' memory in this process for reuse. Returns whether this C library could be told so."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library than glibc
        return False
    return bool(
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_TOP_PAD, 16 << 20)
    )
