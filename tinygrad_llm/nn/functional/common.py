"""Checks and draws that several functions share."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import devices, kernels, random
from tinygrad_llm.autograd.functions.common import check_tensor
from tinygrad_llm.autograd.tensor import Tensor, wrap


def only_floating(name: str, input: Tensor) -> Tensor:
    """input, if its dtype is a floating one."""
    if not check_tensor(name, input).is_floating_point():
        raise NotImplementedError(f"{name}: not implemented for {input.dtype}; convert with .float()")
    return input


def check_probability(name: str, p: float) -> None:
    """Raise unless 0 <= p <= 1."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name} probability has to be between 0 and 1, but got {p}")


def keep_mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    """A mask of dropout on the device of another tensor: drawn on the CPU, or made on the GPU from a key drawn here."""
    if like.is_cpu:
        return wrap(random.default_generator.keep_mask(shape, p))
    with devices.on(like.device):
        return wrap(kernels.of(like.array).keep_mask(random.default_generator.key(), p, shape, like.array))


def mask_key() -> Tensor | int:
    """The key of a stream from which a GPU makes a mask: a number, or in a graph that is captured a place for one."""
    key = random.default_generator.key()
    return key if isinstance(key, int) else wrap(key)


def keep_mask_like(x: Tensor, p: float) -> Tensor | int:
    """A mask drawn in the order in which x lies in memory; on a GPU the key of a stream, from which kernels make it."""
    array = x.array
    if not x.is_cpu:
        return mask_key()
    if array.flags.c_contiguous or 0 in array.strides:
        return keep_mask(array.shape, p, x)
    order = np.argsort([-stride for stride in array.strides], kind="stable").tolist()
    return keep_mask(tuple(array.shape[d] for d in order), p, x).permute(np.argsort(order).tolist())
