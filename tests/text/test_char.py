import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.text import CharTokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXTS)
def test_decode_inverts_encode(passage):
    tokenizer = CharTokenizer.build(passage)
    ids = tokenizer.encode(passage)
    assert tokenizer.decode(ids) == passage
    assert set(ids) == set(range(tokenizer.vocab_size))  # every id is in use


@given(TEXTS)
def test_ids_follow_the_sorted_characters(passage):
    tokenizer = CharTokenizer.build(passage)
    assert tokenizer.decode(range(tokenizer.vocab_size)) == "".join(sorted(set(passage)))


@given(TEXTS)
def test_save_and_load_give_the_same_tokenizer(tmp_path_factory, passage):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    CharTokenizer.build(passage).save(path)
    loaded = text.load(path)
    assert isinstance(loaded, CharTokenizer)
    assert loaded.encode(passage) == CharTokenizer.build(passage).encode(passage)


def test_the_unknown_character_and_its_position_are_named():
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 3 .* 4 characters"):
        CharTokenizer("cafe").encode("cafés")


@pytest.mark.parametrize("ids", [[0, 5], [0, -1]])
def test_an_id_outside_the_vocabulary_is_named(ids):
    with pytest.raises(ValueError, match=rf"id {ids[1]} at position 1 is outside \[0, 5\)"):
        CharTokenizer("abcde").decode(ids)


@pytest.mark.parametrize(("characters", "message"), [("", "at least one"), ("aba", "'a' stands more than once")])
def test_a_vocabulary_without_or_with_repeated_characters_is_refused(characters, message):
    with pytest.raises(ValueError, match=message):
        CharTokenizer(characters)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a tokenizer file"),
        (b"\xff", "not a tokenizer file"),
        (b"[" * 100_000, "not a tokenizer file"),
        (b"[]", "JSON object"),
        (b'{"characters": "ab"}', "JSON object with the key"),
        (b'{"tokenizer": "morse"}', "unknown tokenizer 'morse'; choose one of .*char"),
        (b'{"tokenizer": ["char"]}', "unknown tokenizer"),
        (b'{"tokenizer": "char", "characters": 3}', "must be a string, found 3"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        text.load(path)


def test_a_saved_file_is_json_with_the_kind_of_tokenizer(tmp_path):
    CharTokenizer("ba").save(tmp_path / "tokenizer.json")
    assert json.loads((tmp_path / "tokenizer.json").read_text()) == {
        "tokenizer": "char",
        "version": 1,
        "characters": "ab",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]  # no temporary file is left


def test_build_finds_a_tokenizer_by_name():
    assert text.build("char", "hello").vocab_size == 4
    with pytest.raises(ValueError, match=r"unknown tokenizer 'chars'; choose one of .*char, .*gpt2"):
        text.build("chars", "hello")


def test_a_name_is_given_once():
    class Second(CharTokenizer):
        name = "char"

    with pytest.raises(ValueError, match="'char' already belongs to CharTokenizer"):
        text.register(Second)
    assert isinstance(text.build("char", "x"), CharTokenizer) and not isinstance(text.build("char", "x"), Second)
