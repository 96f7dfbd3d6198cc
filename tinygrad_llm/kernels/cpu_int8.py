"""Weights in eight bits: packed and unpacked some rows at a time, in the cache and by all threads."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels import INT8_BLOCK
from tinygrad_llm.kernels.reference import REFERENCE
from tinygrad_llm.kernels.threads import for_each
from tinygrad_llm.kernels.tiling import row_tiles


def int8_pack(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The reference's, tile by tile, so that no second copy of a weight stands in memory."""
    codes = np.empty(w.shape, np.int8)
    scales = np.empty((len(w), -(-w.shape[1] // INT8_BLOCK)), w.dtype)

    def work(rows: slice) -> None:
        codes[rows], scales[rows] = REFERENCE.int8_pack(w[rows])

    for_each(work, row_tiles(*w.shape))
    return codes, scales


def int8_unpack(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Each code times its block's scale."""
    w = np.empty(codes.shape, scales.dtype)

    def work(rows: slice) -> None:
        part = w[rows]
        part[...] = codes[rows]  # apart from the product: NumPy converts within a product number by number
        part *= np.repeat(scales[rows], INT8_BLOCK, axis=1)[:, : w.shape[1]]

    for_each(work, row_tiles(*w.shape))
    return w
