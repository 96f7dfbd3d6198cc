"""The forms that attention's arguments may have, for implementations that know one of them: see `Kernels.attention`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels import philox


def is_documents(mask: Any) -> bool:
    """Whether a mask is the number of each position's document."""
    return mask.dtype.kind in "iu"


def seen(mask: Any) -> Any:
    """A mask as bool or as it is added to the scores: documents (B, T) -> bool (B, 1, T, T), True for the same one."""
    return mask[:, None, :, None] == mask[:, None, None, :] if is_documents(mask) else mask


def kept(keep: Any, drop: float, shape: tuple[int, ...], like: Any) -> Any:
    """What dropout keeps of weights (B, H, T, S), as a bool array: made where keep is the key of a stream.

    The words of a row begin at a multiple of four, so that neighbours come from one counter.
    """
    if keep is None or not philox.is_key(keep):
        return keep
    *rows, s = shape
    return philox.keep_mask(keep, drop, (*rows, -(-s // 4) * 4), like)[..., :s]


def shared(q: Any, *arrays: Any) -> list[Any]:
    """Keys and values with a head for each of the queries', repeated where a group of these shares one."""
    return [x if x.shape[1] == q.shape[1] else np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in arrays]


def of_groups(d: Any, heads: int) -> Any:
    """The gradient of repeated keys or values as that of the heads they were: (B, H, S, D) -> (B, heads, S, D)."""
    batch, repeated, s, width = d.shape
    return d if repeated == heads else d.reshape(batch, heads, repeated // heads, s, width).sum(axis=2)
