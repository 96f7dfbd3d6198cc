"""Launchers of linear layers: what cublasLt computes within a product, and the same in steps where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels.cuda import products
from tinygrad_llm.kernels.cuda.elementwise import activate
from tinygrad_llm.kernels.cuda.launch import in_order
from tinygrad_llm.kernels.cuda.rows import column_sums
from tinygrad_llm.kernels.half import is_half, sum_dtype

MULTIPLE_OF_GELU = 8  # elements that a row of what GELU keeps must be a multiple of, in its product


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """x weight^T + bias: the bias is added before the result is rounded, where cublasLt does it."""
    if bias is None:
        return products.matmul(x, weight.T)
    if fits(x, weight, bias):
        y = np.empty_like(x, order="C", shape=(len(x), len(weight)))
        if products.run(products.plan(x, weight.T, y), epilogue="BIAS", bias=in_order(bias)):
            return y
    y = products.matmul(x, weight.T)
    y += bias.astype(y.dtype, copy=False)
    return y


def linear_gradients(g: Any, x: Any, needs: tuple[bool, bool], into: Any = None) -> tuple[Any, Any]:
    """g^T x, in into added to what is there, and the sums of g's columns: as one product where cublasLt does it."""
    if not needs[0]:
        return None, column_sums(g) if needs[1] else None
    add = into is not None
    dweight = into if add else np.empty_like(g, sum_dtype(g), "C", shape=(g.shape[1], x.shape[1]))
    if needs[1] and fits(g, x) and dweight.flags.c_contiguous and dweight.dtype == sum_dtype(g):
        dbias = np.empty_like(g, sum_dtype(g), shape=(g.shape[1],))
        if products.run(products.plan(g.T, x, dweight), add=add, epilogue="BGRADB", bias=dbias):
            return dweight, dbias
    return products.matmul(g.T, x, dweight, add), column_sums(g) if needs[1] else None


def linear_activate(x: Any, weight: Any, bias: Any, form: str) -> tuple[Any, Any]:
    """h = x weight^T + bias and f(h): in one product where f is GELU with a tanh and cublasLt is there."""
    if form == "gelu_tanh" and is_half(x) and len(weight) % MULTIPLE_OF_GELU == 0 and fits(x, weight, bias):
        y = np.empty_like(x, order="C", shape=(len(x), len(weight)))
        h = np.empty_like(y)
        epilogue = "GELU_AUX" if bias is None else "GELU_AUX_BIAS"
        if products.run(products.plan(x, weight.T, y), epilogue=epilogue, bias=in_order(bias), aux=h):
            return h, y
    h = linear(x, weight, bias)
    return h, activate(h, None, form)


def fits(*arrays: Any) -> bool:
    """Whether arrays, but for None, are of one dtype that cublasLt multiplies, and none is empty."""
    given = [x for x in arrays if x is not None]
    return all(x.size and x.dtype == given[0].dtype for x in given) and given[0].dtype in products.KINDS
