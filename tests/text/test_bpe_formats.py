"""Byte-pair vocabularies in the files of others: both ways, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.text import BPETokenizer, CharTokenizer, loading
from tinygrad_llm.text.bytelevel import BYTE_ORDER, to_printable
from tinygrad_llm.text.splitting import PATTERNS

LESSON = "The cat sat on the mat, and the hat's brim was wet. It wasn't 2024, it was 1999! café\n\n  été " * 3
SPECIAL = ("<|endoftext|>", "<|im start|>")
TEXTS = st.text(st.sampled_from("The cat's mat,\n\t12345é!") | st.characters(codec="utf-8", max_codepoint=0x2FF))
BY_ITSELF = {bytes([b]): i for i, b in enumerate(BYTE_ORDER)}


@pytest.fixture(scope="module", params=PATTERNS)
def tokenizer(request):
    return BPETokenizer.train([LESSON], 400, pattern=request.param, special_tokens=SPECIAL)


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """The tokenizer as each format gives it back."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer.save(folder / "own.json")
    tokenizer.save_huggingface(folder / "tokenizer.json")
    tokenizer.save_tiktoken(folder / "ranks.tiktoken")
    loaded = [
        text.load(folder / "own.json"),
        text.load(folder / "tokenizer.json"),
        text.load(folder),
        BPETokenizer.from_tiktoken(
            folder / "ranks.tiktoken", pattern=tokenizer.pattern, special_tokens=tokenizer.special_tokens
        ),
    ]
    if tokenizer.pattern == "gpt2":
        tokenizer.save_gpt2(folder / "gpt2")
        loaded += [text.load(folder / "gpt2"), BPETokenizer.from_gpt2(folder / "gpt2")]
    return folder, loaded


@given(TEXTS)
def test_each_format_gives_the_tokenizer_back(tokenizer, saved, passage):
    for loaded in saved[1]:
        assert loaded.encode(passage, allowed_special="all") == tokenizer.encode(passage, allowed_special="all")


def test_the_whole_vocabulary_comes_back(tokenizer, saved):
    for loaded in saved[1]:
        assert isinstance(loaded, BPETokenizer)
        assert loaded.vocabulary == tokenizer.vocabulary and loaded.merges == tokenizer.merges


@given(TEXTS)
def test_hugging_face_reads_our_file(tokenizer, saved, passage):
    theirs = pytest.importorskip("tokenizers").Tokenizer.from_file(str(saved[0] / "tokenizer.json"))
    assert theirs.encode(passage).ids == tokenizer.encode(passage)
    assert theirs.decode(theirs.encode(passage).ids, skip_special_tokens=False) == passage
    assert theirs.encode("a<|im start|>b").ids == tokenizer.encode("a<|im start|>b", allowed_special="all")


def test_we_read_hugging_faces_file(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator([LESSON], vocab_size=350, special_tokens=["<s>"], show_progress=False)
    theirs.save(str(tmp_path / "tokenizer.json"))
    theirs.save_model(str(tmp_path))  # vocab.json and merges.txt
    ours = text.load(tmp_path / "tokenizer.json")
    assert ours.special_tokens == {"<s>": 0} and ours.encode("the cat") == theirs.encode("the cat").ids
    assert ours.encode("a<s>", allowed_special="all") == theirs.encode("a<s>").ids
    assert BPETokenizer.from_gpt2(tmp_path).vocabulary == ours.vocabulary


def test_tiktoken_reads_our_ranks(tokenizer, saved):
    from tiktoken.load import load_tiktoken_bpe

    assert load_tiktoken_bpe(str(saved[0] / "ranks.tiktoken")) == dict(tokenizer.ranks)


def test_gpt2s_files_have_no_place_for_another_pattern(tmp_path):
    with pytest.raises(ValueError, match="read with gpt2, but this one's is gpt4; use save or save_huggingface"):
        BPETokenizer.train(["a"], 300, pattern="gpt4").save_gpt2(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_ranks_say_too_little_to_be_loaded_alone(tmp_path):
    BPETokenizer(BY_ITSELF).save_tiktoken(tmp_path / "x.tiktoken")
    with pytest.raises(ValueError, match=r"x\.tiktoken: a rank file .* BPETokenizer\.from_tiktoken\(path, pattern="):
        text.load(tmp_path / "x.tiktoken")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"YQ==\n", "line 1 must hold"),
        (b"YQ== 0\nYQ== 1\n", "line 2 must hold a new token"),
        (b"YQ== -1\n", "line 1"),
        (b"Y 0\n", "line 1"),
        (b"\xff\xfe\x00", "line 1"),
        (b"YQ== 0\n", "the byte 0x00 is no token"),
        (b"", "the byte 0x00 is no token"),
    ],
)
def test_ranks_that_are_none_are_refused(tmp_path, content, message):
    (tmp_path / "x.tiktoken").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.tiktoken: .*{message}"):
        BPETokenizer.from_tiktoken(tmp_path / "x.tiktoken", pattern="gpt2")


def hugging_face(**changes):
    """A tokenizer.json of the bytes and one merge, with changes; a name with a dot changes the model."""
    printable = {to_printable(token): i for token, i in BY_ITSELF.items()}
    fields = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {"type": "BPE", "vocab": {**printable, "ab": 256}, "merges": ["a b"]},
    }
    for name, value in changes.items():
        (fields["model"] if name in ("type", "merges", "vocab", "dropout", "byte_fallback") else fields)[name] = value
    return fields


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2.0"}, '"version" must be "1.0"'),
        ({"type": "Morse"}, "a model of type 'Morse' is not supported; .*BPE"),
        ({"type": ["BPE"]}, '"type" may not be'),
        ({"normalizer": {"type": "NFC"}}, "a normalizer changes the text"),
        ({"dropout": 0.1}, "dropout 0.1"),
        ({"byte_fallback": True}, "byte_fallback"),
        ({"pre_tokenizer": None}, "the pre-tokenizer must be ByteLevel"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "without prefix space"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": 7}}, "the pre-tokenizer"),
        ({"pre_tokenizer": [7]}, "the pre-tokenizer"),
        ({"added_tokens": [{"content": "<s>", "id": 300, "lstrip": True}]}, '"lstrip" True is not supported'),
        ({"added_tokens": [7]}, "an added token must be an object, found 7"),
        ({"added_tokens": [{"content": "<s>", "id": "7"}]}, '"id" may not be'),
        ({"merges": ["a b", "b c"]}, "outside the vocabulary"),
        ({"merges": []}, "which no merge says"),
        ({"merges": ["a b"] * 3}, "ids must follow the merges, each once"),
        ({"merges": 5}, '"merges" may not be 5'),
        ({"added_tokens": 5}, '"added_tokens" may not be 5'),
        ({"merges": ["a b c"]}, "is no pair"),
        ({"merges": [["a", 7]]}, "is no pair"),
        ({"vocab": {"▁a": 0}}, "stands for no byte"),
        ({"vocab": []}, '"vocab" may not be'),
    ],
)
def test_what_has_no_counterpart_is_refused(tmp_path, changes, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(hugging_face()))
    assert text.load(path).encode("ab") == [256]
    path.write_text(json.dumps(hugging_face(**changes)))
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{message}"):
        text.load(path)


def test_merges_that_ids_do_not_follow_are_refused(tmp_path):
    fields = hugging_face()
    fields["model"]["vocab"] |= {"abc": 257, "bc": 258}
    path = tmp_path / "tokenizer.json"
    for merges, message in [
        (["b c", "a b", "a bc"], "merged after id 258; ids must follow"),
        (["a b", "a bc", "b c"], "comes from b'ab' and b'c', which no merge says"),
    ]:
        fields["model"]["merges"] = merges
        path.write_text(json.dumps(fields))
        with pytest.raises(ValueError, match=message):
            text.load(path)


def test_gpt2_files_that_do_not_fit_are_refused(tmp_path):
    BPETokenizer.train(["abab"], 258).save_gpt2(tmp_path)
    for merges, message in [
        ("#version: 9\na b\n", "the first line must be"),
        ("#version: 0.2\nb c\n", "outside the vocabulary"),
        ("#version: 0.2\na\n", "outside the vocabulary"),
        ("#version: 0.2\n☃ b\n", "stands for no byte"),
    ]:
        (tmp_path / "vocab.bpe").write_text(merges)
        with pytest.raises(ValueError, match=rf"vocab\.bpe and encoder\.json: .*{message}"):
            text.load(tmp_path)
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\n")
    for encoder in ("[]", "{", '{"a": "b"}', "[" * 100_000):
        (tmp_path / "encoder.json").write_text(encoder)
        with pytest.raises(ValueError, match=r"vocab\.bpe and encoder\.json: "):
            text.load(tmp_path)


def test_long_tokens_cannot_keep_a_reader_busy(tmp_path):
    fields = hugging_face()
    fields["model"]["vocab"]["a" * 20_000] = 257
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="too long to be a vocabulary"):
        text.load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": [], "special_tokens": {}}, "must be objects"),
        ({"tokens": {"a": 0}, "special_tokens": {}, "pattern": "gpt2"}, "is no token"),
        ({"tokens": {" ": 0}, "special_tokens": {}, "pattern": "gpt2"}, "stands for no byte"),
        ({"tokens": {to_printable(t): i for t, i in BY_ITSELF.items()}, "special_tokens": {}}, "pattern None"),
        ({"version": 2}, r"version 2 of the format; this program reads version 1"),
    ],
)
def test_a_saved_file_that_was_changed_is_refused(tmp_path, fields, message):
    (tmp_path / "x.json").write_text(json.dumps({"tokenizer": "bpe", **fields}))
    with pytest.raises(ValueError, match=rf"x\.json: .*{message}"):
        text.load(tmp_path / "x.json")


def test_a_file_too_large_for_a_tokenizer_is_not_read(monkeypatch, tmp_path):
    CharTokenizer("ab").save(tmp_path / "x.json")
    monkeypatch.setattr(loading, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match=r"x\.json: .*larger than"):
        text.load(tmp_path / "x.json")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "vocab.bpe").write_text("")
    with pytest.raises(ValueError, match=r"no tokenizer in this folder; .*vocab\.bpe and encoder\.json"):
        text.load(tmp_path)


def test_from_file_names_the_kind_it_found(tmp_path):
    CharTokenizer("ab").save(tmp_path / "x.json")
    with pytest.raises(ValueError, match="holds a char tokenizer; load it with CharTokenizer"):
        BPETokenizer.from_file(tmp_path / "x.json")
