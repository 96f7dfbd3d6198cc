"""A counter-based random stream: word i of a key is a function of both, so that no word needs those before it.

A mask of dropout is then a number, its key: forward and backward, each thread of a GPU makes the bits of the elements
that it works on, and no mask is stored.

Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011), section 3.3: Philox4x32 with 10 rounds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm.devices import array_module

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
STEPS = 0x9E3779B9, 0xBB67AE85  # of the key from round to round: the golden ratio, and sqrt(3) - 1
ROUNDS = 10


def words(key: Any, count: int, xp: Any = np) -> Any:
    """The first words of a key below 2^63: uint64 (count,), each below 2^32. Four of them come from one counter.

    key: a whole number, or an array (1,) that has one.
    """
    key = np.uint64(key) if isinstance(key, int) else key.astype(np.uint64)
    counters = xp.arange(-(-count // 4), dtype=np.uint64)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b, c, d = counters & low, counters >> half, 0 * counters, 0 * counters
    keys = [key & low, key >> half]
    for _ in range(ROUNDS):
        p, q = a * np.uint64(MULTIPLIERS[0]), c * np.uint64(MULTIPLIERS[1])
        a, b, c, d = (q >> half) ^ b ^ keys[0], q & low, (p >> half) ^ d ^ keys[1], p & low
        keys = [(k + np.uint64(step)) & low for k, step in zip(keys, STEPS, strict=True)]
    return xp.stack([a, b, c, d], axis=1).reshape(-1)[:count]


def is_key(keep: Any) -> bool:
    """Whether dropout is told by a key, a number or one in an array (1,), and not by a mask."""
    return isinstance(keep, int) or keep.dtype == np.int64


def limit(p: float) -> int:
    """Below which word an element is dropped with probability p, to within 2^-32."""
    return min(round(p * 2.0**32), 2**32 - 1)


def keep_mask(key: Any, p: float, shape: tuple[int, ...], like: Any) -> Any:
    """True where the word of the element's place, counted in C order, is at least p 2^32: bool (shape)."""
    drawn = words(key, math.prod(shape), array_module(like))
    return (drawn >= np.uint64(limit(p))).reshape(shape)
