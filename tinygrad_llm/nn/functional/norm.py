"""Normalisation."""

from __future__ import annotations

from typing import Any

from tinygrad_llm import dtypes
from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions.statistics import var_mean
from tinygrad_llm.autograd.grad_mode import no_grad
from tinygrad_llm.autograd.ops import norm as norm_ops
from tinygrad_llm.autograd.tensor import Tensor, apply, printing
from tinygrad_llm.nn.functional.common import only_floating


def _normalized_rows(
    name: str, input: Tensor, normalized_shape: Any, **parameters: Tensor | None
) -> tuple[Tensor, list[Any]]:
    """input and parameters with the normalised dimensions as one, after the checks."""
    shape = tuple(normalized_shape)
    if not shape or input.array.shape[-len(shape) :] != shape:
        raise RuntimeError(
            f"{name}: Given normalized_shape={list(shape)}, expected input with shape {['*', *shape]}, but got input "
            f"of size {list(input.shape)}"
        )
    for which, parameter in parameters.items():
        if parameter is not None and parameter.array.shape != shape:
            raise RuntimeError(f"{name}: {which} {list(parameter.shape)} must be of normalized_shape {list(shape)}")
    if len(shape) == 1:
        return input, list(parameters.values())
    rows = input.flatten(-len(shape))
    return rows, [p if p is None else p.reshape(-1) for p in parameters.values()]


@autocasts
def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias over the last dimensions, those of normalized_shape."""
    rows, (w, b) = _normalized_rows(
        "layer_norm", only_floating("layer_norm", input), normalized_shape, weight=weight, bias=bias
    )
    y = apply(norm_ops.layer_norm, rows, w, b, eps=eps)
    if y.array.shape != input.array.shape:
        y = printing(y.reshape(input.array.shape), "NativeLayerNormBackward0")
    return y


@autocasts
def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) weight over the last dimensions; eps is the dtype's own unless given."""
    rows, (w,) = _normalized_rows("rms_norm", only_floating("rms_norm", input), normalized_shape, weight=weight)
    if eps is None:  # of the dtype that is computed in: 16-bit floats are storage
        eps = dtypes.finfo(dtypes.promote_types(input.dtype, dtypes.float32)).eps
    y = apply(norm_ops.rms_norm, rows, w, eps=eps)
    return y if y.array.shape == input.array.shape else y.reshape(input.array.shape)


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """(x - mean) / sqrt(var + eps) weight + bias for each channel, which is dimension 1: x (N, C) or (N, C, ...).

    In training mean and variance are the batch's, and the running ones move by momentum towards it (the variance
    towards the unbiased one); otherwise they are the running ones.

    Raises:
        ValueError: training with one value a channel. RuntimeError: running statistics are wanted and missing.
    Source: Ioffe and Szegedy, Batch normalization (2015), algorithm 1.
    """
    channels = (1, -1, *(1,) * (input.ndim - 2))
    if training:
        count = input.numel() // max(input.size(1), 1)
        if count <= 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
        variance, average = var_mean(input, [d for d in range(input.ndim) if d != 1], correction=0)
        with no_grad():
            if running_mean is not None:
                running_mean.lerp_(average.detach().to(running_mean.dtype), momentum)
            if running_var is not None:
                unbiased = variance.detach() * (count / (count - 1))
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    elif running_mean is None or running_var is None:
        raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
    else:
        average, variance = running_mean, running_var
    y = (input - average.reshape(channels)) * (variance.reshape(channels) + eps).rsqrt()
    return printing(_scaled_channels(y, weight, bias), "NativeBatchNormBackward0")


def _scaled_channels(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """y weight + bias, a number of either (C,) for each channel, which is dimension 1."""
    channels = (1, -1, *(1,) * (y.ndim - 2))
    if weight is not None:
        y = y * weight.reshape(channels)
    return y if bias is None else y + bias.reshape(channels)


@autocasts
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias, mean and variance over each of num_groups groups of channels.

    x (N, C, ...), weight and bias (C,). Source: Wu and He, Group normalization (2018), eq. 1 and 5.
    """
    if input.ndim < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {input.ndim}")
    if num_groups < 1 or input.size(1) % num_groups:
        raise RuntimeError(
            f"Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{list(input.shape)} and num_groups={num_groups}"
        )
    rows = input.reshape(input.size(0), num_groups, -1)
    y = layer_norm(rows, rows.shape[-1:], eps=eps).reshape(input.shape)
    return printing(_scaled_channels(y, weight, bias), "NativeGroupNormBackward0")
