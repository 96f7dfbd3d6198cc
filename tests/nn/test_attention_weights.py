"""Attention weights for study are those that forward uses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm.models import GPTConfig, GPTModel

CONFIG = GPTConfig(vocab_size=9, context_length=7, emb_dim=12, n_heads=3, n_layers=2, drop_rate=0.0, qkv_bias=True)


@given(st.integers(1, 2), st.integers(1, 7), st.booleans(), st.integers(0, 9))
def test_weights_mix_values_into_what_attention_gives(batch, length, packed, seed):
    tg.manual_seed(seed)
    gpt = GPTModel(CONFIG).double()
    ids = tg.randint(9, (batch, length))
    documents = tg.tensor(np.sort(np.random.default_rng(seed).integers(0, 3, (batch, length)))) if packed else None
    seen = []
    hooks = [b.att.register_forward_hook(lambda m, x, out: seen.append((m, x[0], out))) for b in gpt.trf_blocks]
    logits, weights = gpt(ids, documents, attention_weights=True)
    for hook in hooks:
        hook.remove()
    np.testing.assert_array_equal(logits.numpy(force=True), gpt(ids, documents).numpy(force=True))
    assert len(weights) == 2 and all(not b.att._forward_pre_hooks for b in gpt.trf_blocks)
    for p, (layer, x, out) in zip(weights, seen, strict=True):
        assert p.shape == (batch, 3, length, length)
        values = layer.qkv(x).chunk(3, -1)[2].unflatten(-1, (3, 4)).transpose(1, 2)
        mixed = layer.out_proj((p @ values).transpose(1, 2).flatten(-2))
        np.testing.assert_allclose(mixed.numpy(force=True), out.numpy(force=True), atol=1e-12)
        np.testing.assert_allclose(p.sum(-1).numpy(force=True), 1.0)
        assert (p.numpy(force=True)[..., ~np.tri(length, dtype=bool)] == 0).all()


def test_hooks_leave_after_an_error_and_gradients_flow():
    gpt = GPTModel(CONFIG)
    with pytest.raises(IndexError):
        gpt(tg.tensor([[99]]), attention_weights=True)
    assert all(not block.att._forward_pre_hooks for block in gpt.trf_blocks)
    _, weights = gpt(tg.tensor([[1, 2, 3]]), attention_weights=True)
    (weights[1] ** 2).sum().backward()
    assert gpt.tok_emb.weight.grad is not None
