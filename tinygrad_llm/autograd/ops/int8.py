"""Products with a frozen weight that is kept in eight bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd.ops.linalg import wide_product
from tinygrad_llm.autograd.registry import register
from tinygrad_llm.kernels import as_rows, column_sums
from tinygrad_llm.kernels.tiling import tiles

AT_ONCE = 1_048_576  # weights that stand unpacked in memory at a time


@register(prints="ViewBackward0", half=True)
def int8_linear(x: Any, codes: Any, scales: Any, bias: Any) -> Any:
    """x weight^T + bias: x (..., K), weight (N, K) = codes scales block by block, bias (N,) or None -> (..., N).

    A few rows of the weight are unpacked at a time, in backward again, so that all of it never stands in memory.
    dx captures codes and scales, which have no gradient.
    Source: Dettmers et al., QLoRA: efficient finetuning of quantized LLMs (2023), equation 5, with eight bits.
    """
    k, rows, shape, dtype = kernels.of(x), as_rows(x), x.shape, x.dtype
    parts = tiles(len(codes), max(1, AT_ONCE // max(shape[-1], 1)))
    y = np.empty_like(rows, shape=(len(rows), len(codes)), order="C")

    def unpacked(part: slice) -> Any:
        return k.int8_unpack(codes[part], scales[part]).astype(dtype, copy=False)

    for part in parts:
        y[:, part] = k.matmul(rows, unpacked(part).T)
    if bias is not None:
        y += bias

    def dx(g: Any) -> Any:
        g = as_rows(g)
        d = None
        for part in parts:
            term = wide_product(k.matmul, g[:, part], unpacked(part))
            d = term if d is None else np.add(d, term, out=d)
        return (np.zeros_like(g, shape=shape) if d is None else d).reshape(shape)

    return y.reshape(*shape[:-1], len(codes)), (dx, None, None, lambda g: column_sums(as_rows(g)))
