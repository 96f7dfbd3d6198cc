"""A token's step: the reference. Its acts write to arrays that are there, see `Kernels`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.devices import array_module
from tinygrad_llm.kernels.half import wide

CHUNK = 256  # positions that a part of a token's attention takes, where it is taken in parts
FEW = 8  # rows that each look at a weight by themselves; more take it in tiles, where it has 16 bits


def embedding_step(state: Any, draws: Any, u: Any, table: Any, places: Any, x: Any, seen: Any, most: int) -> None:
    """table[token] + places[length - 1] of each row, when its length has grown by one, but not beyond `most`."""
    tokens, lengths, steps = np.maximum(state[0], 0), state[1], state[2]
    rows = array_module(x).arange(len(x))
    np.minimum(lengths + 1, most, out=lengths)
    if draws is not None:
        u[:, 0] = draws[steps, rows]
    if seen is not None:
        seen[rows, tokens] = True
    steps += 1
    x[...] = table[tokens].astype(x.dtype) + places[lengths - 1].astype(x.dtype)


def penalize(x: Any, seen: Any, penalty: float) -> None:
    """x / penalty where it is positive, else x penalty, of what was seen."""
    x[...] = np.where(seen, np.where(x > 0, x / penalty, x * penalty), x)


def linear_step(
    x: Any, weight: Any, bias: Any, out: Any, norm: Any = None, form: str | None = None, add: bool = False,
    room: Any = None, ahead: Any = None,
) -> None:  # fmt: skip
    """f(W norm(x) + b), into out or added to it."""
    x = wide(x)
    if norm is not None:
        scale, shift, eps = norm
        scale, shift = (None if p is None else p.astype(x.dtype) for p in (scale, shift))
        x = kernels.REFERENCE.layer_norm(x, scale, shift, eps)[0]
    z = np.matmul(x, weight.astype(x.dtype).T)
    if bias is not None:
        z = z + bias.astype(x.dtype)
    if form is not None:
        z = kernels.REFERENCE.activate(z, None, form)
    out[...] = out + z if add else z


def attention_step(qkv: Any, keys: Any, values: Any, lengths: Any, scale: float, out: Any, room: Any) -> None:
    """Each row's new key and value put into its memory, then attention over all that counts there."""
    rows, kv_heads, size, d = keys.shape
    heads = out.shape[1] // d
    qkv = qkv.reshape(rows, heads + 2 * kv_heads, d)
    q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]  # (B, H or G, D)
    each = array_module(qkv).arange(rows)
    keys[each, :, lengths - 1], values[each, :, lengths - 1] = k, v
    k, v = (np.repeat(x.astype(qkv.dtype), heads // kv_heads, axis=1) for x in (keys, values))  # (B, H, S, D)
    mask = array_module(qkv).arange(size) < lengths[:, None, None, None]  # (B, 1, 1, S)
    y, _ = kernels.REFERENCE.attention(q[:, :, None], k, v, mask, False, scale, None, 1.0)
    out[...] = y.reshape(rows, -1)
