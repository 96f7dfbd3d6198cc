"""The loss of a text: every token once, whatever the stride; nats, bits and bytes by their definitions."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.evaluation.parts import TEXT, TOKENIZER, gpt
from tinygrad_llm.evaluation import TextLoss, text_loss
from tinygrad_llm.models import GPTModel, perplexity
from tinygrad_llm.text import CharTokenizer

GPT = gpt()
texts = st.text(st.sampled_from("the cat so é!"), max_size=80)


@given(texts, st.integers(1, 12), st.data())
def test_every_token_counts_once(text, size, data):
    ids = TOKENIZER.encode_ordinary(text)
    assume(ids)
    stride = data.draw(st.integers(1, size))
    found = text_loss(GPT, TOKENIZER, text, size, stride)
    assert found.tokens == len(ids) and found.bytes == len(text.encode())
    row, nats = [TOKENIZER.special_tokens["<|endoftext|>"], *ids], 0.0
    begin = known = 0
    while known < len(ids):  # as the docstring says it, a token at a time
        begin = max(0, min(known - (size - stride), len(ids) - size))
        for t in range(known, min(begin + size, len(ids))):
            with tg.no_grad():
                nats -= GPT(tg.tensor([row[begin : t + 1]]))[0, -1].log_softmax(-1)[row[t + 1]].item()
        known = begin + size
    assert found.nats == pytest.approx(nats, abs=1e-9)


def test_a_smaller_stride_gives_a_token_no_less_before_it():
    """A model that has learned to read what stands before knows more, the more it sees of it."""
    tg.manual_seed(0)
    config = {"vocab_size": 300, "context_length": 8, "emb_dim": 32, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    model, rng = GPTModel(config), np.random.default_rng(0)
    ids = TOKENIZER.encode_ordinary(TEXT)
    optimizer = tg.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        starts = rng.integers(0, len(ids) - 9, 8)
        rows = tg.tensor([ids[s : s + 9] for s in starts])
        loss = model.loss(rows[:, :-1], rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    losses = [text_loss(model, TOKENIZER, TEXT, 8, stride).nats_per_token for stride in (1, 4, 8)]
    assert max(losses[:2]) < losses[2]


def test_numbers_by_their_definitions():
    loss = TextLoss(20 * math.log(2), 10, 40)
    assert loss.perplexity == pytest.approx(4) and loss.bits_per_byte == pytest.approx(0.5)
    assert (loss + loss).bits_per_byte == loss.bits_per_byte and (loss + loss).tokens == 20
    assert TextLoss(1e6, 1, 1).perplexity == math.inf and TextLoss(1e6, 1, 1).to_dict()["perplexity"] is None


def test_without_an_end_of_text_the_first_token_is_only_read():
    tokenizer = CharTokenizer.build("aéb")
    tg.manual_seed(0)
    config = {"vocab_size": tokenizer.vocab_size, "context_length": 4, "emb_dim": 8, "n_heads": 2, "n_layers": 1}
    model = GPTModel({**config, "drop_rate": 0.0})
    found = text_loss(model, tokenizer, "éabé", stride=2)
    assert (found.tokens, found.bytes) == (3, 4)
    ids = tg.tensor([tokenizer.encode_ordinary("éabé")])
    assert found.perplexity == pytest.approx(perplexity(model, ids))
    with pytest.raises(ValueError, match="1 tokens leave nothing to judge"):
        text_loss(model, tokenizer, "a")


def test_options_out_of_range_are_refused():
    for options, message in [({"stride": 0}, "stride must lie in 1..12"), ({"context_size": 4, "stride": 5}, "1..4")]:
        with pytest.raises(ValueError, match=message):
            text_loss(GPT, TOKENIZER, TEXT, **options)
    with pytest.raises(ValueError, match="0 tokens leave nothing"):
        text_loss(GPT, TOKENIZER, "")
