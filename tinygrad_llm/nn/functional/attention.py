"""Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm import dtypes
from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions.common import check_tensor
from tinygrad_llm.autograd.functions.shape import broadcast_shapes
from tinygrad_llm.autograd.ops import attention as attention_ops
from tinygrad_llm.autograd.tensor import Tensor, apply
from tinygrad_llm.nn.functional.common import check_probability, keep_mask, mask_key


@autocasts
def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T scale + mask) v: q (..., H, T, D), k (..., H, S, D), v (..., H, S, E) -> (..., H, T, E).

    scale: 1 / sqrt(D) unless given. attn_mask: bool (True takes part) or added to the scores, broadcast to (..., H, T,
    S). is_causal: query t sees keys 0..t. dropout_p: as in training; pass 0.0 for evaluation. enable_gqa: each key and
    value head serves a group of H / H_kv neighbouring query heads.

    Raises:
        RuntimeError: shapes or dtypes do not fit, or both a mask and is_causal are given.
    Source: Vaswani et al., Attention Is All You Need (2017), eq. 1; Ainslie et al., GQA (2023).
    """
    name = "scaled_dot_product_attention"
    q, k, v = (check_tensor(name, x, which) for x, which in ((query, "query"), (key, "key"), (value, "value")))
    check_probability(name, dropout_p)
    if min(x.ndim for x in (q, k, v)) < 2:
        raise RuntimeError(
            f"{name}: query, key and value need at least 2 dimensions, but have {q.ndim}, {k.ndim} and {v.ndim}"
        )
    if len({x.array.dtype for x in (q, k, v)}) > 1:
        raise RuntimeError(
            f"Expected query, key, and value to have the same dtype, but got {q.dtype}, {k.dtype} and {v.dtype}"
        )
    if attn_mask is not None and is_causal:
        raise RuntimeError(f"{name}: Explicit attn_mask should not be set when is_causal=True")
    if q.array.shape[-1] != k.array.shape[-1] or k.array.shape[-2] != v.array.shape[-2]:
        raise RuntimeError(
            f"{name}: query {list(q.shape)} and key {list(k.shape)} must agree in the last dimension, key and value "
            f"{list(v.shape)} in the last but one"
        )
    grouped = enable_gqa and k.array.shape[-3] != q.array.shape[-3]
    if grouped and (q.array.shape[-3] % k.array.shape[-3] or k.array.shape[-3] != v.array.shape[-3]):
        raise RuntimeError(
            f"{name}: {q.array.shape[-3]} query heads cannot be shared among {k.array.shape[-3]} key and "
            f"{v.array.shape[-3]} value heads"
        )
    lead = _leading(name, q, *(x[..., :1, :, :] for x in (k, v)) if grouped else (k, v))
    q4 = _four(q, lead)
    k4, v4 = (_four(x, (*lead[:-1], x.array.shape[-3]) if grouped else lead) for x in (k, v))
    mask = None if attn_mask is None else _mask_four(name, attn_mask, lead, q, k)
    keep = _keep((*q4.array.shape[:3], k.array.shape[-2]), dropout_p, q)
    y = apply(
        attention_ops.attention, q4, k4, v4, mask, keep,
        causal=is_causal,
        scale=1 / math.sqrt(q.array.shape[-1]) if scale is None else float(scale),
        drop=dropout_p,
    )  # fmt: skip
    return y if len(lead) == 2 else y.reshape(*lead, *y.array.shape[-2:]).contiguous()


@autocasts
def attention_of_packed(qkv: Tensor, heads: int, dropout_p: float = 0.0, mask: Tensor | None = None) -> Tensor:
    """Causal self-attention of queries, keys and values side by side: qkv (B, T, 3 C) -> (B, T, C).

    mask: bool (True takes part) or added to the scores, broadcast to (B, H, T, T), for what a query may not see
    although it came before; or whole numbers (B, T), the document of each position, of which a query sees its own.
    """
    batch, t, c3 = qkv.array.shape
    keep = _keep((batch, heads, t, t), dropout_p, qkv)
    how: dict[str, Any] = {"causal": True, "scale": 1 / math.sqrt(c3 // (3 * heads)), "drop": dropout_p}
    if mask is None or not mask.is_floating_point():
        return apply(attention_ops.attention_of_packed, qkv, mask, keep, heads=heads, **how)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))  # (B, H, T, D)
    return apply(attention_ops.attention, q, k, v, mask, keep, **how).transpose(1, 2).flatten(-2)


def _keep(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor | int | None:
    """What dropout keeps of weights (B, H, T, S): a mask drawn on the CPU; for a GPU the key of a stream."""
    if not p:
        return None
    return keep_mask(shape, p, like) if like.is_cpu else mask_key()


def _leading(name: str, *tensors: Tensor) -> tuple[int, ...]:
    """The leading dimensions that query, key and value broadcast to."""
    try:
        return tuple(broadcast_shapes(*(x.array.shape[:-2] for x in tensors)))
    except RuntimeError:
        shapes = ", ".join(str(list(x.shape)) for x in tensors)
        raise RuntimeError(
            f"{name}: the leading dimensions of {shapes} do not broadcast; for grouped heads pass enable_gqa=True"
        ) from None


def _four(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    """(..., T, D) -> (B, H, T, D), leading dimensions broadcast and joined into two."""
    if x.array.shape[:-2] != lead:
        x = x.expand(*lead, *x.array.shape[-2:])
    if len(lead) == 2:
        return x
    heads = lead[-1] if lead else 1
    return x.reshape(math.prod(lead[:-1]), heads, *x.array.shape[-2:])


def _mask_four(name: str, mask: Tensor, lead: tuple[int, ...], q: Tensor, k: Tensor) -> Tensor:
    """A mask that broadcasts to (..., T, S) as one that broadcasts to (B, H, T, S)."""
    full = (*lead, q.array.shape[-2], k.array.shape[-2])
    if mask.dtype is not dtypes.bool_ and mask.dtype is not q.dtype:
        raise RuntimeError(
            f"{name}: Expected attn_mask dtype to be bool or to match query dtype, but got {mask.dtype} and {q.dtype}"
        )
    try:
        fits = np.broadcast_shapes(mask.array.shape, full) == full
    except ValueError:
        fits = False
    if not fits:
        raise RuntimeError(f"{name}: attn_mask {list(mask.shape)} does not broadcast to {list(full)}")
    if len(lead) == 2:
        return mask if mask.ndim <= 4 else mask.reshape(mask.array.shape[-4:])
    return _four(mask.expand(*full), lead)
