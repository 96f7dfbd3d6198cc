"""Initialisation: PyTorch's numbers after the same seed, and the laws that the formulae promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.nn import init


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


CASES = {
    "uniform_": ((-2.0, 3.0), {}),
    "normal_": ((1.0, 0.5), {}),
    "trunc_normal_": ((), {"mean": 0.1, "std": 0.7, "a": -1.0, "b": 0.9}),
    "trunc_normal_ far": ((), {"mean": 0.0, "std": 1.0, "a": 1.0, "b": 2.0}),
    "constant_": ((2.5,), {}),
    "zeros_": ((), {}),
    "ones_": ((), {}),
    "eye_": ((), {}),
    "xavier_uniform_": ((), {"gain": 2.0}),
    "xavier_normal_": ((), {}),
    "kaiming_uniform_": ((), {"a": 0.3}),
    "kaiming_uniform_ out": ((), {"mode": "fan_out", "nonlinearity": "relu"}),
    "kaiming_normal_": ((), {"nonlinearity": "tanh"}),
    "orthogonal_": ((), {"gain": 1.5}),
}


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(20, 9), (9, 20), (3, 4)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_numbers_are_pytorchs(torch, case, shape):
    args, kwargs = CASES[case]
    name = case.split()[0]
    tg.manual_seed(11)
    torch.manual_seed(11)
    ours, theirs = tg.empty(*shape), torch.empty(*shape)
    assert getattr(init, name)(ours, *args, **kwargs) is ours
    getattr(torch.nn.init, name)(theirs, *args, **kwargs)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=3e-6, atol=1e-6)
    after = tg.rand(3).numpy(), torch.rand(3).numpy()
    np.testing.assert_array_equal(*after)  # and as many numbers were drawn


@pytest.mark.torch
def test_modules_start_as_pytorchs(torch):
    """Weights and the order in which they are drawn."""

    def build(lib):
        lib.manual_seed(123)
        nn = lib.nn
        return nn.Sequential(
            nn.Embedding(11, 8), nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 3, bias=False), nn.Linear(1, 2),
            nn.Embedding(4, 3, padding_idx=1),
        )  # fmt: skip

    for (name, ours), theirs in zip(build(tg).named_parameters(), build(torch).parameters(), strict=True):
        np.testing.assert_allclose(ours.numpy(force=True), theirs.detach().numpy(), rtol=3e-7, atol=1e-7, err_msg=name)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains_are_pytorchs(torch, name):
    assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), gain=st.floats(0.1, 3))
def test_orthogonal_rows_or_columns(rows, columns, gain):
    w = init.orthogonal_(tg.empty(rows, columns, dtype=tg.float64), gain).numpy()
    product = w @ w.T if rows <= columns else w.T @ w
    np.testing.assert_allclose(product, gain**2 * np.eye(min(rows, columns)), atol=1e-10)


@given(mean=st.floats(-2, 2), std=st.floats(0.1, 2), a=st.floats(-3, 1), width=st.floats(0.2, 4))
def test_truncated_normal_stays_within(mean, std, a, width):
    w = init.trunc_normal_(tg.empty(200), mean, std, a, a + width).numpy()
    assert w.min() >= np.float32(a) and w.max() <= np.float32(a + width)


@pytest.mark.parametrize(("mean", "a", "b"), [(0.0, -1.0, 1.5), (0.0, 1.0, 3.0)])
def test_truncated_normal_has_the_truncated_mean(mean, a, b):
    """Both ways of drawing: E x = (pdf(a) - pdf(b)) / (cdf(b) - cdf(a))."""
    tg.manual_seed(0)
    w = init.trunc_normal_(tg.empty(200_000), mean, 1.0, a, b).numpy()

    def pdf(x):
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def cdf(x):
        return (1 + math.erf(x / math.sqrt(2))) / 2

    assert w.mean(dtype=float) == pytest.approx((pdf(a) - pdf(b)) / (cdf(b) - cdf(a)), abs=0.01)


def test_own_generator_leaves_the_default_stream_alone():
    generator = tg.Generator().manual_seed(3)
    tg.manual_seed(1)
    init.xavier_normal_(tg.empty(4, 4), generator=generator)
    after = tg.rand(2).tolist()
    tg.manual_seed(1)
    assert after == tg.rand(2).tolist()


def test_skipping_draws_nothing_and_fills_constants():
    tg.manual_seed(1)
    with init.skip_random():
        nn.Linear(3, 3)
        nn.Embedding(3, 3)
        init.orthogonal_(tg.zeros(3, 3))
        init.trunc_normal_(tg.zeros(3))
        assert nn.LayerNorm(3).weight.tolist() == [1.0, 1.0, 1.0]
    after = tg.rand(2).tolist()
    tg.manual_seed(1)
    assert after == tg.rand(2).tolist()
    assert init.uniform_(tg.zeros(50)).numpy().any()  # and it ends with the block


def test_what_cannot_be_initialised_is_refused():
    for fill in (init.xavier_uniform_, init.kaiming_normal_, init.orthogonal_, init.eye_):
        with pytest.raises(ValueError, match="dimensions"):
            fill(tg.empty(3))
    with pytest.raises(ValueError, match="Mode fan not supported"):
        init.kaiming_uniform_(tg.empty(3, 3), mode="fan")
    with pytest.raises(ValueError, match="Unsupported nonlinearity gelu"):
        init.calculate_gain("gelu")
    with pytest.raises(ValueError, match="negative_slope a not a valid number"):
        init.calculate_gain("leaky_relu", "a")
    with pytest.raises(ValueError, match="needs a < b and std > 0, not a=1"):
        init.trunc_normal_(tg.empty(3), a=1.0, b=1.0)
