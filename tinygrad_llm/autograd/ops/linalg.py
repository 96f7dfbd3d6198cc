"""Matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.autograd.registry import register
from tinygrad_llm.kernels import as_rows, column_sums, in_order


@register(broadcasts=True, prints="UnsafeViewBackward0")
def matmul(a: Any, b: Any) -> Any:
    """a @ b: (..., m, k) @ (..., k, n) -> (..., m, n), leading axes broadcast.

    Each gradient captures the other factor.
    """
    k, n = b.shape[-2:]
    if b.ndim == 2:  # one matrix for every leading index of a: two large products, not a batch of small ones

        def da(g: Any) -> Any:
            return (as_rows(g) @ b.T).reshape(*g.shape[:-1], k)

        def db(g: Any) -> Any:
            return as_rows(a).T @ as_rows(g)

        return (as_rows(a) @ b).reshape(*a.shape[:-1], n), (da, db)
    return np.matmul(a, b), (
        lambda g: np.matmul(g, b.swapaxes(-1, -2)),
        lambda g: np.matmul(a.swapaxes(-1, -2), g),
    )


mm = matmul.printing("MmBackward0")


@register(prints="ViewBackward0")
def linear(x: Any, weight: Any, bias: Any) -> Any:
    """x weight^T + bias: x (..., K), weight (N, K), bias (N,) or None -> (..., N).

    dx captures weight, dweight captures x: a frozen weight keeps no activation.
    """
    n = weight.shape[0]
    rows = as_rows(x)
    y = rows @ weight.T
    if bias is not None:
        y += bias
    shape = x.shape

    def dx(g: Any) -> Any:
        return (as_rows(g) @ weight).reshape(shape)

    def dweight(g: Any) -> Any:
        return as_rows(g).T @ rows

    def dbias(g: Any) -> Any:
        return column_sums(as_rows(g))

    return y.reshape(*shape[:-1], n), (dx, dweight, dbias)


linear_of_rows, linear_of_rows_without_bias = linear.printing("AddmmBackward0"), linear.printing("MmBackward0")
linear_without_bias = linear.printing("UnsafeViewBackward0")


@register
def einsum(*xs: Any, inputs: tuple[str, ...], output: str) -> Any:
    """Sum of products by letters: inputs[i] names the axes of xs[i], each letter once; output those of the result.

    The gradient of xs[i] is the einsum of g and the other factors; a letter that only xs[i] has is repeated over.
    """

    def pullback(i: int) -> Any:
        others = [x for j, x in enumerate(xs) if j != i]
        names = [s for j, s in enumerate(inputs) if j != i]
        mine, shape = inputs[i], xs[i].shape

        def dx(g: Any) -> Any:
            known = "".join(c for c in mine if c in output or any(c in s for s in names))
            d = np.einsum(f"{','.join([output, *names])}->{known}", g, *others, optimize=True)
            lone = tuple(axis for axis, c in enumerate(mine) if c not in known)
            return np.broadcast_to(np.expand_dims(d, lone), shape)

        return dx

    y = np.einsum(f"{','.join(inputs)}->{output}", *xs, optimize=True)
    moved = len(xs) == 1 and len(inputs[0]) == len(output)  # then it is a view
    return y if moved else in_order(y), tuple(pullback(i) for i in range(len(xs)))
