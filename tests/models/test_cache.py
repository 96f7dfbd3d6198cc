"""The cache changes no token: laws over models, prompts, batches and ways to choose."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.models import GPTConfig, GPTModel, Reader, Sampling, generate, generate_batch, stream

VOCABULARY, CONTEXT = 13, 8
CONFIG = GPTConfig(VOCABULARY, CONTEXT, emb_dim=12, n_heads=3, n_layers=2, drop_rate=0.2, qkv_bias=True)


def build(dtype=tg.float64):
    tg.manual_seed(2)
    gpt = GPTModel(CONFIG).to(dtype).eval()
    for p in gpt.parameters():
        p.detach().mul_(2.0).add_(0.05)  # decided opinions, and biases that matter
    return gpt


GPT = build()
token = st.integers(0, VOCABULARY - 1)
prompts = st.lists(st.lists(token, min_size=1, max_size=12), min_size=1, max_size=4)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_k=st.none() | st.integers(1, 20),
    top_p=st.none() | st.floats(0.1, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
)
slides = st.integers(1, CONTEXT)


def generators(count, seed):
    return [tg.Generator().manual_seed(seed + i) for i in range(count)]


@given(
    st.integers(1, 3), st.integers(1, 12), st.integers(0, 12), samplings, slides, st.none() | token, st.integers(0, 99)
)
def test_the_same_tokens_with_and_without(batch, length, count, sampling, slide, eos, seed):
    ids = tg.tensor(np.random.default_rng(seed).integers(0, VOCABULARY, (batch, length)))
    with_cache, without = (
        generate(
            GPT, ids, count, None, sampling.temperature, sampling.top_k, sampling.top_p, eos,
            tg.Generator().manual_seed(seed), min_p=sampling.min_p, repetition_penalty=sampling.repetition_penalty,
            slide=slide, cache=cache,
        ).tolist()
        for cache in (True, False)
    )  # fmt: skip
    assert with_cache == without
    assert [row[:length] for row in with_cache] == ids.tolist()


@given(prompts, st.integers(0, 12), samplings, slides, st.sets(token, max_size=2), st.integers(0, 99))
def test_a_row_gets_the_tokens_that_its_prompt_alone_gets(rows, count, sampling, slide, eos, seed):
    options = {"sampling": sampling, "slide": slide, "eos_id": eos}
    together = generate_batch(GPT, rows, count, generator=generators(len(rows), seed), **options)
    for row, given_row, generator in zip(rows, together, generators(len(rows), seed), strict=True):
        alone = [*row, *stream(GPT, row, count, generator=generator, **options)]
        assert given_row == alone
        assert len(alone) == len(row) + count or alone[-1] in eos


@pytest.mark.parametrize(("dtype", "tolerance"), [(tg.float32, 2e-5), (tg.float64, 1e-11)])  # of numbers up to 10
@given(rows=prompts, count=st.integers(1, 12), seed=st.integers(0, 99))
def test_logits_are_those_of_the_window(dtype, tolerance, rows, count, seed):
    """Whatever was read before: rows grow by one or several tokens, or are replaced."""
    gpt, rng, rows = MODELS[dtype], np.random.default_rng(seed), [list(row) for row in rows]
    reader = Reader(gpt)
    for _ in range(count):
        with tg.no_grad():
            logits = reader(rows)
            for row, given_row in zip(rows, logits, strict=True):
                expected = gpt(tg.tensor([row[-CONTEXT:]]))[0, -1].log_softmax(-1).numpy()
                mine = tg.tensor(given_row).log_softmax(-1).numpy()
                np.testing.assert_allclose(mine, expected, rtol=0, atol=tolerance)
        for row in rows:
            if rng.random() < 0.1:
                del row[rng.integers(1, len(row) + 1) :]
            row += rng.integers(0, VOCABULARY, rng.choice([0, 1, 1, 1, 3])).tolist()


MODELS = {tg.float32: build(tg.float32), tg.float64: GPT}


@given(prompts, st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(1, 3))
def test_select_takes_the_memory_along(rows, picks, count):
    reader, picks = Reader(GPT), [pick % len(rows) for pick in picks]
    with tg.no_grad():
        reader(rows)
        reader.select(picks)
        chosen = [[*rows[pick], *range(count)] for pick in picks]
        np.testing.assert_allclose(reader(chosen), Reader(GPT, cache=False)(chosen), atol=1e-12)


def test_a_step_reads_one_position_and_a_prompt_is_read_once():
    seen = []
    gpt = build()
    gpt.tok_emb.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape)))
    generate(gpt, tg.tensor([[1, 2, 3], [4, 5, 6]]), 4)
    assert seen == [(2, 3), (2, 1), (2, 1), (2, 1)]
    seen.clear()
    generate(gpt, tg.tensor([list(range(CONTEXT))]), 5, slide=4)
    assert seen == [(1, 8), (1, 5), (1, 1), (1, 1), (1, 1)]  # the window moves by 4, then there is room for three more


def test_a_conversation_reads_only_what_is_new():
    seen = []
    gpt = build()
    gpt.tok_emb.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[1]))
    reader = Reader(gpt)
    said = [1, 2, 3]
    said += stream(gpt, said, 1, reader=reader)
    said += [7, 8]
    list(stream(gpt, said, 1, reader=reader))
    assert seen == [3, 3]  # the answer, which no step has read, and two more


@pytest.mark.parametrize("change", ["subclass", "hook", "block", "attention"])
def test_a_model_that_differs_is_called_as_it_is(change):
    calls = []

    class Own(GPTModel):
        def forward(self, ids, *rest):
            calls.append(ids.shape[1])
            return super().forward(ids, *rest)

    class Block(nn.TransformerBlock):
        def forward(self, x, mask=None):
            calls.append(x.shape[1])
            return super().forward(x, mask)

    class Attention(nn.MultiHeadAttention):
        def forward(self, x, mask=None):
            calls.append(x.shape[1])
            return super().forward(x, mask)

    gpt = Own(CONFIG) if change == "subclass" else GPTModel(CONFIG)
    if change == "hook":
        gpt.register_forward_hook(lambda module, args, output: calls.append(args[0].shape[1]))
    if change == "block":
        gpt.trf_blocks[0] = Block(12, 3, CONTEXT)
    if change == "attention":
        gpt.trf_blocks[1].att = Attention(12, 12, CONTEXT, 0.0, 3)
    generate(gpt, tg.tensor([[1, 2]]), 3)
    assert calls == [2, 3, 4]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.GELU(), nn.GELU("tanh"), nn.SiLU()])
@pytest.mark.parametrize("dtype", [tg.float32, tg.float64])
def test_plain_layers_as_arrays_give_the_bits_of_the_modules(dtype, activation, bias):
    gpt = build(dtype)
    gpt.trf_blocks[1].ff.layers[1] = activation
    if not bias:
        gpt.trf_blocks[1].att.qkv = nn.Linear(12, 36, bias=False).to(dtype)
        gpt.final_norm = nn.LayerNorm(12, bias=False).to(dtype)
    as_arrays, as_modules = Reader(gpt), Reader(gpt)
    assert as_arrays.plain is not None
    as_modules.plain = None
    for rows in ([[1, 2, 3], [4]], [[1, 2, 3, 5], [4, 6]], [[1, 2, 3, 5, 7], [4, 6, 8]]):
        assert as_arrays(rows).tobytes() == as_modules(rows).tobytes()


@pytest.mark.parametrize("change", ["lora", "hook", "relu", "half"])
def test_other_layers_are_called(change):
    gpt = build(tg.float32)
    if change == "lora":
        nn.replace_linear_with_lora(gpt, 2, 4)
    if change == "hook":
        gpt.trf_blocks[0].ff.layers[1].register_forward_hook(lambda *given: None)
    if change == "relu":
        gpt.trf_blocks[0].ff.layers[1] = nn.ReLU()
    reader = Reader(gpt.half() if change == "half" else gpt)
    assert reader.cached and reader.plain is None
    assert np.isfinite(reader([[1, 2]])).all() and np.isfinite(reader([[1, 2, 3]])).all()


def test_a_readers_memory_goes_with_it():
    reader = Reader(GPT)
    reader([[1, 2]])
    memory = weakref.ref(reader.cache.layers[0])
    gc.disable()
    try:
        del reader
        assert memory() is None
    finally:
        gc.enable()


def test_weights_exchanged_between_tokens_count():
    gpt = build(tg.float32)
    reader = Reader(gpt)
    reader([[1, 2]])
    with tg.no_grad():
        for p in gpt.parameters():
            p.data = p.data * 1.5
    fresh = Reader(gpt)
    assert reader.plain is not None
    reader.known = [[]]  # read all again
    assert reader([[1, 2, 3]]).tobytes() == fresh([[1, 2, 3]]).tobytes()


@pytest.mark.parametrize("wrong", [-1, VOCABULARY])
def test_an_id_that_is_none_is_refused(wrong):
    with pytest.raises(IndexError):
        Reader(GPT)([[1, wrong]])


def test_what_went_wrong_once_is_not_remembered():
    reader = Reader(GPT)
    with tg.no_grad():
        reader([[1, 2, 3, 4]])
        with pytest.raises(IndexError):
            reader([[1, 2, 99]])
        np.testing.assert_allclose(reader([[1, 2, 3, 4]]), Reader(GPT)([[1, 2, 3, 4]]), atol=1e-12)


def test_empty_prompts_and_batches():
    assert generate_batch(GPT, [], 3) == []
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generate_batch(GPT, [[1], []], 3)
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        next(stream(GPT, [], 3))
    assert list(stream(GPT, [1], 0)) == []


def test_nothing_leaks_between_the_tokens_of_a_stream():
    gpt = build().train()
    for _ in stream(gpt, [1], 3):
        assert gpt.training and tg.is_grad_enabled()
