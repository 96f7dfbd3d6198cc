"""PyTorch's multi-head attention: its first weights, results, weights and gradients."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import nn

E, H, T, S, N = 6, 2, 4, 5, 3


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CAUSAL = np.triu(np.ones((T, S), bool), 2)
PADDED = np.arange(S) >= np.array([[3], [5], [4]])
CASES = {
    "plain": {},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "unbatched": {"shapes": [(T, E), (S, E), (S, E)]},
    "mask": {"attn_mask": CAUSAL},
    "added mask": {"attn_mask": floats(T, S)},
    "mask of each head": {"attn_mask": np.broadcast_to(CAUSAL, (N * H, T, S)).copy()},
    "padding": {"key_padding_mask": PADDED},
    "both masks": {"attn_mask": CAUSAL, "key_padding_mask": PADDED},
    "weights of each head": {"average_attn_weights": False},
    "no weights": {"need_weights": False},
}


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_equals_pytorchs(torch, name):
    case = dict(CASES[name])
    first = case.get("batch_first", False)
    shapes = case.pop("shapes", [(N, T, E), (N, S, E), (N, S, E)] if first else [(T, N, E), (S, N, E), (S, N, E)])
    made = {key: case.pop(key) for key in ("bias", "batch_first") if key in case}
    found = []
    for lib in (tg, torch):
        lib.manual_seed(4)
        layer = lib.nn.MultiheadAttention(E, H, **made)
        inputs = [lib.tensor(floats(*shape, seed=i), requires_grad=True) for i, shape in enumerate(shapes)]
        options = {k: lib.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in case.items()}
        y, weights = layer(*inputs, **options)
        (y * lib.tensor(floats(*y.shape, seed=9))).sum().backward()
        grads = [x.grad for x in inputs] + [p.grad for p in layer.parameters()]
        found.append([y.detach(), *([] if weights is None else [weights.detach()]), *grads])
        found[-1] += [v.detach() for v in layer.state_dict().values()]
    assert len(found[0]) == len(found[1])
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.torch
def test_prints_and_names_as_pytorchs(torch):
    layers = [lib.nn.MultiheadAttention(E, H) for lib in (tg, torch)]
    assert repr(layers[0]) == repr(layers[1])
    assert list(layers[0].state_dict()) == list(layers[1].state_dict())


def test_dropout_only_in_training():
    layer, x = nn.MultiheadAttention(E, H, dropout=0.5), tg.tensor(floats(T, N, E))
    tg.manual_seed(0)
    assert not tg.equal(layer(x, x, x)[0], layer(x, x, x)[0])
    layer.eval()
    assert tg.equal(layer(x, x, x)[0], layer(x, x, x)[0])


def test_what_does_not_fit_is_refused():
    layer, x = nn.MultiheadAttention(E, H), tg.tensor(floats(T, N, E))
    with pytest.raises(AssertionError, match="divisible"):
        nn.MultiheadAttention(5, 2)
    with pytest.raises(ValueError, match="greater than 0"):
        nn.MultiheadAttention(0, 2)
    with pytest.raises(NotImplementedError, match="kdim=3"):
        nn.MultiheadAttention(E, H, kdim=3)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        layer(x, x, x, is_causal=True)
    with pytest.raises(RuntimeError, match="attn_mask is"):
        layer(x, x, x, attn_mask=tg.zeros(2, 2))
    with pytest.raises(RuntimeError, match="key_padding_mask"):
        layer(x, x, x, key_padding_mask=tg.zeros(2, 2))
    with pytest.raises(AssertionError, match="embedding dimension"):
        layer(x[..., :4], x, x)
