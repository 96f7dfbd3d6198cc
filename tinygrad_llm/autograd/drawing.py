"""Tensors of random numbers, from the default stream or a Generator's."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes, random
from tinygrad_llm.autograd.creation import checked, empty, finish, placed
from tinygrad_llm.autograd.functions.common import sizes
from tinygrad_llm.autograd.grad_mode import no_grad
from tinygrad_llm.autograd.methods import method
from tinygrad_llm.autograd.tensor import Tensor, wrap


def _float_dtype(name: str, dtype: dtypes.dtype | None) -> np.dtype:
    dtype = dtypes.argument(dtype) or dtypes.get_default_dtype()
    if not dtype.is_floating_point:
        raise NotImplementedError(f"{name}: not implemented for {dtype}; draw floats, or use randint")
    return dtype.numpy


def rand(
    *size: Any, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    draw = (generator or random.default_generator).uniform(checked(sizes(size)), _float_dtype("rand", dtype))
    return finish(draw, dtype, placed(device), requires_grad)


def randn(
    *size: Any, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Standard normal numbers."""
    draw = (generator or random.default_generator).normal(checked(sizes(size)), _float_dtype("randn", dtype))
    return finish(draw, dtype, placed(device), requires_grad)


def randint(
    low: int, high: Any = None, size: Any = None, *, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Integers in [low, high), or in [0, low) for randint(low, size)."""
    if size is None:
        low, high, size = 0, low, high
    if high <= low:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    draw = (generator or random.default_generator).integers(int(low), int(high), checked(sizes((tuple(size),))))
    return finish(draw, dtype, placed(device), requires_grad)


def randint_like(
    input: Tensor, low: int, high: int | None = None, *, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Integers in [low, high), or in [0, low), in input's shape and dtype."""
    low, high = (0, low) if high is None else (low, high)
    kind, device = dtype or input.dtype, device or input.device
    return randint(
        low, high, input.array.shape, generator=generator, dtype=kind, device=device, requires_grad=requires_grad
    )


def randperm(
    n: int, *, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """0, ..., n-1 in random order."""
    checked((n,))
    return finish((generator or random.default_generator).permutation(n), dtype, placed(device), requires_grad)


def rand_like(
    input: Tensor, *, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Uniform numbers in [0, 1) in input's shape and dtype."""
    kind, device = dtype or input.dtype, device or input.device
    return rand(input.array.shape, generator=generator, dtype=kind, device=device, requires_grad=requires_grad)


def randn_like(
    input: Tensor, *, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """Standard normal numbers in input's shape and dtype."""
    kind, device = dtype or input.dtype, device or input.device
    return randn(input.array.shape, generator=generator, dtype=kind, device=device, requires_grad=requires_grad)


def normal(
    mean: Tensor | float, std: Tensor | float = 1.0, size: Any = None, *, generator: Any = None, dtype: Any = None,
    device: Any = None, requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Normal numbers: of one mean and deviation in a size, or with each element's own of a tensor of either.

    Raises:
        RuntimeError: a deviation is negative. TypeError: two numbers without a size, or a tensor with one.
    """
    tensors = [x for x in (mean, std) if isinstance(x, Tensor)]
    if bool(tensors) != (size is None):
        raise TypeError("normal(): takes two numbers and a size, or a tensor of means or deviations and no size")
    if not tensors:
        drawn = empty(size, dtype=dtype, device=device).normal_(mean, std, generator=generator)
        return drawn.requires_grad_(requires_grad)
    if isinstance(std, Tensor) and (std.array < 0).any():
        raise RuntimeError("normal expects all elements of std >= 0.0")
    shape = np.broadcast_shapes(*(x.array.shape for x in tensors))
    scale = 1.0 if isinstance(std, Tensor) else std
    drawn = empty(shape, dtype=tensors[0].dtype, device=tensors[0].device).normal_(0.0, scale, generator=generator)
    with no_grad():
        return (drawn * std if isinstance(std, Tensor) else drawn) + mean


def bernoulli(input: Tensor, p: float | None = None, *, generator: Any = None) -> Tensor:
    """1 with the probability that the element gives (or p for all of them), else 0.

    Raises:
        RuntimeError: an element is no probability. NotImplementedError: input is not of floats.
    """
    if p is not None:
        return empty(input.array.shape, dtype=input.dtype, device=input.device).bernoulli_(p, generator=generator)
    if not input.is_floating_point():
        raise NotImplementedError(f"bernoulli: not implemented for {input.dtype}; convert with .float()")
    return empty(input.array.shape, dtype=input.dtype, device=input.device).bernoulli_(input, generator=generator)


@method
def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """Places of each row, drawn in proportion to its weights: (V,) or (N, V) -> int64 (S,) or (N, S), S = num_samples.

    Without replacement, and for one sample, the places with the largest weight / exponential draw win, which is drawing
    one after the other.

    Raises:
        RuntimeError: a weight is negative, inf or nan, a row sums to 0, or has fewer positive weights than samples.
    Source: Efraimidis and Spirakis, Weighted random sampling with a reservoir (2006).
    """
    if not input.is_floating_point():
        raise RuntimeError(f"multinomial only supports floating-point dtypes for input, got: {input.dtype}")
    weights = devices.move(input.array, devices.CPU).astype(np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    if (weights.sum(axis=-1) <= 0).any():
        raise RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)")
    if num_samples <= 0:
        raise RuntimeError("cannot sample n_sample <= 0 samples")
    stream = generator or random.default_generator
    rows = weights.astype(input.array.dtype)  # rounded where PyTorch rounds, so that the same places win
    if replacement and num_samples > 1:
        ends = np.cumsum(rows, axis=-1)
        ends /= ends[..., -1:]
        draw = stream.uniform((*rows.shape[:-1], num_samples), np.float64)
        places = (draw[..., None] > ends[..., None, :]).sum(axis=-1)
    else:
        if num_samples > weights.shape[-1]:
            raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
        if not replacement and ((weights > 0).sum(axis=-1) < num_samples).any():
            raise RuntimeError(
                f"invalid multinomial distribution (with replacement=False, not enough non-negative category to "
                f"sample {num_samples})"
            )
        exponential = -np.log1p(-stream.uniform(rows.shape, np.float64))
        keys = np.where(rows > 0, rows / np.maximum(exponential, 1e-300).astype(rows.dtype), -1.0)
        places = np.argsort(-keys, axis=-1, kind="stable")[..., :num_samples]
    return wrap(devices.move(places.astype(np.int64), input.device))
