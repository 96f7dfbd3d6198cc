"""Normalisation over the last axis."""

from __future__ import annotations

from typing import Any

from tinygrad_llm import kernels
from tinygrad_llm.autograd.registry import register


@register(prints="NativeLayerNormBackward0", half=True)
def layer_norm(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
    """(x - mean) rstd weight + bias over the last axis: x (..., C), weight (C,), bias (C,) or None -> (..., C).

    Captures x, weight, and two numbers a row. The three gradients share two row sums, so one kernel computes those that
    are needed. Source: Ba et al., Layer Normalization (2016), eq. 4.
    """
    k = kernels.of(x)
    y, mean, rstd = k.layer_norm(x, weight, bias, eps)

    def pull(g: Any, needs: Any) -> Any:
        return k.layer_norm_backward(g, x, weight, mean, rstd, needs)

    return y, pull


@register(prints="MulBackward0", half=True)
def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    """x weight / sqrt(mean(x^2) + eps) over the last axis: x (..., C), weight (C,) or None -> (..., C).

    Captures x, weight, and one number a row. Source: Zhang and Sennrich, Root Mean Square Layer Normalization (2019),
    eq. 4.
    """
    k = kernels.of(x)
    y, rstd = k.rms_norm(x, weight, eps)

    def pull(g: Any, needs: Any) -> Any:
        return k.rms_norm_backward(g, x, weight, rstd, needs)

    return y, pull
