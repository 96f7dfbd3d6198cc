"""Scaled dot-product attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd.graph import sum_to_shape
from tinygrad_llm.autograd.registry import register


@register(prints="ScaledDotProductFlashAttentionForCpuBackward0", half=True)
def attention(q: Any, k: Any, v: Any, mask: Any, keep: Any, *, causal: bool, scale: float, drop: float) -> Any:
    """softmax(q k^T scale + mask) v: q (B, H, T, D), k (B, K, S, D), v (B, K, S, E) -> (B, H, T, E), K a divisor of H.

    mask: None, bool (True takes part) or floating (added to the scores, and differentiable), broadcast to (B, H, T, S);
    or whole numbers (B, T), the documents that queries see their own of. keep: None, bool (B, H, T, S), the weights
    that dropout leaves, or the key of a stream that tells; drop: their probability to be dropped.
    Captures q, k, v, the result and, where they are few, the probabilities (B, H, T, S). The gradients share the
    scores' gradient, so one kernel computes them. Source: Vaswani et al., Attention Is All You Need (2017), eq. 1.
    """
    kernel = kernels.of(q)
    y, saved = kernel.attention(q, k, v, mask, causal, scale, keep, drop)
    mask_shape = () if mask is None else mask.shape

    def pull(g: Any, needs: Any) -> Any:
        dq, dk, dv, dscores = kernel.attention_backward(g, q, k, v, saved, scale, keep, drop, needs[3])
        return dq, dk, dv, None if dscores is None else sum_to_shape(dscores, mask_shape), None

    return y, pull


@register(half=True)
def attention_of_packed(
    qkv: Any, mask: Any, keep: Any, *, heads: int, causal: bool, scale: float, drop: float
) -> Any:
    """attention of queries, keys and values that lie side by side: qkv (B, T, 3 C) -> (B, T, C), C = H D.

    One op for what is some fifteen, views for the most part, and a gradient that is written where it belongs. mask: as
    there, but without a gradient.
    """
    batch, t, c3 = qkv.shape
    kernel = kernels.of(qkv)

    def parts(x: Any) -> Any:
        return x.reshape(batch, t, 3, heads, c3 // (3 * heads)).transpose(2, 0, 3, 1, 4)  # (3, B, H, T, D)

    q, k, v = parts(qkv)
    y, saved = kernel.attention(q, k, v, mask, causal, scale, keep, drop)

    def dqkv(g: Any) -> Any:
        d = np.empty_like(qkv, order="C")
        by_heads = g.reshape(batch, t, heads, -1).swapaxes(1, 2)
        kernel.attention_backward(by_heads, q, k, v, saved, scale, keep, drop, False, tuple(parts(d)))
        return d

    return y.swapaxes(1, 2).reshape(batch, t, c3 // 3), (dqkv, None, None)
