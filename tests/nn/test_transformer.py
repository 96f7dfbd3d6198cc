"""The block's chains of one op each: what they compute is what its layers compute, and hooks see what they saw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn import transformer
from tinygrad_llm.nn.functional import layers
from tinygrad_llm.profiler import profile

C = 6
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "erf": nn.GELU, "tanh": lambda: nn.GELU(approximate="tanh"), "silu": nn.SiLU,
}  # fmt: skip
FEW = settings(max_examples=10)


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(transformer, "IN_THE_CACHE", 0)


def feed_forward(activation: str, seed: int = 0, bias: bool = True) -> nn.FeedForward:
    tg.manual_seed(seed)
    ff = nn.FeedForward(C).double()
    ff.layers[1] = ACTIVATIONS[activation]()
    if not bias:
        ff.layers[0].bias = None
    return ff


def results(function: Callable[[tg.Tensor], tg.Tensor], module: nn.Module, x: np.ndarray) -> list[np.ndarray]:
    """What a function of the module's gives, and the gradients of a random direction."""
    module.zero_grad()
    given = tg.tensor(x, requires_grad=True)
    y = function(given)
    y.backward(tg.tensor(np.random.default_rng(1).standard_normal(y.shape)))
    return [y.numpy(force=True), given.grad.numpy(), *(p.grad.numpy() for p in module.parameters())]


def ops_of(function: Callable[[], object]) -> set[str]:
    with profile() as p:
        function()
    return {row.name for row in p.rows()}


@given(
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    bias=st.booleans(),
    lead=st.sampled_from([(1,), (2, 3), (0, 2)]),
    seed=st.integers(0, 99),
)
@FEW
def test_one_op_computes_what_the_layers_do(activation, bias, lead, seed):
    ff = feed_forward(activation, seed, bias)
    x = np.random.default_rng(seed).standard_normal((*lead, C))
    for a, b in zip(results(ff, ff, x), results(ff.layers, ff, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    assert "activated_linear" in ops_of(lambda: ff(tg.tensor(x)))


def test_a_small_hidden_layer_gets_its_bias_at_once_and_nothing_changes(monkeypatch):
    ff, x = feed_forward("tanh"), np.random.default_rng(0).standard_normal((2, 3, C))
    large = results(ff, ff, x)
    monkeypatch.setattr(transformer, "IN_THE_CACHE", 2 * 3 * 4 * C + 1)
    watched: list[int] = []
    monkeypatch.setattr(transformer, "linear", lambda *args: watched.append(1))
    for a, b in zip(results(ff, ff, x), large, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    assert not watched


@pytest.mark.torch
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_one_op_computes_what_pytorch_does(activation):
    torch = pytest.importorskip("torch")
    ff, x = feed_forward(activation), np.random.default_rng(0).standard_normal((2, 5, C))
    theirs = {"erf": torch.nn.GELU(), "tanh": torch.nn.GELU(approximate="tanh"), "silu": torch.nn.SiLU()}
    model = torch.nn.Sequential(torch.nn.Linear(C, 4 * C), theirs[activation], torch.nn.Linear(4 * C, C)).double()
    model.load_state_dict({k: torch.from_numpy(v.numpy()) for k, v in ff.layers.state_dict().items()})
    given = torch.from_numpy(x).requires_grad_()
    y = model(given)
    y.backward(torch.from_numpy(np.random.default_rng(1).standard_normal(y.shape)))
    expected = [y.detach().numpy(), given.grad.numpy(), *(p.grad.numpy() for p in model.parameters())]
    for a, b in zip(results(ff, ff, x), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_hooks_see_what_each_layer_takes_and_gives(place):
    ff, x = feed_forward("tanh"), tg.randn(2, 3, C, dtype=tg.float64)
    expected = [x]
    for layer in ff.layers:
        expected.append(layer(expected[-1]))
    seen = []
    handle = ff.layers[place].register_forward_hook(lambda module, args, output: seen.extend([*args, output]))
    y = ff(x)
    for found, wanted in zip(seen, expected[place : place + 2], strict=True):
        np.testing.assert_allclose(found.numpy(force=True), wanted.numpy(force=True), rtol=1e-12)
    handle.remove()
    np.testing.assert_allclose(y.numpy(force=True), expected[-1].numpy(force=True), rtol=1e-12)
    assert "activated_linear" in ops_of(lambda: ff(x))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_layer_whose_forward_is_anothers_is_called(place):
    ff, x = feed_forward("tanh"), tg.ones(1, C, dtype=tg.float64)
    plain, calls = ff.layers[place].forward, []
    ff.layers[place].forward = lambda given: calls.append(1) or plain(given)
    ff(x)
    assert calls == [1]


@pytest.mark.parametrize("name", ["ff.layers.0", "ff.layers.2"])
def test_adapters_are_asked(name):
    block = nn.TransformerBlock(8, 2, 6)
    x = tg.randn(2, 6, 8)
    before = block(x).numpy(force=True)
    nn.apply_lora(block, rank=2, targets=[name])
    np.testing.assert_allclose(block(x).numpy(force=True), before, rtol=1e-5, atol=1e-6)
    (adapter,) = (p for path, p in block.named_parameters() if path.endswith(".B"))
    tg.nn.init.ones_(adapter)
    assert not np.allclose(block(x).numpy(force=True), before, atol=1e-3)


def test_layers_that_do_not_fit_complain_as_ever():
    ff = feed_forward("tanh")
    ff.layers[2] = nn.Linear(5, C, dtype=tg.float64)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        ff(tg.ones(2, C, dtype=tg.float64))
    ff.layers[0].bias = nn.Parameter(tg.ones(1, dtype=tg.float64))
    ff.layers[2] = nn.Linear(4 * C, C, dtype=tg.float64)
    x = tg.ones(2, C, dtype=tg.float64)
    np.testing.assert_allclose(ff(x).numpy(force=True), ff.layers(x).numpy(force=True), rtol=1e-12)
    ff.layers[2].float()
    with pytest.raises(RuntimeError, match=r"input is torch\.float64 and weight torch\.float32"):
        ff(x)


# --- shortcut and dropout ---


@given(p=st.sampled_from([0.0, 0.1, 0.5, 1.0]), training=st.booleans(), seed=st.integers(0, 99), turned=st.booleans())
@FEW
def test_a_shortcut_with_dropout_is_their_sum_bit_by_bit(p, training, seed, turned):
    """From the same place of the random stream, which is left at the same place."""
    arrays = np.random.default_rng(seed).standard_normal((3, 3, 4)).astype(np.float32)
    found = []
    for one in (True, False):
        x, shortcut, g = (tg.tensor(a.T if turned else a, requires_grad=True) for a in arrays)
        tg.manual_seed(seed)
        y = layers.dropout_add(x, shortcut, p, training) if one else shortcut + F.dropout(x, p, training)
        y.backward(g.detach())
        found.append([y.numpy(force=True), shortcut.grad.numpy(), x.grad.numpy(), tg.rand(1).numpy()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_block_drops_in_one_op_and_as_its_layers_would():
    tg.manual_seed(0)
    block, x = nn.TransformerBlock(8, 2, 6, drop_rate=0.5), tg.randn(2, 6, 8)
    tg.manual_seed(1)
    together = block(x)
    assert {"dropout_add", "activated_linear"} <= ops_of(lambda: block(x))
    seen = []
    block.drop_shortcut.register_forward_hook(lambda module, args, output: seen.append((output == 0).sum().item()))
    tg.manual_seed(1)
    apart = block(x)
    np.testing.assert_array_equal(together.numpy(force=True), apart.numpy(force=True))
    assert len(seen) == 2 and all(20 < zeros < 76 for zeros in seen)
    block.eval()
    assert "dropout_add" not in ops_of(lambda: block(x))


def test_shapes_that_broadcast_are_added_apart():
    x, shortcut = tg.ones(4), tg.ones(3, 4)
    assert layers.dropout_add(x, shortcut, 0.5, True).shape == (3, 4)
    assert layers.dropout_add(x.double(), shortcut[0], 0.5, True).dtype is tg.float64
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1, but got 2"):
        layers.dropout_add(x, x, 2.0, True)


@pytest.mark.torch
@pytest.mark.parametrize("training", [True, False])
def test_a_shortcut_with_dropout_is_pytorchs(training):
    """Its sums and gradients, for the mask that was drawn."""
    torch = pytest.importorskip("torch")
    arrays = np.random.default_rng(0).standard_normal((3, 40, 5))
    x, shortcut = (tg.tensor(a, requires_grad=True) for a in arrays[:2])
    y = layers.dropout_add(x, shortcut, 0.3, training)
    y.backward(tg.tensor(arrays[2]))
    factors = torch.from_numpy(np.where((y - shortcut).numpy(force=True) == 0, 0, 1 / 0.7 if training else 1.0))
    a, b = (torch.from_numpy(v).requires_grad_() for v in arrays[:2])
    (b + a * factors).backward(torch.from_numpy(arrays[2]))
    np.testing.assert_allclose(y.numpy(force=True), (b + a * factors).detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), a.grad.numpy(), rtol=1e-12)
    np.testing.assert_array_equal(shortcut.grad.numpy(), b.grad.numpy())
