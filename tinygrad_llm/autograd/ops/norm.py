"""Normalisation over the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

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


def dropout_add_norm(x: Any, keep: Any, shortcut: Any, weight: Any, bias: Any, *, p: float, eps: float) -> Any:
    """s = shortcut + dropout(x), and its layer norm: x, shortcut (..., C), weight, bias (C,) or None -> s, y (..., C).

    keep: bool (...), the key of a stream that decides, or None to keep all. There is one way back for the two results,
    so that what the norm adds to the gradient of s is added as it is computed: see `autograd.pair`. Captures s, weight,
    keep and two numbers a row.
    """
    k = kernels.of(x)
    s, y, mean, rstd = k.dropout_add_norm(x, keep, p, shortcut, weight, bias, eps)

    def pull(gradients: Any, needs: Any) -> Any:
        d, g = gradients
        wanted = (needs[0], *needs[2:])
        if g is None:  # the norm was not used
            dx, ds = d if keep is None else k.dropout(d, keep, p), d
            dweight, dbias = (None if a is None else np.zeros_like(a) for a in (weight, bias))
        else:
            dx, ds, dweight, dbias = k.dropout_add_norm_backward(g, d, s, weight, mean, rstd, keep, p, wanted)
        if g is None or dx is ds:  # an array of two arguments, or of somebody else: nobody may write into a view
            dx, ds = (None if a is None else a[...] for a in (dx, ds))
        return dx, None, ds, dweight, dbias

    return (s, y), pull
