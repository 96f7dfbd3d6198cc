"""Losses, each in one op where composing them would keep or compute more."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd.registry import Partial, register
from tinygrad_llm.devices import array_module
from tinygrad_llm.kernels import sums
from tinygrad_llm.kernels.half import is_half, sum_dtype, wide


@register(prints="NllLossBackward0", half=True)
def cross_entropy(
    x: Any, targets: Any, weight: Any, *, ignore_index: int, reduction: str, label_smoothing: float
) -> Any:
    """-ln softmax(x)[target]: x (N, V), targets (N,) int, weight (V,) or None -> () or, for reduction "none", (N,).

    Rows whose target is ignore_index count for nothing. With smoothing s: (1 - s) times the target's loss plus s / V
    times the sum of every class's, each weighted. "mean" divides by the sum of the targets' weights.
    Captures x and one number a row, never probabilities (N, V). Source: Szegedy et al., Rethinking the Inception
    Architecture (2016), section 7.
    """
    n, v = x.shape
    counted = targets != ignore_index
    safe = np.where(counted, targets, np.zeros_like(targets))
    k = kernels.of(x)
    nll, lse = k.cross_entropy(x, safe)
    weight = wide(weight)
    w = (counted if weight is None else np.where(counted, weight[safe], np.zeros_like(lse))).astype(lse.dtype)
    loss = (1 - label_smoothing) * w * nll
    if label_smoothing:
        total_weight = v if weight is None else sums(weight, None)
        sum_x = sums(wide(x), (1,)) if weight is None else wide(x) @ weight  # sum_c w_c x_c
        loss += label_smoothing / v * counted * (total_weight * lse - sum_x)
    loss = np.where(counted, loss, np.zeros_like(loss))  # a row that is ignored may hold inf or nan
    divisor = sums(w, None) if reduction == "mean" else None
    y = loss if reduction == "none" else sums(loss, None) if divisor is None else sums(loss, None) / divisor

    def dx(g: Any) -> Any:
        g = wide(g)
        row = np.broadcast_to(g if divisor is None else g / divisor, (n,))
        g_target = (1 - label_smoothing) * w * row
        g_softmax, g_all = g_target, np.zeros_like(g_target)
        if label_smoothing:
            spread = np.where(counted, label_smoothing / v * row, np.zeros_like(row))
            g_softmax = g_softmax + spread * total_weight
            g_all = -spread if weight is None else g_all
        d = k.cross_entropy_backward(x, safe, lse, g_target, g_softmax, g_all)
        if label_smoothing and weight is not None:
            d = wide(d) - spread[:, None] * weight
        if not isinstance(d, np.ndarray):
            np.copyto(d, 0, where=~counted[:, None])  # to ask whether there are any would wait for the GPU
        elif not counted.all():
            d[~counted] = 0
        return d

    return y.astype(x.dtype, copy=False), (dx, None, None)


@register(prints="NllLossBackward0", half=True)
def linear_cross_entropy(
    x: Any, weight: Any, targets: Any, *, ignore_index: int, reduction: str, needs: tuple[bool, bool]
) -> Any:
    """-ln softmax(x weight^T)[target]: x (N, C), weight (V, C), targets (N,) int -> (), the "sum" or the "mean".

    Rows whose target is ignore_index count for nothing and cost nothing. needs: which gradients backward may ask for.
    They are computed at once, while a block of logits is at hand, so that the (N, V) of them never stand in memory;
    backward hands them over, and a second backward computes them again. Captures x, weight and their gradients.
    Of 16-bit floats the loss is float32, and what it weighs is multiplied in backward only: before, in float16, a
    gradient that is divided by thousands of rows would vanish, and no scaling of the loss could help.
    Source: Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models (2024), section 4; Hsu et al., Liger
    Kernel (2024), section 3.
    """
    if array_module(x) is not np:
        return _linear_cross_entropy_on_gpu(x, weight, targets, ignore_index, reduction, needs)
    counted = targets != ignore_index
    every = bool(counted.all())
    rows, ids = (x, targets) if every else (x[counted], targets[counted])
    share = 1.0 if reduction == "sum" else 1 / len(rows) if len(rows) else math.nan
    later = share if is_half(x) and len(rows) else 1.0
    g_rows = np.full_like(x, share / later, sum_dtype(x), shape=len(rows))
    compute = partial(kernels.of(x).linear_cross_entropy, rows, weight, ids, g_rows)
    nll, *ready = compute(needs)

    def pull(g: Any, needs: tuple[bool, ...]) -> tuple[Any, Any, None]:
        nonlocal ready
        dx, dweight = ready or compute(needs[:2])[1:]
        ready = []
        factor = g * later
        scaled = [d if d is None or factor == 1 else _times(d, factor) for d in (dx, dweight)]
        if scaled[0] is not None and not every:
            whole = np.zeros_like(scaled[0], shape=x.shape)
            whole[counted] = scaled[0]
            scaled[0] = whole
        return scaled[0] if needs[0] else None, scaled[1] if needs[1] else None, None

    return sums(nll, None) * share, pull


def _linear_cross_entropy_on_gpu(
    x: Any, weight: Any, targets: Any, ignore_index: int, reduction: str, needs: Any
) -> Any:
    """The same without a question that would wait for the GPU: a row that does not count has a gradient of 0."""
    counted = targets != ignore_index
    ids = np.where(counted, targets, np.zeros_like(targets))
    share = counted.astype(sum_dtype(x))
    total = sums(share, None) if reduction == "mean" else 1.0
    later = 1 / np.maximum(total, 1.0) if is_half(x) else 1.0
    share /= total
    g_rows = counted.astype(share.dtype) if is_half(x) else share
    compute = partial(kernels.of(x).linear_cross_entropy, x, weight, ids, g_rows)
    nll, *ready = compute(needs)

    def pull(g: Any, needs: tuple[bool, ...]) -> tuple[Any, Any, None]:
        nonlocal ready
        dx, dweight = ready or compute(needs[:2])[1:]
        ready = []
        dx, dweight = (None if d is None else _times(d, g * later) for d in (dx, dweight))
        return dx if needs[0] else None, dweight if needs[1] else None, None

    return sums(np.where(counted, nll, np.zeros_like(nll)) * share, None), pull


def _times(d: Any, factor: Any) -> Any:
    """A gradient times a factor of float32, in its memory unless it is of 16 bits."""
    return np.multiply(wide(d), factor) if is_half(d) else np.multiply(d, factor, out=d)


@register
def nll_loss(logp: Any, targets: Any, weight: Any, *, ignore_index: int, reduction: str) -> Any:
    """-logp[target]: logp (N, V), targets (N,) int, weight (V,) or None -> () or (N,). Captures one number a row."""
    counted = targets != ignore_index
    safe = np.where(counted, targets, np.zeros_like(targets))
    places = (array_module(logp).arange(len(safe)), safe)
    w = (counted if weight is None else np.where(counted, weight[safe], np.zeros_like(logp[places]))).astype(logp.dtype)
    loss = np.where(counted, -w * logp[places], np.zeros_like(w))
    divisor = sums(w, None) if reduction == "mean" else None
    y = loss if reduction == "none" else sums(loss, None) if divisor is None else sums(loss, None) / divisor
    shape = logp.shape

    def dlogp(g: Any) -> Any:
        row = -w * (g if divisor is None else g / divisor)
        return Partial(shape, places, np.where(counted, row, np.zeros_like(row)))  # 0 / 0 where no row counts

    return y, (dlogp, None, None)


@register(broadcasts=True)
def binary_cross_entropy(p: Any, y: Any) -> Any:
    """-(y ln p + (1 - y) ln(1 - p)), elementwise, the logarithms no less than -100. p in [0, 1]."""
    with np.errstate(divide="ignore"):
        log_p, log_q = np.maximum(np.log(p), -100), np.maximum(np.log1p(-p), -100)
    return -(y * log_p + (1 - y) * log_q), (
        lambda g: g * (p - y) / np.maximum(p * (1 - p), 1e-12),
        lambda g: g * (log_q - log_p),
    )


@register(broadcasts=True)
def binary_cross_entropy_with_logits(x: Any, y: Any, pos_weight: Any) -> Any:
    """-(c y ln s + (1 - y) ln(1 - s)), s = sigmoid(x), c = pos_weight or 1, in a form that cannot overflow."""
    c = 1 if pos_weight is None else pos_weight
    log_1p = np.log1p(np.exp(-np.abs(x)))
    minus_log_s, minus_log_1s = log_1p + np.maximum(-x, 0), log_1p + np.maximum(x, 0)

    def dx(g: Any) -> Any:
        s = 0.5 * (1 + np.tanh(0.5 * x))
        return g * ((1 - y) * s - c * y * (1 - s))

    return c * y * minus_log_s + (1 - y) * minus_log_1s, (
        dx,
        lambda g: g * (c * minus_log_s - minus_log_1s),
        lambda g: g * y * minus_log_s,
    )
