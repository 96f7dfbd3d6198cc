"""Scaled dot-product attention."""

from __future__ import annotations

from typing import Any

from tinygrad_llm import kernels
from tinygrad_llm.autograd.graph import sum_to_shape
from tinygrad_llm.autograd.registry import register


@register(prints="ScaledDotProductFlashAttentionForCpuBackward0")
def attention(q: Any, k: Any, v: Any, mask: Any, keep: Any, *, causal: bool, scale: float, keep_scale: float) -> Any:
    """softmax(q k^T scale + mask) v: q (B, H, T, D), k (B, H, S, D), v (B, H, S, E) -> (B, H, T, E).

    mask: None, bool (True takes part) or floating (added to the scores, and differentiable), broadcast to (B, H, T, S).
    keep: None or bool (B, H, T, S), the weights that dropout leaves, which are multiplied by keep_scale.
    Captures q, k, v and the probabilities (B, H, T, S). The gradients share the scores' gradient, so one kernel
    computes them. Source: Vaswani et al., Attention Is All You Need (2017), eq. 1.
    """
    kernel = kernels.of(q)
    y, saved = kernel.attention(q, k, v, mask, causal, scale, keep, keep_scale)
    mask_shape = () if mask is None else mask.shape

    def pull(g: Any, needs: Any) -> Any:
        dq, dk, dv, dscores = kernel.attention_backward(g, q, k, v, saved, scale, keep, keep_scale, needs[3])
        return dq, dk, dv, None if dscores is None else sum_to_shape(dscores, mask_shape), None

    return y, pull
