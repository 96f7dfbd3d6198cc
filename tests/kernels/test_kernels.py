"""Each kernel tuned for the CPU against the reference in float64: sizes about a tile, layouts, extreme values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import kernels
from tinygrad_llm.kernels import (
    CPU,
    REFERENCE,
    Kernels,
    cpu_attention,
    cpu_decoding,
    cpu_loss,
    cpu_matmul,
    philox,
    threads,
    tiling,
)

C = 5  # columns


def floats(*shape: int) -> np.ndarray:
    """Normal numbers; the same for the same shape."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def ints(n: int, below: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, below, n)


def codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(-127, 128, shape).astype(np.int8)


def bools(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape) < 0.7


def activate_backward(k: Kernels, g: Any, x: Any, bias: Any, form: str) -> Any:
    """Both gradients and the result again; dx where a copy of g lay."""
    g, h, y = g.copy(order="C"), g, np.empty_like(x, order="C")
    dx, dbias = k.activate_backward(g, x, bias, form, (True, True), y, g)
    assert dx is g
    alone, nothing = k.activate_backward(h, x, bias, form, (True, False))
    assert nothing is None
    return dx, dbias, y, alone


def layer_norm_backward(k: Kernels, g: Any, x: Any, weight: Any) -> Any:
    _, mean, rstd = k.layer_norm(x, weight, None, 1e-5)
    return k.layer_norm_backward(g, x, weight, mean, rstd, (True, True, True))


def rms_norm_backward(k: Kernels, g: Any, x: Any, weight: Any) -> Any:
    _, rstd = k.rms_norm(x, weight, 1e-5)
    return k.rms_norm_backward(g, x, weight, rstd, (True, True))


def dropout_add_norm(k: Kernels, x: Any, shortcut: Any, weight: Any, bias: Any, keep: Any) -> Any:
    return k.dropout_add_norm(x, keep, 0.0 if keep is None else 0.3, shortcut, weight, bias, 1e-5)


def dropout_add_norm_backward(k: Kernels, g: Any, d: Any, x: Any, shortcut: Any, weight: Any, keep: Any) -> Any:
    s, _, mean, rstd = dropout_add_norm(k, x, shortcut, weight, None, keep)
    return k.dropout_add_norm_backward(g, d, s, weight, mean, rstd, keep, 0.0 if keep is None else 0.3, (True,) * 4)


def attention(k: Kernels, q: Any, key: Any, v: Any, mask: Any = None, keep: Any = None, causal: bool = False) -> Any:
    return k.attention(q, key, v, mask, causal, 0.5, keep, 0.2)[0]


def attention_backward(
    k: Kernels, g: Any, q: Any, key: Any, v: Any, mask: Any = None, keep: Any = None, causal: bool = False
) -> Any:
    _, saved = k.attention(q, key, v, mask, causal, 0.5, keep, 0.2)
    return k.attention_backward(g, q, key, v, saved, 0.5, keep, 0.2, True)


def cross_entropy_backward(k: Kernels, x: Any, targets: Any, *row_gradients: Any) -> Any:
    return k.cross_entropy_backward(x, targets, k.cross_entropy(x, targets)[1], *row_gradients)


def add_at(k: Kernels, buffer: Any, values: Any, index: Any) -> Any:
    buffer = buffer.copy()
    k.add_at(buffer, index, values)
    return buffer


def adamw(k: Kernels, p: Any, g: Any, decay: float) -> Any:
    p, m, v = p.copy(), np.zeros_like(p), np.zeros_like(p)
    for step in (1, 2, 3):
        k.adamw([p], [g * step], [m], [v], lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=decay, step=step)
    return p, m, v


def unscale(k: Kernels, *arrays: Any) -> Any:
    """The arrays times a number, and 1 where an element is no finite number: what each says of its last one."""
    copies = [a.copy() for a in arrays]
    found = [k.unscale(copies, lambda: 0.3)]
    for a in copies:
        if a.size:
            a[(-1,) * a.ndim] = np.inf
            found.append(k.unscale([a], lambda: 1.0))
            a[(-1,) * a.ndim] = 0.0
    return *copies, *(arrays[0].dtype.type(0) * arrays[0].ravel()[:0].sum() + (n > 0) for n in found)


def clip(k: Kernels, *arrays: Any) -> Any:
    """To a norm of 1, which is smaller than theirs, and to one that is larger."""
    copies = [a.copy() for a in arrays]
    norms = [k.clip(copies, limit).astype(arrays[0].dtype) for limit in (1.0, 1e6, math.inf)]
    return *norms, *copies


def heads(t: int, s: int) -> list[np.ndarray]:
    return [floats(2, 3, t, 4), floats(2, 3, s, 4), floats(2, 3, s, 2)]


KEY = 0x299F31D0A4093822  # of a counter-based stream
Case = tuple[Callable[..., Any], Callable[[int], list[np.ndarray]]]


def activations(form: str, biased: bool) -> dict[str, Case]:
    """Cases of an activation, forward and backward."""

    def arrays(n: int) -> list[np.ndarray]:
        return [3 * floats(2, n, C), floats(C)][: 1 + biased]

    return {
        "activate": (lambda k, x, bias=None: k.activate(x, bias, form), arrays),
        "activate_backward": (
            lambda k, g, x, bias=None: activate_backward(k, g, x, bias, form),
            lambda n: [floats(n, 2, C).swapaxes(0, 1), *arrays(n)],
        ),
    }


# A kernel's name, and what else tells cases apart -> how it is called, and its arrays for n rows.
CASES: dict[str, Case] = {
    "matmul": (lambda k, a, b: k.matmul(a, b), lambda n: [floats(n, 7), floats(7, C)]),
    "matmul, wide": (lambda k, a, b: k.matmul(a, b), lambda n: [floats(C, 7), floats(n, 7).T]),
    "matmul, one row": (lambda k, a, b: k.matmul(a, b), lambda n: [floats(1, 7), floats(n, 7).T]),
    "matmul, into": (lambda k, a, b: k.matmul(a, b, out=np.empty_like(a, shape=(len(a), C))),
                     lambda n: [floats(n, 7), floats(7, C)]),
    "matmul, long": (lambda k, a, b: k.matmul(a, b), lambda n: [floats(2, 30 * n), floats(30 * n, 2)]),
    "matmul, stacked": (lambda k, a, b: k.matmul(a, b), lambda n: [floats(3, n, 7), floats(3, 7, C)]),
    "matmul, broadcast": (lambda k, a, b: k.matmul(a, b), lambda n: [floats(n, 1, 5, 7), floats(2, 7, C)]),
    "matmul, one for many": (lambda k, a, b: k.matmul(a, b), lambda n: [floats(n, 7), floats(1, 4, 7, C)]),
    "linear": (lambda k, x, w: k.linear(x, w, None), lambda n: [floats(n, 7), floats(C, 7)]),
    "linear, bias": (lambda k, x, w, b: k.linear(x, w, b), lambda n: [floats(n, 7), floats(C, 7), floats(C)]),
    "linear_gradients": (
        lambda k, g, x: k.linear_gradients(g, x, (True, True)), lambda n: [floats(n, C), floats(n, 7)]
    ),
    "linear_gradients, one": (
        lambda k, g, x: k.linear_gradients(g, x, (False, True))[1:], lambda n: [floats(n, C), floats(n, 7)]
    ),
    "linear_activate": (
        lambda k, x, w, b: k.linear_activate(x, w, b, "gelu_tanh"), lambda n: [floats(n, 7), floats(C, 7), floats(C)]
    ),
    "erf": (lambda k, x: k.erf(x), lambda n: [floats(n, C)]),
    **{
        f"{name}, {form}{', bias' if biased else ''}": case
        for form in ("gelu", "gelu_tanh", "silu")
        for biased in (False, True)
        for name, case in activations(form, biased).items()
    },
    "dropout": (lambda k, x, keep: k.dropout(x, keep, 0.3), lambda n: [floats(n, C), bools(n, C)]),
    "dropout, added": (
        lambda k, x, keep, plus: k.dropout(x, keep, 0.3, plus), lambda n: [floats(n, C), bools(n, C), floats(C, n).T]
    ),
    "dropout, by a key": (lambda k, x: k.dropout(x, KEY, 0.3), lambda n: [floats(n, C)]),
    "dropout, added, by a key": (
        lambda k, x, plus: k.dropout(x, KEY, 0.3, plus), lambda n: [floats(n, C), floats(C, n).T]
    ),
    "keep_mask": (lambda k, x: k.keep_mask(KEY, 0.3, x.shape, x).astype(x.dtype), lambda n: [floats(n, C)]),
    "softmax": (lambda k, x: k.softmax(x), lambda n: [floats(2, n, C)]),
    "softmax_backward": (lambda k, g, x: k.softmax_backward(g, k.softmax(x)), lambda n: [floats(n, C), floats(C, n).T]),
    "layer_norm": (lambda k, x, w, b: k.layer_norm(x, w, b, 1e-5), lambda n: [floats(2, n, C), floats(C), floats(C)]),
    "layer_norm, plain": (lambda k, x: k.layer_norm(x, None, None, 1e-5), lambda n: [floats(n, C)]),
    "layer_norm_backward": (
        layer_norm_backward,
        lambda n: [floats(2, n, C), floats(n, 2, C).swapaxes(0, 1), floats(C)],
    ),
    "layer_norm_backward, plain": (
        lambda k, g, x: layer_norm_backward(k, g, x, None),
        lambda n: [floats(n, C), floats(C, n).T],
    ),
    "rms_norm": (lambda k, x, w: k.rms_norm(x, w, 1e-5), lambda n: [floats(2, n, C), floats(C)]),
    "rms_norm, plain": (lambda k, x: k.rms_norm(x, None, 1e-5), lambda n: [floats(n, C)]),
    "rms_norm_backward": (rms_norm_backward, lambda n: [floats(n, C), floats(C, n).T, floats(C)]),
    "rms_norm_backward, plain": (
        lambda k, g, x: rms_norm_backward(k, g, x, None),
        lambda n: [floats(n, C), floats(C, n).T],
    ),
    "dropout_add_norm": (
        lambda k, *a: dropout_add_norm(k, *a, None),
        lambda n: [floats(2, n, C), floats(n, 2, C).swapaxes(0, 1), floats(C), floats(C)],
    ),
    "dropout_add_norm, by a key": (
        lambda k, *a: dropout_add_norm(k, *a, KEY), lambda n: [floats(n, C), floats(C, n).T, floats(C), floats(C)]
    ),
    "dropout_add_norm, by a mask": (
        lambda k, x, s, keep: dropout_add_norm(k, x, s, None, None, keep),
        lambda n: [floats(n, C), floats(C, n).T, bools(n, C)],
    ),
    "dropout_add_norm_backward": (
        lambda k, *a: dropout_add_norm_backward(k, *a, None),
        lambda n: [floats(2, n, C), floats(2, n, C), floats(2, n, C), floats(n, 2, C).swapaxes(0, 1), floats(C)],
    ),
    "dropout_add_norm_backward, by a key": (
        lambda k, *a: dropout_add_norm_backward(k, *a, KEY),
        lambda n: [floats(n, C), floats(C, n).T, floats(n, C), floats(n, C), floats(C)],
    ),
    "dropout_add_norm_backward, by a mask, alone": (
        lambda k, g, x, s, keep: dropout_add_norm_backward(k, g, None, x, s, None, keep),
        lambda n: [floats(n, C), floats(n, C), floats(C, n).T, bools(n, C)],
    ),
    "attention": (attention, lambda n: heads(n, 7)),
    "attention, causal": (lambda k, *qkv: attention(k, *qkv, causal=True), lambda n: heads(n, max(n, 1))),
    "attention, one query": (attention, lambda n: [floats(2, 3, 1, 2), floats(2, 3, n, 2), floats(2, 3, n, 2)]),
    "attention, one query of each row, masked": (
        attention,
        lambda n: [floats(2, 3, 1, 2), floats(2, 3, n + 1, 2), floats(2, 3, n + 1, 2), bools(2, 1, 1, n + 1)],
    ),
    "attention, mask": (attention, lambda n: [*heads(n, 7), bools(n, 7) | np.eye(1, 7, dtype=bool)]),
    "attention, bias": (attention, lambda n: [*heads(n, 7), floats(3, 1, 7)]),
    "attention, dropout": (
        lambda k, *a: attention(k, *a[:3], keep=a[3]),
        lambda n: [*heads(n, 7), bools(2, 3, n, 7)],
    ),
    "attention, by a key": (lambda k, *a: attention(k, *a, keep=KEY), lambda n: heads(n, 7)),
    "attention, shared keys": (attention, lambda n: [floats(2, 6, n, 4), floats(2, 3, 7, 4), floats(2, 3, 7, 2)]),
    "attention, documents": (
        lambda k, *a: attention(k, *a, causal=True),
        lambda n: [*heads(max(n, 1), max(n, 1)), ints(2 * max(n, 1), 3).reshape(2, -1)],
    ),
    "attention_backward, documents, by a key, shared keys": (
        lambda k, *a: attention_backward(k, *a, keep=KEY),
        lambda n: [
            floats(2, 6, max(n, 1), 2), floats(2, 6, max(n, 1), 4), floats(2, 3, max(n, 1), 4),
            floats(2, 3, max(n, 1), 2), ints(2 * max(n, 1), 3).reshape(2, -1),
        ],
    ),
    "attention_backward": (attention_backward, lambda n: [floats(2, 3, n, 2), *heads(n, 7)]),
    "attention_backward, causal": (
        lambda k, *a: attention_backward(k, *a, causal=True),
        lambda n: [floats(2, 3, n, 2), *heads(n, max(n, 1))],
    ),
    "attention_backward, bias and dropout": (
        attention_backward,
        lambda n: [floats(2, 3, n, 2), *heads(n, 7), floats(2, 1, 1, 7), bools(2, 3, n, 7)],
    ),
    "cross_entropy": (lambda k, x, t: k.cross_entropy(x, t), lambda n: [floats(n, C), ints(n, C)]),
    "cross_entropy_backward": (
        cross_entropy_backward,
        lambda n: [floats(n, C), ints(n, C), floats(n), 2 * floats(n), 3 * floats(n)],
    ),
    "cross_entropy_backward, no smoothing": (
        cross_entropy_backward,
        lambda n: [floats(n, C), ints(n, C), floats(n), floats(n), np.zeros(n, np.float32)],
    ),
    "linear_cross_entropy": (
        lambda k, x, w, t, g: k.linear_cross_entropy(x, w, t, g, (True, True)),
        lambda n: [floats(n, 4), floats(C, 4), ints(n, C), floats(n)],
    ),
    "linear_cross_entropy, loss alone": (
        lambda k, x, w, t, g: k.linear_cross_entropy(x, w, t, g, (False, False))[0],
        lambda n: [floats(n, 4), floats(C, 4), ints(n, C), floats(n)],
    ),
    "linear_cross_entropy, frozen head": (
        lambda k, x, w, t, g: k.linear_cross_entropy(x, w, t, g, (True, False))[:2],
        lambda n: [floats(n, 4), floats(C, 4), ints(n, C), floats(n)],
    ),
    "add_at, small table": (add_at, lambda n: [floats(4, 16), floats(n, 16), ints(n, 4)]),
    "add_at, large table": (add_at, lambda n: [floats(300, 16), floats(2, n, 16), ints(2 * n, 300).reshape(2, n)]),
    "add_at, narrow table": (add_at, lambda n: [floats(4, 3), floats(n, 3), ints(n, 4) - 4]),
    "add_at, pairs": (
        lambda k, b, v, i, j: add_at(k, b, v, (i, j)),
        lambda n: [floats(4, 20), floats(n), ints(n, 4), ints(n, 20)],
    ),
    "add_at, rows of rows": (
        lambda k, b, v, i, j: add_at(k, b, v, (i, j)),
        lambda n: [floats(4, 5, 6), floats(n, 6), ints(n, 4) - 4, ints(n, 5) - 2],
    ),
    "add_at, rows of rows, broadcast": (
        lambda k, b, v, h, i, j: add_at(k, b, v, (h, i, j)),
        lambda n: [floats(2, 4, 5, 6), floats(6), ints(1, 2), ints(3, 4).reshape(3, 1), ints(n, 5)],
    ),
    "add_at, everywhere": (lambda k, b, v: add_at(k, b, v, ()), lambda n: [floats(n), floats(n)]),
    "add_at, mask": (
        lambda k, b, v, m: add_at(k, b, v, m),
        lambda n: [floats(n, 20), floats(int(bools(n).sum()), 20), bools(n)],
    ),
    "adamw": (lambda k, p, g: adamw(k, p, g, 0.1), lambda n: [floats(n, C), floats(C, n).T]),
    "adamw, no decay": (lambda k, p, g: adamw(k, p, g, 0.0), lambda n: [floats(n, C), floats(C, n).T]),
    "sum_squares": (lambda k, x: k.sum_squares(x), lambda n: [floats(n, C)]),
    "cast": (lambda k, *xs: tuple(k.cast(list(xs), xs[0].dtype)), lambda n: [floats(n, C), floats(C, n).T]),
    "unscale": (unscale, lambda n: [floats(n, C), floats(C, n).T]),
    "clip": (clip, lambda n: [floats(n, C), floats(C, n).T]),
    "column_sums": (lambda k, x: k.column_sums(x), lambda n: [floats(n, C)]),
    "int8_pack": (lambda k, w: k.int8_pack(w)[1], lambda n: [floats(n, 70)]),
    "int8_unpack": (lambda k, c, s: k.int8_unpack(c, s), lambda n: [codes(n, 70), floats(n, 2)]),
}


def in_dtype(arrays: list[np.ndarray], dtype: Any) -> list[np.ndarray]:
    return [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]


def outputs(result: Any) -> list[np.ndarray]:
    return [np.asarray(y) for y in (result if isinstance(result, tuple) else (result,))]


def check(name: str, arrays: list[np.ndarray], dtype: Any) -> None:
    """The cpu kernel on read-only arrays of a dtype against the reference in float64."""
    call = CASES[name][0]
    for a in arrays:
        a.flags.writeable = False
    expected = outputs(call(REFERENCE, *in_dtype(arrays, np.float64)))
    found = outputs(call(CPU, *arrays))
    terms = max((n for a in arrays for n in a.shape), default=1)
    assert len(found) == len(expected)
    for y, z in zip(found, expected, strict=True):
        assert y.dtype == dtype
        tolerance = 8 * np.finfo(dtype).eps * terms * (1 + np.abs(z).max(initial=0))
        np.testing.assert_allclose(y, z, rtol=0, atol=tolerance)


every_case = pytest.mark.parametrize("name", CASES)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def test_every_kernel_has_cases():
    tested = {name.split(",")[0] for name in CASES}
    tested |= {"sample", "embedding_step", "linear_step", "attention_step", "penalize"}  # of tokens: tests/cuda
    assert tested == {field.name for field in dataclasses.fields(Kernels)}


def small_tiles(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    """Let tiles and blocks be so small that a few rows make several."""
    monkeypatch.setattr(tiling, "TILE", tile)
    monkeypatch.setattr(cpu_matmul, "PART", 10 * tile)
    monkeypatch.setattr(cpu_matmul, "STEP", 2)
    monkeypatch.setattr(cpu_loss, "LOGITS", 2 * tile)
    monkeypatch.setattr(cpu_loss, "STRIP", 2)
    monkeypatch.setattr(cpu_decoding, "PART", tile)
    monkeypatch.setattr(cpu_decoding, "BLOCK", 10 * tile)
    monkeypatch.setattr(cpu_attention, "QUERIES", max(1, tile // 10))
    monkeypatch.setattr(cpu_attention, "SCORES", tile)
    monkeypatch.setattr(cpu_attention, "KEPT", 10 * tile)


# n = 6 rows of 5 columns fill a tile of 30: 29 and 24 make them a tile and a bit, 31 and 35 a bit less than one
@every_case
@both_dtypes
@pytest.mark.parametrize(
    ("n", "tile"), [(0, 30), (1, 30), (6, 1), (6, 24), (6, 29), (6, 30), (6, 31), (6, 35), (40, 30)]
)
def test_sizes_about_a_tile(name, dtype, n, tile, monkeypatch):
    small_tiles(monkeypatch, tile)
    check(name, in_dtype(CASES[name][1](n), dtype), dtype)


def laid_out(a: np.ndarray, layout: str) -> np.ndarray:
    """An array in another memory layout; for "broadcast" one whose rows are all the first."""
    if layout == "transposed":
        return np.ascontiguousarray(a.T).T
    if layout == "broadcast":
        return np.broadcast_to(a[:1], a.shape).view()
    step = {"gaps": 3, "reversed": -1}[layout]
    room = np.repeat(a, abs(step), axis=-1)
    return room[..., ::step]


@every_case
@both_dtypes
@pytest.mark.parametrize("layout", ["transposed", "gaps", "reversed", "broadcast"])
def test_memory_layouts(name, dtype, layout, monkeypatch):
    small_tiles(monkeypatch, 24)
    arrays = [laid_out(a, layout) if a.dtype.kind == "f" else a for a in in_dtype(CASES[name][1](7), dtype)]
    check(name, arrays, dtype)


@every_case
def test_same_bits_whatever_the_number_of_threads(name, monkeypatch):
    small_tiles(monkeypatch, 12)
    call, make = CASES[name]
    results = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "_count", count)
        results.append([y.tobytes() for y in outputs(call(CPU, *make(40)))])
    assert results[0] == results[1] == results[2]


@both_dtypes
@pytest.mark.parametrize("n", [768, 771, 2305, 50_257 // 8])
@pytest.mark.parametrize("by", ["the BLAS' threads", "ours"])
def test_one_row_has_the_same_bits_whoever_shares_it_out(dtype, n, by, monkeypatch):
    monkeypatch.setattr(cpu_decoding, "PART", 1)
    monkeypatch.setattr(cpu_decoding, "LATE", math.inf)
    rng = np.random.default_rng(n)
    x, weight = rng.standard_normal((1, 256)).astype(dtype), rng.standard_normal((n, 256)).astype(dtype)
    whole = weight @ x[0]
    for count in (1, 2, 3, 4, 7):
        monkeypatch.setattr(threads, "_count", count)
        cpu_decoding._spinning.pause = 0 if by != "ours" else 2
        y = CPU.matmul(x, weight.T)
        assert cpu_decoding._spinning.pause == (0 if by != "ours" else 1)
        assert y.tobytes() == whole.tobytes()
        assert {library.get_num_threads() for library in threads.blas_on_one_thread()} == {1}


def test_a_late_product_leaves_the_next_ones_to_our_threads_longer_and_longer():
    spinning = cpu_decoding._Spinning()
    pauses = []
    for _ in range(3):
        assert spinning.pays()
        spinning.took(1e-4, 1 << 20)
        spinning.took(1e-4 + 2 * cpu_decoding.LATE, 1 << 20)
        pauses.append(1)
        while not spinning.pays():
            pauses[-1] += 1
    assert pauses[0] == cpu_decoding.LEAST and pauses == sorted(set(pauses))
    for _ in range(cpu_decoding.MOST):
        spinning.took(1e-4, 1 << 20)
    assert spinning.next_pause == cpu_decoding.LEAST


@pytest.mark.parametrize("k", [REFERENCE, CPU], ids=["reference", "cpu"])
@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]
)
def test_norms_compute_what_is_needed(k, needs):
    g, x, weight = floats(7, C), floats(C, 7).T, floats(C)
    _, mean, rstd = k.layer_norm(x, weight, None, 1e-5)
    whole = k.layer_norm_backward(g, x, weight, mean, rstd, (True, True, True))
    for needed, d, full in zip(needs, k.layer_norm_backward(g, x, weight, mean, rstd, needs), whole, strict=True):
        assert (d is None) == (not needed)
        assert d is None or np.array_equal(d, full)
    _, rstd = k.rms_norm(x, weight, 1e-5)
    whole = k.rms_norm_backward(g, x, weight, rstd, (True, True))
    for needed, d, full in zip(needs[:2], k.rms_norm_backward(g, x, weight, rstd, needs[:2]), whole, strict=True):
        assert (d is None) == (not needed)
        assert d is None or np.array_equal(d, full)


@pytest.mark.parametrize("k", [REFERENCE, CPU], ids=["reference", "cpu"])
@pytest.mark.parametrize("form", ["gelu", "gelu_tanh", "silu"])
def test_activations_compute_what_is_needed(k, form):
    g, x, bias = floats(2, 7, C), floats(7, 2, C).swapaxes(0, 1), floats(C)
    whole = k.activate_backward(g, x, bias, form, (True, True))
    for needs in ((True, False), (False, True), (False, False)):
        y, place = np.empty((2, 7, C), np.float32), g.copy()
        again = [
            k.activate_backward(g, x, bias, form, needs, y),
            k.activate_backward(place, x, bias, form, needs, None, place),
        ]
        np.testing.assert_allclose(y, k.activate(x, bias, form), rtol=1e-6, atol=1e-7)
        for gradients in again:
            for needed, d, full in zip(needs, gradients, whole, strict=True):
                assert (d is None) == (not needed)
                assert d is None or np.array_equal(d, full)


@given(data=st.data(), form=st.sampled_from(["gelu", "gelu_tanh", "silu"]))
def test_a_bias_is_as_if_it_had_been_added_before(data, form):
    """To the same bits: f(x + bias) is f of the sum, forward and backward, and dbias the sum of dx."""
    n, c, tile = (data.draw(st.integers(1, high)) for high in (9, 6, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    g, x, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, c), (n, c), c))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "TILE", tile)
        np.testing.assert_array_equal(CPU.activate(x, bias, form), CPU.activate(x + bias, None, form))
        dx, dbias = CPU.activate_backward(g, x, bias, form, (True, True))
        np.testing.assert_array_equal(dx, CPU.activate_backward(g, x + bias, None, form, (True, False))[0])
    np.testing.assert_allclose(dbias, dx.sum(axis=0), rtol=0, atol=1e-5)


@given(n=st.integers(1, 9), columns=st.integers(tiling.LONG_ROW - 1, 2 * tiling.LONG_ROW), buffer=st.integers(1, 600))
def test_long_rows_are_those_of_the_reference_and_leave_numpys_buffer_as_it_was(n, columns, buffer):
    x, g = np.random.default_rng(n).standard_normal((2, n, columns)).astype(np.float32)
    weight, bias = g[0], x[0]
    with np.errstate():
        np.setbufsize(16 * buffer)
        y, mean, rstd = CPU.layer_norm(x, weight, bias, 1e-5)
        gradients = CPU.layer_norm_backward(g, x, weight, mean, rstd, (True, True, True))
        assert np.getbufsize() == 16 * buffer
    exact = [a.astype(np.float64) for a in (x, weight, bias, g)]
    expected = REFERENCE.layer_norm(*exact[:3], 1e-5)
    np.testing.assert_allclose(y, expected[0], rtol=0, atol=2e-5)
    back = REFERENCE.layer_norm_backward(exact[3], *exact[:2], *expected[1:], (True, True, True))
    for d, wanted in zip(gradients, back, strict=True):
        np.testing.assert_allclose(d, wanted, rtol=0, atol=1e-4)


def test_numpys_buffer_is_small_for_long_rows_alone_and_as_before_after_an_error():
    before, seen = np.getbufsize(), []

    def work(part):
        seen.append(np.getbufsize())
        raise KeyError(part)

    for columns in (tiling.LONG_ROW, tiling.LONG_ROW - 1):
        with pytest.raises(KeyError):
            tiling.row_by_row(columns)(work)(0)
        assert np.getbufsize() == before
    assert seen == [tiling.LONG_ROW, before]


# --- the counter-based stream ---


def test_words_are_those_of_philox():
    """The first counter of the keys 0 and pi, as in the tests of the paper's library."""
    assert philox.words(0, 4).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    a, b = philox.words(KEY, 12), philox.words(KEY + 1, 12)
    assert a.tolist()[:5] == philox.words(KEY, 5).tolist() and len(np.unique(np.append(a, b))) == 24


@given(p=st.floats(0.01, 0.99), key=st.integers(0, 2**63 - 1))
def test_a_mask_by_a_key_keeps_its_share(p, key):
    mask = REFERENCE.keep_mask(key, p, (100, 100), np.zeros(1))
    assert mask.dtype == bool and abs(mask.mean() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / mask.size)
    halves = (~mask).reshape(2, -1)
    assert abs((halves[0] & halves[1]).mean() - p * p) < 0.04  # neighbours and halves know nothing of each other
    flat = (~mask).reshape(-1)
    assert abs((flat[1:] & flat[:-1]).mean() - p * p) < 0.04


# --- extreme values ---

extreme = pytest.mark.parametrize("k", [REFERENCE, CPU], ids=["reference", "cpu"])


@extreme
def test_softmax_of_large_numbers(k):
    x = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [3e38, 3e38, -3e38], [-np.inf, 0.0, 0.0]], np.float32)
    with np.errstate(over="ignore"):
        y = k.softmax(x)
    np.testing.assert_allclose(y, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [0, 0.5, 0.5]], rtol=1e-6)


@extreme
def test_nan_stays_in_its_row(k):
    x = floats(4, C)
    x[1, 2] = np.nan
    g, targets, weight = floats(4, C), ints(4, C), floats(C)
    results = [
        k.softmax(x),
        k.layer_norm(x, weight, None, 1e-5)[0],
        k.rms_norm(x, weight, 1e-5)[0],
        k.cross_entropy(x, targets)[0],
    ]
    results += [layer_norm_backward(k, g, x, weight)[0], rms_norm_backward(k, g, x, weight)[0]]
    results += [cross_entropy_backward(k, x, targets, g[:, 0], g[:, 1], g[:, 2])]
    for y in results:
        assert np.isnan(y[1]).all()
        assert np.isfinite(np.delete(y, 1, axis=0)).all()
    elementwise = [k.erf(x), k.dropout(x, g > -9, 0.5), k.dropout(g, g > -9, 0.5, x)]
    for form in ("gelu", "gelu_tanh", "silu"):
        dx, dbias = k.activate_backward(g, x, weight, form, (True, True))
        elementwise += [k.activate(x, weight, form), dx]
        assert np.flatnonzero(~np.isfinite(dbias)).tolist() == [2]
    for y in elementwise:
        assert np.argwhere(~np.isfinite(y)).tolist() == [[1, 2]]


@extreme
@pytest.mark.parametrize("rows", [4, 300])
def test_an_infinite_gradient_stays_in_its_row_of_a_table(k, rows):
    buffer, values = np.zeros((rows, 16), np.float32), np.ones((3, 16), np.float32)
    values[1, 2] = np.inf
    k.add_at(buffer, np.array([1, 2, 1]), values)
    assert np.argwhere(~np.isfinite(buffer)).tolist() == [[2, 2]]


@extreme
def test_softmax_of_minus_infinity_alone_is_nan(k):
    with np.errstate(invalid="ignore"):
        y = k.softmax(np.array([[-np.inf, -np.inf], [0.0, -np.inf]]))
    np.testing.assert_array_equal(y, [[np.nan, np.nan], [1, 0]])


@extreme
def test_cross_entropy_of_large_numbers(k):
    x = np.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-np.inf, 0.0, 0.0], [-1e4, -1e4, -1e4]], np.float32)
    targets = np.array([0, 1, 2, 0])
    loss, lse = k.cross_entropy(x, targets)
    np.testing.assert_allclose(loss, [0, 2e4, math.log(2), math.log(3)], rtol=1e-6, atol=1e-2)
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    dx = k.cross_entropy_backward(x, targets, lse, one, one, zero)
    np.testing.assert_allclose(dx, [[0, 0, 0], [1, -1, 0], [0, 0.5, -0.5], [-2 / 3, 1 / 3, 1 / 3]], atol=1e-3)


@extreme
@pytest.mark.parametrize("form", ["gelu", "gelu_tanh", "silu"])
def test_activations_of_large_numbers(k, form):
    x = np.array([-1e4, -100, 100, 1e4], np.float32)
    np.testing.assert_array_equal(k.activate(x, None, form), [0, 0, 100, 1e4])
    np.testing.assert_array_equal(k.activate(0 * x, x, form), [0, 0, 100, 1e4])
    dx, _ = k.activate_backward(np.ones_like(x), x, None, form, (True, False))
    np.testing.assert_array_equal(dx, [0, 0, 1, 1])


@extreme
def test_norms_of_rows_that_do_not_vary(k):
    x, bias = np.full((2, C), 1e4, np.float32), floats(C)
    np.testing.assert_allclose(k.layer_norm(x, floats(C), bias, 1e-5)[0], np.stack([bias, bias]), atol=1e-3)
    np.testing.assert_array_equal(k.rms_norm(0 * x, None, 1e-5)[0], 0 * x)


@pytest.mark.parametrize("k", [REFERENCE, CPU])
def test_what_documents_shared_keys_and_a_key_of_dropout_stand_for(k):
    """A mask of pairs in one document, each key's head repeated, the mask that the stream of a key gives."""
    q, key, v, g = floats(2, 6, 9, 4), floats(2, 3, 9, 4), floats(2, 3, 9, 2), floats(2, 6, 9, 2)
    documents = ints(18, 3).reshape(2, 9)
    words = philox.words(KEY, 2 * 6 * 9 * 12).reshape(2, 6, 9, 12)[..., :9]  # rows of 12 words, for 9 keys
    keep, same = words >= 0.2 * 2.0**32, documents[:, None, :, None] == documents[:, None, None, :]
    dq, dk, dv, _ = attention_backward(k, g, q, key, v, documents, KEY)
    each = attention_backward(k, g, q, np.repeat(key, 2, axis=1), np.repeat(v, 2, axis=1), same, keep)
    np.testing.assert_allclose(dq, each[0], atol=1e-6)
    for d, wanted in zip((dk, dv), each[1:3], strict=True):
        np.testing.assert_allclose(d, wanted[:, ::2] + wanted[:, 1::2], atol=1e-6)


@extreme
def test_a_masked_key_weighs_nothing(k):
    q, key, v = heads(2, 3)
    v[:, :, 1] = 1e30
    y = attention(k, q, key, v, np.array([True, False, True]))
    assert np.abs(y).max() < 100


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float32, 6), (np.float64, 0)])
def test_erf_to_a_few_units_in_the_last_place(dtype, ulps):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.concatenate([[0.0, tiny, 1e-30], np.logspace(-10, 1, 2000), np.linspace(0, 7, 5000), [100.0, 1e30, np.inf]])
    x = np.concatenate([-x, x]).astype(dtype)
    exact = np.array([math.erf(v) for v in x.tolist()])
    found = CPU.erf(x)
    assert found.dtype == dtype
    error = np.abs(found.astype(np.float64) - exact)
    assert (error <= ulps * np.spacing(np.abs(exact).astype(dtype)).astype(np.float64)).all()
    assert np.isnan(CPU.erf(np.array([np.nan], dtype))).all()
    np.testing.assert_array_equal(CPU.erf(-x), -found)


# --- which kernels are used ---


def test_use_switches_and_switches_back():
    x = floats(2)
    assert kernels.of(x) is CPU
    with kernels.use("reference"):
        assert kernels.of(x) is REFERENCE
        with kernels.use("auto"):
            assert kernels.of(x) is CPU
        assert kernels.of(x) is REFERENCE
    assert kernels.of(x) is CPU


def test_use_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="expected 'reference' or 'auto', not 'fast'"), kernels.use("fast"):
        pass


def test_column_sums_and_rows():
    for x in (floats(100, 60), floats(3, C), floats(0, C)):
        np.testing.assert_allclose(kernels.column_sums(x), x.astype(np.float64).sum(axis=0), atol=1e-4)
    assert kernels.as_rows(np.zeros((2, 3, 0))).shape == (6, 0)
    assert kernels.as_rows(np.zeros((2, 0, 4))).shape == (0, 4)
