import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.text import WordTokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
WORDS = st.lists(st.sampled_from(["the", "The", "cat", "don't", "O’Neill", ",", '"', " ", "  ", "\n", "x_1", "é"]))


@given(TEXTS, TEXTS | WORDS.map("".join))
def test_decode_inverts_encode(passage, other):
    tokenizer = WordTokenizer.build(passage + other)
    for part in (passage, other):
        assert tokenizer.decode(tokenizer.encode(part)) == part


@given(WORDS.map("".join).filter(bool), st.integers(0, 20))
def test_what_the_vocabulary_has_no_room_for_is_spelled(passage, most):
    tokenizer = WordTokenizer.build(passage, most)
    assert tokenizer.vocab_size <= max(most, len(set(passage)))
    assert tokenizer.decode(tokenizer.encode(passage)) == passage


def test_words_keep_the_space_before_them():
    tokenizer = WordTokenizer.build('The cat said, "I don\'t."\nThe cat')
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode('The cat said, "I don\'t."\nThe cat')]
    assert pieces == ["The", " cat", " said", ",", ' "', "I", " don't", ".", '"', "\n", "The", " cat"]


def test_the_most_frequent_pieces_are_kept():
    tokenizer = WordTokenizer.build("ab ab ab cd cd ef", most=6 + 1 + 2)  # 6 letters, the space, two pieces
    assert [p for p in tokenizer.pieces if len(p) > 1] == [" ab", " cd"]
    assert len(tokenizer.encode(" ab ef")) == 1 + 3


@given(TEXTS)
def test_save_and_load_give_the_same_tokenizer(tmp_path_factory, passage):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    WordTokenizer.build(passage).save(path)
    loaded = text.load(path)
    assert isinstance(loaded, WordTokenizer)
    assert loaded.encode(passage) == WordTokenizer.build(passage).encode(passage)


def test_the_unknown_character_and_its_position_are_named():
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 6 .* 5 pieces"):
        WordTokenizer(["a", "b", "c", " ", "abc"]).encode("abc abé")


@pytest.mark.parametrize(
    ("pieces", "message"), [([], "at least one"), (["a", ""], "none may be empty"), (["a", "a"], "'a' stands more")]
)
def test_a_vocabulary_that_is_none_is_refused(pieces, message):
    with pytest.raises(ValueError, match=message):
        WordTokenizer(pieces)


@pytest.mark.parametrize("content", ['{"tokenizer": "word"}', '{"tokenizer": "word", "pieces": [1]}'])
def test_a_file_without_pieces_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape('"pieces" must be a list of strings')):
        text.load(path)


@pytest.mark.parametrize("ids", [[0, 5], [0, -1], [1.5], ["a"], 5])
def test_ids_that_are_none_are_refused(ids):
    with pytest.raises((ValueError, TypeError)):
        WordTokenizer("abcde").decode(ids)


@pytest.mark.parametrize("value", [5, None, b"abc"])
def test_only_text_is_encoded(value):
    with pytest.raises(TypeError):
        WordTokenizer("abcde").encode(value)
