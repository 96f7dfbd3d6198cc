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
import threading
import weakref
from typing import Any

import numpy as np

from tinygrad_llm.devices import array_module

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # from malloc.h
KEPT = 2**31 - 1  # bytes of freed memory at the heap's end that stay; glibc accepts no higher value
LARGE, HUGE = 1 << 20, 1 << 26  # bytes
IDLE = 1 << 30  # bytes of huge arrays that are kept for the next, at most


def keep_freed_memory() -> bool:
    """Keep freed arrays' memory in this process for reuse. Returns whether this C library could be told so."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library than glibc
        return False
    # without a mapping of its own for each large array, all of them come from one heap, and go back to it
    one_heap = mallopt(M_MMAP_MAX, 0) and mallopt(M_ARENA_MAX, 1)  # for every thread: the others' do not stay
    return bool(one_heap and mallopt(M_TRIM_THRESHOLD, KEPT) and mallopt(M_TOP_PAD, 16 << 20))


def zeros_apart(like: Any) -> Any:
    """Zeros of an array's kind, dtype and shape; from LARGE bytes on outside the heap.

    For arrays that stay while others come and go, as an optimizer's moments do: made inside the heap they would let it
    grow, by 300 MB in a step of GPT-2's.
    """
    if not isinstance(like, np.ndarray) or like.nbytes < LARGE or not sys.platform.startswith("linux"):
        return np.zeros_like(like, order="C")
    return np.ndarray(like.shape, like.dtype, buffer=_mapping(like.nbytes))


def empty_again(like: Any, shape: tuple[int, ...], room: int = 0) -> Any:
    """An array of another's kind and dtype that holds anything; a HUGE one lies where one of a step before lay.

    room: elements that a new place has at least, so that a larger array may lie there when this one is gone.

    The few that large (logits, the gradients of the head and of the token embedding) fit into no hole of the heap, and
    fetching them from the system anew takes 0.2 s a step of GPT-2's.
    """
    size = math.prod(shape) * like.dtype.itemsize
    if not isinstance(like, np.ndarray) or size < HUGE or not sys.platform.startswith("linux"):
        return array_module(like).empty(shape, like.dtype)
    with _lock:
        memory = min((m for m in _idle if len(m) >= size), key=len, default=None)
        if memory is None:
            memory = _mapping(max(size, room * like.dtype.itemsize))
        else:
            _idle.remove(memory)
    array = np.ndarray(shape, like.dtype, buffer=memory)
    weakref.finalize(array, _give_back, memory).atexit = False  # views of the array keep it alive
    return array


def is_a_view(array: Any) -> bool:
    """Whether an array lies in another's memory."""
    return array.base is not None and type(array.base) is not mmap.mmap


_lock = threading.Lock()
_idle: list[mmap.mmap] = []  # mappings that no array lies in


def _give_back(memory: mmap.mmap) -> None:
    if sum(map(len, _idle)) + len(memory) <= IDLE:
        _idle.append(memory)


def _mapping(size: int) -> mmap.mmap:
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
