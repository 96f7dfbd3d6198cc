"""The launcher of sorting: without CuPy's, which may wait, so that it can be captured."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels.cuda.launch import launch

TILES = (256, 4096)  # places that a block sorts


def in_order_of(ids: Any, rows: int) -> tuple[Any, Any]:
    """ids (n,) int64, from -rows up to rows, in ascending order, and where each stood; equal ones keep their order."""
    n = ids.size
    tile = TILES[n > TILES[0]]
    tiles = -(-n // tile)
    keys = np.empty_like(ids, shape=tiles * tile)
    launch("sort", "sort_tiles", (tiles,), (tile // 4,), ids, keys, n, rows, TILE=tile)
    ascending, order = np.empty_like(ids), np.empty_like(ids)
    launch("sort", "merge", (-(-keys.size // 256),), (256,), keys, ascending, order, n, tiles, TILE=tile)
    return ascending, order
