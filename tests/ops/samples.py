"""What each op is tried on: a strategy per registered op, away from kinks so that finite differences can judge it.

Ties and kinks have tests of their own, with exact answers.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.ops.parts import (
    ANY,
    AXES,
    LEAD,
    PAIR,
    SAMPLES,
    SIDES,
    TRIPLE,
    TRUTH,
    array,
    away_from_zero,
    axes_of,
    bools,
    ids,
    optional,
    positive,
    sample,
    samples_of,
    seeded,
)
from tinygrad_llm.autograd.functions.elementary import FUNCTIONS
from tinygrad_llm.autograd.registry import OPS
from tinygrad_llm.testing import broadcastable_shapes, shapes

__all__ = ["SAMPLES"]

# --- elementwise ---


@samples_of("neg", "exp", "tanh", "sigmoid", "silu", "erf", "sin", "cos", "abs", "relu", "clone")
def of_any_number(draw):
    return sample(draw(array()))


@samples_of("log", "sqrt", "rsqrt", "log1p")
def of_positive(draw):
    return sample(draw(positive()))


@samples_of("smooth")
def smooth(draw):
    """Every function of the table, where all of them are defined: acosh above 1, the others inside (0, 1)."""
    name = draw(st.sampled_from(sorted(FUNCTIONS)))
    function, slope = FUNCTIONS[name]
    x = 1.2 + draw(positive()) if name == "acosh" else 0.8 * np.tanh(draw(positive()))
    return sample(x, function=function, slope=slope)


@samples_of("leaky_relu")
def leaky_relu(draw):
    return sample(draw(array()), negative_slope=draw(st.sampled_from([0.01, 0.0, 0.5, -1.0])))


@samples_of("softplus")
def softplus(draw):
    beta, threshold = draw(st.sampled_from([(1.0, 20.0), (2.0, 1.0), (0.5, -0.2)]))
    return sample(draw(array(kinks=(threshold / beta,))), beta=beta, threshold=threshold)


@samples_of("step")
def step(draw):
    return sample(draw(array(kinks=(-1.0, 0.0, 1.0))), function=draw(st.sampled_from([np.sign, np.floor])))


@samples_of("gelu")
def gelu(draw):
    return sample(draw(array(min_value=-5.0, max_value=5.0)), approximate=draw(st.sampled_from(["none", "tanh"])))


@samples_of("cast")
def cast(draw):
    return sample(draw(array()), dtype=np.float64)


@samples_of("add", "sub", "mul")
def of_two(draw):
    a, b = draw(PAIR)
    return sample(draw(array(a)), draw(array(b) | st.sampled_from([2, -0.5])))


@samples_of("div")
def div(draw):
    a, b = draw(PAIR)
    dividend, divisor = draw(array(a)), draw(away_from_zero(b))
    return sample(*draw(st.sampled_from([(dividend, divisor), (1.0, divisor), (dividend, 4)])))


@samples_of("remainder")
def remainder(draw):
    """a = k + (0.2 to 0.3), b = ±0.5, ±1, ±2: the quotient is never near a whole number."""
    a, b = draw(PAIR)
    divisors = draw(hnp.arrays(np.float64, b, elements=st.sampled_from([0.5, 1.0, 2.0, -0.5, -1.0, -2.0])))
    return sample(draw(ids(9, a)) - 4 + draw(array(a, min_value=0.2, max_value=0.3)), divisors)


@samples_of("fmod")
def fmod(draw):
    return remainder(draw)


@samples_of("rounded_div")
def rounded_div(draw):
    """The quotient is halfway between two whole numbers."""
    divisors = draw(away_from_zero())
    mode = draw(st.sampled_from(["floor", "trunc"]))
    return sample((draw(ids(9, divisors.shape)) - 3.5) * divisors, divisors, mode=mode)


@samples_of("pow")
def pow_(draw):
    a, b = draw(PAIR)
    if draw(TRUTH):
        return sample(draw(positive(a)), draw(array(b) | st.sampled_from([0.5, -1.5, 0, 0.0])))
    whole = draw(ids(7, b)) - 3.0
    return sample(draw(away_from_zero(a)), draw(st.sampled_from([whole, 0, 1, 2, 3, -1, -2.0])), constant=(1,))


@samples_of("atan2")
def atan2(draw):
    a, b = draw(PAIR)
    return sample(draw(array(a)), draw(away_from_zero(b)))


@samples_of("maximum", "minimum")
def extremes_of_two(draw):
    a, b = draw(PAIR)
    pool = draw(array((int(np.prod(a) + np.prod(b)),)))  # drawn together, so that none of a equals one of b
    return sample(pool[: int(np.prod(a))].reshape(a), pool[int(np.prod(a)) :].reshape(b))


@samples_of("clamp")
def clamp(draw):
    low, high = draw(st.sampled_from([(-1.0, 1.0), (None, 0.5), (0, None), (1.0, -1.0), (-9.0, 9.0)]))
    kinks = tuple(k for k in (low, high) if k is not None)
    return sample(draw(array(kinks=kinks)), min=low, max=high)


@samples_of("where")
def where(draw):
    condition, a, b = draw(TRIPLE)
    return sample(draw(bools(condition)), draw(array(a)), draw(array(b)))


@samples_of("masked_fill")
def masked_fill(draw):
    x, mask = draw(PAIR)
    return sample(draw(array(x)), draw(bools(mask)), draw(array(()) | st.sampled_from([0, -1.5, float("-inf")])))


def drawn(draw, shape):
    """What dropout keeps: a mask, or the key of a stream."""
    return draw(bools(shape) | st.integers(0, 2**63 - 1))


@samples_of("dropout")
def dropout(draw):
    shape = draw(ANY)
    return sample(draw(array(shape)), drawn(draw, shape), p=draw(st.sampled_from([0.0, 0.5, 0.2])))


@samples_of("dropout_add")
def dropout_add(draw):
    shape = draw(ANY)
    p = draw(st.sampled_from([0.5, 0.2]))
    return sample(draw(array(shape)), drawn(draw, shape), draw(array(shape)), p=p)


# --- reductions ---


@samples_of("sum")
def sum_(draw):
    x = draw(array())
    return sample(x, axes=axes_of(draw, x.shape), keepdims=draw(TRUTH))


@samples_of("mean", "amax", "amin", "logsumexp")
def of_some_elements(draw):
    x = draw(array(SIDES | st.sampled_from([(), (0, 3), (2, 0)])))
    return sample(x, axes=axes_of(draw, x.shape, empty=False), keepdims=draw(TRUTH))


@samples_of("var", "std")
def spreads(draw):
    x = draw(array(shapes(min_dims=1, min_side=2)))
    correction = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return sample(x, axes=axes_of(draw, x.shape), correction=correction, keepdims=draw(TRUTH))


@samples_of("norm")
def norm(draw):
    x = draw(array(SIDES))
    p = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, np.inf, -np.inf]))
    return sample(x, p=p, axes=axes_of(draw, x.shape), keepdims=draw(TRUTH))


@samples_of("prod")
def prod(draw):
    x = draw(array())
    x = x * draw(st.sampled_from([1, draw(bools(x.shape))]))  # zeros, where the product is as smooth as anywhere
    axes = draw(st.none() | st.sampled_from(range(x.ndim))) if x.ndim else None
    return sample(x, axes=axes, keepdims=draw(TRUTH))


@samples_of("softmax", "log_softmax", "cumsum")
def along_an_axis(draw):
    x = draw(array(AXES))
    return sample(x, axis=draw(st.integers(0, x.ndim - 1)))


# --- shapes ---


@samples_of("reshape")
def reshape(draw):
    x = draw(array())
    return sample(x, shape=draw(st.sampled_from([(x.size,), x.shape[::-1], (1, *x.shape, 1), x.shape])))


@samples_of("permute")
def permute(draw):
    x = draw(array())
    return sample(x, axes=tuple(draw(st.permutations(range(x.ndim)))))


@samples_of("expand")
def expand(draw):
    a, b = draw(PAIR)
    return sample(draw(array(a)), shape=np.broadcast_shapes(a, b))


@samples_of("diagonal")
def diagonal(draw):
    x = draw(array(shapes(min_dims=2)))
    axes = draw(st.permutations(range(x.ndim)))
    return sample(x, offset=draw(st.integers(-4, 4)), axes=tuple(axes[:2]))


@samples_of("flip")
def flip(draw):
    x = draw(array(AXES))
    return sample(x, axes=tuple(draw(st.sets(st.integers(0, x.ndim - 1)))))


@samples_of("roll")
def roll(draw):
    x = draw(array(AXES))
    if draw(TRUTH):
        return sample(x, shifts=draw(st.integers(-5, 5)), axes=None)
    axes = tuple(draw(st.sets(st.integers(0, x.ndim - 1), min_size=1)))
    return sample(x, shifts=tuple(draw(st.integers(-5, 5)) for _ in axes), axes=axes)


@samples_of("tril", "triu")
def triangles(draw):
    return sample(draw(array(shapes(min_dims=2))), diagonal=draw(st.integers(-3, 3)))


@samples_of("pad")
def pad(draw):
    x = draw(array(shapes(min_dims=1, min_side=2)))
    widths = tuple(draw(st.tuples(st.integers(-1, 2), st.integers(-1, 2))) for _ in x.shape)
    return sample(x, widths=widths, value=draw(st.sampled_from([0, 1.5])))


@samples_of("cat")
def cat(draw):
    shape = draw(AXES)
    axis = draw(st.integers(0, len(shape) - 1))
    lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    return sample(*(draw(array((*shape[:axis], n, *shape[axis + 1 :]))) for n in lengths), axis=axis)


@samples_of("repeat")
def repeat(draw):
    x = draw(array())
    return sample(x, repeats=tuple(draw(st.integers(0, 3)) for _ in x.shape))


@samples_of("transfer")
def transfer(draw):
    return sample(draw(array()), to=np.copy, back=np.copy)


# --- indices ---


@samples_of("index")
def index(draw):
    x = draw(array(SIDES))
    kind = draw(st.sampled_from(["basic", "integers", "mask"]))
    if kind == "basic":
        return sample(x, key=draw(hnp.basic_indices(x.shape, allow_newaxis=True)), unique=True)
    if kind == "mask":
        return sample(x, key=(draw(bools(x.shape[:1])),), unique=True)
    return sample(x, key=draw(hnp.integer_array_indices(x.shape)), unique=False)


@samples_of("set_index")
def set_index(draw):
    x = draw(array(SIDES))
    # index arrays that name no place twice: which of two writes stays is not defined
    order = seeded(draw).permutation(x.shape[0])[: draw(st.integers(0, x.shape[0]))]
    key = (draw(st.sampled_from([order, order % 2 == 0 if len(order) == x.shape[0] else order])),)
    target = x[key]
    drop = draw(st.integers(0, target.ndim))  # value may broadcast into the place
    shape = tuple(draw(st.sampled_from([n, 1])) for n in target.shape[drop:])
    return sample(x, draw(array(shape) | st.just(1.5)), key=key)


@samples_of("set_view")
def set_view(draw):
    """The axes turned round, and perhaps a part of that: a view of a view."""
    x = draw(array(SIDES))
    path = [(OPS["permute"], {"axes": tuple(reversed(range(x.ndim)))})]
    if draw(TRUTH):
        key = draw(hnp.basic_indices(x.shape[::-1], allow_ellipsis=False))
        path.append((OPS["index"], {"key": (*(key if isinstance(key, tuple) else (key,)), ...), "unique": True}))
    view = x
    for op, static in path:
        view, _ = op(view, **static)
    return sample(x, draw(array(np.shape(view))), path=tuple(path))


@samples_of("embedding")
def embedding(draw):
    v, c = draw(st.integers(1, 6)), draw(st.integers(0, 4))
    return sample(draw(array((v, c))), draw(ids(v, ANY)))


def along_axis(draw):
    """x, an axis, and a shape for indices: no longer than x elsewhere."""
    x = draw(array(SIDES))
    axis = draw(st.integers(0, x.ndim - 1))
    shape = tuple(draw(st.integers(0, 4 if d == axis else n)) for d, n in enumerate(x.shape))
    return x, axis, shape


@samples_of("gather")
def gather(draw):
    x, axis, shape = along_axis(draw)
    return sample(x, draw(ids(x.shape[axis], shape)), axis=axis)


@samples_of("take")
def take(draw):
    x, axis, shape = along_axis(draw)
    return sample(x, draw(ids(x.shape[axis], shape[axis : axis + 1])), axis=axis)


@samples_of("scatter")
def scatter(draw):
    x, axis, shape = along_axis(draw)
    order = np.argsort(seeded(draw).random(x.shape), axis=axis)  # no place twice
    places = order[tuple(slice(n) for n in shape)]
    return sample(x, places, draw(array(places.shape) | st.just(0.5)), axis=axis)


@samples_of("scatter_add")
def scatter_add(draw):
    x, axis, shape = along_axis(draw)
    return sample(x, draw(ids(x.shape[axis], shape)), draw(array(shape)), axis=axis)


@samples_of("index_add")
def index_add(draw):
    x, axis, shape = along_axis(draw)
    n = shape[axis]
    source = draw(array((*x.shape[:axis], n, *x.shape[axis + 1 :])))
    return sample(x, draw(ids(x.shape[axis], (n,))), source, axis=axis, alpha=draw(st.sampled_from([1, -2.0])))


# --- products ---


@samples_of("matmul")
def matmul(draw):
    m, k, n = (draw(st.integers(0, 4)) for _ in range(3))
    a, b = draw(broadcastable_shapes(max_dims=2) | st.tuples(shapes(max_dims=2), st.just(())))
    return sample(draw(array((*a, m, k))), draw(array((*b, k, n))))


@samples_of("linear")
def linear(draw):
    k, n, lead = draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(LEAD)
    return sample(draw(array((*lead, k))), draw(array((n, k))), optional(draw, array((n,))))


@samples_of("lora_linear")
def lora_linear(draw):
    k, rank, lead, parts = draw(st.integers(0, 4)), draw(st.integers(1, 2)), draw(LEAD), draw(st.sampled_from([1, 3]))
    n = parts * draw(st.integers(0, 2))
    args = draw(array((*lead, k))), draw(array((n, k))), optional(draw, array((n,)))
    return sample(*args, draw(array((k, parts * rank))), draw(array((rank, n))), scale=0.5, parts=parts)


@samples_of("int8_linear")
def int8_linear(draw):
    k, n, lead = draw(st.integers(0, 4) | st.integers(63, 65)), draw(st.integers(0, 4)), draw(LEAD)
    codes = seeded(draw).integers(-127, 128, (n, k)).astype(np.int8)
    scales = draw(array((n, -(-k // 64)))) / 64
    return sample(draw(array((*lead, k))), codes, scales, optional(draw, array((n,))), constant=(2,))


@samples_of("activated_linear")
def activated_linear(draw):
    k, n, lead = draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(LEAD)
    shift, bias = optional(draw, array((k,))), optional(draw, array((n,)))
    form = draw(st.sampled_from(["gelu", "gelu_tanh", "silu"]))
    return sample(draw(array((*lead, k))), shift, draw(array((n, k))), bias, form=form)


@samples_of("feed_forward")
def feed_forward(draw):
    k, m, n, lead = draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(LEAD)
    b1, b2 = optional(draw, array((m,))), optional(draw, array((n,)))
    form = draw(st.sampled_from(["gelu", "gelu_tanh", "silu"]))
    x, w1, w2 = draw(array((*lead, k))), draw(array((m, k))), draw(array((n, m)))
    return sample(x, w1, b1, w2, b2, form=form)


EQUATIONS = [
    "ij,jk->ik",
    "bij,bjk->bik",
    "ij->ji",
    "ij->j",
    "ij->",
    "i,j->ij",
    "ij,ij->",
    "i,ijk->k",
    "ij,jk,kl->li",
    "ij,k->i",
]


@samples_of("einsum")
def einsum(draw):
    left, output = draw(st.sampled_from(EQUATIONS)).split("->")
    size = {c: draw(st.integers(1, 3)) for c in sorted(set(left) - {","})}
    inputs = tuple(left.split(","))
    return sample(*(draw(array(tuple(size[c] for c in s))) for s in inputs), inputs=inputs, output=output)


# --- layers ---


@samples_of("layer_norm")
def layer_norm(draw):
    x = draw(array((*draw(LEAD), draw(st.integers(1, 5)))))
    c = x.shape[-1:]
    return sample(x, optional(draw, array(c)), optional(draw, array(c)), eps=draw(st.sampled_from([1e-2, 0.5])))


@samples_of("rms_norm")
def rms_norm(draw):
    x = draw(array((*draw(LEAD), draw(st.integers(1, 5)))))
    return sample(x, optional(draw, array(x.shape[-1:])), eps=draw(st.sampled_from([1e-2, 0.5])))


@samples_of("attention")
def attention(draw):
    b, shared, group, t, s, d, e = (draw(st.integers(1, 3)) for _ in range(7))
    h = shared * group
    weights = (b, h, t, s)
    mask_shape = tuple(draw(st.sampled_from([n, 1])) for n in weights)[draw(st.integers(0, 2)) :]
    kinds = [bools(mask_shape), array(mask_shape), *[ids(3, (b, t))] * (t == s)]
    mask = optional(draw, st.sampled_from(kinds).flatmap(lambda kind: kind))
    if mask is not None and mask.dtype == bool:
        mask[..., 0] = True  # each query sees a key: without any its result is nan
    keep = drawn(draw, weights) if draw(TRUTH) else None
    return sample(
        draw(array((b, h, t, d))), draw(array((b, shared, s, d))), draw(array((b, shared, s, e))), mask, keep,
        causal=mask is None and draw(TRUTH), scale=draw(st.sampled_from([1.0, 0.5])), drop=0.2,
    )  # fmt: skip


@samples_of("attention_of_packed")
def attention_of_packed(draw):
    b, t, heads, width = (draw(st.integers(1, 3)) for _ in range(4))
    qkv, keep = draw(array((b, t, 3 * heads * width))), drawn(draw, (b, heads, t, t)) if draw(TRUTH) else None
    mask = optional(draw, bools((b, 1, t, t)) | ids(3, (b, t)))
    if mask is not None and mask.dtype == bool:
        mask[..., 0] = True  # which each query sees
    return sample(qkv, mask, keep, heads=heads, causal=draw(TRUTH), scale=draw(st.sampled_from([1.0, 0.5])), drop=0.2)


# --- losses ---


def classes(draw):
    """Scores (N, V), targets (N,) of which some are ignored, weights (V,) or None, and the static arguments."""
    reduction = draw(st.sampled_from(["none", "sum", "mean"]))
    n, v = draw(st.integers(1 if reduction == "mean" else 0, 4)), draw(st.integers(1, 4))
    targets = draw(ids(v, (n,)))
    ignore_index = draw(st.sampled_from([-100, 0]))
    if ignore_index == -100:
        targets = np.where(draw(bools((n,))), ignore_index, targets)
    if reduction == "mean":  # the mean over no target at all is nan
        targets[0] = v - 1
        ignore_index = -100 if v == 1 else ignore_index
    x = draw(array((n, v), min_value=-4.0, max_value=4.0))
    return x, targets, optional(draw, positive((v,))), {"ignore_index": ignore_index, "reduction": reduction}


@samples_of("cross_entropy")
def cross_entropy(draw):
    x, targets, weight, static = classes(draw)
    return sample(x, targets, weight, constant=(2,), label_smoothing=draw(st.sampled_from([0.0, 0.1, 1.0])), **static)


@samples_of("linear_cross_entropy")
def linear_cross_entropy(draw):
    logits, targets, _, static = classes(draw)
    static["reduction"] = "mean" if static["reduction"] == "none" and len(targets) else "sum"
    if static["reduction"] == "mean" and (targets == static["ignore_index"]).all():
        static["reduction"] = "sum"
    c = draw(st.integers(1, 3))
    x, weight = draw(array((len(targets), c))), draw(array((logits.shape[1], c)))
    return sample(x, weight, targets, needs=(True, True), **static)


@samples_of("nll_loss")
def nll_loss(draw):
    x, targets, weight, static = classes(draw)
    return sample(x, targets, weight, constant=(2,), **static)


@samples_of("binary_cross_entropy")
def binary_cross_entropy(draw):
    p, y = draw(PAIR)
    return sample(draw(array(p, min_value=0.1, max_value=0.9)), draw(array(y, min_value=0.0, max_value=1.0)))


@samples_of("binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(draw):
    x, y, w = draw(TRIPLE)
    return sample(draw(array(x)), draw(array(y, min_value=0.0, max_value=1.0)), optional(draw, positive(w)))
