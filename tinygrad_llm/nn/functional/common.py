"""Checks and draws that several functions share."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import devices, random
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
    """A mask of dropout on the device of another tensor."""
    return wrap(devices.move(random.default_generator.keep_mask(shape, p), like.device))


def keep_mask_like(x: Tensor, p: float) -> Tensor:
    """A mask drawn in the order in which x lies in memory."""
    array = x.array
    if array.flags.c_contiguous or 0 in array.strides:
        return keep_mask(array.shape, p, x)
    order = np.argsort([-stride for stride in array.strides], kind="stable").tolist()
    return keep_mask(tuple(array.shape[d] for d in order), p, x).permute(np.argsort(order).tolist())
