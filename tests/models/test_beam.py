"""Beam search finds what trying everything finds where it is wide enough; scores of texts are sums of the model's."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm.models import GPTConfig, GPTModel, beam_search, generate, log_probabilities, perplexity

CONFIG = GPTConfig(vocab_size=5, context_length=6, emb_dim=8, n_heads=2, n_layers=2, drop_rate=0.0)


def build():
    tg.manual_seed(3)
    gpt = GPTModel(CONFIG).double().eval()
    for p in gpt.parameters():
        p.detach().mul_(3.0)
    return gpt


GPT = build()
prompts = st.lists(st.integers(0, 4), min_size=1, max_size=8)


def worth(prompt, continuation, penalty):
    row = tg.tensor([[*prompt, *continuation]])
    nats = log_probabilities(GPT, row, overlap=CONFIG.context_length - 1)[0, len(prompt) - 1 :]
    return nats.sum() / len(continuation) ** penalty


@given(prompts, st.integers(1, 3), st.none() | st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_a_beam_that_holds_everything_finds_the_best(prompt, count, eos, penalty):
    """With the penalty at most 1 nothing that goes on can become better than it is: the early end misses nothing."""
    found = beam_search(GPT, tg.tensor([prompt]), count, 125, penalty, eos_id=eos)[0].tolist()
    all_of_them = itertools.product(range(5), repeat=count)
    ended = {tuple(t[: t.index(eos) + 1] if eos in t else t) for t in all_of_them}
    best = max(worth(prompt, continuation, penalty) for continuation in ended)
    assert found[: len(prompt)] == prompt
    assert worth(prompt, found[len(prompt) :], penalty) == pytest.approx(best, abs=1e-9)


@given(prompts, st.integers(0, 8), st.none() | st.integers(0, 4), st.integers(1, 3), st.integers(1, 6))
def test_one_beam_is_greedy_and_the_cache_changes_nothing(prompt, count, eos, beams, slide):
    ids = tg.tensor([prompt, prompt[::-1]])
    one = beam_search(GPT, ids[:1], count, 1, eos_id=eos, slide=slide)
    assert one.tolist() == generate(GPT, ids[:1], count, eos_id=eos, slide=slide).tolist()
    with_cache, without = (beam_search(GPT, ids, count, beams, eos_id=eos, slide=slide, cache=c) for c in (True, False))
    assert with_cache.tolist() == without.tolist()


@given(prompts.filter(lambda p: len(p) > 1), st.integers(0, 5))
def test_scores_are_the_models(ids, overlap):
    """Token by token: within the context exactly, beyond it with `overlap` tokens at least before each."""
    found = log_probabilities(GPT, tg.tensor([ids]), overlap=overlap)
    assert found.shape == (1, len(ids) - 1)
    begin, end, expected = 0, 6, []
    for t in range(1, len(ids)):
        if t > end:
            begin = min(end - overlap, len(ids) - 7)  # the last window reaches back as far as it can
            end = begin + 6
        with tg.no_grad():
            expected.append(GPT(tg.tensor([ids[begin:t]]))[0, -1].log_softmax(-1).numpy()[ids[t]])
    np.testing.assert_allclose(found[0], expected, atol=1e-10)
    assert perplexity(GPT, tg.tensor([ids]), overlap=overlap) == pytest.approx(np.exp(-np.mean(expected)))


def test_wrong_options_are_refused():
    prompt = tg.tensor([[1, 2]])
    for options, message in [
        ({"beams": 0}, "beams must be at least 1, not 0"),
        ({"max_new_tokens": -1}, "max_new_tokens must not be negative, but is -1"),
        ({"length_penalty": float("nan")}, "length_penalty must be a finite number, not nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            beam_search(GPT, prompt, **{"max_new_tokens": 1, **options})
    with pytest.raises(ValueError, match="a token to judge and one before it"):
        log_probabilities(GPT, prompt[:, :1])
    with pytest.raises(ValueError, match="not 6 and 6"):
        log_probabilities(GPT, prompt, overlap=6)


@pytest.mark.torch
def test_the_tokens_are_those_of_transformers():
    torch, library = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = GPTConfig(97, 64, emb_dim=32, n_heads=4, n_layers=2, drop_rate=0.0, qkv_bias=True, tie_weights=True)
    tg.manual_seed(1)
    gpt = GPTModel(config).eval()
    for p in gpt.parameters():
        p.detach().mul_(3.0).add_(0.02)
    theirs = library.GPT2LMHeadModel(
        library.GPT2Config(
            vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
        )
    ).eval()
    with torch.no_grad():
        for name, value in their_names(gpt):
            theirs.get_parameter(name).copy_(torch.from_numpy(value))
    prompt = [[5, 6, 7, 8], [90, 3, 3, 1]]
    ids = torch.tensor(prompt)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 96}
    for count, more, mine in [
        (50, {}, {}),
        (50, {"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
    ]:
        expected = theirs.generate(ids, max_new_tokens=count, **options, **more).tolist()
        assert generate(gpt, tg.tensor(prompt), count, **mine).tolist() == expected
    eos = generate(gpt, tg.tensor(prompt), 12)[0, -1].item()
    for penalty, end in itertools.product([0.0, 1.0, 2.0], [None, eos]):
        for row in prompt:
            expected = theirs.generate(
                torch.tensor([row]), max_new_tokens=20, num_beams=4, length_penalty=penalty, eos_token_id=end,
                attention_mask=torch.ones((1, 4), dtype=torch.int64), do_sample=False, pad_token_id=96,
            )[0].tolist()  # fmt: skip
            assert beam_search(gpt, tg.tensor([row]), 20, 4, penalty, eos_id=end)[0].tolist() == expected


def their_names(gpt):
    """Our weights under transformers' names; its layers hold (in, out)."""
    yield "transformer.wte.weight", gpt.tok_emb.weight.numpy(force=True)
    yield "transformer.wpe.weight", gpt.pos_emb.weight.numpy(force=True)
    yield "transformer.ln_f.weight", gpt.final_norm.weight.numpy(force=True)
    yield "transformer.ln_f.bias", gpt.final_norm.bias.numpy(force=True)
    for i, block in enumerate(gpt.trf_blocks):
        at = f"transformer.h.{i}"
        for name, layer in (("ln_1", block.norm1), ("ln_2", block.norm2)):
            yield f"{at}.{name}.weight", layer.weight.numpy(force=True)
            yield f"{at}.{name}.bias", layer.bias.numpy(force=True)
        for name, layer in (
            ("attn.c_attn", block.att.qkv), ("attn.c_proj", block.att.out_proj), ("mlp.c_fc", block.ff.layers[0]),
            ("mlp.c_proj", block.ff.layers[2]),
        ):  # fmt: skip
            yield f"{at}.{name}.weight", layer.weight.numpy(force=True).T.copy()
            yield f"{at}.{name}.bias", layer.bias.numpy(force=True)
