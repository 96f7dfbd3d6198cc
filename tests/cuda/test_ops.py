"""Every op on the GPU against the CPU: the result, and the gradients of a random direction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.cuda.kinds import back, gpu, moved
from tests.ops.parts import Sample
from tests.ops.samples import SAMPLES
from tinygrad_llm.autograd.registry import OPS
from tinygrad_llm.autograd.tensor import apply

SOME = settings(max_examples=8, suppress_health_check=list(HealthCheck))
MOVES = {"transfer": {"to": lambda a: a, "back": lambda g: g}}  # static arguments that are NumPy's own functions


def run(name: str, sample: Sample, on_gpu: bool, seed: int) -> list[np.ndarray]:
    """The result of an op and the gradients of its floating arguments."""
    args = [tg.Tensor(moved(a) if on_gpu else a.copy()) if isinstance(a, np.ndarray) else a for a in sample.args]
    static: dict[str, Any] = {k: moved(v) if on_gpu and k == "key" else v for k, v in sample.static.items()}
    for i in sample.variables:
        args[i].requires_grad_()
    y = apply(OPS[name], *args, **static | MOVES.get(name, {}))
    assert y.is_cuda == on_gpu
    results = [y.array]
    if sample.variables:
        direction = np.random.default_rng(seed).uniform(-1, 1, y.shape).astype(y.array.dtype)
        y.backward(tg.Tensor(moved(direction) if on_gpu else direction))
        assert all(args[i].grad.is_cuda == on_gpu for i in sample.variables)
        results += [args[i].grad.array for i in sample.variables]
    return [back(r) for r in results]


@pytest.mark.parametrize("kind", ["pretended", "emulated", pytest.param("real", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", sorted(OPS))
@given(data=st.data(), seed=st.integers(0, 1000))
@SOME
def test_as_on_the_cpu(name, dtype, kind, data, seed):
    sample = data.draw(SAMPLES[name]).to(dtype)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype is np.float64 else {"rtol": 1e-4, "atol": 1e-4}
    with gpu(kind):
        for ours, theirs in zip(run(name, sample, True, seed), run(name, sample, False, seed), strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, **tolerance)
