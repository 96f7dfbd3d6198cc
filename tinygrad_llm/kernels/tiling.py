"""How the CPU's kernels cut their work, and the row sums that they share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

# Elements worked on at a time. Larger tiles leave the level-2 cache; with smaller ones threads take the interpreter's
# lock more often, and one that finds it taken sleeps for some 50 us.
TILE = 131_072
LONG_ROW = 256  # elements of a row from which on NumPy is faster without copies, see row_by_row

# Which exponents need no shift: e^50 is far from overflow.
MODERATE = 50.0  # numbers between minus this and this, unless
FAINT = 1e-30  # the exponentials of a row sum to less: it lies too far below the others


def tiles(count: int, size: int | None = None) -> Sequence[slice]:
    """Slices that cut count elements into tiles of equal size, TILE at most."""
    return _tiles(count, size or TILE)


@lru_cache(maxsize=1024)
def _tiles(count: int, size: int) -> tuple[slice, ...]:
    number = -(-count // size)
    bounds = [count * i // number for i in range(number + 1)] if number else []
    return tuple(slice(a, b) for a, b in itertools.pairwise(bounds))


def cut(length: int, number: int, multiple: int) -> list[slice]:
    """About `number` slices of equal length, each beginning at a multiple; none is of a single row, if there are more.

    NumPy takes another function of the BLAS for a single row, which adds up in another order.
    """
    each = -(-length // (number * multiple)) * multiple
    bounds = [*range(0, max(length - 1, 1), each), length] if length else []
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def row_tiles(rows: int, columns: int) -> Sequence[slice]:
    """Slices that cut rows into tiles of about TILE elements, one row at least."""
    return tiles(rows, max(1, TILE // max(columns, 1)))


def row_by_row(columns: int) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """A decorator of work on rows of so many columns: lets NumPy go a row at a time where rows are long.

    It would rather take as many rows at once as its buffer of 8,192 elements holds, and so repeats there what is a
    number for each row, or a row for all, which takes longer than the arithmetic. A buffer without room for two rows
    is not used at all.
    """

    def decorate(work: Callable[[Any], None]) -> Callable[[Any], None]:
        if columns < LONG_ROW:
            return work

        def with_small_buffer(part: Any) -> None:
            with np.errstate():  # at its end the buffer is as large as before; each thread has its own
                np.setbufsize(LONG_ROW)
                work(part)

        return with_small_buffer

    return decorate


def row_sums(x: np.ndarray) -> np.ndarray:
    """(..., C) -> (..., 1), as a product with ones: five times faster than sum(-1)."""
    return x @ _ones(x.shape[-1], x.dtype)


@lru_cache(maxsize=64)
def _ones(count: int, dtype: np.dtype) -> np.ndarray:
    return np.ones((count, 1), dtype)


def row_dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., C), (..., C) -> (..., 1)."""
    return np.vecdot(x, y)[..., None]
