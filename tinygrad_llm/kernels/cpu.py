"""The kernels tuned for NumPy: tiles that stay in the cache, spread over threads, work in place, row sums as products.

Each function computes what `reference` specifies under the same name.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev

from tinygrad_llm.kernels import as_rows
from tinygrad_llm.kernels.cpu_attention import attention, attention_backward
from tinygrad_llm.kernels.cpu_matmul import matmul
from tinygrad_llm.kernels.memory import empty_again, keep_freed_memory
from tinygrad_llm.kernels.reference import GELU_CUBIC, REFERENCE, SQRT_2_OVER_PI
from tinygrad_llm.kernels.threads import for_each
from tinygrad_llm.kernels.tiling import FAINT, MODERATE, TILE, row_dots, row_sums, row_tiles, tiles

keep_freed_memory()


LOGITS = 33_554_432  # that stand in memory at once between the head and its loss: fewer rows slow the products down
STRIP = 8192  # rows of the head's gradient that a product adds to at a time
ERF_LIMIT = 4.0  # from here on erf is 1 in float32


@lru_cache
def _erf_series() -> np.ndarray:
    """The Chebyshev series of erf(sqrt(u)) / sqrt(u) for u up to the square of the limit, in float32.

    It is half a unit in the last place too large, so that no rounding keeps erf below 1 where it is 1.
    """

    def ratio(t: np.ndarray) -> np.ndarray:
        roots = np.sqrt((t + 1) * (ERF_LIMIT * ERF_LIMIT / 2))
        return np.array([math.erf(r) / r for r in roots])

    series: Any = chebyshev.chebinterpolate(ratio, 18)
    return (series * (1 + 2**-24)).astype(np.float32)


def erf(x: np.ndarray) -> np.ndarray:
    """x C(x^2), C a Chebyshev series: right to a few units in the last place of float32. float64 is the reference's."""
    if x.dtype != np.float32:
        return REFERENCE.erf(x)
    out = np.empty(x.shape, x.dtype)
    flat_x, flat_out, series = x.reshape(-1), out.reshape(-1), _erf_series()

    def work(part: slice) -> None:
        clipped = np.clip(flat_x[part], -ERF_LIMIT, ERF_LIMIT)
        t = clipped * clipped
        t *= 2 / (ERF_LIMIT * ERF_LIMIT)
        t -= 1
        y = np.multiply(clipped, chebyshev.chebval(t, series), out=flat_out[part])
        np.clip(y, -1, 1, out=y)

    for_each(work, tiles(x.size))
    return out


def gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    """x s, s = sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) or (1 + erf(x / sqrt(2))) / 2.

    The sigmoid is (1 + tanh) / 2 of half its argument, by an exp, which NumPy computes with vectors on every processor.
    """
    y = np.empty(x.shape, x.dtype)
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)

    def work(part: slice) -> None:
        a, out = flat_x[part], flat_y[part]
        if approximate == "none":
            np.multiply(a, _normal_share(a, out), out=out)
        else:
            np.divide(a, _one_over_sigmoid(a, np.multiply(a, a, out=out), out), out=out)

    for_each(work, tiles(x.size))
    return y


def _normal_share(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """(1 + erf(x / sqrt(2))) / 2 into out."""
    out[...] = erf(x * math.sqrt(0.5))
    out += 1
    out *= 0.5
    return out


def _one_over_sigmoid(x: np.ndarray, square: np.ndarray, out: np.ndarray) -> np.ndarray:
    """1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3)) into out, which may be square itself: inf where x is far below 0."""
    np.multiply(square, -2 * SQRT_2_OVER_PI * GELU_CUBIC, out=out)
    out -= 2 * SQRT_2_OVER_PI
    out *= x
    np.exp(out, out=out)
    out += 1
    return out


def gelu_backward(g: np.ndarray, x: np.ndarray, approximate: str, y: np.ndarray | None = None) -> np.ndarray:
    """g (s + x s'): s is computed again rather than kept, and y = x s with it where it is wanted."""
    dx = np.empty(x.shape, x.dtype)
    flat_y = None if y is None else y.reshape(-1)
    flat_g, flat_x, flat_dx = g.reshape(-1), x.reshape(-1), dx.reshape(-1)

    def work(part: slice) -> None:
        a, d = flat_x[part], flat_dx[part]
        s = np.empty(a.shape, a.dtype)
        np.multiply(a, a, out=d)
        if approximate == "none":  # x s' = x exp(-x^2 / 2) / sqrt(2 pi)
            _normal_share(a, s)
            d *= -0.5
            np.exp(d, out=d)
            d *= a
            d *= 1 / math.sqrt(2 * math.pi)
            d += s
        else:  # x s' = s (1 - s) 2 sqrt(2/pi) (x + 3 0.044715 x^3)
            np.reciprocal(_one_over_sigmoid(a, d, s), out=s)
            d *= 6 * GELU_CUBIC * SQRT_2_OVER_PI
            d += 2 * SQRT_2_OVER_PI
            d *= 1 - s
            d *= s  # 0 where x is large: before the factor x, with which large numbers would overflow
            d *= a
            d += s
        d *= flat_g[part]
        if flat_y is not None:
            np.multiply(a, s, out=flat_y[part])

    for_each(work, tiles(x.size))
    return dx


def softmax(x: np.ndarray) -> np.ndarray:
    """exp(x - max) / sum along the last axis."""
    y = np.empty(x.shape, x.dtype)
    rows, out = as_rows(x), as_rows(y)

    def work(part: slice) -> None:
        sums, _ = exp_sums(rows[part], out=out[part])
        out[part] /= sums

    for_each(work, row_tiles(*rows.shape))
    return y


def exp_sums(x: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, Any]:
    """exp(x - shift) into out, its sums along the last axis (..., 1), and the shift.

    Where the largest of all is moderate no shift is needed, unless some row lies so far below it that its sum vanishes;
    only then is each row's own maximum taken out, which costs more than the exp.
    """
    top = x.max(initial=-np.inf)
    if -MODERATE < top < MODERATE:
        sums = row_sums(np.exp(x, out=out))
        if sums.min(initial=1.0) > FAINT:
            return sums, 0.0
    shift = x.max(axis=-1, keepdims=True, initial=-np.inf)
    np.subtract(x, shift, out=out)
    return row_sums(np.exp(out, out=out)), shift


def softmax_backward(g: np.ndarray, y: np.ndarray) -> np.ndarray:
    """y (g - sum(g y))."""
    dx = g - row_dots(g, y)
    dx *= y
    return dx


def layer_norm(x: np.ndarray, weight: Any, bias: Any, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x - mean) rstd weight + bias."""
    columns = x.shape[-1]
    rows = as_rows(x)
    y = np.empty(rows.shape, x.dtype)
    mean, rstd = np.empty((len(rows), 1), x.dtype), np.empty((len(rows), 1), x.dtype)

    def work(part: slice) -> None:
        out = y[part]
        mean[part] = row_sums(rows[part]) / columns
        np.subtract(rows[part], mean[part], out=out)
        rstd[part] = 1 / np.sqrt(row_dots(out, out) / columns + eps)
        out *= rstd[part]
        if weight is not None:
            out *= weight
        if bias is not None:
            out += bias

    for_each(work, row_tiles(*rows.shape))
    return y.reshape(x.shape), mean, rstd


def layer_norm_backward(
    g: np.ndarray, x: np.ndarray, weight: Any, mean: Any, rstd: Any, needs: Any
) -> tuple[Any, Any, Any]:
    """dx = rstd (u - mean(u) - h mean(u h)), dweight = sum g h, dbias = sum g; h = rstd c, c = x - mean(x)."""
    columns = x.shape[-1]
    rows, g_rows = as_rows(x), as_rows(g)
    parts = row_tiles(*rows.shape)
    dx = np.empty(rows.shape, x.dtype) if needs[0] else None
    dweights, dbiases = np.zeros((2, len(parts), columns), x.dtype)  # a row for each tile, summed up at the end

    def work(i: int) -> None:
        part = parts[i]
        g_part = g_rows[part]
        c, r = rows[part] - mean[part], rstd[part]
        if needs[1]:
            np.matmul(r[:, 0], g_part * c, out=dweights[i])
        if needs[2]:
            np.matmul(np.ones(len(c), x.dtype), g_part, out=dbiases[i])
        if dx is not None:
            u = g_part if weight is None else np.multiply(g_part, weight, out=dx[part])
            mean_u, mean_uc = row_sums(u) / columns, row_dots(u, c) / columns
            c *= mean_uc * r * r
            np.subtract(u, c, out=dx[part])
            dx[part] -= mean_u
            dx[part] *= r

    for_each(work, range(len(parts)))
    return (
        None if dx is None else dx.reshape(x.shape),
        dweights.sum(axis=0) if needs[1] else None,
        dbiases.sum(axis=0) if needs[2] else None,
    )


def rms_norm(x: np.ndarray, weight: Any, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """x rstd weight."""
    rows = as_rows(x)
    rstd = 1 / np.sqrt(row_dots(rows, rows) / x.shape[-1] + eps)
    y = rows * rstd
    if weight is not None:
        y *= weight
    return y.reshape(x.shape), rstd


def cross_entropy(x: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-ln softmax(x)[target] and the logsumexp of each row."""
    n, v = x.shape
    lse = np.empty(n, x.dtype)

    def work(part: slice) -> None:
        rows = x[part]
        sums, shift = exp_sums(rows, out=np.empty(rows.shape, x.dtype))
        lse[part] = (np.log(sums) + shift)[:, 0]

    for_each(work, row_tiles(n, v))
    return lse - x[np.arange(n), targets], lse


def cross_entropy_backward(
    x: np.ndarray, targets: np.ndarray, lse: np.ndarray, g_target: np.ndarray, g_softmax: np.ndarray, g_all: np.ndarray
) -> np.ndarray:
    """g_softmax softmax(x) - g_target onehot(target) + g_all."""
    dx = np.empty(x.shape, x.dtype)
    smoothed = bool(g_all.any())

    def work(part: slice) -> None:
        d = dx[part]
        np.subtract(x[part], lse[part, None], out=d)
        np.exp(d, out=d)
        d *= g_softmax[part, None]
        if smoothed:
            d += g_all[part, None]

    for_each(work, row_tiles(*x.shape))
    dx[np.arange(len(x)), targets] -= g_target
    return dx


def linear_cross_entropy(
    x: np.ndarray, weight: np.ndarray, targets: np.ndarray, g: np.ndarray, needs: tuple[bool, bool]
) -> tuple[np.ndarray, Any, Any]:
    """Cross-entropy of the logits x weight^T, and the gradients of sum(g nll): LOGITS of them at a time.

    A block of rows has its logits, their loss, their gradient in the same memory, and from it its part of dx and
    dweight: nothing is computed again in backward, and the logits of all rows never stand in memory.
    """
    (n, c), v = x.shape, len(weight)
    nll = np.empty(n, x.dtype)
    dx = np.empty((n, c), x.dtype) if needs[0] else None
    dweight = empty_again(x, (v, c)) if needs[1] else None
    if dweight is not None and not n:
        dweight.fill(0)  # no block of rows writes it
    blocks = tiles(n, max(1, LOGITS // max(v, 1)))
    buffer = empty_again(x, (max((b.stop - b.start for b in blocks), default=0), v))
    for block in blocks:
        d = matmul(x[block], weight.T, out=buffer[: block.stop - block.start])
        nll[block] = _loss_then_gradient(d, targets[block], g[block], any(needs))
        if dx is not None:
            matmul(d, weight, out=dx[block])
        if dweight is not None and block.start == 0:
            matmul(d.T, x[block], out=dweight)
        elif dweight is not None:
            _add_products(dweight, d.T, x[block])
    return nll, dx, dweight


def _add_products(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """y += a @ b, STRIP rows at a time: their product stays in the cache until it is added."""

    def work(some: slice) -> None:
        y[some] += a[some] @ b

    for_each(work, tiles(len(y), STRIP), each=1)


def _loss_then_gradient(x: np.ndarray, targets: np.ndarray, g: np.ndarray, needed: bool) -> np.ndarray:
    """The loss of each row of logits, which become their gradients, g (softmax(x) - onehot(target)), where needed."""
    nll = np.empty(len(x), x.dtype)

    def work(part: slice) -> None:
        rows, at = x[part], (np.arange(part.stop - part.start), targets[part])
        exps = np.empty(rows.shape, x.dtype)
        sums, shift = exp_sums(rows, out=exps)
        nll[part] = (np.log(sums) + shift)[:, 0] - rows[at]
        if needed:
            np.multiply(exps, g[part, None] / sums, out=rows)
            rows[at] -= g[part]

    for_each(work, row_tiles(*x.shape))
    return nll


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


def adamw(
    ps: Any, gs: Any, ms: Any, vs: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    step: int,
) -> None:  # fmt: skip
    """One step of AdamW in place, a tile at a time, so that p, g, m and v pass through the cache once."""
    rates = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay, "step": step}
    root = math.sqrt(1 - beta2**step)  # sqrt(v_hat) + eps = (sqrt(v) + eps root) / root: one pass less
    step_size = lr / (1 - beta1**step) * root
    pieces = []
    for p, g, m, v in zip(ps, gs, ms, vs, strict=True):
        if all(a.flags.c_contiguous for a in (p, m, v)):
            flat = [a.reshape(-1) for a in (p, g, m, v)]
            pieces += [[a[part] for a in flat] for part in tiles(p.size, 2 * TILE)]
        else:
            REFERENCE.adamw([p], [g], [m], [v], **rates)

    def work(piece: list[np.ndarray]) -> None:
        p_, g_, m_, v_ = piece
        t = g_ - m_
        t *= 1 - beta1
        m_ += t
        np.multiply(g_, g_, out=t)
        t -= v_
        t *= 1 - beta2
        v_ += t
        np.sqrt(v_, out=t)
        t += eps * root
        np.divide(m_, t, out=t)
        t *= step_size
        if weight_decay:
            p_ *= 1 - lr * weight_decay
        p_ -= t

    for_each(work, pieces)


def sum_squares(x: np.ndarray) -> Any:
    """sum x^2, as a dot product."""
    flat = x.reshape(-1)
    return np.dot(flat, flat)


CPU = dataclasses.replace(
    REFERENCE,
    matmul=matmul,
    erf=erf,
    gelu=gelu,
    gelu_backward=gelu_backward,
    softmax=softmax,
    softmax_backward=softmax_backward,
    layer_norm=layer_norm,
    layer_norm_backward=layer_norm_backward,
    rms_norm=rms_norm,
    attention=attention,
    attention_backward=attention_backward,
    cross_entropy=cross_entropy,
    cross_entropy_backward=cross_entropy_backward,
    linear_cross_entropy=linear_cross_entropy,
    add_at=add_at,
    adamw=adamw,
    sum_squares=sum_squares,
)
