import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm.data import Length, Perplexity, clean, nats_by, read_report, stories
from tinygrad_llm.models import GPTModel
from tinygrad_llm.nn import functional as F
from tinygrad_llm.optim import AdamW
from tinygrad_llm.text import CharTokenizer


def kept(texts, step, tmp_path):
    return list(clean(texts, [step], tmp_path / "report"))


def test_length_counts_what_is_not_white_space_at_the_ends(tmp_path):
    texts = ["", " \n", " ab ", "abc", "abcd", "abcde "]
    assert kept(texts, Length(), tmp_path) == texts[2:]
    assert kept(texts, Length(3, 4), tmp_path) == ["abc", "abcd"]
    assert [r["reason"] for r in list(read_report(tmp_path / "report"))[1:-1]] == [
        "empty", "empty", "fewer characters than allowed", "more characters than allowed",
    ]  # fmt: skip


@given(st.lists(st.floats(-100, 100), min_size=11, max_size=40), st.floats(0.5, 3))
def test_the_limit_is_mean_plus_sigmas(costs, sigmas):
    step = Perplexity.fitted(float, map(str, costs), sigmas)
    assert step.limit == pytest.approx(np.mean(costs) + sigmas * np.std(costs), rel=1e-9, abs=1e-9)


def test_what_costs_more_than_the_limit_goes_and_what_cannot_be_judged_stays(tmp_path):
    texts = ["1.0", "3.0", "nan", "inf", "2.0"]
    assert kept(texts, Perplexity(float, 2.0), tmp_path) == ["1.0", "nan", "2.0"]
    records = list(read_report(tmp_path / "report"))[1:-1]
    assert [(r["document"], r["measure"], r["reason"]) for r in records] == [
        (1, 3.0, "above 2.0000 nats a token"), (3, None, "above 2.0000 nats a token"),
    ]  # fmt: skip


def test_too_few_documents_are_refused():
    with pytest.raises(ValueError, match=r"of 10 documents none can lie 3 standard deviations.*least 11"):
        Perplexity.fitted(float, ["1"] * 9 + ["9", "nan"])
    one_far = ["1"] * 10 + ["9"]
    assert Perplexity.fitted(float, one_far).limit < 9


def model_of(vocab_size, context, channels=12):
    tg.manual_seed(0)
    return GPTModel(
        {"vocab_size": vocab_size, "context_length": context, "emb_dim": channels, "n_heads": 2, "n_layers": 1}
    )


@settings(max_examples=15)
@given(st.integers(0, 80), st.integers(1, 5))
def test_nats_are_the_mean_over_windows_that_share_no_target(length, context):
    tokenizer, model = CharTokenizer("abcdefg"), model_of(7, context).eval()
    ids = np.random.default_rng(length).integers(0, 7, length)
    cost = nats_by(model, tokenizer)(tokenizer.decode(ids))
    if length < 2:
        assert math.isnan(cost)
        return
    total = 0.0
    for start in range(0, length - 1, context):
        x, y = ids[start : min(start + context, length - 1)], ids[start + 1 : start + 1 + context]
        total += F.cross_entropy(model(tg.from_numpy(x[None]))[0], tg.from_numpy(y), reduction="sum").item()
    assert cost == pytest.approx(total / (length - 1), rel=1e-5)


def test_the_models_mode_comes_back():
    model = model_of(7, 4).train()
    nats_by(model, CharTokenizer("abcdefg"))("abcab")
    assert model.training


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused():
    with pytest.raises(ValueError, match="the tokenizer has 9 tokens and the model knows 7"):
        nats_by(model_of(7, 4), CharTokenizer("abcdefghi"))


def test_noise_among_stories_is_what_a_small_model_finds_strange(tmp_path):
    tales = [tale for tale in stories.generate(2, 30_000).split("\n\n") if len(tale) > 100]
    tokenizer = CharTokenizer.build("".join(tales))
    model = model_of(tokenizer.vocab_size, 16, 24)
    ids = np.array(tokenizer.encode("\n".join(tales[20:])))
    optimizer, rng = AdamW(model.parameters(), lr=1e-2), np.random.default_rng(0)
    for _ in range(60):
        starts = rng.integers(len(ids) - 17, size=16)[:, None] + np.arange(16)
        optimizer.zero_grad()
        model.loss(tg.from_numpy(ids[starts]), tg.from_numpy(ids[starts + 1])).backward()
        optimizer.step()
    noise = "".join(rng.choice(list(tokenizer.characters), 300))
    documents = [*tales[:12], noise, *tales[12:20]]
    nats = nats_by(model, tokenizer)
    assert kept(documents, Perplexity.fitted(nats, documents), tmp_path) == tales[:20]
