"""What must be fast, as plain functions over arrays, behind one interface.

`Kernels` is the contract; its values are `reference` (the shortest correct code: the specification and the oracle of
the tests), `cpu` (NumPy tuned for the caches) and `cuda` (CUDA C++ for CuPy's arrays). `of(array)` picks by where the
array lives; `use("reference")` switches every fast path off.

N rows, C channels, V classes, B batch, H heads, T queries, S keys, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tinygrad_llm.kernels.reductions import SUMMED_AT_ONCE, column_sums, in_order, largest, sums

__all__ = [
    "CPU",
    "CUDA",
    "INT8_BLOCK",
    "REFERENCE",
    "SUMMED_AT_ONCE",
    "Kernels",
    "as_rows",
    "check_index",
    "column_sums",
    "in_order",
    "largest",
    "of",
    "sums",
    "use",
]


INT8_BLOCK = 64  # neighbours in a row that share a scale


@dataclass(frozen=True, slots=True)
class Kernels:
    """Each field is a function over arrays of one floating dtype; results are fresh arrays of that dtype.

    16-bit floats are computed with in float32, and a result is rounded once, to the dtype of x; but statistics, losses
    and the gradients of weights and biases come in float32. Beside them weights and biases may be float32.
    Inputs may have any strides and are never written to, except where a field says so.
    """

    matmul: Callable[..., Any]
    """(a (..., m, k), b (..., k, n), out=None) -> a @ b (..., m, n), leading axes broadcast; into out where given.

    out may be float32 where a and b are 16-bit floats.
    """
    linear: Callable[..., Any]
    """(x (N, K), weight (M, K), bias (M,)|None) -> x weight^T + bias (N, M)."""
    linear_gradients: Callable[..., Any]
    """(g (N, M), x (N, K), needs of weight, bias, into=None) -> dweight (M, K), dbias (M,); None if not needed.

    The gradients of `linear`. into: an array that dweight, which is needed then, is added to; it is returned.
    """
    linear_activate: Callable[..., Any]
    """(x (N, K), weight (M, K), bias (M,)|None, form) -> h = x weight^T + bias (N, M), f(h). form: see `activate`."""
    erf: Callable[..., Any]
    """(x (...)) -> 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x, (...)."""
    activate: Callable[..., Any]
    """(x (..., C), bias (C,)|None, form) -> f(x + bias), (..., C). form: "gelu" (by erf), "gelu_tanh" or "silu"."""
    activate_backward: Callable[..., Any]
    """(g, x (..., C), bias|None, form, needs of x and bias, y=None, into=None) -> dx, dbias; None if not needed.

    dbias, the sums of dx over all rows, may be needed without a bias: of one that x has in it. y: an array in order in
    memory that takes f(x + bias), which costs little here. into: one that takes dx, and may be g itself.
    """
    dropout: Callable[..., Any]
    """(x (...), keep, p, plus (...)|None) -> x / (1 - p) where it is kept, else 0; added to plus.

    keep: bool (...), True where an element is kept, or the key of a counter-based stream that decides (`philox`): a
    whole number, or int64 (1,), where a captured launch finds another one each time. With g in the place of x it gives
    the gradient of x. With plus the result has the dtype of plus.
    """
    keep_mask: Callable[..., Any]
    """(key, p, shape, like) -> bool (shape), where like lives: what `dropout` keeps by this key."""
    softmax: Callable[..., Any]
    """(x (..., V)) -> probabilities along the last axis; a row of -inf alone gives nan, as in PyTorch."""
    softmax_backward: Callable[..., Any]
    """(g, y (..., V)) -> dx = y (g - sum(g y)), where y is softmax's result."""
    layer_norm: Callable[..., Any]
    """(x (..., C), weight (C,)|None, bias (C,)|None, eps) -> y, mean (N, 1), rstd (N, 1), for N rows in all."""
    layer_norm_backward: Callable[..., Any]
    """(g, x (..., C), weight|None, mean, rstd, needs of x, weight, bias) -> dx, dweight, dbias; None if not needed."""
    rms_norm: Callable[..., Any]
    """(x (..., C), weight (C,)|None, eps) -> y, rstd (N, 1)."""
    rms_norm_backward: Callable[..., Any]
    """(g, x (..., C), weight|None, rstd, needs of x, weight) -> dx, dweight; None if not needed."""
    dropout_add_norm: Callable[..., Any]
    """(x, keep|None, p, shortcut (..., C), weight (C,)|None, bias (C,)|None, eps) -> s, y, mean (N, 1), rstd (N, 1).

    s = shortcut + x where it is kept / (1 - p), y its layer norm. keep: as in `dropout`, None keeps all.
    """
    dropout_add_norm_backward: Callable[..., Any]
    """(g, d|None, s (..., C), weight|None, mean, rstd, keep|None, p, needs) -> dx, dshortcut, dweight, dbias.

    g is the gradient of y, d that of s on other ways. needs: of x, shortcut, weight and bias; None for what is not
    needed. dx and dshortcut may be one array.
    """
    attention: Callable[..., Any]
    """(q (B, H, T, D), k, v (B, K, S, D), mask, causal, scale, keep, drop) -> y (B, H, T, D), saved.

    Each of the K heads of keys and values serves H / K neighbouring heads of queries. mask: None; bool (True takes
    part) or an array added to the scores, broadcast to (B, H, T, S); or whole numbers (B, T), the document of each
    position, for queries that see their own alone (T = S). Where it leaves a query nothing to look at, the result is 0.
    keep: None; bool (B, H, T, S), the weights that dropout keeps; or the key of a stream that decides, as for
    `dropout` (`attention_forms.kept`). drop: their probability to be dropped; what is kept is divided by 1 - drop.
    `saved` is what backward needs.
    """
    attention_backward: Callable[..., Any]
    """(g, q, k, v, saved, scale, keep, drop, need_scores, into) -> dq, dk, dv, dscores (B, H, T, S) or None.

    into: None, or three arrays that take dq, dk and dv.
    """
    cross_entropy: Callable[..., Any]
    """(x (N, V), targets (N,)) -> logsumexp(x) - x[target] (N,), logsumexp (N,).

    Targets lie in range.
    """
    cross_entropy_backward: Callable[..., Any]
    """(x (N, V), targets (N,), lse (N,), g_target, g_softmax, g_all (N,)) -> dx (N, V).

    dx = g_softmax softmax(x) - g_target onehot(target) + g_all, row by row.
    """
    linear_cross_entropy: Callable[..., Any]
    """(x (N, C), weight (V, C), targets (N,), g (N,), needs of x, weight) -> nll (N,), dx, dweight of sum(g nll).

    nll is the cross-entropy of the logits x weight^T; None for what is not needed. Targets lie in range.
    """
    add_at: Callable[..., None]
    """(buffer, index, values): buffer[index] += values in place, adding up where the index names a place twice."""
    adamw: Callable[..., None]
    """(p, g, m, v, *, lr, beta1, beta2, eps, weight_decay, step) in place on p, m and v; g is left as it is.

    p, g, m and v are lists of arrays, of equal shapes: one call for all parameters of a group. While a graph is
    captured it is (p, g, m, v, *, each_time) with a function that returns the options anew for each replay.
    """
    cast: Callable[..., list[Any]]
    """(list of arrays, dtype) -> the same numbers in another floating dtype, each in an array of its own."""
    sum_squares: Callable[..., Any]
    """(x (...)) -> the sum of squares as a 0-d array or scalar of x's dtype."""
    clip: Callable[..., Any]
    """(list of arrays, max_norm) -> their norm as one vector, a 0-d array or scalar of float64.

    In place every array times max_norm / (norm + 1e-6) where that is below 1, or nan.
    """
    unscale: Callable[..., Any]
    """(list of arrays, factor) -> not 0 where an element is no finite number then: a number or 0-d array.

    In place every array times factor(), which is called anew for each replay of a graph.
    """
    column_sums: Callable[..., Any]
    """(x (N, C)) -> the sums over the rows (C,)."""
    int8_pack: Callable[..., Any]
    """(w (N, C)) -> codes (N, C) int8, scales (N, ceil(C / INT8_BLOCK)): each block of a row in 127ths of its largest.

    |w - codes scale| <= 127 scale / 254 up to rounding; a block whose scale is no normal number becomes 0.
    """
    int8_unpack: Callable[..., Any]
    """(codes (N, C) int8, scales (N, ceil(C / INT8_BLOCK))) -> w (N, C) in the dtype of the scales."""
    sample: Callable[..., Any]
    """(x (B, V), u (B, 1) float64, temperature, top_k, top_p, min_p, into=None) -> a token of each row (B,) int64.

    See `kernels.sampling`; -1 where nothing is likeliest. u lies in main memory or where x does, and is not looked at
    where the temperature is 0. into: an array that takes the tokens.
    """
    embedding_step: Callable[..., None]
    """(state (3, B) int64, draws (N, B)|None, u (B, 1)|None, table (V, C), places (S, C), x (B, C), seen, most).

    The first of the acts of writing a token of each row, which put what they find into arrays that are there. state:
    each row's token, the positions that it has, the steps it made. There is one position more, up to `most`; x becomes
    table[token] + places[position], u the draws of the step, and seen, bool (B, V) or None, is marked with the token.
    """
    linear_step: Callable[..., None]
    """(x (B, C), weight (N, C), bias (N,)|None, out (B, N), norm=None, form=None, add=False, room=None, ahead=None).

    f(W norm(x) + b) into out. norm: None, or the weight, the bias and the eps of a layer norm; form: as of `activate`,
    or None; add: to what is there. Beside a weight of 16 bits x, bias and out have them, too, or are float32. room:
    (B, C) of the weight's dtype, to work in. ahead: a weight that is read soon after, which may be fetched meanwhile.
    """
    attention_step: Callable[..., None]
    """(qkv (B, (H + 2 G) D), keys, values (B, G, S, D), lengths (B,) int64, scale, out (B, H D), room).

    Of each row's new position: its key and value go to the place lengths - 1, and its query sees all up to there. H / G
    heads share keys. room: (B, H, parts, D + 2) of qkv's dtype, parts of CHUNK positions, and int32 (B, H), zeros.
    """
    penalize: Callable[..., None]
    """(x (B, V), seen (B, V) bool, penalty) in place: what was seen, over the penalty where positive, else times it."""


def as_rows(x: Any) -> Any:
    """(..., C) -> (N, C). N is counted: where C is 0, reshape(-1, C) cannot tell it."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def check_index(ids: Any, low: int, high: int, what: str, allowed: int | None = None) -> None:
    """Refuse whole numbers outside [low, high), but for one that is allowed; what: the op that picks by them.

    Raises:
        IndexError: at once, or for numbers on a GPU when Python waits for it next: see `kernels.cuda.outside`.
    """
    if of(ids) is CUDA:
        outside.check_index(ids, low, high, what, allowed)
        return
    wrong = (ids < low) | (ids >= high)
    if allowed is not None:
        wrong &= ids != allowed
    if wrong.any():
        raise IndexError(f"{what}: index {int(ids[wrong][0])} is out of range for {high} places")


_chosen: str | None = None


def of(array: Any) -> Kernels:
    """The kernels for an array: the reference where `use` asks for it or there is nothing faster."""
    if _chosen == "reference":
        return REFERENCE
    return CUDA if type(array).__module__ == "cupy" else CPU


@contextmanager
def use(name: str) -> Iterator[None]:
    """Use the named kernels inside: "reference" everywhere, or "auto" for the fastest of each device.

    Raises:
        ValueError: there are no kernels of that name.
    """
    global _chosen
    if name not in ("reference", "auto"):
        raise ValueError(f"kernels.use: expected 'reference' or 'auto', not {name!r}")
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


from tinygrad_llm.kernels.cpu import CPU  # noqa: E402  (the implementations need the interface above)
from tinygrad_llm.kernels.cuda import CUDA, outside  # noqa: E402
from tinygrad_llm.kernels.reference import REFERENCE  # noqa: E402
