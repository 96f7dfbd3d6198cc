"""Each CUDA kernel on a GPU in float32 against the reference in float64 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.cuda.cases import CALLS, CHOICES, FORMS
from tests.cuda.kinds import back, moved
from tests.kernels.test_kernels import in_dtype, laid_out
from tinygrad_llm import devices, kernels
from tinygrad_llm.kernels import CUDA, REFERENCE

pytestmark = pytest.mark.cuda


def outputs(result: Any) -> list[np.ndarray]:
    return [np.asarray(back(y)) for y in (result if isinstance(result, tuple) else (result,)) if y is not None]


def check(name: str, arrays: list[np.ndarray], dtype: Any) -> None:
    """The error of a sum grows with the root of its terms, and at worst with their number."""
    call = CALLS[name][0]
    expected = outputs(call(REFERENCE, *in_dtype(arrays, np.float64)))
    found = outputs(call(CUDA, *moved(in_dtype(arrays, dtype))))
    assert len(found) == len(expected)
    terms = max((n for a in arrays for n in a.shape), default=1)
    for y, z in zip(found, expected, strict=True):
        assert y.dtype == dtype and y.shape == z.shape
        tolerance = 8 * np.finfo(dtype).eps * max(terms, 16) * (1 + np.abs(z).max(initial=0))
        np.testing.assert_allclose(y, z, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CALLS)
def test_as_the_reference(name):
    check(name, CALLS[name][1], np.float32)


@pytest.mark.parametrize("name", CHOICES)
def test_the_tokens_drawn_are_those_of_the_reference(name):
    call, (x,) = CHOICES[name]
    np.testing.assert_array_equal(back(call(CUDA, moved(x))), call(REFERENCE, x.astype(np.float64)))


@pytest.mark.parametrize("name", [name for name in CALLS if ", 6 rows" in name])
def test_float64(name):
    check(name, CALLS[name][1], np.float64)


LAYOUTS = ["transposed", "gaps", "reversed", "broadcast"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [name for name in CALLS if ", 6 rows" in name or "65 x" in name or ", 3 x" in name])
def test_memory_layouts(name, layout):
    call, arrays = CALLS[name]
    here, there = in_layout(arrays, layout)
    expected = outputs(call(REFERENCE, *in_dtype(here, np.float64)))
    for y, z in zip(outputs(call(CUDA, *there)), expected, strict=True):
        tolerance = 8 * np.finfo(np.float32).eps * max(max(y.shape, default=1), 128) * (1 + np.abs(z).max(initial=0))
        np.testing.assert_allclose(y, z, rtol=0, atol=tolerance)


def in_layout(arrays: list[np.ndarray], layout: str) -> tuple[list[Any], list[Any]]:
    """Arrays, but for whole numbers, in another layout in main memory, and the same on the GPU."""
    here = [laid_out(a, layout) if a.dtype.kind == "f" else a for a in arrays]
    return here, [laid_out_there(a, layout) if a.dtype.kind == "f" else moved(a) for a in arrays]


def laid_out_there(a: np.ndarray, layout: str) -> Any:
    """As laid_out, but done on the GPU: to move an array there would undo its layout."""
    if layout == "transposed":
        return moved(np.ascontiguousarray(a.T)).T
    if layout == "broadcast":
        return np.broadcast_to(moved(np.ascontiguousarray(a[:1])), a.shape)
    step = {"gaps": 3, "reversed": -1}[layout]
    room = np.ascontiguousarray(np.repeat(a, abs(step), axis=-1))
    return moved(room)[..., ::step]


@pytest.mark.parametrize("name", [name for name in CALLS if " x " in name])
def test_the_same_bits_every_time(name):
    call, arrays = CALLS[name]
    there = moved(arrays)
    first, second = (outputs(call(CUDA, *there)) for _ in range(2))
    for y, z in zip(first, second, strict=True):
        np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize("name", [name for name in CALLS if name.startswith("attention") and " x " in name])
def test_attention_on_the_tensor_cores(name, monkeypatch):
    """Factors of 10 bits: an error of a few thousandths of the terms, which may cancel in a gradient."""
    monkeypatch.setattr(devices, "tf32", True)
    call, arrays = CALLS[name]
    there = moved(arrays)
    found = outputs(call(CUDA, *there))
    for y, z, again in zip(found, outputs(call(REFERENCE, *in_dtype(arrays, np.float64))), outputs(call(CUDA, *there)),
                           strict=True):  # fmt: skip
        assert np.linalg.norm(y - z) <= 0.02 * np.linalg.norm(z) + 1e-3 * z.size**0.5
        np.testing.assert_array_equal(y, again)


def test_rows_that_start_anywhere():
    """Views into an array whose rows do not start at multiples of 16 bytes."""
    x = np.random.default_rng(0).standard_normal((9, 64)).astype(np.float32)
    flat = moved(x.reshape(-1))
    for start in (1, 2, 4):
        rows = flat[start : start + 8 * 64].reshape(8, 64)
        expected = REFERENCE.softmax(back(rows).astype(np.float64))
        np.testing.assert_allclose(back(CUDA.softmax(rows)), expected, atol=1e-6)
        expected = REFERENCE.activate(back(rows), None, "gelu_tanh")
        np.testing.assert_allclose(back(CUDA.activate(rows, None, "gelu_tanh")), expected, atol=1e-5)
        expected = REFERENCE.dropout(back(rows), 7, 0.5)
        np.testing.assert_allclose(back(CUDA.dropout(rows, 7, 0.5)), expected, atol=1e-5)


def test_extreme_values():
    x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [3e38, 3e38, -3e38], [-np.inf, 0, 0]], np.float32)
    third = [1 / 3] * 3
    expected = [[1, 0, 0], third, [0.5, 0.5, 0], [0, 0.5, 0.5]]
    np.testing.assert_allclose(back(CUDA.softmax(moved(x))), expected, rtol=1e-6)
    assert np.isnan(back(CUDA.softmax(moved(np.full((1, 3), -np.inf, np.float32))))).all()
    large = moved(np.array([-1e4, -100, 100, 1e4], np.float32))
    for form in FORMS:
        np.testing.assert_array_equal(back(CUDA.activate(large, None, form)), [0, 0, 100, 1e4])
        dx, _ = CUDA.activate_backward(np.ones_like(large), large, None, form, (True, False))
        np.testing.assert_array_equal(back(dx), [0, 0, 1, 1])
    rows = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    rows[1, 2] = np.nan
    for y in (CUDA.softmax(moved(rows)), CUDA.layer_norm(moved(rows), None, None, 1e-5)[0]):
        assert np.isnan(back(y)[1]).all() and np.isfinite(np.delete(back(y), 1, axis=0)).all()


def test_a_target_out_of_range_reads_nothing_outside():
    nll, _ = CUDA.cross_entropy(moved(np.ones((2, 5), np.float32)), moved(np.array([5, 1 << 40])))
    assert np.isnan(back(nll)).all()


def test_use_switches_them_off():
    x = moved(np.ones(3, np.float32))
    assert kernels.of(x) is CUDA
    with kernels.use("reference"):
        assert kernels.of(x) is REFERENCE
