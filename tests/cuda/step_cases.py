"""Calls that bring the kernels of a token's step to work, in every dtype: sizes about the edges of their parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinygrad_llm.kernels import CUDA
from tinygrad_llm.kernels.cuda import step
from tinygrad_llm.kernels.cuda.launch import REALS
from tinygrad_llm.kernels.step import CHUNK, FEW

Place = Callable[[np.ndarray], Any]  # puts an array where the kernels work, in the dtype they are tried in
Call = Callable[[Any, Place, Place], list[Any]]  # kernels, places of 32 bits and of 16 -> results


def floats(*shape: int) -> np.ndarray:
    """Normal numbers that every dtype holds: the same for the same shape."""
    x = np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)
    return (np.round(x * 16) / 16).astype(np.float32)


def linear(rows: int, n: int, k: int, *, normed: bool = False, form: str | None = None, add: bool = False,
           bias: bool = True, narrow: bool = False, wide_bias: bool = False, blocks: int = step.BLOCKS
           ) -> Call:  # fmt: skip
    """narrow: x and the result in the dtype of the weight. blocks: for the sake of which tiles are made smaller."""

    def call(kernels: Any, put: Place, put_real: Place) -> list[Any]:
        ends = put_real if narrow else put
        put_bias = put if wide_bias else put_real
        x, weight, out = ends(floats(rows, k)), put_real(floats(n, k) / 4), ends(floats(rows, n))
        norm = (put_real(floats(k)), put_real(1 + floats(k)), 1e-5) if normed else None
        x = put(floats(rows, k)) if normed else x
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(step, "BLOCKS", blocks)
            shift, later = put_bias(floats(n)) if bias else None, put_real(floats(n, 40))
            kernels.linear_step(x, weight, shift, out, norm, form, add, ahead=later if rows % 2 else None)
        return [out]

    return call


def attention(lengths: list[int], size: int, heads: int, kv_heads: int, d: int, *, narrow: bool = False) -> Call:
    def call(kernels: Any, put: Place, put_real: Place) -> list[Any]:
        rows = len(lengths)
        k, v = (floats(rows, kv_heads, size, d) * factor for factor in (1, 2))
        for row, length in enumerate(lengths):  # what does not count may be anything: it is not read
            k[row, :, length - 1 :] = v[row, :, length - 1 :] = np.inf if kernels is CUDA else 0
        keys, values, out = put_real(k), put_real(v), (put_real if narrow else put)(floats(rows, heads * d))
        parts = -(-size // CHUNK)
        room = put(floats(rows, heads, parts, d + 2)), put(np.zeros((rows, heads), np.int32))
        qkv = put(floats(rows, (heads + 2 * kv_heads) * d))
        for _ in range(2):  # the room serves again
            kernels.attention_step(qkv, keys, values, put(np.array(lengths)), d**-0.5, out, room)
        new = [x[row, :, length - 1] for x in (keys, values) for row, length in enumerate(lengths)]
        return [out, room[1], *new]

    return call


def embedding(rows: int, c: int, drawn: bool, seen: bool) -> Call:
    def call(kernels: Any, put: Place, put_real: Place) -> list[Any]:
        state = put(np.array([[-1, 5, 2, 0][:rows], [4, 0, 6, 7][:rows], [1, 0, 2, 1][:rows]]))
        draws = put(np.arange(3.0 * rows).reshape(3, rows)) if drawn else None
        u = put(np.zeros((rows, 1))) if drawn else None
        marks = put(np.zeros((rows, 6), bool)) if seen else None
        x = put(floats(rows, c))
        kernels.embedding_step(state, draws, u, put_real(floats(6, c)), put_real(floats(7, c)), x, marks, 7)
        return [x, state, *(a for a in (u, marks) if a is not None)]

    return call


def penalty(kernels: Any, put: Place, put_real: Place) -> list[Any]:
    x = put(floats(3, 99))
    kernels.penalize(x, put(floats(99, 3).T > 0), 1.3)
    return [x]


def likeliest(v: int) -> Call:
    def call(kernels: Any, put: Place, put_real: Place) -> list[Any]:
        x = np.round(floats(6, v))
        x[0], x[1, v // 2], x[2, -1], x[3] = 1, np.nan, np.inf, -np.inf
        tokens = put(np.zeros(6, np.int64))
        kernels.sample(put_real(x), None, 0.0, None, None, None, tokens)
        return [tokens]

    return call


FLOAT32 = {
    "penalize": penalty,
}  # what no other dtype has

SIZES = (
    (1, 1, 1), (1, 9, 64), (1, 40, 1600), (2, 33, 136), (3, 70, 96), (7, 37, 264), (9, 16, 32), (17, 65, 40),
    (66, 20, 64),
)  # fmt: skip
NORMED = (
    (1, 30, 48, "gelu"), (2, 12, 2056, "gelu_tanh"), (5, 50, 33, "silu"), (8, 20, 96, None), (12, 20, 96, "gelu"),
)  # fmt: skip
STEPS: dict[str, Call] = {
    **{f"linear, {rows} x {n} x {k}": linear(rows, n, k, add=rows % 2 == 1) for rows, n, k in SIZES},
    **{
        f"linear of a norm, {rows} x {n} x {k}, {form}": linear(rows, n, k, normed=True, form=form, bias=rows < 9)
        for rows, n, k, form in NORMED
    },
    **{
        f"linear of {rows} narrow rows": linear(rows, 40, 64, form="gelu", narrow=True)
        for rows in (FEW + 1, 2 * FEW, 65)
    },
    **{f"linear of {rows} rows in large tiles": linear(rows, 37, 328, blocks=1, add=True) for rows in (30, 33, 130)},
    **{
        f"linear of {rows} rows with a bias in float32": linear(rows, 21, 64, wide_bias=True, normed=True, add=True)
        for rows in (3, 12)
    },
    "linear by cublasLt": linear(12, 24, 96, bias=False, add=True),
    "linear by cublasLt, a bias": linear(12, 24, 96, wide_bias=True, add=True),
    "linear by cublasLt, narrow": linear(12, 24, 96, narrow=True),
    "linear by cublasLt, GELU": linear(9, 16, 32, form="gelu_tanh", narrow=True),
    "linear by cublasLt, GELU, no bias": linear(9, 16, 32, form="gelu_tanh", narrow=True, bias=False),
    "attention, length 1": attention([1], 1, 2, 2, 16),
    "attention, about a part": attention([CHUNK - 1, CHUNK, CHUNK + 1, 2], 2 * CHUNK, 3, 3, 32),
    "attention, full": attention([3 * CHUNK, 2 * CHUNK + 1], 3 * CHUNK, 2, 2, 64),
    "attention, shared keys": attention([70, 3], 100, 6, 2, 48),
    "attention, wide": attention([5, 129], 130, 1, 1, 128),
    "attention, odd width": attention([5, 80], 130, 2, 2, 30),
    "attention, narrow": attention([70, 5], 130, 2, 1, 64, narrow=True),
    "embedding": embedding(3, 40, True, True),
    "embedding, greedy": embedding(4, 300, False, False),
    **{f"likeliest of {v}": likeliest(v) for v in (1, 33, 700, 5000)},
    **FLOAT32,
}
ROUNDED = ("linear of a norm, 12 x 20 x 96, gelu", "linear of 12 rows with a bias in float32")  # before the product
assert set(ROUNDED) <= set(STEPS)
ONCE_MORE = ("linear, 1 x 40", "linear, 9", "linear of 9", "attention, about", "attention, narrow", "embedding, greedy")
CASES = [
    (name, real) for name in STEPS for real in range(3)
    if real == 0 or (name not in FLOAT32 and (real == 1 or name.startswith(ONCE_MORE)))
]  # fmt: skip


def results(name: str, kernels: Any, real: int | None, move: Place) -> list[np.ndarray]:
    """What a call gives: in float32 beside a dtype of REALS, or all in float64 where real is None, unmoved."""

    def put(dtype: Any) -> Place:
        return lambda x: move(np.ascontiguousarray(x.astype(dtype) if x.dtype == np.float32 else x))

    wide, narrow = (np.float64, np.float64) if real is None else (np.float32, REALS[real])
    return STEPS[name](kernels, put(wide), put(narrow))


def check(name: str, real: int, found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    """Whole numbers are equal, others to the rounding of their dtype, and float32's where they were added up."""
    assert len(found) == len(wanted)
    for y, z in zip(found, wanted, strict=True):
        if y.dtype.kind in "ib":
            np.testing.assert_array_equal(y, z)
            continue
        rounded = y.dtype.itemsize == 2 or (real and name in ROUNDED)
        eps = (2.0**-18, 2.0**-8, 2.0**-11)[real if rounded else 0]
        largest = 1 + np.abs(z[np.isfinite(z)]).max(initial=0)
        np.testing.assert_allclose(y.astype(np.float64), z, rtol=0, atol=eps * largest)
