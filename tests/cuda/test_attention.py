"""Attention on a GPU: its kernels on the processor in every dtype, which of them serves a call, and what it holds."""

from __future__ import annotations

import warnings
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda import emulated, pretend
from tests.cuda.cases import ATTENTION, documents
from tests.cuda.kinds import back, moved
from tests.kernels.test_kernels import KEY, floats, in_dtype
from tinygrad_llm import devices
from tinygrad_llm.kernels import CUDA, REFERENCE
from tinygrad_llm.kernels.cuda import choice, heads, heads_16, heads_32, launch, sdp
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn.functional.attention import attention_of_packed

BFLOAT16, FLOAT16 = launch.REALS[1:]
IN_FLOAT32 = ("attention, shared keys, dropout", "attention, documents", "attention, added mask, dropout")
IN_TF32 = ("attention, shared keys, dropout", "attention, documents", "attention, bool mask")


def outputs(result: Any) -> list[np.ndarray]:
    return [np.asarray(back(y)) for y in result]


def by_kernels(name: str, dtype: Any) -> list[np.ndarray]:
    call, arrays = ATTENTION[name]
    return outputs(call(CUDA, *moved(in_dtype(arrays, dtype))))


def check(name: str, dtype: Any, error: float) -> None:
    """The result and each gradient, within a relative error, given the numbers as `dtype` has them."""
    call, arrays = ATTENTION[name]
    rounded = [a if a.dtype.kind in "bi" else a.astype(dtype).astype(np.float64) for a in arrays]
    found, wanted = by_kernels(name, dtype), outputs(call(REFERENCE, *rounded))
    assert [y.dtype for y in found] == [dtype, dtype, dtype, dtype, np.float32][: len(wanted)]  # the last of the scores
    for y, z in zip(found, wanted, strict=True):
        assert y.shape == z.shape
        assert np.linalg.norm(y - z) <= error * np.linalg.norm(z)


# Case, dtype, whether with TF32, and the error: a few times that of a factor's rounding.
KINDS = [
    *((name, BFLOAT16, False, 2.0**-8) for name in ATTENTION),
    *((name, np.float32, False, 2.0**-20) for name in IN_FLOAT32),
    *((name, np.float32, True, 2.0**-10) for name in IN_TF32),
    ("attention, long", FLOAT16, False, 2.0**-11),
]


@pytest.mark.parametrize(("name", "dtype", "tf32", "error"), KINDS)
def test_as_the_reference(name, dtype, tf32, error, monkeypatch):
    monkeypatch.setattr(devices, "tf32", tf32)
    with emulated.gpu():
        check(name, np.dtype(dtype), error)


@pytest.mark.cuda
@pytest.mark.parametrize(("name", "dtype", "tf32", "error"), KINDS)
def test_as_the_reference_on_a_gpu(name, dtype, tf32, error, monkeypatch):
    monkeypatch.setattr(devices, "tf32", tf32)
    check(name, np.dtype(dtype), error)
    for y, z in zip(by_kernels(name, dtype), by_kernels(name, dtype), strict=True):
        np.testing.assert_array_equal(y.astype(np.float32), z.astype(np.float32))


@pytest.mark.cuda
@pytest.mark.parametrize("width", [64, 128])
def test_long_sequences_on_a_gpu(width):
    """Many tiles, packed documents: against float32's kernel, itself held against the reference."""
    arrays = list(floats(4, 1, 4, 2048, width).astype(BFLOAT16))
    numbers = documents(2048)[:1]
    found = []
    for dtype in (BFLOAT16, np.dtype(np.float32)):
        q, k, v, g = moved([a.astype(dtype) for a in arrays])
        y, saved = CUDA.attention(q, k, v, moved(numbers), True, width**-0.5, None, 0.0)
        found.append(outputs((y, *CUDA.attention_backward(g, q, k, v, saved, width**-0.5, None, 0.0, False)[:3])))
    for y, z in zip(*found, strict=True):
        assert np.linalg.norm(y - z) <= 2.0**-7 * np.linalg.norm(z)


# By products that only a Hopper has: each way to divide the work, the widths, masks and dropout beside.
ON_HOPPER = [
    *product(heads_16.HOPPER_16, ["attention, long", "attention, wide"]),
    (heads_16.HOPPER_16[0], "attention, padded"), (heads_16.HOPPER_16[0], "attention, shared keys, dropout"),
    (heads_16.HOPPER_16[0], "attention, documents"), (heads_16.HOPPER_16[0], "attention, bool mask"),
    (heads_16.HOPPER_16[0], "attention, added mask, dropout"),
]  # fmt: skip


@pytest.mark.parametrize(("way", "name"), ON_HOPPER)
def test_a_hopper_s_products(way, name, monkeypatch):
    """As the reference, whichever thread comes first, and whether products are computed at once or when waited for."""
    monkeypatch.setattr(emulated, "hopper", True)
    with heads.only(way):
        with emulated.gpu():
            check(name, BFLOAT16, 2.0**-8)
        assert all(in_both_orders(name, BFLOAT16, monkeypatch))


def test_a_hopper_s_products_in_float16(monkeypatch):
    monkeypatch.setattr(emulated, "hopper", True)
    with heads.only(heads_16.HOPPER_16[0]), emulated.gpu():
        check("attention, long", FLOAT16, 2.0**-11)


@pytest.mark.cuda
@pytest.mark.parametrize(("way", "name"), ON_HOPPER)
def test_a_hopper_s_products_on_a_gpu(way, name):
    if not launch.is_hopper(0):
        pytest.skip("this GPU is no Hopper")
    with heads.only(way):
        check(name, BFLOAT16, 2.0**-8)
        for y, z in zip(by_kernels(name, BFLOAT16), by_kernels(name, BFLOAT16), strict=True):
            np.testing.assert_array_equal(y.astype(np.float32), z.astype(np.float32))


SPOILED = {  # what may not be missing or other in a Hopper's kernels: what is there instead, and how it is seen
    "show_to_products();": (";", "may not see what was copied"),
    "begin_products();": (";", "before the registers are in order"),
    "wait_for_copies();": (";", ""), "__syncthreads();": (";", ""), "wait_for<1, M, J>(s);": (";", ""),
    "wait_for<0, M, N>(o);": (";", ""), "ROWS_B * 128": ("ROWS_B * 64", ""), "k % 4 * 32": ("k % 4 * 16", ""),
    "1u << 30": ("1u << 31", "in another order"), "/ 16) << 32": ("/ 8) << 32", ""),
    "factor_at(b + column * 64": ("factor_at(b + 64 + column * 64", "in an atom's first row"),
    "SIDE_BY_SIDE 64": ("SIDE_BY_SIDE 48", "begin different products|never come"),
    "row / 64 * 64 * 64": ("row * 64", "begin different products"),
    # Written to, while products read it: a tile whose products are waited for after the next one's copies have begun.
    "wait_for<0, M, N>(o);\n    }": ("}\n    wait_for<0, M, N>(o);", ""),
}  # fmt: skip


@pytest.mark.parametrize("part", SPOILED)
def test_what_a_hopper_asks_for_is_seen_where_it_is_missing(part, monkeypatch):
    """The checks above can fail: without a wait, a fence, a barrier; where a factor lies elsewhere; by a warp alone."""
    whole, (instead, seen) = launch.source, SPOILED[part]
    name = "attention, wide" if "* 128" in part or "k %" in part else "attention, long"
    assert any(part in whole(file) for file in ("attention_16", "attention_16_dq"))
    monkeypatch.setattr(emulated, "built", cache(emulated.built.__wrapped__))
    monkeypatch.setattr(launch, "source", lambda file: whole(file).replace(part, instead))
    monkeypatch.setattr(emulated, "hopper", True)
    with heads.only(heads_16.HOPPER_16[0]), emulated.gpu(), pytest.raises(AssertionError, match=seen or None):
        check(name, BFLOAT16, 2.0**-8)
        monkeypatch.setattr(emulated, "backwards", True)
        check(name, BFLOAT16, 2.0**-8)


@pytest.mark.parametrize("right", [True, False])
def test_a_hopper_s_products_are_taken_where_they_are_sooner_and_right(right, monkeypatch):
    """One division of the work was the fastest there, another one back; with a fault in them neither is taken."""
    times, whole, files = iter([2.0, 1.0, 5.0, 1.0, 2.0, 5.0] if right else [5.0, 5.0]), launch.source, []
    monkeypatch.setattr(choice, "milliseconds", lambda call, runs: next(times))
    monkeypatch.setattr(choice, "_capturing", lambda: False)
    monkeypatch.setitem(sdp.allowed, "wgmma", True)
    monkeypatch.setattr(emulated, "hopper", True)
    for op in ("chosen", "chosen_back"):
        monkeypatch.setattr(heads, op, choice.Choice(op))
    if not right:
        monkeypatch.setattr(emulated, "built", cache(emulated.built.__wrapped__))
        monkeypatch.setattr(launch, "source", lambda file: whole(file).replace("k % 4 * 32", "k % 4 * 16"))
    q, g, start = floats(1, 1, 70, 64).astype(BFLOAT16), floats(1, 1, 70, 64).astype(BFLOAT16), emulated.start
    with emulated.gpu(), monkeypatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        patch.setattr(launch, "start", lambda *args: (files.append((args[1], args[2])), start(*args)))
        arrays, g = moved([q, q, q]), moved(g)
        for _ in range(choice.BEFORE + 1):
            y, saved = CUDA.attention(*arrays, None, True, 0.1, None, 0.0)
            there = files[-1:]
            gradients = CUDA.attention_backward(g, *arrays, saved, 0.1, None, 0.0, False)
    took = [dict(defined).get("BLOCKS") for _, defined in [*there, *files[-2:]]]
    assert took == ([1, 2, 1] if right else [None] * 3)  # forward the second division, back the first
    faults = [str(w.message) for w in told if "gives other numbers than attention_16.cu" in str(w.message)]
    assert len(faults) == (0 if right else 4)
    z, p = REFERENCE.attention(*[q.astype(np.float32)] * 3, None, True, 0.1, None, 0.0)
    wanted = REFERENCE.attention_backward(
        back(g).astype(np.float32), *[q.astype(np.float32)] * 3, p, 0.1, None, 0.0, False
    )
    for a, b in zip((y, *gradients[:3]), (z, *wanted[:3]), strict=True):
        assert np.linalg.norm(back(a).astype(np.float32) - b) <= 2.0**-7 * np.linalg.norm(b)


def test_a_hopper_s_products_are_for_many_queries_on_a_hopper(monkeypatch):
    q, one = floats(1, 2, 64, 64).astype(BFLOAT16), floats(1, 2, 1, 64).astype(BFLOAT16)
    asked = heads.Asked(q, q, q, None, False, 0.1, None, 0.0)
    with emulated.gpu():
        for hopper, asked_for, some, wanted in (
            (True, True, q, 2), (True, True, one, 0), (False, True, q, 0), (True, False, q, 0),
        ):  # fmt: skip
            monkeypatch.setattr(emulated, "hopper", hopper)
            given = asked._replace(q=moved(some), k=moved(q), v=moved(q))
            with tg.backends.cuda.sdp_kernel(enable_cudnn=False):
                tg.backends.cuda.enable_wgmma_sdp(asked_for)
                assert tg.backends.cuda.wgmma_sdp_enabled() == asked_for
                assert [way.switch for way in heads.serving(given)] == ["flash", *["wgmma"] * wanted]
            with tg.backends.cuda.sdp_kernel(enable_flash=False):
                tg.backends.cuda.enable_wgmma_sdp(asked_for)
                assert not any(way.switch == "wgmma" for way in heads.serving(given))


def in_both_orders(name: str, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each result has the same bits and no nan, whichever thread comes first and whenever copies arrive."""
    with emulated.gpu():
        first = by_kernels(name, dtype)
        monkeypatch.setattr(emulated, "backwards", True)
        return [np.array_equal(y, z) for y, z in zip(first, by_kernels(name, dtype), strict=True)]


@pytest.mark.parametrize("name", ["attention, long", "attention, wide", "attention, added mask, dropout"])
def test_the_order_in_which_threads_run_changes_nothing(name, monkeypatch):
    assert all(in_both_orders(name, BFLOAT16, monkeypatch))


@pytest.mark.parametrize("wait", ["__syncthreads()", "wait_for_copies()"])
def test_a_missing_wait_is_seen(wait, monkeypatch):
    """The check above can fail: results differ without a barrier, and where nobody waits for what is copied."""
    whole = launch.source
    monkeypatch.setattr(emulated, "built", cache(emulated.built.__wrapped__))
    monkeypatch.setattr(launch, "source", lambda file: whole(file).replace(f"{wait};", ";"))
    assert not any(in_both_orders("attention, long", BFLOAT16, monkeypatch))


def test_a_key_may_lie_in_memory():
    """Where a captured launch finds another one each time."""
    given = [floats(1, 2, n, 24).astype(BFLOAT16) for n in (65, 129, 129)]
    with emulated.gpu():
        for arrays in (moved(given), moved(in_dtype(given, np.float32))):
            results = []
            for key in (KEY, moved(np.array([KEY]))):
                y, saved = CUDA.attention(*arrays, None, False, 0.3, key, 0.3)
                dq, dk, dv, _ = CUDA.attention_backward(y, *arrays, saved, 0.3, key, 0.3, False)
                results.append([back(a).astype(np.float32) for a in (y, dq, dk, dv)])
            for y, z in zip(*results, strict=True):
                np.testing.assert_array_equal(y, z)


def test_what_no_kernel_serves_goes_the_reference_s_way():
    """Heads of another width, a mask of dropout in memory, a scale that turns the order round: computed in float32."""
    q, k, v, wide = (floats(1, 2, 9, d).astype(BFLOAT16) for d in (8, 8, 8, 130))
    keep = np.random.default_rng(0).random((1, 2, 9, 9)) < 0.5
    with emulated.gpu():
        for given in (
            (wide, wide, wide, None, True, 0.1, None, 0.0), (q, k, v, None, True, 0.1, keep, 0.5),
            (q, k, v[..., :4], None, True, 0.1, None, 0.0), (q, k, v, None, True, -0.1, None, 0.0),
        ):  # fmt: skip
            y, saved = CUDA.attention(*moved(given))
            assert saved.way is heads.BY_REFERENCE
            dq, *_ = CUDA.attention_backward(y, *moved(given[:3]), saved, given[5], moved(given[6]), given[7], False)
            wanted = [a.astype(np.float32) if getattr(a, "dtype", None) == BFLOAT16 else a for a in given]
            z, p = REFERENCE.attention(*wanted)
            dz, *_ = REFERENCE.attention_backward(
                back(y).astype(np.float32), *wanted[:3], p, given[5], *wanted[6:], False
            )
            np.testing.assert_array_equal(back(y), z.astype(BFLOAT16))
            np.testing.assert_array_equal(back(dq), dz.astype(BFLOAT16))


def test_a_gpu_without_the_instructions_goes_another_way(monkeypatch):
    q = floats(1, 2, 9, 8)
    with emulated.gpu():
        ways = (np.float32, True, heads_32.TENSOR_CORES_TF32), (FLOAT16, False, heads_16.TENSOR_CORES_16)
        for dtype, tf32, way in ways:
            monkeypatch.setattr(devices, "tf32", tf32)
            asked = heads.Asked(*[moved(q.astype(dtype))] * 3, None, True, 0.3, None, 0.0)
            assert heads.choose(asked) is way
        monkeypatch.setattr(heads, "shared_memory", lambda number: 96 * 1024)
        assert heads.choose(asked) is heads.BY_REFERENCE
        monkeypatch.setattr(devices, "tf32", True)
        assert heads.choose(asked._replace(q=moved(q), k=moved(q), v=moved(q))) is heads_32.PLAIN


def test_scores_that_stand_in_memory_are_told_of_once(monkeypatch):
    monkeypatch.setattr(heads, "LARGE", 100)
    monkeypatch.setattr(heads, "_warned", set())
    q = floats(1, 2, 9, 130)
    with emulated.gpu():
        given = (*moved([q, q, q]), None, True, 0.1, None, 0.0)
        with pytest.warns(UserWarning, match=r"scores \(1, 2, 9, 9\) stand in memory, since heads are 130"):
            CUDA.attention(*given)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            CUDA.attention(*given)
            CUDA.attention(*(a[..., :8] for a in given[:3]), *given[3:])


def test_another_way_may_be_added(monkeypatch):
    """A call goes to the first that serves it, and its way back to the same."""
    went = []

    def forward(asked):
        went.append("there")
        return asked.v + 1, "kept"

    def backward(g, asked, y, kept, into):
        went.append((kept, asked.causal))
        return g, g, g

    ours = heads.Way("another", lambda asked, room: asked.drop == 0.5, forward, backward, keeps_lse=False)
    monkeypatch.setattr(heads, "WAYS", [ours, *heads.WAYS])
    q = floats(1, 2, 9, 8)
    with emulated.gpu():
        arrays = moved([q, q, q])
        y, saved = CUDA.attention(*arrays, None, True, 0.3, KEY, 0.5)
        np.testing.assert_array_equal(back(y), q + 1)
        CUDA.attention_backward(arrays[0], *arrays, saved, 0.3, KEY, 0.5, False)
        assert went == ["there", ("kept", True)]
        CUDA.attention(*arrays, None, True, 0.3, KEY, 0.4)
        assert went == ["there", ("kept", True)]


def test_no_array_of_all_pairs_is_made(monkeypatch):
    """Neither for dropout nor for documents: a key and numbers of positions are all that the kernels get."""
    largest = 0

    def record(file: str, name: str, definitions: Any, grid: Any, block: Any, args: Any, shared: int) -> None:
        nonlocal largest
        largest = max([largest, *(a.size for a in args if isinstance(a, pretend.ndarray))])

    with emulated.gpu(), monkeypatch.context() as patch:
        patch.setattr(launch, "start", record)
        x = tg.from_numpy(floats(1, 500, 48)).to("cuda").requires_grad_()
        numbers = tg.from_numpy(np.arange(500)[None] // 100).to("cuda")
        with launch.counted() as launches:
            attention_of_packed(x, 2, 0.1, numbers).sum().backward()
            q = x.unflatten(-1, (2, 24)).transpose(1, 2)
            F.scaled_dot_product_attention(q, q[:, :1], q[:, :1], dropout_p=0.1, enable_gqa=True).sum().backward()
    assert largest == 500 * 48
    assert launches["attention"] == launches["attention_dq"] == launches["attention_dkv"] == 2
