"""Matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd import registry
from tinygrad_llm.autograd.registry import Later, register
from tinygrad_llm.kernels import as_rows, column_sums, in_order
from tinygrad_llm.kernels.half import is_half, sum_dtype


def wide_product(product: Any, a: Any, b: Any) -> Any:
    """a @ b: (K, M) @ (M, N) -> (K, N), of 16-bit factors in float32, as weights' gradients are wanted."""
    return product(a, b, np.empty_like(a, np.float32, "C", shape=(len(a), b.shape[1])) if is_half(a) else None)


def later(shape: tuple[int, ...], g: Any, compute: Any) -> Any:
    """A gradient that a GPU's product may add to one that is there; at once on a CPU, or while somebody measures."""
    if isinstance(g, np.ndarray) or registry.watch is not None:
        return compute(None)
    return Later(shape, sum_dtype(g), compute, g)


@register(broadcasts=True, prints="UnsafeViewBackward0", half=True)
def matmul(a: Any, b: Any) -> Any:
    """a @ b: (..., m, k) @ (..., k, n) -> (..., m, n), leading axes broadcast.

    Each gradient captures the other factor.
    """
    k, n = b.shape[-2:]
    product = kernels.of(a).matmul
    if b.ndim == 2:  # one matrix for every leading index of a: two large products, not a batch of small ones

        def da(g: Any) -> Any:
            return product(as_rows(g), b.T).reshape(*g.shape[:-1], k)

        def db(g: Any) -> Any:
            return wide_product(product, as_rows(a).T, as_rows(g))

        return product(as_rows(a), b).reshape(*a.shape[:-1], n), (da, db)
    return product(a, b), (
        lambda g: product(g, b.swapaxes(-1, -2)),
        lambda g: product(a.swapaxes(-1, -2), g),
    )


mm = matmul.printing("MmBackward0")


@register(prints="ViewBackward0", half=True)
def linear(x: Any, weight: Any, bias: Any) -> Any:
    """x weight^T + bias: x (..., K), weight (N, K), bias (N,) or None -> (..., N).

    dx captures weight, dweight captures x: a frozen weight keeps no activation.
    """
    n = weight.shape[0]
    rows = as_rows(x)
    k = kernels.of(x)
    y = k.linear(rows, weight, bias)
    shape, biased = x.shape, bias is not None

    def dx(g: Any) -> Any:
        return k.matmul(as_rows(g), weight).reshape(shape)

    beside: tuple[Any, Any] = None, None  # a gradient, and dbias of it, which costs nothing beside dweight

    def dweight(g: Any) -> Any:
        def into(buffer: Any) -> Any:
            nonlocal beside
            d, sums = k.linear_gradients(as_rows(g), rows, (True, biased), buffer)
            if biased:
                beside = g, sums
            return d

        return later((n, shape[-1]), g, into)

    def dbias(g: Any) -> Any:
        def into(buffer: Any) -> Any:
            nonlocal beside
            (known, sums), beside = beside, (None, None)
            d = sums if known is g else column_sums(as_rows(g))
            return d if buffer is None else np.add(buffer, d, out=buffer)

        return later((n,), g, into)

    return y.reshape(*shape[:-1], n), (dx, dweight, dbias)


HIDDEN_KEPT = 1_048_576  # units: those of a small model are kept, since computing them again costs it more time


@register(prints="ViewBackward0", half=True)
def activated_linear(x: Any, shift: Any, weight: Any, bias: Any, *, form: str) -> Any:
    """f(x + shift) weight^T + bias: x (..., K), weight (N, K), shift (K,) and bias (N,) or None -> (..., N).

    The second half of a feed-forward network, from the first product on: shift is that layer's bias. form: f's, see
    `Kernels.activate`. Captures x, shift and weight; f(x + shift), which dweight needs and which is the largest array
    of a block, is computed again beside its derivative, unless it is small. dx lies where its product lay.
    """
    k = kernels.of(x)
    rows = as_rows(k.activate(x, shift, form))
    y = k.linear(rows, weight, bias)
    kept = rows if rows.size <= HIDDEN_KEPT else None

    def pull(g: Any, needs: tuple[bool, ...]) -> tuple[Any, Any, Any, Any]:
        g, dx, dshift, hidden = as_rows(g), None, None, kept
        again = np.empty_like(x, order="C") if needs[2] and hidden is None else None
        if needs[0] or needs[1]:
            d = k.matmul(g, weight).reshape(x.shape)
            dx, dshift = k.activate_backward(d, x, shift, form, needs, again, into=d)
        elif again is not None:
            k.activate_backward(x, x, shift, form, (False, False), again)  # for its bits, whatever else is needed
        if hidden is None and again is not None:
            hidden = as_rows(again)
        return dx, dshift, *k.linear_gradients(g, hidden, needs[2:])

    return y.reshape(*x.shape[:-1], weight.shape[0]), pull


@register(prints="ViewBackward0", half=True)
def feed_forward(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, *, form: str) -> Any:
    """f(x w1^T + b1) w2^T + b2: x (..., K), w1 (M, K), w2 (N, M), b1 (M,) and b2 (N,) or None -> (..., N).

    For a GPU, whose products add biases and apply GELU on their way. Captures x, w1, w2 and what f is applied to; f of
    it, which dw2 needs, is computed again beside its derivative.
    """
    k = kernels.of(x)
    rows = as_rows(x)
    h, hidden = k.linear_activate(rows, w1, b1, form)
    y = k.linear(hidden, w2, b2)

    def pull(g: Any, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        g, dx, dw1, db1 = as_rows(g), None, None, None
        again = np.empty_like(h, order="C") if needs[3] else None
        if any(needs[:3]):
            d = k.matmul(g, w2)
            dh, db1 = k.activate_backward(d, h, None, form, (True, needs[2]), again, into=d)
            dx = k.matmul(dh, w1).reshape(x.shape) if needs[0] else None
            dw1, _ = k.linear_gradients(dh, rows, (needs[1], False))
        elif again is not None:
            k.activate_backward(h, h, None, form, (False, False), again)  # for its bits, whatever else is needed
        return dx, dw1, db1, *k.linear_gradients(g, again, needs[3:])

    return y.reshape(*x.shape[:-1], w2.shape[0]), pull


@register(half=True)
def lora_linear(x: Any, weight: Any, bias: Any, a: Any, b: Any, *, scale: float, parts: int) -> Any:
    """x weight^T + bias + scale (x a) b: x (..., K), weight (N, K), a (K, R), b (R, N) -> (..., N).

    parts: the outputs are so many blocks side by side, each with a product of its own: a (K, parts R). Captures x,
    weight, a, b and x a, which is small; the gradient of a frozen weight is not computed.
    Source: Hu et al., LoRA: low-rank adaptation of large language models (2021), equation 3.
    """
    n, rank = weight.shape[0], b.shape[0]
    rows, shape = as_rows(x), x.shape
    k = kernels.of(x)
    product = k.matmul
    pairs = [(slice(i * rank, (i + 1) * rank), slice(i * n // parts, (i + 1) * n // parts)) for i in range(parts)]
    low = product(rows, a)  # (M, parts R)
    y = k.linear(rows, weight, bias)
    for inner, outer in pairs:
        y[:, outer] += product((low[:, inner] * scale).astype(low.dtype, copy=False), b[:, outer])

    def pull(g: Any, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        g, dx, dweight, da, db = as_rows(g), None, None, None, None
        if needs[0] or needs[3]:
            dlow = np.empty_like(low)
            for inner, outer in pairs:
                dlow[:, inner] = product(g[:, outer], b[:, outer].T) * scale
        if needs[0]:
            dx = product(g, weight)
            dx += product(dlow, a.T)
            dx = dx.reshape(shape)
        if needs[1]:
            dweight = wide_product(product, g.T, rows)
        if needs[3]:
            da = wide_product(product, rows.T, dlow)
        if needs[4]:
            db = np.empty_like(b, sum_dtype(b))
            for inner, outer in pairs:
                db[:, outer] = wide_product(product, low[:, inner].T, g[:, outer]) * scale
        return dx, dweight, column_sums(g) if needs[2] else None, da, db

    return y.reshape(*shape[:-1], n), pull


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
