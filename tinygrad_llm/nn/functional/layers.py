"""Linear layers, tables, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from tinygrad_llm import dtypes, kernels
from tinygrad_llm.autograd.autocast import autocasts, narrow_dtype, narrowed
from tinygrad_llm.autograd.functions import elementwise as _elementwise
from tinygrad_llm.autograd.functions.common import check_tensor, outside, result_type
from tinygrad_llm.autograd.in_place import write
from tinygrad_llm.autograd.ops import elementwise as ops
from tinygrad_llm.autograd.ops import index as index_ops
from tinygrad_llm.autograd.ops import int8 as int8_ops
from tinygrad_llm.autograd.ops import linalg as linalg_ops
from tinygrad_llm.autograd.ops import norm as norm_ops
from tinygrad_llm.autograd.pair import PairOp
from tinygrad_llm.autograd.tensor import Tensor, apply, printing, wrap
from tinygrad_llm.kernels.half import sum_dtype
from tinygrad_llm.nn.functional.activation import gelu, silu
from tinygrad_llm.nn.functional.common import check_probability, keep_mask_like
from tinygrad_llm.nn.functional.norm import layer_norm


@autocasts
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: x (..., K), weight (N, K) or (K,), bias (N,) -> (..., N)."""
    check_tensor("linear", input)
    if input.array.dtype != weight.array.dtype:
        raise RuntimeError(f"linear: input is {input.dtype} and weight {weight.dtype}; convert one with .to()")
    if weight.ndim == 1:
        return linear(input, weight.reshape(1, -1), bias).squeeze(-1)
    if not input.ndim or input.array.shape[-1] != weight.array.shape[-1]:
        rows = math.prod(input.array.shape[:-1])
        n, k = weight.array.shape
        last = input.array.shape[-1] if input.ndim else "no"
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({rows}x{last} and {k}x{n}): linear: the last dimension of "
            f"input {list(input.shape)} must match weight {list(weight.shape)}"
        )
    if bias is not None and bias.array.shape not in ((weight.array.shape[0],), (1,), ()):
        raise RuntimeError(
            f"linear: bias {list(bias.shape)} must have one element for each row of weight {list(weight.shape)}"
        )
    if bias is not None and bias.array.shape != (weight.array.shape[0],):
        bias = bias.expand(weight.array.shape[0])
    if input.ndim == 2:
        op = linalg_ops.linear_of_rows_without_bias if bias is None else linalg_ops.linear_of_rows
    else:
        op = linalg_ops.linear_without_bias if bias is None else linalg_ops.linear
    return apply(op, input, weight, bias)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {  # by the kernels' names
    "gelu": gelu, "gelu_tanh": partial(gelu, approximate="tanh"), "silu": silu
}  # fmt: skip


@autocasts
def activated_linear(input: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor | None, form: str) -> Tensor:
    """linear(f(input + shift), weight, bias), f one of ACTIVATIONS, which keeps input alone for backward."""
    given = [tensor.array for tensor in (input, shift, weight) if tensor is not None]
    if len({(array.dtype, array.shape[-1:]) for array in given}) > 1:
        return linear(ACTIVATIONS[form](input if shift is None else input + shift), weight, bias)  # for its errors
    return apply(linalg_ops.activated_linear, input, shift, weight, bias, form=form)


@autocasts
def feed_forward(
    input: Tensor, weight1: Tensor, bias1: Tensor | None, weight2: Tensor, bias2: Tensor | None, form: str
) -> Tensor:
    """linear(f(linear(input, weight1, bias1)), weight2, bias2), f one of ACTIVATIONS."""
    fits = weight1.array.shape[-1:] == input.array.shape[-1:] and weight2.array.shape[1:] == weight1.array.shape[:1]
    if not fits or len({input.dtype, weight1.dtype, weight2.dtype}) > 1:
        return linear(ACTIVATIONS[form](linear(input, weight1, bias1)), weight2, bias2)  # for its errors
    return apply(linalg_ops.feed_forward, input, weight1, bias1, weight2, bias2, form=form)


@autocasts
def lora_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float, parts: int = 1
) -> Tensor:
    """linear(input, weight, bias) + scale (input A) B, in one op."""
    return apply(linalg_ops.lora_linear, input, weight, bias, A, B, scale=scale, parts=parts)


def int8_linear(input: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """linear(input, weight, bias) with a frozen weight (N, K) in eight bits: codes (N, K), a scale a block of a row."""
    check_tensor("int8_linear", input)
    (input,) = narrowed(input)
    if input.array.dtype != scales.array.dtype and narrow_dtype(input) is None:
        raise RuntimeError(f"int8_linear: input is {input.dtype} and scales {scales.dtype}; convert one with .to()")
    if not input.ndim or input.array.shape[-1] != codes.array.shape[-1]:
        raise RuntimeError(
            f"int8_linear: the last dimension of input {list(input.shape)} must match codes {list(codes.shape)}"
        )
    return apply(int8_ops.int8_linear, input, codes, scales, bias)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """weight[ids]: ids (...) int, weight (V, C) -> (..., C). The row padding_idx receives no gradient.

    Raises:
        IndexError: an id is outside [0, V).
    """
    if check_tensor("embedding", input).dtype not in (dtypes.int64, dtypes.int32):
        raise RuntimeError(f"embedding: ids must be int64 or int32, not {input.dtype}; convert with .long()")
    if weight.ndim != 2:
        raise RuntimeError(f"'weight' must be 2-D, not {list(weight.shape)}")
    rows, ids = weight.array.shape[0], input.array
    bad = outside("embedding", ids, 0, rows)
    if bad is not None:
        raise IndexError(
            f"index out of range in self: embedding: id {bad} is not in a table of {rows} rows (0 to {rows - 1})"
        )
    if padding_idx is None:
        return apply(index_ops.embedding, weight, input)
    if not -rows <= padding_idx < rows:
        raise AssertionError(
            f"padding_idx must be within num_embeddings: {padding_idx} is not in a table of {rows} rows"
        )
    # the rows looked up at padding_idx go through a mask, so that what flows back to that row is zero
    table = apply(index_ops.embedding, weight, input)
    padded = wrap((ids == padding_idx % rows)[..., None])
    return printing(_elementwise.where(padded, table.detach(), table), "EmbeddingBackward0")


def int8_embedding(input: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """embedding(input, weight) with a frozen table (V, C) in eight bits, of which only these rows are unpacked."""
    rows, of_rows = embedding(input, codes).array, embedding(input, scales).array
    columns, blocks = rows.shape[-1], of_rows.shape[-1]
    count = math.prod(input.shape)
    table = kernels.of(rows).int8_unpack(rows.reshape(count, columns), of_rows.reshape(count, blocks))
    return wrap(table.reshape(rows.shape))


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training: each element 0 with probability p, else x / (1 - p). Otherwise x itself."""
    check_probability("dropout", p)
    if not training or p == 0 or not input.array.size:
        return input
    y = input * 0.0 if p == 1 else apply(ops.dropout, input, keep_mask_like(input, p), p=p)
    return write(input, y, "dropout") if inplace else y


def dropout_add(input: Tensor, shortcut: Tensor, p: float, training: bool) -> Tensor:
    """shortcut + dropout(input, p, training), in one pass over the memory."""
    x, y = input.array, shortcut.array
    if (
        not training
        or not 0 < p < 1
        or not x.size
        or x.shape != y.shape
        or result_type(input, shortcut) is not shortcut.dtype
    ):
        return shortcut + dropout(input, p, training)
    return apply(ops.dropout_add, input, keep_mask_like(input, p), shortcut, p=p)


add_norm = PairOp(norm_ops.dropout_add_norm, "AddBackward0", "NativeLayerNormBackward0")


def dropout_add_norm(
    input: Tensor, shortcut: Tensor, p: float, training: bool, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """s = shortcut + dropout(input, p, training), and layer_norm(s, s.shape[-1:], weight, bias, eps).

    On a GPU they are one op, which saves passes over the memory; NumPy, which makes them anyway, has an op for each.
    """
    params = [a.array for a in (weight, bias) if a is not None]
    if input.is_cpu or p == 1 or not _fit(input.array, shortcut.array, params):
        s = dropout_add(input, shortcut, p, training)
        return s, layer_norm(s, s.shape[-1:], weight, bias, eps)
    keep = keep_mask_like(input, p) if training and p else None
    return add_norm(input, keep, shortcut, weight, bias, p=p, eps=eps)


def _fit(x: Any, shortcut: Any, params: list[Any]) -> bool:
    """Whether `add_norm` takes these arrays: all of one dtype, or float32 beside 16-bit floats."""
    one_dtype = {a.dtype for a in (shortcut, *params)} <= {x.dtype, sum_dtype(x)}
    return bool(x.size) and one_dtype and x.shape == shortcut.shape and all(a.shape == x.shape[-1:] for a in params)
