"""Every op's pullbacks: against finite differences, and against the contract that the engine relies on."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.ops.parts import Sample
from tests.ops.samples import SAMPLES
from tinygrad_llm import kernels
from tinygrad_llm.autograd import ops as ops  # registers the ops
from tinygrad_llm.autograd.graph import captured, sum_to_shape
from tinygrad_llm.autograd.registry import OPS, Op, Partial
from tinygrad_llm.autograd.tensor import apply

EPS = 1e-6
SOME = settings(max_examples=max(settings.default.max_examples * 2 // 3, 5))
FEW = settings(max_examples=max(settings.default.max_examples // 5, 5))

every_op = pytest.mark.parametrize("name", sorted(OPS))
seeds = st.integers(0, 2**32 - 1)


def run(op: Op, sample: Sample) -> tuple[np.ndarray, Any]:
    """The op's result as an array, and its pullbacks."""
    out, pull = op(*sample.args, **sample.static)
    return np.asarray(out), pull


def pull_back(pull: Any, g: np.ndarray, needs: list[bool]) -> list[Any]:
    """What the pullbacks return for the arguments that need it, None for the others."""
    if callable(pull):
        return [d if needed else None for d, needed in zip(pull(g, tuple(needs)), needs, strict=True)]
    return [d(g) if needed else None for d, needed in zip(pull, needs, strict=True)]


def dense(op: Op, d: Any, x: np.ndarray) -> np.ndarray:
    """A returned gradient as the whole array that the engine would make of it."""
    if isinstance(d, Partial):
        assert d.shape == x.shape
        return d.dense(d.values)
    d = np.asarray(d)
    return sum_to_shape(d, x.shape) if op.broadcasts and d.shape != x.shape else d


def needs_of(sample: Sample, wanted: Any) -> list[bool]:
    return [i in wanted for i in range(len(sample.args))]


def locked(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a


def gradient_for(out: np.ndarray, seed: int) -> np.ndarray:
    return locked(np.random.default_rng(seed).uniform(-1, 1, out.shape).astype(out.dtype))


@every_op
@given(data=st.data(), seed=seeds)
@SOME
def test_gradients_equal_finite_differences(name, data, seed):
    op, sample = OPS[name], data.draw(SAMPLES[name]).read_only()
    with kernels.use("reference"):
        out, pull = run(op, sample)
        g = gradient_for(out, seed)
        for i in sample.variables:
            x = sample.args[i]
            d = dense(op, pull_back(pull, g, needs_of(sample, [i]))[i], x)
            direction = np.random.default_rng(seed).uniform(-1, 1, x.shape)
            above, below = (run(op, moved(sample, i, step * direction))[0] for step in (EPS, -EPS))
            with np.errstate(invalid="ignore"):
                change = np.where(above == below, 0.0, above - below)  # masked_fill's -inf stays where it is
            expected = (g * change).sum() / (2 * EPS)
            scale = 1 + np.abs(g * np.where(np.isfinite(out), out, 0)).sum() + np.abs(d * direction).sum()
            np.testing.assert_allclose((d * direction).sum(), expected, rtol=0, atol=1e-7 * scale)


def moved(sample: Sample, i: int, step: np.ndarray) -> Sample:
    """The sample with one argument moved."""
    args = (*sample.args[:i], np.asarray(sample.args[i] + step), *sample.args[i + 1 :])
    return Sample(args, sample.static, sample.constant).read_only()


def check_contract(op: Op, sample: Sample, g: np.ndarray, out: np.ndarray, pull: Any) -> None:
    """One gradient per argument, of its shape and dtype, the same for every subset of needs and each time.

    An array that the engine takes for its own (a fresh one: not g, not a view) is nobody else's.
    """
    whole = pull_back(pull, g, needs_of(sample, sample.variables))
    held = [out, *(a for a in sample.args if isinstance(a, np.ndarray)), *captured(pull)]
    mine: list[Any] = []
    for i in sample.variables:
        d = whole[i]
        array = dense(op, d, sample.args[i])
        assert array.shape == sample.args[i].shape
        assert array.dtype == sample.args[i].dtype
        if isinstance(d, np.ndarray) and d is not g and d.base is None:
            assert not any(d is other for other in [*held, *mine]), "an array that is not the engine's alone"
            mine.append(d)
    for count in range(len(sample.variables) + 1):
        for wanted in itertools.combinations(sample.variables, count):
            part = pull_back(pull, g, needs_of(sample, wanted))
            for i in wanted:
                a, b = (dense(op, d[i], sample.args[i]) for d in (part, whole))
                np.testing.assert_array_equal(a, b)


@every_op
@given(data=st.data(), seed=seeds)
@FEW
def test_pullbacks_keep_the_contract(name, data, seed):
    op, sample = OPS[name], data.draw(SAMPLES[name]).read_only()
    with kernels.use("reference"):
        out, pull = run(op, sample)
        assert callable(pull) or len(pull) == len(sample.args)
        check_contract(op, sample, gradient_for(out, seed), locked(out), pull)


@every_op
@given(data=st.data(), seed=seeds, which=st.sampled_from(["auto", "reference"]))
@FEW
def test_float32_stays_float32(name, data, seed, which):
    """With either kernels: the contract, and the values of float64 under the reference."""
    op, wide = OPS[name], data.draw(SAMPLES[name])
    sample = wide.to(np.float32).read_only()
    with kernels.use(which):
        out, pull = run(op, sample)
        assert out.dtype == np.float32
        g = gradient_for(out, seed)
        check_contract(op, sample, g, locked(out), pull)
    with kernels.use("reference"):
        expected_out, expected_pull = run(op, wide)
        expected = pull_back(expected_pull, g.astype(np.float64), needs_of(wide, wide.variables))
    found = pull_back(pull, g, needs_of(sample, sample.variables))
    np.testing.assert_allclose(out, expected_out, rtol=1e-4, atol=1e-4)
    for i in sample.variables:
        a, b = dense(op, found[i], sample.args[i]), dense(op, expected[i], wide.args[i])
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * (1 + np.abs(b).max(initial=0)))


@every_op
@given(data=st.data(), dtype=st.sampled_from([tg.float16, tg.bfloat16]))
@FEW
def test_16_bit_floats_come_back_as_they_are(name, data, dtype):
    op, wide = OPS[name], data.draw(SAMPLES[name])
    sample = wide.to(dtype.numpy)
    args = [tg.Tensor(a) if isinstance(a, np.ndarray) else a for a in sample.args]
    variables = [args[i].requires_grad_() for i in wide.variables]
    result = apply(op, *args, **sample.static)
    assert result.dtype is (tg.float32 if name == "linear_cross_entropy" else dtype)  # whose face rounds the loss
    if not variables:
        return
    result.backward(tg.ones_like(result.detach()))
    for x in variables:
        assert x.grad.dtype is dtype
        assert x.grad.shape == x.shape
