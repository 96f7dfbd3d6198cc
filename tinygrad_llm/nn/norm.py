"""Normalisation over the last axes, over the batch, over groups of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import empty, tensor, zeros

from . import functional as F
from . import init
from .module import Module
from .parameter import Parameter


def _as_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def _ones_and_zeros(weight: Tensor | None, bias: Tensor | None) -> None:
    if weight is not None:
        init.ones_(weight)
    if bias is not None:
        init.zeros_(bias)


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias: x (..., *normalized_shape) -> the same shape.

    Mean and variance are those over the axes of `normalized_shape`.
    Source: Ba, Kiros and Hinton, Layer normalization (2016), eq. 3 and 4.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape, self.eps, self.elementwise_affine = _as_shape(normalized_shape), eps, elementwise_affine

        def parameter(wanted: bool) -> Parameter | None:
            return Parameter(empty(self.normalized_shape, device=device, dtype=dtype)) if wanted else None

        self.weight = parameter(elementwise_affine)
        self.bias = parameter(elementwise_affine and bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight = 1, bias = 0."""
        _ones_and_zeros(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, bias={bias}"


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight: x (..., *normalized_shape) -> the same shape.

    The mean is that over the axes of `normalized_shape`; eps None is the dtype's epsilon.
    Source: Zhang and Sennrich, Root mean square layer normalization (2019), eq. 4.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape, self.eps, self.elementwise_affine = _as_shape(normalized_shape), eps, elementwise_affine
        self.weight = (
            Parameter(empty(self.normalized_shape, device=device, dtype=dtype)) if elementwise_affine else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight = 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class BatchNorm1d(Module):
    """(x - mean) / sqrt(var + eps) weight + bias for each channel: x (N, C) or (N, C, L) -> the same shape.

    In training mean and variance are the batch's; `running_mean` and `running_var` follow them by `momentum`, or with
    None are the averages over all batches so far, and serve in evaluation.

    Raises: ValueError for x of another rank.
    Source: Ioffe and Szegedy, Batch normalization (2015), algorithms 1 and 2.
    """

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats

        def parameter(wanted: bool) -> Parameter | None:
            return Parameter(empty(num_features, device=device, dtype=dtype)) if wanted else None

        self.weight, self.bias = parameter(affine), parameter(affine and bias)
        for name in ("running_mean", "running_var"):
            statistic = zeros(num_features, device=device, dtype=dtype) if track_running_stats else None
            self.register_buffer(name, statistic)
        self.register_buffer("num_batches_tracked", tensor(0, device=device) if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch seen."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """weight = 1, bias = 0, and the running statistics anew."""
        self.reset_running_stats()
        _ones_and_zeros(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {input.ndim}D input)")
        momentum = self.momentum or 0.0
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / self.num_batches_tracked.item()
        of_the_batch = self.training or self.running_mean is None
        follow = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if follow else None,
            self.running_var if follow else None,
            self.weight,
            self.bias,
            of_the_batch,
            momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class GroupNorm(Module):
    """(x - mean) / sqrt(var + eps) weight + bias, mean and variance over each group of channels: x (N, C, ...).

    Raises: ValueError unless num_groups divides num_channels.
    Source: Wu and He, Group normalization (2018), eq. 1 and 5.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine

        def parameter(wanted: bool) -> Parameter | None:
            return Parameter(empty(num_channels, device=device, dtype=dtype)) if wanted else None

        self.weight, self.bias = parameter(affine), parameter(affine and bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """weight = 1, bias = 0."""
        _ones_and_zeros(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={bias}"
