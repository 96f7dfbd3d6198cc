"""GradScaler: overflow is found, steps are left out, the factor moves, as PyTorch's does step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.cuda import emulated, pretend
from tests.cuda.kinds import each_gpu, gpu
from tinygrad_llm.kernels.cuda import launch
from tinygrad_llm.nn.utils import clip_grad_norm_

VALUES = st.sampled_from([1.0, -0.5, 3e-5, 7e4, math.inf, -math.inf, math.nan, 1e38])


def steps(lib, gradients, unscaled, **options):
    """What parameters and factor are after each step with these scaled gradients, two parameters and an optimizer."""
    parameters = [lib.tensor([1.0, 2.0], requires_grad=True), lib.tensor([3.0], requires_grad=True)]
    optimizer = lib.optim.SGD(parameters, lr=0.5)
    scaler = lib.amp.GradScaler("cpu", init_scale=2.0**18, **options)  # 8 backoffs leave it above 1
    scaler.scale(lib.zeros(1))
    found = []
    for a, b, c in gradients:
        parameters[0].grad, parameters[1].grad = lib.tensor([a, b]), lib.tensor([c])
        if unscaled:
            scaler.unscale_(optimizer)
            found.append(parameters[0].grad.tolist())
        scaler.step(optimizer)
        scaler.update()
        found.append([p.detach().tolist() for p in parameters])
        found.append(scaler.state_dict())
    return found


@pytest.mark.torch
@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=8), st.booleans(), st.integers(1, 3))
def test_as_pytorchs(gradients, unscaled, interval):
    torch = pytest.importorskip("torch")
    options = {"growth_interval": interval, "growth_factor": 4.0, "backoff_factor": 0.25}
    ours, theirs = (steps(lib, gradients, unscaled, **options) for lib in (tg, torch))
    assert str(ours) == str(theirs)  # nan equals itself as text


@pytest.mark.filterwarnings("ignore:invalid value")
@each_gpu
def test_a_step_that_overflows_is_left_out(kind):
    with gpu(kind):
        p = tg.tensor([1.0, 2.0], device="cuda", requires_grad=True)
        optimizer, scaler = tg.optim.AdamW([p], lr=0.1), tg.amp.GradScaler(growth_interval=2)
        for value, stays in ((math.inf, True), (1.0, False), (math.nan, True), (2.0, False), (2.0, False)):
            before = p.tolist()
            optimizer.zero_grad()
            scaler.scale((p * value).sum()).backward()
            scaler.unscale_(optimizer)
            assert scaler.overflowed(optimizer) == stays
            assert stays or p.grad.tolist() == [value] * 2
            scaler.step(optimizer)
            scaler.update()
            assert (p.tolist() == before) == stays
        assert scaler.get_scale() == 2.0**15


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_gpu_divides_all_and_looks_at_all_in_one_launch(data):
    """And is waited for when it is asked about: an element that is no number, or infinite, anywhere; squares may be."""
    sizes = data.draw(st.lists(st.sampled_from([1, 3, 4, 700, 32_768, 32_771, 70_000]), min_size=1, max_size=3))
    which, value = data.draw(st.integers(0, len(sizes) - 1)), data.draw(st.sampled_from([1e30, -3e38, np.inf, np.nan]))
    place = data.draw(st.integers(0, sizes[which] - 1))
    gradients = [np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in sizes]
    gradients[which][place] = value
    with emulated.gpu(), launch.counted() as launches:
        parameters = [tg.zeros(n, device="cuda", requires_grad=True) for n in sizes]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = tg.from_numpy(g).cuda()
        optimizer, scaler = tg.optim.SGD(parameters, lr=1.0), tg.amp.GradScaler(init_scale=2.0**10)
        pretend.waits.clear()
        scaler.unscale_(optimizer)
        assert pretend.waits == [] and launches == {"unscale": 1}
        assert scaler.overflowed(optimizer) == scaler.overflowed(optimizer) == (not np.isfinite(value))
        assert pretend.waits == ["bool"]
        for p, g in zip(parameters, gradients, strict=True):
            np.testing.assert_array_equal(p.grad.cpu().numpy(), g / np.float32(2.0**10))


def test_clipping_stands_between_unscale_and_step():
    p = tg.tensor([3.0, 4.0], requires_grad=True)
    optimizer, scaler = tg.optim.SGD([p], lr=1.0), tg.amp.GradScaler("cpu")
    scaler.scale((p * p).sum() / 2).backward()
    scaler.unscale_(optimizer)
    assert clip_grad_norm_([p], 1.0).item() == pytest.approx(5.0)
    scaler.step(optimizer)
    np.testing.assert_allclose(p.detach().numpy(), [2.4, 3.2], rtol=1e-6)


def test_gradients_that_float16_would_round_to_0_arrive():
    x = tg.full((4, 8), 1e-3)
    gradients = []
    for scaler in (tg.amp.GradScaler("cpu", enabled=False), tg.amp.GradScaler("cpu")):
        w, v = tg.full((8, 8), 0.1, requires_grad=True), tg.full((8, 8), 1e-4, requires_grad=True)
        optimizer = tg.optim.SGD([w, v], lr=0.0)
        with tg.autocast("cpu", tg.float16):
            loss = ((x @ w) @ v).float().mean() * 1e-4
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        gradients.append(w.grad.numpy().max())
    assert gradients[0] == 0.0 and gradients[1] == pytest.approx(1e-3 * 1e-4 * 1e-4, rel=0.1)


def test_a_state_goes_on():
    first, second = tg.amp.GradScaler("cpu", init_scale=4.0), tg.amp.GradScaler("cpu")
    first.update(2.0)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict() and second.get_scale() == 2.0
    with pytest.raises(RuntimeError, match="state dict is empty"):
        second.load_state_dict({})


def test_mistakes_are_told():
    p = tg.ones(2, requires_grad=True)
    optimizer, scaler = tg.optim.SGD([p], lr=1.0), tg.amp.GradScaler("cpu")
    p.sum().backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="after step"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) has already"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="Closure"):
        scaler.step(optimizer, closure=lambda: 0)
    half = tg.ones(2, dtype=tg.float16, requires_grad=True)
    half.sum().backward()
    with pytest.raises(ValueError, match="FP16"):
        tg.amp.GradScaler("cpu").unscale_(tg.optim.SGD([half], lr=1.0))
    for options in ({"growth_factor": 1.0}, {"backoff_factor": 1.0}):
        with pytest.raises(ValueError, match="factor must be"):
            tg.amp.GradScaler("cpu", **options)
    with pytest.raises(ValueError, match="Tensor or an iterable"):
        scaler.scale(3)
