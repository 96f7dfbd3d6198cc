"""Pieces of text add up to the text, whatever the tokenizer; a text ends before the first stop string."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn, text
from tinygrad_llm.models import TextDecoder, stream_text
from tinygrad_llm.models.streaming import until

LESSON = "The cat sat on the mat. Otto said, \"Well, no!\" and left; ¿qué? 🙂 naïve.\n\n" * 8
TOKENIZERS = [text.build(name, LESSON) for name in ("bpe", "char", "word", "simple", "wordpiece", "unigram")]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: t.name)
@given(data=st.data())
def test_pieces_add_up_to_the_text(tokenizer, data):
    """Of any ids, also those that cut characters in two or that no text has."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    cut = data.draw(st.integers(0, len(ids)))
    decoder = TextDecoder(tokenizer, ids[:cut])
    pieces = [*map(decoder.feed, ids[cut:]), decoder.finish()]
    whole, before = tokenizer.decode(ids), tokenizer.decode(ids[:cut])
    certain = [tokenizer.decode(ids[:n]).rstrip("\ufffd") for n in range(cut, len(ids))]
    # not where the prompt ends within a character, or where an id takes back what stood before
    if not before.endswith("\ufffd") and all(map(whole.startswith, [before, *certain])):
        assert "".join(pieces) == whole[len(before) :]


@given(st.text("aé🙂 €", max_size=20))
def test_a_character_comes_when_its_last_byte_does(string):
    tokenizer = TOKENIZERS[0]
    ids = [i for byte in string.encode() for i in tokenizer.encode_bytes(bytes([byte]))]
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.feed(i) for i in ids]
    assert "".join(pieces) == string and all("\ufffd" not in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) == len(string)


@given(st.lists(st.text("ab", max_size=3), max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_first_stop_string(pieces, stops):
    taken = []

    def watched():
        for piece in pieces:
            taken.append(piece)
            yield piece

    whole = "".join(pieces)
    places = [whole.find(stop) for stop in stops if stop in whole]
    shown = []
    for piece in until(watched(), stops):
        shown.append(piece)
        read = "".join(taken)
        held = read[len("".join(shown)) :]
        assert not held or any(stop.startswith(held[:1]) for stop in stops)  # no more is held back than need be
    if len(places) < 2:
        assert "".join(shown) == whole[: min(places, default=len(whole))]
    else:  # a long one that begins first may be completed last; reading has ended then
        assert whole.startswith("".join(shown)) and not any(stop in "".join(shown) for stop in stops)
    if places:
        read = "".join(taken)
        assert any(stop in read for stop in stops) and not any(stop in "".join(taken[:-1]) for stop in stops)


class Says(nn.Module):
    """After the i-th token of a text comes the next one, for certain."""

    def __init__(self, ids, vocab_size):
        super().__init__()
        self.ids, self.vocab_size = ids, vocab_size

    def forward(self, ids):
        following = self.ids[min(ids.shape[1], len(self.ids) - 1)]
        logits = np.zeros((*ids.shape, self.vocab_size))
        logits[..., following] = 9.0
        return tg.tensor(logits)


def said(string, stop=(), eos_id=None, most=50):
    tokenizer = TOKENIZERS[0]
    ids = tokenizer.encode(string, allowed_special="all")
    model = Says(ids, tokenizer.vocab_size)
    most = min(most, len(ids) - 1)
    return list(stream_text(model, tokenizer, ids[:1], most, 100, stop=stop, eos_id=eos_id))


def test_text_ends_at_stop_strings_and_ids():
    first = TOKENIZERS[0].decode(TOKENIZERS[0].encode("The cat 🙂 sat")[:1])
    assert first + "".join(said("The cat 🙂 sat")) == "The cat 🙂 sat"
    assert first + "".join(said("The cat 🙂 sat", stop="🙂 s")) == "The cat "
    assert first + "".join(said("The cat 🙂 sat", stop=["never", " cat"])) == "The"
    assert first + "".join(said("The cat 🙂 sat", stop="never")) == "The cat 🙂 sat"
    end = TOKENIZERS[0].special_tokens["<|endoftext|>"]
    assert first + "".join(said("The cat<|endoftext|> sat", eos_id=end)) == "The cat"
    assert first + "".join(said("The cat<|endoftext|> sat")) == "The cat<|endoftext|> sat"


def test_what_cannot_be_streamed_is_refused():
    model = Says([1], TOKENIZERS[0].vocab_size)
    with pytest.raises(ValueError, match="a stop string is empty"):
        stream_text(model, TOKENIZERS[0], "The", 3, 10, stop=["", "x"])
    with pytest.raises(ValueError, match="the prompt is empty"):
        stream_text(model, TOKENIZERS[0], "", 3, 10)
