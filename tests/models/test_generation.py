"""Generation: the tokens taken are those of the distribution asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.models import GPTConfig, GPTModel, generate, generate_text_simple
from tinygrad_llm.models.sampling import Sampling, draws

CONFIG = GPTConfig(vocab_size=11, context_length=6, emb_dim=8, n_heads=2, n_layers=1, drop_rate=0.3)


def model():
    tg.manual_seed(4)
    gpt = GPTModel(CONFIG)
    for p in gpt.parameters():
        p.detach().mul_(5.0)  # decided opinions
    return gpt


class Counter(nn.Module):
    """After a token comes the next number, for certain; it remembers what it was shown."""

    def __init__(self, size=10):
        super().__init__()
        self.size, self.seen = size, []

    def forward(self, ids):
        self.seen.append((ids.numpy().copy(), self.training, tg.is_grad_enabled()))
        return tg.tensor(np.where(np.arange(self.size) == (ids.numpy()[..., None] + 1) % self.size, 5.0, -5.0))


shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)
logits = hnp.arrays(np.float32, shapes, elements=st.floats(-8, 8, width=32))


@given(x=logits, temperature=st.floats(0.05, 5), k=st.none() | st.integers(1, 9), p=st.none() | st.floats(0.05, 1))
def test_probabilities_are_those_asked_for(x, temperature, k, p):
    """Against the definition, token by token."""
    q = Sampling(temperature, k, p).probabilities(x)
    for row, given_row in zip(x.astype(float) / temperature, q, strict=True):
        weights = np.exp(row - row.max())
        order = sorted(range(len(row)), key=lambda i: (-row[i], i))[: k or len(row)]
        total = sum(weights[i] for i in order)
        kept, reached = [], 0.0
        for i in order:
            if p is not None and kept and reached >= p - 1e-9:
                break
            kept.append(i)
            reached += weights[i] / total
        expected = np.zeros(len(row))
        expected[kept] = weights[kept] / weights[kept].sum()
        if p is None or abs(reached - p) > 1e-6:  # on the border rounding may decide
            np.testing.assert_allclose(given_row, expected, atol=1e-6)
    np.testing.assert_allclose(q.sum(-1), 1.0)


def test_a_top_k_of_the_whole_vocabulary_leaves_top_p_as_it_is():
    x = np.array([[-5.5, -4.75, -4.75, -4.75]], np.float32)
    expected = Sampling(0.5, None, 0.625).probabilities(x)
    np.testing.assert_array_equal(Sampling(0.5, 4, 0.625).probabilities(x), expected)
    assert np.count_nonzero(expected) == 3


@given(x=logits, seed=st.integers(0, 1000), k=st.integers(1, 3))
def test_choices_stay_within_top_k(x, seed, k):
    generator = tg.Generator().manual_seed(seed)
    chosen = Sampling(1.0, k).choose(x, draws(generator, range(len(x)), len(x)))
    assert chosen.shape == (len(x),)
    assert all(Sampling(1.0, k).probabilities(x)[i, token] > 0 for i, token in enumerate(chosen))
    one = Sampling(1.0, 1).choose(x, draws(generator, range(len(x)), len(x)))
    np.testing.assert_array_equal(one, x.argmax(-1))
    np.testing.assert_array_equal(Sampling().choose(x), x.argmax(-1))


def test_frequencies_follow_the_probabilities():
    x = np.log(np.array([[0.5, 0.3, 0.15, 0.05]]))
    u = tg.Generator().manual_seed(0).uniform((40_000, 1), np.float64)
    many = Sampling(1.0).choose(np.repeat(x, 40_000, axis=0), u)
    np.testing.assert_allclose(np.bincount(many, minlength=4) / 40_000, [0.5, 0.3, 0.15, 0.05], atol=0.01)
    sharp = Sampling(0.5).choose(np.repeat(x, 40_000, axis=0), u)
    squares = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(np.bincount(sharp, minlength=4) / 40_000, squares / squares.sum(), atol=0.01)


@pytest.mark.parametrize("u", [0.0, np.nextafter(1.0, 0.0)])
def test_the_ends_of_the_draw_take_no_refused_token(u):
    x = np.array([[-np.inf, 0.0, 0.1, 0.2, -np.inf]])
    assert Sampling(1.0).choose(x, np.array([[u]])).item() in (1, 3)


def test_the_prompt_stays_and_is_continued():
    ids = generate(Counter(), tg.tensor([[3, 4], [8, 9]]), 3, context_size=5)
    assert ids.tolist() == [[3, 4, 5, 6, 7], [8, 9, 0, 1, 2]] and ids.dtype is tg.int64
    assert generate(Counter(), tg.tensor([[3]]), 0, context_size=5).tolist() == [[3]]
    assert generate(Counter(), tg.tensor([[3]], dtype=tg.int32), 1, context_size=5).dtype is tg.int32


def test_the_model_sees_the_last_positions_in_evaluation_unrecorded():
    counter = nn.Sequential(Counter(), nn.Dropout(0.0))
    counter[1].eval()
    generate(counter, tg.tensor([[1, 2, 3]]), 3, context_size=4)
    seen = counter[0].seen
    assert [ids.tolist() for ids, _, _ in seen] == [[[1, 2, 3]], [[1, 2, 3, 4]], [[2, 3, 4, 5]]]
    assert not any(training or recorded for _, training, recorded in seen)
    assert counter.training and counter[0].training and not counter[1].training  # each has its own mode again
    assert tg.is_grad_enabled()


def test_the_mode_comes_back_after_an_error():
    gpt = model()
    with pytest.raises(IndexError):
        generate(gpt, tg.tensor([[99]]), 1)
    assert gpt.training


def test_rows_end_at_their_own_eos():
    ids = generate(Counter(), tg.tensor([[3], [6]]), 9, context_size=5, eos_id=7)
    assert ids.tolist() == [[3, 4, 5, 6, 7], [6, 7, 7, 7, 7]]


def test_greedy_is_the_likeliest_and_beyond_the_context_too():
    gpt = model().eval()
    ids = prompt = tg.tensor([[1, 2], [3, 4]])
    for _ in range(8):
        step = gpt(ids[:, -6:]).numpy(force=True)[:, -1].argmax(-1)
        ids = tg.cat([ids, tg.tensor(step[:, None])], dim=1)
    assert generate(gpt, prompt, 8).tolist() == ids.tolist()
    assert generate_text_simple(gpt, prompt, 8, 6).tolist() == ids.tolist()
    assert generate(gpt, prompt, 8, temperature=2.0, top_k=1).tolist() == ids.tolist()


def test_a_seed_decides_the_sample():
    gpt, prompt = model(), tg.tensor([[1]])

    def sample(seed):
        return generate(gpt, prompt, 20, temperature=2.0, generator=tg.Generator().manual_seed(seed)).tolist()

    assert sample(1) == sample(1) != sample(2)
    tg.manual_seed(5)
    one = generate(gpt, prompt, 20, temperature=2.0).tolist()
    tg.manual_seed(5)
    assert one == generate(gpt, prompt, 20, temperature=2.0).tolist()


def test_wrong_options_are_refused():
    gpt, prompt = model(), tg.tensor([[1]])
    for options, message in [
        ({"temperature": -1.0}, "temperature must be 0 or a positive number, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be 0 or a positive number, not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_p": 0.0}, "top_p must lie in 0 < top_p <= 1, not 0.0"),
        ({"min_p": 1.5}, "min_p must lie in 0 <= min_p <= 1, not 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be a positive number .*, not 0.0"),
        ({"context_size": 0}, "context_size must be at least 1, not 0"),
        ({"slide": 7}, r"slide must lie in 1..6, the context, not 7"),
        ({"generator": [tg.Generator()] * 2}, "2 generators for 1 rows"),
    ]:
        with pytest.raises(ValueError, match=message):
            generate(gpt, prompt, 1, **options)
    with pytest.raises(ValueError, match="max_new_tokens must not be negative, but is -1"):
        generate(gpt, prompt, -1)
    with pytest.raises(ValueError, match=r"ids must have shape \(B, T\) with T of at least 1, not \(1, 0\)"):
        generate(gpt, tg.zeros(1, 0, dtype=tg.int64), 1)
    for spoiled in (float("nan"), float("inf")):
        gpt.out_head.weight.detach().fill_(spoiled)
        for cache in (True, False):
            with pytest.raises(ValueError, match="logits are nan or infinite"):
                generate(gpt, prompt, 1, cache=cache)
