"""The kernels tuned for NumPy: tiles that stay in the cache, spread over threads, work in place, row sums as products.

Each function computes what `reference` specifies under the same name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tinygrad_llm.kernels.cpu_attention import attention, attention_backward
from tinygrad_llm.kernels.cpu_elementwise import activate, activate_backward, dropout, erf
from tinygrad_llm.kernels.cpu_int8 import int8_pack, int8_unpack
from tinygrad_llm.kernels.cpu_loss import (
    cross_entropy,
    cross_entropy_backward,
    linear_cross_entropy,
    softmax,
    softmax_backward,
)
from tinygrad_llm.kernels.cpu_matmul import matmul
from tinygrad_llm.kernels.cpu_norm import layer_norm, layer_norm_backward, rms_norm, rms_norm_backward
from tinygrad_llm.kernels.cpu_update import adamw, clip, sum_squares
from tinygrad_llm.kernels.half import takes_half
from tinygrad_llm.kernels.memory import keep_freed_memory
from tinygrad_llm.kernels.reductions import column_sums
from tinygrad_llm.kernels.reference import KERNELS
from tinygrad_llm.kernels.shortcut import behind_a_shortcut

keep_freed_memory()


def add_at(buffer: np.ndarray, index: Any, values: np.ndarray) -> None:
    """buffer[index] += values.

    Whole rows by number: a product with one-hot rows for a small table, else row after row.
    """
    rows = isinstance(index, np.ndarray) and index.dtype.kind == "i" and buffer.ndim == 2
    if not rows or buffer.shape[1] < 16:
        np.add.at(buffer, index, values)
        return
    ids, values = index.reshape(-1), values.reshape(-1, buffer.shape[1])
    if len(buffer) <= 128 and np.isfinite(values).all():  # the product would spread inf and nan over all rows
        one_hot = np.zeros((len(buffer), ids.size), buffer.dtype)
        one_hot[ids, np.arange(ids.size)] = 1
        buffer += one_hot @ values
        return
    for i, row in zip(ids.tolist(), values, strict=True):
        buffer[i] += row


dropout_add_norm, dropout_add_norm_backward = behind_a_shortcut(dropout, layer_norm, layer_norm_backward)


def linear(x: np.ndarray, weight: np.ndarray, bias: Any) -> np.ndarray:
    """x weight^T + bias."""
    y = matmul(x, weight.T)
    if bias is not None:
        y += bias
    return y


def linear_gradients(g: np.ndarray, x: np.ndarray, needs: tuple[bool, bool], into: Any = None) -> tuple[Any, Any]:
    """g^T x and the sums of g's columns."""
    dweight = matmul(g.T, x) if needs[0] else None
    if into is not None:
        into += dweight
        dweight = into
    return dweight, column_sums(g) if needs[1] else None


def linear_activate(x: np.ndarray, weight: np.ndarray, bias: Any, form: str) -> tuple[Any, Any]:
    """h = x weight^T + bias and f(h)."""
    h = linear(x, weight, bias)
    return h, activate(h, None, form)


_FLOAT32 = dataclasses.replace(
    KERNELS,
    matmul=matmul,
    linear=linear,
    linear_gradients=linear_gradients,
    linear_activate=linear_activate,
    erf=erf,
    activate=activate,
    activate_backward=activate_backward,
    dropout=dropout,
    softmax=softmax,
    softmax_backward=softmax_backward,
    layer_norm=layer_norm,
    layer_norm_backward=layer_norm_backward,
    rms_norm=rms_norm,
    rms_norm_backward=rms_norm_backward,
    dropout_add_norm=dropout_add_norm,
    dropout_add_norm_backward=dropout_add_norm_backward,
    attention=attention,
    attention_backward=attention_backward,
    cross_entropy=cross_entropy,
    cross_entropy_backward=cross_entropy_backward,
    linear_cross_entropy=linear_cross_entropy,
    add_at=add_at,
    adamw=adamw,
    sum_squares=sum_squares,
    clip=clip,
    int8_pack=int8_pack,
    int8_unpack=int8_unpack,
)
CPU = takes_half(_FLOAT32)
