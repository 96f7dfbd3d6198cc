"""Sums whose rounding stays small however many numbers are added up, and maxima of nothing.

NumPy adds float32 in pairs where the numbers lie side by side in memory, and one after the other where they do not:
over a million rows a plain sum is off in the fourth digit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.kernels.half import wide

SUMMED_AT_ONCE = 1024  # rows in a block
PLAIN = 128  # numbers that may be added one after the other, as NumPy itself does inside its pairs
SMALL = 4096  # elements below which a product costs more than it saves


def in_order(x: Any) -> Any:
    """x, its elements in memory in the order of their indices: NumPy's results follow the layout of the arguments."""
    return x if x.flags.c_contiguous else x.copy()


def column_sums(x: Any) -> Any:
    """Sums over the rows: (..., N, C) -> (..., C), by blocks of rows and then over the blocks.

    A product with ones is faster than sum in float32 on the CPU. 16-bit floats are summed in float32.
    """
    if not isinstance(x, np.ndarray):
        from tinygrad_llm import kernels  # which needs this file

        return kernels.of(x).column_sums(x)
    x = wide(x)
    if x.dtype != np.float32 or x.size <= SMALL:
        return x.sum(axis=-2)
    ones = np.ones(SUMMED_AT_ONCE, np.float32)
    blocks = [x[..., i : i + SUMMED_AT_ONCE, :] for i in range(0, x.shape[-2], SUMMED_AT_ONCE)]
    sums = [ones[: block.shape[-2]] @ block for block in blocks]
    return sums[0] if len(sums) == 1 else np.add.reduce(sums, axis=0, dtype=np.float64).astype(np.float32)


def sums(x: Any, axes: tuple[int, ...] | None, keepdims: Any = False) -> Any:
    """x.sum(axes), None for all: NumPy's where it adds in pairs or little, else by blocks; in order in memory."""
    if not isinstance(x, np.ndarray):
        return x.sum(axis=axes, keepdims=keepdims)
    if x.dtype != np.float32 or x.size <= SMALL or _in_pairs(x, axes):
        return in_order(np.add.reduce(x, axis=axes, keepdims=keepdims))  # x.sum would warn of inf in NumPy's own name
    axes = tuple(range(x.ndim)) if axes is None else axes
    kept = tuple(axis for axis in range(x.ndim) if axis not in axes)
    shape = tuple(x.shape[axis] for axis in kept)
    if math.prod(shape) == 1:
        y = np.asarray(np.add.reduce(x.reshape(-1))).reshape(shape)
    elif x.flags.c_contiguous and axes == tuple(range(axes[0], axes[-1] + 1)):  # neighbours: nothing is copied
        y = column_sums(x.reshape(math.prod(x.shape[: axes[0]]), -1, math.prod(x.shape[axes[-1] + 1 :]))).reshape(shape)
    else:
        y = column_sums(x.transpose(*axes, *kept).reshape(-1, math.prod(shape))).reshape(shape)
    return np.expand_dims(y, axes) if keepdims else y


def _in_pairs(x: np.ndarray, axes: tuple[int, ...] | None) -> bool:
    """Whether NumPy's sum over the axes of an array that is not empty adds in pairs, or no more than PLAIN numbers."""
    if axes is None:
        return x.flags.c_contiguous
    if x.flags.c_contiguous and axes == tuple(range(x.ndim - len(axes), x.ndim)):
        return True
    return math.prod([x.shape[axis] for axis in axes]) <= PLAIN


def largest(x: Any, axes: tuple[int, ...] | None) -> Any:
    """x.max(axes), None for all, with the axes kept as 1; -inf over no numbers (CuPy knows no `initial`)."""
    reduced = range(x.ndim) if axes is None else axes
    if 0 in [x.shape[axis] for axis in reduced]:
        shape = tuple(1 if axis in reduced else n for axis, n in enumerate(x.shape))
        return devices.filled(x, shape, -np.inf)
    return x.max(axis=axes, keepdims=True)
