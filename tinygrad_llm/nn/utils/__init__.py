"""Helpers over the parameters of a model: clipping gradients, and parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_llm import devices, kernels
from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.functions import cat
from tinygrad_llm.autograd.graph import note_write
from tinygrad_llm.nn.utils import rnn as rnn
from tinygrad_llm.profiler import record_function


@record_function("clip_grad_norm_")
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """g *= min(1, max_norm / (norm + 1e-6)) for every gradient, norm being that of all gradients as one vector.

    Returns the norm before clipping, a 0-d tensor; norm_type may be inf (the largest element).

    Raises: ValueError for a norm_type that is not positive; RuntimeError for a norm that is nan or inf, if
    `error_if_nonfinite` (otherwise such a norm spoils all gradients).
    Source: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks (2013), algorithm 1.
    """
    if not norm_type > 0:
        raise ValueError(f"clip_grad_norm_: norm_type must be a positive number or inf, not {norm_type}")
    grads = _grads(parameters)
    if not grads:
        return Tensor(0.0)
    arrays = devices.together("clip_grad_norm_", [grad.array for grad in grads], lend=False)
    for array in arrays:
        note_write(array)
    if norm_type == 2.0 and not error_if_nonfinite:  # without waiting for a GPU: the norm stays there
        return Tensor(devices.run(_clip, arrays[:1], arrays, float(max_norm)))
    total = devices.run(_total_norm, arrays[:1], arrays, float(norm_type))
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    scale = float(max_norm) / (total + 1e-6)
    if not scale >= 1.0:  # written so that nan scales too
        for array in arrays:
            devices.run(np.multiply, [array], array, scale, out=array)  # without the copy that mul_ would make
    return Tensor(arrays[0].dtype.type(total))


def _clip(arrays: list[Any], max_norm: float) -> Any:
    """Clips in place; the norm in the gradients' dtype."""
    return kernels.of(arrays[0]).clip(arrays, max_norm).astype(arrays[0].dtype)


def _total_norm(arrays: list[Any], p: float) -> float:
    """(sum |x|^p)^(1/p) over the elements of all arrays, summed between arrays in double precision."""
    if p == math.inf:
        return max(float(abs(x).max()) if x.size else 0.0 for x in arrays)
    if p == 2.0:
        return math.sqrt(sum(float(kernels.of(x).sum_squares(x)) for x in arrays))
    return sum(float((abs(x) ** p).sum()) for x in arrays) ** (1.0 / p)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """g = min(max(g, -clip_value), clip_value) for every element of every gradient."""
    with no_grad():
        for grad in _grads(parameters):
            grad.clamp_(-float(clip_value), float(clip_value))


def _grads(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters one after another: -> (number of elements,)."""
    return cat([parameter.reshape(-1) for parameter in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Write the slices of a vector (number of elements,) into the parameters, in their order.

    Raises: ValueError if the vector's length is not the number of elements.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected torch.Tensor, but got: {type(vec).__name__}")
    parameters = list(parameters)
    ends = np.cumsum([parameter.numel() for parameter in parameters], dtype=np.int64)
    total = int(ends[-1]) if parameters else 0
    if vec.shape != (total,):
        raise ValueError(f"vector_to_parameters: vec {tuple(vec.shape)} must have the parameters' {total} elements")
    with no_grad():
        for parameter, end in zip(parameters, ends.tolist(), strict=True):
            parameter.copy_(vec[end - parameter.numel() : end].reshape(parameter.shape))
