"""The kernels in their shortest correct form: the specification of the others, never tuned.

They run on NumPy and CuPy arrays alike, since NumPy's functions hand CuPy arrays over to CuPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm.devices import array_module, special
from tinygrad_llm.kernels import INT8_BLOCK, Kernels, as_rows, of, philox
from tinygrad_llm.kernels import attention_forms as forms
from tinygrad_llm.kernels.half import takes_half, wide
from tinygrad_llm.kernels.philox import is_key, keep_mask
from tinygrad_llm.kernels.reductions import largest
from tinygrad_llm.kernels.sampling import sample
from tinygrad_llm.kernels.shortcut import behind_a_shortcut
from tinygrad_llm.kernels.step import attention_step, embedding_step, linear_step, penalize

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715


def matmul(a: Any, b: Any, out: Any = None) -> Any:
    """a @ b."""
    return np.matmul(a, b, out=out)


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """x weight^T + bias."""
    y = np.matmul(x, weight.T)
    return y if bias is None else y + bias


def linear_gradients(g: Any, x: Any, needs: tuple[bool, bool], into: Any = None) -> tuple[Any, Any]:
    """g^T x and the sums of g's columns."""
    dweight = np.matmul(g.T, x) if needs[0] else None
    if into is not None:
        into += dweight
        dweight = into
    return dweight, g.sum(axis=0) if needs[1] else None


def linear_activate(x: Any, weight: Any, bias: Any, form: str) -> tuple[Any, Any]:
    """h = x weight^T + bias and f(h)."""
    h = linear(x, weight, bias)
    return h, activate(h, None, form)


def erf(x: Any) -> Any:
    """The error function, elementwise: (...) -> (...). NumPy has none; C's is exact and, number by number, slow."""
    if array_module(x) is not np:
        return special("erf")(x)
    values = np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, count=x.size)
    return values.astype(x.dtype).reshape(x.shape)


def share(x: Any, form: str) -> tuple[Any, Any]:
    """The share s of x in an activation x s, and its derivative: (...) -> (...), (...).

    "gelu" s = Phi(x), the normal distribution function; "gelu_tanh" its form with a tanh; "silu" s = 1 / (1 + e^-x).
    Source: Hendrycks and Gimpel, Gaussian Error Linear Units (2016), section 2; Elfwing et al., SiLU (2018).
    """
    if form == "gelu":
        return 0.5 * (1 + erf(x * math.sqrt(0.5))), np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    if form == "silu":  # by a tanh, which does not overflow
        s = 0.5 * (1 + np.tanh(0.5 * x))
        return s, s * (1 - s)
    t = np.tanh(SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x))
    return 0.5 * (1 + t), 0.5 * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * x * x)


def activate(x: Any, bias: Any, form: str) -> Any:
    """z s(z), z = x + bias."""
    z = x if bias is None else x + bias
    return z * share(z, form)[0]


def activate_backward(
    g: Any, x: Any, bias: Any, form: str, needs: Any, y: Any = None, into: Any = None
) -> tuple[Any, Any]:
    """With z = x + bias: dx = g (s + z s'), dbias = sum dx over the rows."""
    z = x if bias is None else x + bias
    s, slope = share(z, form)
    dx = g * (s + z * slope)
    if y is not None:
        y[...] = z * s
    if into is not None:
        into[...] = dx
        dx = into
    return dx if needs[0] else None, as_rows(dx).sum(axis=0) if needs[1] else None


def dropout(x: Any, keep: Any, p: float, plus: Any = None) -> Any:
    """x keep / (1 - p) + plus. Source: Srivastava et al., Dropout (2014), section 4."""
    if is_key(keep):
        keep = keep_mask(keep, p, x.shape, x)
    y = x * keep
    y *= 1 / (1 - p)
    return y if plus is None else plus + y


def softmax(x: Any) -> Any:
    """exp(x - max) / sum(exp(x - max)) along the last axis."""
    e = np.exp(x - largest(x, (x.ndim - 1,)))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(g: Any, y: Any) -> Any:
    """y (g - sum(g y))."""
    return y * (g - (g * y).sum(axis=-1, keepdims=True))


def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    """(x - mean) rstd weight + bias, with the biased variance. Source: Ba et al., Layer Normalization (2016), eq. 4."""
    rows = as_rows(x)
    mean = rows.mean(axis=1, keepdims=True)
    rstd = 1 / np.sqrt(rows.var(axis=1, keepdims=True) + eps)
    y = (rows - mean) * rstd
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y.reshape(x.shape), mean, rstd


def layer_norm_backward(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, needs: Any) -> tuple[Any, Any, Any]:
    """dx = rstd (u - mean(u) - h mean(u h)), dweight = sum g h, dbias = sum g; h is the normalised x, u = g weight."""
    rows, g_rows = as_rows(x), as_rows(g)
    h = (rows - mean) * rstd
    dx = None
    if needs[0]:
        u = g_rows if weight is None else g_rows * weight
        dx = rstd * (u - u.mean(axis=1, keepdims=True) - h * (u * h).mean(axis=1, keepdims=True))
        dx = dx.reshape(x.shape)
    return dx, (g_rows * h).sum(axis=0) if needs[1] else None, g_rows.sum(axis=0) if needs[2] else None


def rms_norm(x: Any, weight: Any, eps: float) -> tuple[Any, Any]:
    """x rstd weight, rstd = 1 / sqrt(mean(x^2) + eps). Source: Zhang and Sennrich, RMSNorm (2019), eq. 4."""
    rows = as_rows(x)
    rstd = 1 / np.sqrt((rows * rows).mean(axis=1, keepdims=True) + eps)
    y = rows * rstd
    return (y if weight is None else y * weight).reshape(x.shape), rstd


def rms_norm_backward(g: Any, x: Any, weight: Any, rstd: Any, needs: Any) -> tuple[Any, Any]:
    """With h = x rstd and u = g weight: dx = rstd (u - h mean(u h)), dweight = sum g h."""
    rows, g_rows = as_rows(x), as_rows(g)
    h = rows * rstd
    dx = None
    if needs[0]:
        u = g_rows if weight is None else g_rows * weight
        dx = (rstd * (u - h * (u * h).mean(axis=1, keepdims=True))).reshape(x.shape)
    return dx, (g_rows * h).sum(axis=0) if needs[1] else None


dropout_add_norm, dropout_add_norm_backward = behind_a_shortcut(dropout, layer_norm, layer_norm_backward)


def _product(a: Any, b: Any) -> Any:
    """a @ b; on a GPU by its own kernel, which can be captured and takes 16 bits."""
    return np.matmul(a, b) if isinstance(a, np.ndarray) else of(a).matmul(a, b)


def attention(
    q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, keep: Any, drop: float
) -> tuple[Any, Any]:
    """softmax(q k^T scale + mask) v; backward needs the probabilities.

    Source: Vaswani et al., Attention Is All You Need (2017), eq. 1.
    """
    k, v = forms.shared(q, k, v)
    scores = _product(q, k.swapaxes(-1, -2)) * scale  # (B, H, T, S)
    if mask is not None:
        mask = forms.seen(mask)
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        scores = np.where(causal_mask(scores), scores, -np.inf)
    p = softmax(scores)
    if mask is not None:  # a query that may look nowhere takes nothing
        p = np.where((scores == -np.inf).all(axis=-1, keepdims=True), 0, p).astype(q.dtype)
    return _product(p if keep is None else p * _dropped(p, keep, drop), v), p


def _dropped(p: Any, keep: Any, drop: float) -> Any:
    """What dropout multiplies the weights p by, in their dtype."""
    return forms.kept(keep, drop, p.shape, p) * p.dtype.type(philox.scale_of_kept(drop))


def causal_mask(scores: Any) -> Any:
    """True where a query may look: at the keys up to its own place. (..., T, S) -> (T, S)."""
    t, s = scores.shape[-2:]
    xp = array_module(scores)
    return xp.arange(t)[:, None] >= xp.arange(s)


def attention_backward(
    g: Any, q: Any, k: Any, v: Any, p: Any, scale: float, keep: Any, drop: float, need_scores: bool, into: Any = None
) -> tuple[Any, Any, Any, Any]:
    """dv = p'^T g, dp = g v^T, ds = softmax_backward(dp), dq = ds k scale, dk = ds^T q scale; p' is p after dropout."""
    heads = k.shape[1]
    k, v = forms.shared(q, k, v)
    dropped = None if keep is None else _dropped(p, keep, drop)
    dv = _product((p if dropped is None else p * dropped).swapaxes(-1, -2), g)
    dp = _product(g, v.swapaxes(-1, -2))
    ds = softmax_backward(dp if dropped is None else dp * dropped, p)
    dk = _product(ds.swapaxes(-1, -2), q) * scale
    gradients = _product(ds, k) * scale, forms.of_groups(dk, heads), forms.of_groups(dv, heads)
    for place, gradient in zip(into or (), gradients, strict=False):
        place[...] = gradient
    return *(into or gradients), ds if need_scores else None


def cross_entropy(x: Any, targets: Any) -> tuple[Any, Any]:
    """-ln softmax(x)[target], row by row, with the logsumexp of each row."""
    top = x.max(axis=1)
    lse = top + np.log(np.exp(x - top[:, None]).sum(axis=1))
    chosen = np.take_along_axis(x, targets[:, None], axis=1)[:, 0]
    return lse - chosen, lse


def cross_entropy_backward(x: Any, targets: Any, lse: Any, g_target: Any, g_softmax: Any, g_all: Any) -> Any:
    """g_softmax softmax(x) - g_target onehot(target) + g_all."""
    dx = np.exp(x - lse[:, None]) * g_softmax[:, None] + g_all[:, None]
    dx[array_module(x).arange(len(x)), targets] -= g_target
    return dx


def linear_cross_entropy(x: Any, weight: Any, targets: Any, g: Any, needs: tuple[bool, bool]) -> tuple[Any, Any, Any]:
    """Cross-entropy of the logits x weight^T, and the gradients of sum(g nll)."""
    logits = x @ weight.T
    nll, lse = cross_entropy(logits, targets)
    d = cross_entropy_backward(logits, targets, lse, g, g, 0 * g)
    return nll, d @ weight if needs[0] else None, d.T @ x if needs[1] else None


def add_at(buffer: Any, index: Any, values: Any) -> None:
    """buffer[index] += values, adding up repeated places."""
    xp = array_module(buffer)
    total = buffer if xp is np else wide(buffer)  # CuPy adds no bfloat16 at places
    xp.add.at(total, index, values.astype(total.dtype, copy=False))
    if total is not buffer:
        buffer[...] = total


def adamw(
    ps: Any, gs: Any, ms: Any, vs: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    step: int,
) -> None:  # fmt: skip
    """One step of AdamW, in place on each p, m and v:

    p -= lr weight_decay p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
    p -= lr m_hat / (sqrt(v_hat) + eps),  m_hat = m / (1 - beta1^step),  v_hat = v / (1 - beta2^step).

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019), algorithm 2.
    """
    for p, g, m, v in zip(ps, gs, ms, vs, strict=True):
        p -= lr * weight_decay * p
        m += (1 - beta1) * (g - m)
        v *= beta2
        v += (1 - beta2) * g * g
        p -= (lr / (1 - beta1**step)) * m / (np.sqrt(v) / math.sqrt(1 - beta2**step) + eps)


def cast(arrays: list[Any], dtype: Any) -> list[Any]:
    """Rounded to the nearest."""
    return [x.astype(dtype) for x in arrays]


def sum_squares(x: Any) -> Any:
    """sum x^2."""
    return (x * x).sum()


def clip(arrays: list[Any], max_norm: float) -> Any:
    """x *= min(1, max_norm / (norm + 1e-6)), norm = sqrt(sum x^2) over the elements of all arrays.

    Source: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks (2013), algorithm 1.
    """
    norm = np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in arrays))
    for x in arrays:
        x *= np.minimum(max_norm / (norm + 1e-6), 1.0).astype(x.dtype)
    return norm


def unscale(arrays: list[Any], factor: Callable[[], float]) -> Any:
    """x *= factor(); how many arrays then have an element that is infinite or no number."""
    number = factor()
    for x in arrays:
        x *= number
    return sum(~np.isfinite(x).all() for x in arrays)


def column_sums(x: Any) -> Any:
    """The sums over the rows."""
    return x.sum(axis=0)


def int8_pack(w: Any) -> Any:
    """Rounded to 127ths of the largest of each block.

    Source: Dettmers et al., 8-bit optimizers via block-wise quantization (2022), section 2.1, with equal steps.
    """
    rows, columns = w.shape
    padded = np.pad(w, ((0, 0), (0, -columns % INT8_BLOCK)))
    blocks = padded.reshape(rows, padded.shape[1] // INT8_BLOCK, INT8_BLOCK)
    scales = np.abs(blocks).max(axis=-1) / 127
    scales[scales < np.finfo(w.dtype).tiny] = 0
    steps = np.rint(blocks / np.where(scales == 0, np.inf, scales)[..., None])
    return steps.reshape(padded.shape)[:, :columns].astype(np.int8), scales


def int8_unpack(codes: Any, scales: Any) -> Any:
    """Each code times its block's scale."""
    return codes * np.repeat(scales, INT8_BLOCK, axis=1)[:, : codes.shape[1]]


KERNELS = Kernels(
    matmul=matmul,
    linear=linear,
    linear_gradients=linear_gradients,
    linear_activate=linear_activate,
    erf=erf,
    activate=activate,
    activate_backward=activate_backward,
    dropout=dropout,
    keep_mask=keep_mask,
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
    cast=cast,
    sum_squares=sum_squares,
    clip=clip,
    unscale=unscale,
    column_sums=column_sums,
    int8_pack=int8_pack,
    int8_unpack=int8_unpack,
    sample=sample,
    embedding_step=embedding_step,
    linear_step=linear_step,
    attention_step=attention_step,
    penalize=penalize,
)
REFERENCE = takes_half(KERNELS)
