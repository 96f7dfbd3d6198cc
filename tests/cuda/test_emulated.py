"""What the CUDA kernels compute, without a GPU: their own code on the processor against the reference in float64."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.cuda import emulated
from tests.cuda.cases import CALLS, CHOICES, FORMS
from tests.cuda.kinds import back, moved
from tests.cuda.test_kernels import LAYOUTS, in_layout
from tests.cuda.test_training import losses
from tests.kernels.test_kernels import floats, in_dtype
from tinygrad_llm import devices
from tinygrad_llm.kernels import CUDA, REFERENCE
from tinygrad_llm.kernels.cuda import launch, rows

SOME = {
    "attention, 63 x 63 x 16, causal", "attention, 70 x 100 x 64, causal", "attention, 100 x 70 x 30, causal",
    "attention of packed, 2 x 30", "clip, many pieces", "column_sums, 1030 x 768", "layer_norm_backward, 257 x 64",
    *(f"{name}, 5 x 4100" for name in ("layer_norm", "layer_norm_backward", "dropout_add_norm_backward, by a key")),
}  # fmt: skip
FAST = [name for name in CALLS if name in SOME or name.endswith((", 6 rows", "3 x 31", "65 x 129"))]


def outputs(result: Any) -> list[np.ndarray]:
    return [np.asarray(back(y)) for y in (result if isinstance(result, tuple) else (result,)) if y is not None]


def check(found: list[np.ndarray], wanted: list[np.ndarray], arrays: Any) -> None:
    terms = max((n for a in arrays for n in a.shape), default=1)
    for y, z in zip(found, wanted, strict=True):
        assert y.dtype == np.float32
        tolerance = 8 * np.finfo(np.float32).eps * max(terms, 16) * (1 + np.abs(z).max(initial=0))
        np.testing.assert_allclose(y, z, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", FAST)
def test_as_the_reference(name):
    call, arrays = CALLS[name]
    wanted = outputs(call(REFERENCE, *in_dtype(arrays, np.float64)))
    with emulated.gpu():
        check(outputs(call(CUDA, *moved(in_dtype(arrays, np.float32)))), wanted, arrays)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [name for name in FAST if ", 6 rows" in name or "3 x 31" in name])
def test_memory_layouts(name, layout):
    call, arrays = CALLS[name]
    with emulated.gpu():
        here, there = in_layout(in_dtype(arrays, np.float32), layout)
        check(outputs(call(CUDA, *there)), outputs(call(REFERENCE, *in_dtype(here, np.float64))), arrays)


@pytest.mark.parametrize("name", CHOICES)
def test_the_tokens_drawn_are_those_of_the_reference(name):
    call, (x,) = CHOICES[name]
    with emulated.gpu():
        np.testing.assert_array_equal(back(call(CUDA, moved(x))), call(REFERENCE, x.astype(np.float64)))


@pytest.mark.parametrize("name", [name for name in CHOICES if "5000" in name])
def test_a_token_does_not_depend_on_how_a_row_is_shared_out(name, monkeypatch):
    """Nor on which thread was the first to collect a token."""
    call, (x,) = CHOICES[name]
    with emulated.gpu():
        first = back(call(CUDA, moved(x)))
        monkeypatch.setattr(rows, "FEW_ROWS", 0)
        monkeypatch.setattr(emulated, "backwards", True)
        np.testing.assert_array_equal(back(call(CUDA, moved(x))), first)


def test_tokens_of_a_large_vocabulary():
    x, u = 4 * floats(2, 140_000), np.array([[0.3], [0.7]])
    with emulated.gpu():
        for options in ((1.0, None, None, None), (0.7, 100, 0.9, None), (0.7, None, 0.7, None)):
            found = back(CUDA.sample(moved(x), u, *options))
            np.testing.assert_array_equal(found, REFERENCE.sample(x.astype(np.float64), u, *options))


@pytest.mark.parametrize("name", [name for name in FAST if re.search("3 x 31|63 x 63|4100", name)])
def test_the_order_in_which_threads_run_changes_nothing(name, monkeypatch):
    """Where a thread read what another had not been told to have written, turns in the other order would show it."""
    call, arrays = CALLS[name]
    with emulated.gpu():
        there = moved(in_dtype(arrays, np.float32))
        first = outputs(call(CUDA, *there))
        monkeypatch.setattr(emulated, "backwards", True)
        for y, z in zip(outputs(call(CUDA, *there)), first, strict=True):
            np.testing.assert_array_equal(y, z)


@pytest.mark.parametrize("form", FORMS)
def test_activations_are_exact_to_a_few_roundings(form):
    """Their exponentials, reciprocals and GELU's tail are approximated; far out nothing turns into nan."""
    x = np.concatenate([np.linspace(-14, 14, 4001), [-3e38, -1e4, -90, -87, 87, 90, 1e4, 3e38, np.nan]])
    x, eps = x.astype(np.float32), np.finfo(np.float32).eps
    with np.errstate(all="ignore"):
        wanted = REFERENCE.activate(x.astype(np.float64), None, form)
        slopes, _ = REFERENCE.activate_backward(np.ones(x.shape), x.astype(np.float64), None, form, (True, False))
    slopes[abs(x) > 1e30] = x[abs(x) > 1e30] > 0  # where the reference's z^2 is beyond everything
    with emulated.gpu():
        there = moved(x)
        y = CUDA.activate(there, None, form)
        dx, _ = CUDA.activate_backward(np.ones_like(there), there, None, form, (True, False))
    np.testing.assert_allclose(back(y), wanted, rtol=3 * eps, atol=2 * eps)
    np.testing.assert_allclose(back(dx), slopes, rtol=3 * eps, atol=3 * eps)


def test_a_missing_wait_is_seen(monkeypatch):
    """The check above can fail: without its barriers a sum over a block is another in each order."""
    monkeypatch.setattr(emulated, "built", emulated.built.__wrapped__)
    x = np.random.default_rng(0).standard_normal((1, 999)).astype(np.float32)
    with emulated.gpu():
        source = launch.source("softmax").replace("__syncthreads()", "")
        monkeypatch.setattr(launch, "source", lambda file: source)
        first = back(CUDA.softmax(moved(x)))
        monkeypatch.setattr(emulated, "backwards", True)
        assert not np.array_equal(first, back(CUDA.softmax(moved(x))))


def test_training_by_the_kernels():
    with emulated.gpu(), emulated.launch.counted() as launches:
        theirs, _ = losses("cuda", 1, tie_weights=True)
    assert launches["adamw"] == launches["scale"] == 1 and launches["attention"] == 2
    ours, _ = losses("cpu", 1, tie_weights=True)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in FAST if name.startswith("attention, ")])
def test_attention_on_the_tensor_cores(name, monkeypatch):
    """Factors of 10 bits: an error of a few thousandths of the terms, which may cancel in a gradient."""
    monkeypatch.setattr(devices, "tf32", True)
    call, arrays = CALLS[name]
    wanted = outputs(call(REFERENCE, *in_dtype(arrays, np.float64)))
    with emulated.gpu():
        found = outputs(call(CUDA, *moved(in_dtype(arrays, np.float32))))
    for y, z in zip(found, wanted, strict=True):
        assert 0 < np.linalg.norm(y - z) <= 0.02 * np.linalg.norm(z) + 1e-3 * z.size**0.5


@pytest.mark.parametrize("real", range(3))
def test_numbers_of_16_bits_are_read_and_rounded(real, monkeypatch):
    """As NumPy and ml_dtypes: to the nearest, ties to even, beyond the largest infinity."""
    text = '#include "common.cuh"\nextern "C" __global__ void f(const float *x, real *y, float *z)\n{\n'
    text += "    put(y + threadIdx.x, x[threadIdx.x]);\n    z[threadIdx.x] = number(y[threadIdx.x]);\n}\n"
    monkeypatch.setattr(launch, "source", lambda file: launch._whole(text))
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(1024) * 10.0 ** rng.integers(-9, 6, 1024)).astype(np.float32)
    x[:8] = [0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1 + 2**-8, 1 + 2**-11]
    with emulated.gpu(), np.errstate(over="ignore"):
        there, y, z = moved(x), moved(np.zeros(1024, launch.REALS[real])), moved(np.zeros(1024, np.float32))
        launch._expected.cache_clear()
        launch.launch("16 bits", "f", (1,), (1024,), there, y, z, REAL=real)
        wanted = x.astype(launch.REALS[real]).astype(np.float32)
        np.testing.assert_array_equal(back(y).astype(np.float32), wanted)
        np.testing.assert_array_equal(back(z), wanted)


FAULTS = {
    "has left a warp": "if (threadIdx.x == 5) return; y[threadIdx.x] = warp_sum(x[threadIdx.x]);",
    "different barriers": "if (threadIdx.x < 32) __syncthreads();\n    else __syncthreads();",
    "no multiple": "copy_16(room + 1, x, true);",
    "behind the shared memory": "room[4 * blockDim.x + threadIdx.x] = 0;",
}


def run_alone(monkeypatch, body: str, y: np.ndarray) -> np.ndarray:
    """What a kernel of two warps, with 16 bytes of shared memory a thread, leaves in y of ones."""
    text = '#include "common.cuh"\nextern "C" __global__ void f(const float *x, float *y)\n{\n'
    text += f"    extern __shared__ float room[];\n    {body}\n}}\n"
    monkeypatch.setattr(emulated, "built", emulated.built.__wrapped__)
    monkeypatch.setattr(launch, "source", lambda file: launch._whole(text))
    with emulated.gpu():
        there = moved(y)
        launch._expected.cache_clear()
        launch.launch("alone", "f", (1,), (64,), moved(np.ones(64, np.float32)), there, shared=1024)
        return back(there)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_gpu_forbids_is_a_fault(fault, monkeypatch):
    with pytest.raises(AssertionError, match=fault):
        run_alone(monkeypatch, FAULTS[fault], np.ones(64, np.float32))


def test_shared_memory_holds_nothing_that_was_not_put_there(monkeypatch):
    body = "if (threadIdx.x) room[threadIdx.x] = 2; y[threadIdx.x] = 0 * room[threadIdx.x];"
    y = run_alone(monkeypatch, body, np.ones(64, np.float32))
    assert np.isnan(y[0]) and not y[1:].any()
