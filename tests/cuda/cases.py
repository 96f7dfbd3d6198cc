"""Calls that bring every CUDA kernel to work: those of the CPU's kernels, and sizes about the edges of its tiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from tests.kernels.test_kernels import (
    CASES,
    KEY,
    activate_backward,
    adamw,
    add_at,
    attention,
    clip,
    cross_entropy_backward,
    dropout_add_norm,
    dropout_add_norm_backward,
    floats,
    ints,
    layer_norm_backward,
    rms_norm_backward,
    unscale,
)
from tinygrad_llm.kernels import check_index

FORMS = ("gelu", "gelu_tanh", "silu")
Call = tuple[Callable[..., Any], list[np.ndarray]]


def attention_both(k: Any, g: Any, q: Any, key: Any, v: Any, causal: bool) -> Any:
    """The result and the gradients of queries, keys and values; a scale as for heads of their width."""
    scale = q.shape[-1] ** -0.5
    y, saved = k.attention(q, key, v, None, causal, scale, None, 1.0)
    return y, *k.attention_backward(g, q, key, v, saved, scale, None, 1.0, False)[:3]


def packed(k: Any, qkv: Any, g: Any, *, heads: int) -> Any:
    """Queries, keys and values that lie side by side, and their gradients written there: qkv (B, T, 3 C)."""
    batch, t, c3 = qkv.shape

    def parts(x: Any) -> Any:
        return x.reshape(batch, t, 3, heads, c3 // (3 * heads)).transpose(2, 0, 3, 1, 4)

    y, saved = k.attention(*parts(qkv), None, True, 0.3, None, 1.0)
    d = np.zeros_like(qkv, order="C")
    by_heads = g.reshape(batch, t, heads, -1).swapaxes(1, 2)
    k.attention_backward(by_heads, *parts(qkv), saved, 0.3, None, 1.0, False, tuple(parts(d)))
    return y, d


def seen(k: Any, g: Any, q: Any, key: Any, v: Any, *mask: Any, causal: bool, keep: int | None, drop: float) -> Any:
    """As attention_both, with a mask, with dropout by a key, with a gradient of the scores where the mask is added."""
    given = mask[0] if mask else None
    y, saved = k.attention(q, key, v, given, causal, 0.3, keep, drop)
    added = given is not None and given.dtype.kind not in "bi"
    found = k.attention_backward(g, q, key, v, saved, 0.3, keep, drop, added)
    return y, *(found if added else found[:3])


def of_seen(
    t: int, s: int, d: int, heads: tuple[int, int] = (2, 2), mask: Any = None, causal: bool = False, drop: float = 0.0
) -> Call:
    """Attention of heads that share keys, of sequences that lie as (B, T, H, D)."""
    shapes = (t, heads[0]), (t, heads[0]), (s, heads[1]), (s, heads[1])
    arrays = [floats(2, n, h, d + i).swapaxes(1, 2)[..., :d] for i, (n, h) in enumerate(shapes)]
    call = partial(seen, causal=causal, keep=KEY if drop else None, drop=drop)
    return call, arrays if mask is None else [*arrays, mask]


def documents(t: int) -> np.ndarray:
    """Of two sequences: some of a few tokens, some of many, and padding."""
    first = np.repeat([3, 0, 1, 7, -1], [5, 0, t // 2, t - t // 2 - 7, 2])
    return np.stack([first, np.arange(t) // 20])


def some_seen(t: int, s: int) -> np.ndarray:
    """A mask (2, 1, T, S) that leaves some queries nothing to look at."""
    mask = np.random.default_rng(t).random((2, 1, t, s)) < 0.5
    mask[:, :, 3:7] = False
    return mask


# What attention may be asked for, about the edges of tiles of 128, 64 and 32 rows.
ATTENTION: dict[str, Call] = {
    "attention, long": of_seen(130, 130, 64, causal=True),
    "attention, wide": of_seen(70, 129, 128),
    "attention, padded": of_seen(70, 65, 30, (4, 2), causal=True),
    "attention, shared keys, dropout": of_seen(65, 129, 24, (4, 2), drop=0.3),
    "attention, documents": of_seen(140, 140, 64, (2, 1), documents(140), causal=True),
    "attention, bool mask": of_seen(100, 70, 128, (2, 1), some_seen(100, 70), causal=True),
    "attention, added mask, dropout": of_seen(66, 131, 96, (2, 2), floats(2, 1, 131), drop=0.25),
}  # fmt: skip


def of_heads(t: int, s: int, d: int, causal: bool) -> Call:
    arrays = [floats(2, 3, t, d), floats(2, 3, t, d), floats(2, 3, s, d), floats(2, 3, s, d)]
    return (lambda k, *a: attention_both(k, *a, causal)), arrays


def of_rows(n: int, c: int) -> dict[str, Call]:
    """What works on n rows of c numbers."""
    x, g, weight, targets = floats(n, c), 2 * floats(n, c), floats(c), ints(n, c)
    rows = [floats(n), 2 * floats(n), 3 * floats(n)]
    return {
        "check_index": (lambda k, x, ids: (check_index(ids, 0, c, "a case"), x)[1], [x, targets]),
        "layer_norm": (lambda k, *a: k.layer_norm(*a, 1e-5), [x, weight, 2 * weight]),
        "layer_norm_backward": (layer_norm_backward, [g, x, weight]),
        "rms_norm": (lambda k, *a: k.rms_norm(*a, 1e-5), [x, weight]),
        "rms_norm_backward": (rms_norm_backward, [g, x, weight]),
        **{
            f"dropout_add_norm{'' if key is None else ', by a key'}": (
                lambda k, *a, key=key: dropout_add_norm(k, *a, key), [x, g, weight, 2 * weight]
            )
            for key in (None, KEY)
        },
        **{
            f"dropout_add_norm_backward{'' if key is None else ', by a key'}": (
                lambda k, *a, key=key: dropout_add_norm_backward(k, *a, key), [g, x, g - x, g + x, weight]
            )
            for key in (None, KEY)
        },
        "column_sums": (lambda k, x: k.column_sums(x), [x]),
        "softmax": (lambda k, x: k.softmax(x), [x]),
        "softmax_backward": (lambda k, g, x: k.softmax_backward(g, k.softmax(x)), [g, x]),
        "cross_entropy": (lambda k, x, t: k.cross_entropy(x, t), [x, targets]),
        "cross_entropy_backward": (cross_entropy_backward, [x, targets, *rows]),
        "linear_cross_entropy": (
            lambda k, x, w, t, g: k.linear_cross_entropy(x, w, t, g, (True, True)),
            [floats(n, 8), floats(c, 8), targets, rows[0]],
        ),
        **{
            f"activate, {form}, {len(arrays)} arrays": (
                lambda k, x, *bias, f=form: k.activate(x, *(bias or [None]), f), arrays
            )
            for form in FORMS for arrays in ([x], [x, weight])
        },
        **{
            f"activate_backward, {form}, {len(arrays)} arrays": (
                lambda k, g, x, *bias, f=form: activate_backward(k, g, x, *(bias or [None]), f), arrays
            )
            for form in FORMS for arrays in ([g, x], [g, x, weight])
        },
        "dropout": (lambda k, x: k.dropout(x, KEY, 0.3), [x]),
        "dropout, added": (lambda k, x, g: k.dropout(x, KEY, 0.3, g), [x, g]),
        "keep_mask": (lambda k, x: k.keep_mask(KEY, 0.3, x.shape, x).astype(x.dtype), [x]),
        "adamw": (lambda k, p, g: adamw(k, p, g, 0.1), [x, g]),
        "sum_squares": (lambda k, x: k.sum_squares(x), [x]),
        "unscale": (unscale, [x, weight, g]),
        "clip": (clip, [x, weight, g]),
        "add_at": (add_at, [floats(300, c), g, ints(n, 300)]),
        "add_at, one row": (add_at, [floats(3, c), g, 0 * ints(n, 3)]),
    }


def all_calls() -> dict[str, Call]:
    found: dict[str, Call] = {
        f"{name}, {n} rows": (call, make(n)) for name, (call, make) in CASES.items() for n in (0, 1, 6, 40)
    }
    for n, c in ((1, 1), (3, 31), (130, 33), (257, 64), (65, 129), (1030, 768), (5, 4100), (3, 9000), (700, 1000)):
        found |= {f"{name}, {n} x {c}": call for name, call in of_rows(n, c).items()}
    for t, s, d, causal in (
        (1, 1, 1, True), (63, 63, 16, True), (64, 64, 32, True), (65, 65, 33, True), (129, 129, 64, True),
        (200, 200, 80, True), (130, 130, 128, True), (100, 70, 64, False), (64, 128, 24, False), (70, 100, 64, True),
        (100, 70, 30, True),
    ):  # fmt: skip
        found[f"attention, {t} x {s} x {d}{', causal' if causal else ''}"] = of_heads(t, s, d, causal)
    found["clip, many pieces"] = (clip, [floats(300, 300), floats(7), floats(0), floats(70_001)])
    for heads, width in ((3, 64), (2, 30), (1, 128)):
        call = partial(packed, heads=heads)
        found[f"attention of packed, {heads} x {width}"] = (
            call, [floats(2, 90, 3 * heads * width), floats(2, 90, heads * width)]
        )  # fmt: skip
    found |= ATTENTION
    found["attention, wide heads"] = (attention, [floats(1, 2, 5, 130), floats(1, 2, 5, 130), floats(1, 2, 5, 130)])
    return found


def choices() -> dict[str, Call]:
    """Tokens drawn from logits, with every option, with ties and without: the results are whole numbers."""
    found: dict[str, Call] = {}
    rng = np.random.default_rng(0)
    for v, (temperature, top_k, top_p, min_p) in product(
        (1, 33, 700),
        ((0, None, None, None), (1.5, None, None, None), (0.7, 3, None, None), (1.0, None, 0.5, None),
         (1.5, None, None, 0.1), (1.0, 50, 0.9, 0.05), (2.0, 1000, 0.05, 1.0)),
    ):  # fmt: skip
        x, u = 3 * floats(6, v), rng.random((6, 1))
        u[0], u[1], x[::2] = 0.0, np.nextafter(1.0, 0.0), np.round(x[::2])
        options = (temperature, top_k, top_p, min_p)
        found[f"of {v}, {options}"] = (lambda k, x, u=u, options=options: k.sample(x, u, *options)), [x]
    long = floats(5, 5000)  # several warps share a row, and what is likely may find room or not
    for label, x in (("peaked", 3 * long), ("flat", long), ("with ties", np.round(long))):
        for options in ((1.0, None, None, None), (1.0, 40, 0.9, None), (1.0, None, 0.8, None), (1.0, None, 0.999, 1e-4),
                        (0.5, 3000, 0.9, None), (2.0, 4999, None, None), (1.0, None, None, 0.3)):  # fmt: skip
            u = rng.random((5, 1))
            u[0], u[1] = 0.0, np.nextafter(1.0, 0.0)
            found[f"of 5000, {label}, {options}"] = (lambda k, x, u=u, options=options: k.sample(x, u, *options)), [x]
    spoiled = np.ones((4, 9), np.float32)
    spoiled[0, 3], spoiled[1], spoiled[2, 2], spoiled[3, 1:] = np.nan, -np.inf, np.inf, -np.inf
    found["of spoiled logits"] = (lambda k, x: k.sample(x, np.full((4, 1), 0.5), 1.0, 5, 0.5, 0.1)), [spoiled]
    return found


CALLS = all_calls()
CHOICES = choices()
