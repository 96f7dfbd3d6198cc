import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.text import SimpleTokenizer

TEXTS = st.lists(st.sampled_from(["the", "cat", "don't", " ", ",", "--", "\n", "(", ".", "_", "é", "[UNK]"])).map(
    "".join
)


def test_the_example_of_the_chapter():
    passage = '"It\'s the last he painted, you know," Mrs. Gisburn said--with pardonable pride.'
    tokenizer = SimpleTokenizer.build(passage)
    words = [tokenizer.decode([i]) for i in tokenizer.encode(passage)]
    assert words[:9] == ['"', "It", "'", "s", "the", "last", "he", "painted", ","] and "--" in words
    assert tokenizer.decode(tokenizer.encode(passage)) == (
        '" It\' s the last he painted, you know," Mrs. Gisburn said -- with pardonable pride.'
    )


def test_unknown_words_and_ends_of_texts():
    both = ("<|endoftext|>", "<|unk|>")
    tokenizer = SimpleTokenizer(
        {"do", "you", "like", "In", "the", "of", "?", ",", "."}, special_tokens=both, unknown=both[1]
    )
    joined = "Hello, do you like tea? <|endoftext|> In the terraces of the palace."
    ids = tokenizer.encode(joined, allowed_special={"<|endoftext|>"})
    assert ids[0] == tokenizer.special_tokens["<|unk|>"] == 10 and ids.count(9) == 1
    assert tokenizer.decode(ids) == "<|unk|>, do you like <|unk|>? <|endoftext|> In the <|unk|> of the <|unk|>."


def test_the_special_tokens_come_last():
    tokenizer = SimpleTokenizer.build("b a b.")
    assert tokenizer.words == [".", "a", "b"]
    assert tokenizer.special_tokens == {"[BOS]": 3, "[EOS]": 4, "[PAD]": 5, "[UNK]": 6} and tokenizer.vocab_size == 7
    assert tokenizer.encode("[BOS] a b [EOS]", allowed_special="all") == [3, 1, 2, 4]
    assert tokenizer.encode_ordinary("[BOS] c") == [6, 6]


@given(TEXTS, TEXTS)
def test_decoding_keeps_the_ids(lesson, passage):
    tokenizer = SimpleTokenizer.build(lesson)
    ids = tokenizer.encode_ordinary(passage)
    assert tokenizer.encode_ordinary(tokenizer.decode(ids)) == ids


@given(TEXTS)
def test_save_and_load_give_the_same_tokenizer(tmp_path_factory, passage):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = SimpleTokenizer.build(passage)
    tokenizer.save(path)
    loaded = text.load(path)
    assert loaded.to_dict() == tokenizer.to_dict() and isinstance(loaded, SimpleTokenizer)


def test_an_unknown_word_can_be_refused():
    with pytest.raises(ValueError, match="'dog' is not among the 2 words"):
        SimpleTokenizer(["cat", "the"], special_tokens=(), unknown=None).encode("the dog")


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["a", "a"], {}, "each of them once"),
        (["a b"], {}, "'a b' is no single word"),
        ([""], {}, "'' is no single word"),
        (["[UNK]"], {}, "each of them once"),
        (["a"], {"unknown": "?"}, "is none of the special tokens"),
        ([], {"special_tokens": (), "unknown": None}, "there must be words"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(words, settings, message):
    with pytest.raises(ValueError, match=message):
        SimpleTokenizer(words, **settings)


@pytest.mark.parametrize(
    "fields", [{}, {"words": [1], "special_tokens": []}, {"words": [], "special_tokens": ["[UNK]"], "unknown": 3}]
)
def test_fields_that_are_none_are_refused(fields):
    with pytest.raises(ValueError, match="must be a"):
        SimpleTokenizer.from_dict(fields)
