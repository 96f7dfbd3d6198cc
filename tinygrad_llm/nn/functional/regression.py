"""Losses of one number against another."""

from __future__ import annotations

import math

from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions.elementwise import where
from tinygrad_llm.autograd.functions.reduce import sum_
from tinygrad_llm.autograd.functions.shape import broadcast_tensors
from tinygrad_llm.autograd.tensor import Tensor, printing
from tinygrad_llm.nn.functional.loss import reduced
from tinygrad_llm.warning import warn


def _of_one_shape(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both broadcast to one shape, with PyTorch's warning where they have to be."""
    if input.array.shape != target.array.shape:
        warn(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). This will "
            "likely lead to incorrect results due to broadcasting. Please ensure they have the same size.",
        )
    first, second = broadcast_tensors(input, target)
    return first, second


def _weighted(losses: Tensor, weight: Tensor, reduction: str) -> Tensor:
    """Each loss times its weight; "mean" divides by the weights' sum."""
    losses = losses * weight
    if reduction == "mean":
        return sum_(losses) / sum_(weight.expand_as(losses))
    return reduced(losses, reduction)


@autocasts
def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """(input - target)^2, its mean or its sum."""
    input, target = _of_one_shape(input, target)
    difference = input - target
    squares = difference * difference
    if weight is not None:
        return _weighted(squares, weight, reduction)
    return printing(reduced(squares, reduction), "MseLossBackward0")


@autocasts
def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """|input - target|, its mean or its sum."""
    input, target = _of_one_shape(input, target)
    distances = abs(input - target)
    return reduced(distances, reduction) if weight is None else _weighted(distances, weight, reduction)


@autocasts
def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d^2 / (2 beta) where d = |input - target| < beta, else d - beta / 2.

    Raises:
        RuntimeError: beta is negative.
    """
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    input, target = _of_one_shape(input, target)
    d = abs(input - target)
    losses = where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)
    return printing(reduced(losses, reduction), "SmoothL1LossBackward0")


@autocasts
def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """d^2 / 2 where d = |input - target| <= delta, else delta (d - delta / 2).

    Raises:
        RuntimeError: delta is not positive. Source: Huber, Robust estimation of a location parameter (1964).
    """
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    input, target = _of_one_shape(input, target)
    d = abs(input - target)
    losses = where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))
    if weight is not None:
        return reduced(losses * weight, reduction)
    return printing(reduced(losses, reduction), "HuberLossBackward0")


@autocasts
def kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (ln target - input), 0 where target is 0: input holds logarithms, and with log_target target, too.

    reduction "batchmean" is the divergence itself, averaged over the first dimension; "mean" divides by all elements.
    """
    if reduction == "mean":
        warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size. 'batchmean' divides "
            "only by the batch size, and aligns with the KL div math definition.",
        )
    if log_target:
        losses = target.exp() * (target - input)
    else:
        logarithms = where(target > 0, target, 1.0).log()  # 0 ln 0 is 0
        losses = target * logarithms - target * input
    if reduction == "batchmean":
        return sum_(losses) / (input.size(0) if input.ndim else 1)
    return reduced(losses, reduction)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """(ln v + (input - target)^2 / v) / 2, v = max(var, eps), and ln(2 pi) / 2 with full.

    Raises:
        ValueError: a variance is negative, or its shape is neither input's nor that with a last dimension of 1.
    """
    variance = var if isinstance(var, Tensor) else input.new_full(input.shape, var)
    if variance.shape != input.shape:
        if input.shape[:-1] == variance.shape:
            variance = variance.unsqueeze(-1)
        elif input.shape[:-1] != variance.shape[:-1] or variance.size(-1) != 1:
            raise ValueError("var is of incorrect size")
    if (variance < 0).any():
        raise ValueError("var has negative entry/entries")
    clamped = variance.detach().clamp(min=eps) + variance - variance.detach()  # as if there were no bound
    losses = 0.5 * (clamped.log() + (input - target).square() / clamped)
    return reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


@autocasts
def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool = True, full: bool = False, eps: float = 1e-8, *,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """e^input - target input, without log_input input - target ln(input + eps); full adds Stirling's ln target!."""
    losses = input.exp() - target * input if log_input else input - target * (input + eps).log()
    if full:
        safe = where(target > 1, target, 1.0)
        stirling = target * safe.log() - target + 0.5 * (2 * math.pi * safe).log()
        losses = losses + where(target > 1, stirling, 0.0)
    return reduced(losses, reduction)


@autocasts
def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean") -> Tensor:
    """x where target is 1, max(margin - x, 0) where it is -1."""
    far = where(target != 1, (margin - input).clamp(min=0), input * 0)
    return reduced(far + where(target != -1, input, input * 0), reduction)


@autocasts
def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, *, reduction: str = "mean"
) -> Tensor:
    """max(-target (x1 - x2) + margin, 0): target 1 where x1 is to rank higher, -1 where x2 is."""
    if not input1.ndim == input2.ndim == target.ndim:
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.shape}, input2: {input2.shape}, target: {target.shape} "
        )
    return reduced((-target * (input1 - input2) + margin).clamp(min=0), reduction)


@autocasts
def soft_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """ln(1 + e^(-target x)), target 1 or -1."""
    losses = (-target * input).exp().log1p()
    return printing(reduced(losses, reduction), "SoftMarginLossBackward0")
