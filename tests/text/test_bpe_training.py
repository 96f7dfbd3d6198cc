"""Byte-pair training, against the definition in plain Python and against Hugging Face's tokenizers."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.text import BPETokenizer, pieces, sources
from tinygrad_llm.text.bpe_training import learn_merges
from tinygrad_llm.text.bytelevel import BYTE_ORDER, to_printable
from tinygrad_llm.text.splitting import pieces_of

# Few letters, so that pairs overlap and tie; and what the patterns treat apart. No characters of recent Unicode
# versions, for which the tables of the two libraries may differ.
LETTERS = st.text(st.sampled_from("aaab b'sé\n1!"), max_size=60)
WORDS = st.lists(
    st.sampled_from(["low", " lower", " newest", "aaaa", " aaa", "'s", "  ", "\n", "123", "é!", "漢字"])
).map("".join)
TEXTS = st.lists(LETTERS | WORDS, min_size=1, max_size=4)


def quiet(what, done, of):
    pass


def by_definition(counts: dict[bytes, int], most: int, min_frequency: int) -> list[tuple[int, int]]:
    """Count all pairs anew before each merge."""
    number = {b: i for i, b in enumerate(BYTE_ORDER)}
    words = [([number[b] for b in piece], count) for piece, count in counts.items()]
    merges: list[tuple[int, int]] = []
    while len(merges) < most:
        pairs = Counter()
        for symbols, count in words:
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs or max(pairs.values()) < min_frequency:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for symbols, _ in words:
            i = 0
            while i < len(symbols) - 1:
                if (symbols[i], symbols[i + 1]) == best:
                    symbols[i : i + 2] = [256 + len(merges)]
                i += 1
        merges.append(best)
    return merges


@given(TEXTS, st.integers(0, 60), st.integers(1, 3))
def test_merges_are_those_of_the_definition(passages, most, min_frequency):
    counts = Counter(piece.encode() for passage in passages for piece in pieces_of(passage, "gpt2"))
    assert learn_merges(counts, most, min_frequency, quiet) == by_definition(counts, most, min_frequency)


def trained_by_hugging_face(passages, vocab_size, pattern, min_frequency):
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import Regex, models, pre_tokenizers, trainers

    from tinygrad_llm.text.splitting import PATTERNS

    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern != "gpt2":
        split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), "isolated")
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        theirs.pre_tokenizer = pre_tokenizers.Sequence([split, by_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(passages, trainer)
    return theirs


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
@given(TEXTS, st.integers(257, 320), st.integers(1, 3))
def test_merges_are_those_of_hugging_face(pattern, passages, vocab_size, min_frequency):
    theirs = trained_by_hugging_face(passages, vocab_size, pattern, min_frequency)
    if not any(passages):
        return
    ours = BPETokenizer.train(passages, vocab_size, pattern=pattern, min_frequency=min_frequency)
    printed = [[to_printable(left), to_printable(right)] for left, right in ours.merges]
    assert printed == json.loads(theirs.to_str())["model"]["merges"]


@given(LETTERS | WORDS, st.integers(1, 40))
def test_blocks_join_to_the_text(passage, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK", block)
        assert "".join(part for texts in sources.blocks([passage]) for part in texts) == passage


def test_a_text_is_cut_where_no_piece_is(monkeypatch):
    passage = "The 1st  of\n\nmany words!\n  We're  here,\tall of us. " * 20
    whole = pieces.count_pieces([passage], "gpt4", (), 1, quiet)
    monkeypatch.setattr(sources, "BLOCK", 30)
    assert sum(len(texts) for texts in sources.blocks([passage])) > 20
    assert pieces.count_pieces([passage], "gpt4", (), 1, quiet) == whole


@pytest.mark.parametrize("token", ["<|end|>", "<| the end |>"])
def test_special_tokens_part_the_text_and_are_not_learned(monkeypatch, token):
    monkeypatch.setattr(sources, "BLOCK", 20)
    counts = pieces.count_pieces([f"one two{token} three " * 9], "gpt2", (token,), 1, quiet)
    assert counts == {b"one": 1, b" one": 8, b" two": 9, b" three": 9, b" ": 1}


def test_a_line_without_a_place_to_cut_is_cut(monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 100)
    assert pieces.count_pieces(["a" * 1000], "gpt2", (), 1, quiet) == {b"a" * 100: 10}


def test_worker_processes_count_the_same(monkeypatch, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat, and so on.\n" * 500)
    monkeypatch.setattr(sources, "BLOCK", 5000)
    alone = BPETokenizer.train(path, 300, workers=1)
    assert BPETokenizer.train(path, 300, workers=2).merges == alone.merges != []


def test_files_folders_and_streams_are_sources(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_bytes("\ufeffla la\r\nla".encode())
    (tmp_path / "b" / "c.md").write_text("lo lo")
    (tmp_path / "b" / "d.bin").write_bytes(b"\xff")
    (tmp_path / ".hidden.txt").write_bytes(b"\xff")

    def count(source):
        return pieces.count_pieces(source, "gpt2", (), 1, quiet)

    expected = {b"la": 2, b" la": 1, b"\n": 1, b"lo": 1, b" lo": 1}
    assert count(tmp_path) == count(str(tmp_path)) == expected
    assert count([tmp_path / "a.txt", tmp_path / "b" / "c.md"]) == expected
    assert count(iter(["la la\nla", "", "lo lo"])) == expected


def test_a_byte_that_is_not_utf8_is_named_wherever_it_is(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "READ_BYTES", 4)
    for before in range(9):
        (tmp_path / "x.txt").write_bytes("é".encode() * before + b"\xff abc")
        with pytest.raises(ValueError, match=rf"x\.txt: not UTF-8: byte 0xff at position {2 * before} "):
            pieces.count_pieces(tmp_path / "x.txt", "gpt2", (), 1, quiet)
    (tmp_path / "x.txt").write_bytes(b"abcde\xc3")
    with pytest.raises(ValueError, match="byte 0xc3 at position 5 "):
        pieces.count_pieces(tmp_path / "x.txt", "gpt2", (), 1, quiet)


@pytest.mark.parametrize(
    ("source", "settings", "error", "message"),
    [
        ([], {}, ValueError, "holds no text"),
        (["", ""], {}, ValueError, "holds no text"),
        (["a\ud800"], {}, ValueError, r"lone surrogate U\+D800"),
        ([b"abc"], {}, TypeError, "strings or Paths, found bytes"),
        (["a"], {"vocab_size": 256}, ValueError, "no room for 256 bytes and 1 special tokens; give at least 257"),
        (["a"], {"workers": 0}, ValueError, "workers 0 must be at least 1"),
        (["a"], {"min_frequency": 0}, ValueError, "min_frequency 0"),
        (["a"], {"pattern": "gpt3"}, ValueError, "unknown split pattern"),
        (["a"], {"special_tokens": [""]}, ValueError, "special token '' must be a string with something visible"),
        (["a"], {"special_tokens": [" "]}, ValueError, "special token ' ' must be a string with something visible"),
        (["a"], {"special_tokens": ["<a>", "<a>"]}, ValueError, "special token '<a>' is named twice"),
        (["a"], {"special_tokens": "<a>"}, TypeError, r"must be a list of strings; give \['<a>'\]"),
        (["a"], {"vocab_size": "300"}, TypeError, "vocab_size must be an integer, found '300'"),
        ("no such file", {}, FileNotFoundError, r"no such file.*a text goes in a list"),
        ("x" * 100_000, {}, FileNotFoundError, "a text goes in a list"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(source, settings, error, message):
    with pytest.raises(error, match=message):
        BPETokenizer.train(source, **{"vocab_size": 300, **settings})


def test_names_of_files_are_not_taken_for_texts(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match="is the name of a file; give Path"):
        BPETokenizer.train([str(tmp_path / "a.txt")], 300)


def test_progress_is_told(tmp_path):
    told = []
    BPETokenizer.train([Path(__file__)], 257 + 64, progress=lambda *report: told.append(report))
    assert told[0][0] == "characters read" and told[-1] == ("merges learned", 64, 64)
