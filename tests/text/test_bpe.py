"""Byte-pair encoding: the laws of encoding, on vocabularies trained here and on GPT-2's where its files are."""

import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.text import BPETokenizer, tiktoken
from tinygrad_llm.text.bytelevel import BYTE_ORDER, from_printable, to_printable, visible
from tinygrad_llm.text.splitting import PATTERNS, last_cut, pieces_of

LESSON = "The cat sat on the mat, and the hat's brim was wet. It wasn't 2024, it was 1999! café\n\n  été " * 3
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LIKE_TEXT = st.lists(st.sampled_from(["the", " the", "cat's", "  ", "\n", "\r\n", "…", "!", "12345", "é", "\t", "'LL"]))
TEXTS = ANY_TEXT | LIKE_TEXT.map("".join)
BYTES = [bytes([b]) for b in BYTE_ORDER]
BY_ITSELF = {token: i for i, token in enumerate(BYTES)}


@pytest.fixture(scope="module", params=PATTERNS)
def tokenizer(request):
    return BPETokenizer.train([LESSON], 400, pattern=request.param)


@given(TEXTS)
def test_decode_inverts_encode(tokenizer, passage):
    ids = tokenizer.encode(passage, disallowed_special=())
    assert tokenizer.decode(ids) == passage
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@given(
    st.binary()
    | st.lists(st.sampled_from([b"the", b"\xff", "é".encode(), b"\xc3", b" ", b"\xed\xa0\x80"])).map(b"".join)
)
def test_every_string_of_bytes_comes_back(tokenizer, data):
    ids = tokenizer.encode_bytes(data)
    assert tokenizer.decode_bytes(ids) == data


@given(TEXTS)
def test_the_bytes_of_a_text_have_its_ids(tokenizer, passage):
    assert tokenizer.encode_bytes(passage.encode()) == tokenizer.encode_ordinary(passage)


@given(TEXTS)
def test_the_trace_ends_in_the_tokens(tokenizer, passage):
    last, ids = [], []
    for step in tokenizer.trace(passage):
        if step.pair is None:
            ids += last
        else:
            assert step.pair[0] + step.pair[1] in step.parts
        last = [tokenizer.ranks[part] for part in step.parts]
    assert ids + last == tokenizer.encode_ordinary(passage)


def test_a_trace_reads_like_this():
    tokenizer = BPETokenizer({**BY_ITSELF, b"he": 256, b"ll": 257, b"hell": 258, b" c": 259})
    assert [str(step) for step in tokenizer.trace("hello cé")] == [
        "h e l l o",
        "he l l o    h + e -> 256",
        "he ll o    l + l -> 257",
        "hell o    he + ll -> 258",
        r"␣ c \xc3 \xa9",
        r"␣c \xc3 \xa9    ␣ + c -> 259",
    ]


@given(TEXTS)
def test_pieces_join_to_the_text_and_cuts_change_none(passage):
    for pattern in PATTERNS:
        whole = list(pieces_of(passage, pattern))
        assert "".join(whole) == passage
        cut = last_cut(passage)
        assert [*pieces_of(passage[:cut], pattern), *pieces_of(passage[cut:], pattern)] == whole


@pytest.mark.parametrize(
    ("pattern", "pieces"),
    [
        ("gpt2", ["I", "'ll", " pay", " 12345", "!!", "\n\n ", " now"]),
        ("gpt4", ["I", "'ll", " pay", " ", "123", "45", "!!\n\n", " ", " now"]),
        ("gpt4o", ["I'll", " pay", " ", "123", "45", "!!\n\n", " ", " now"]),
    ],
)
def test_the_patterns_split_as_published(pattern, pieces):
    assert list(pieces_of("I'll pay 12345!!\n\n  now", pattern)) == pieces


@pytest.mark.parametrize("passage", ["a" * 100_000, " " * 1_100_000 + "x", "\n" * 1_100_000, "x\t" + " " * 1_200_000])
def test_long_runs_are_encoded(tokenizer, passage):
    assert tokenizer.decode(tokenizer.encode(passage)) == passage


@given(st.lists(TEXTS))
def test_a_batch_is_its_texts(tokenizer, passages):
    ids = [tokenizer.encode(passage, disallowed_special=()) for passage in passages]
    assert tokenizer.encode_batch(passages, disallowed_special=()) == ids


def test_special_tokens_follow_the_policy():
    tokenizer = BPETokenizer.train(["a b"], 300, special_tokens=("<|endoftext|>", "<|pad|>"))
    assert tokenizer.special_tokens == {"<|endoftext|>": 256, "<|pad|>": 257} and tokenizer.vocab_size == 258
    assert tokenizer.encode("<|pad|>", allowed_special="all") == [257]
    assert tokenizer.decode([257, 256]) == "<|pad|><|endoftext|>"
    assert 256 not in tokenizer.encode_ordinary("<|endoftext|>")
    with pytest.raises(ValueError, match=r"'<\|pad\|>' stands in the text at position 1"):
        tokenizer.encode_batch(["", "a<|pad|>"])


def test_a_lone_surrogate_is_refused_with_its_position(tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at position 1 .* encode_bytes"):
        tokenizer.encode("a\ud800")


def test_ids_without_a_token_are_named():
    tokenizer = BPETokenizer(BY_ITSELF, special_tokens={"<|end|>": 300})
    assert tokenizer.vocab_size == 301
    with pytest.raises(ValueError, match="id 299 at position 1 is a gap"):
        tokenizer.decode([0, 299])
    with pytest.raises(ValueError, match=r"id 301 at position 0 is outside \[0, 301\)"):
        tokenizer.decode([301])


@pytest.mark.parametrize(
    ("tokens", "special", "pattern", "message"),
    [
        ({**BY_ITSELF, b"ab": 5}, {}, "gpt2", "the same id 5"),
        ({b"a": 0}, {}, "gpt2", "the byte 0x00 is no token"),
        ({**BY_ITSELF, b"": 256}, {}, "gpt2", "is empty"),
        ({**BY_ITSELF, b"ab": -1}, {}, "gpt2", "integer id in"),
        ({**BY_ITSELF, b"ab": True}, {}, "gpt2", "integer id in"),
        ({**BY_ITSELF, b"ab": 2**31}, {}, "gpt2", "integer id in"),
        (BY_ITSELF, {"": 256}, "gpt2", "is empty"),
        (BY_ITSELF, {"\ud800": 256}, "gpt2", "lone surrogate"),
        (BY_ITSELF, {}, "gpt3", "unknown split pattern 'gpt3'; choose one of gpt2, gpt4"),
        (BY_ITSELF, {}, ["gpt2"], "unknown split pattern"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(tokens, special, pattern, message):
    with pytest.raises(ValueError, match=message):
        BPETokenizer(tokens, pattern=pattern, special_tokens=special)


def test_a_worker_process_can_have_it(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode(LESSON) == tokenizer.encode(LESSON)


@given(st.binary())
def test_bytes_are_printable(data):
    assert from_printable(to_printable(data)) == data
    assert re.fullmatch(r"\S*", to_printable(data)) and to_printable(data).isprintable()
    assert visible(data).isprintable() and " " not in visible(data)


@pytest.mark.skipif(not tiktoken.is_cached("gpt2"), reason="GPT-2's two files are not in tiktoken's cache")
class TestGPT2:
    @pytest.fixture(scope="class")
    @classmethod
    def both(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("gpt2")
        for file in tiktoken.GPT2_FILES:
            (folder / file.name).write_bytes(tiktoken.find(file, tiktoken.cache_folder()))
        return text.load(folder), text.TiktokenTokenizer(), folder

    @given(TEXTS)
    def test_ids_are_those_of_tiktoken(self, both, passage):
        ours, theirs, _ = both
        assert isinstance(ours, BPETokenizer)
        assert ours.encode_ordinary(passage) == theirs._encoding.encode_ordinary(passage)
        assert ours.encode_ordinary(passage) == theirs.encode_ordinary(passage)

    def test_its_files_come_out_to_the_byte(self, both, tmp_path):
        both[0].save_gpt2(tmp_path)
        assert all((tmp_path / f.name).read_bytes() == (both[2] / f.name).read_bytes() for f in tiktoken.GPT2_FILES)
