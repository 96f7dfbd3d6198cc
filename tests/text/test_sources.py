import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.text import pieces, sources, wordpiece_training
from tinygrad_llm.text.sources import texts

LINES = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\n\r é中😀"))


def uniform(passage):
    return passage.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


@given(LINES, st.integers(1, 20), st.integers(1, 9))
def test_the_texts_of_a_file_are_the_file_with_its_line_ends_made_uniform(tmp_path_factory, passage, block, read):
    path = tmp_path_factory.mktemp("source") / "a.txt"
    path.write_bytes(passage.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK", block)
        patch.setattr(sources, "READ_BYTES", read)
        found = list(texts(path))
    assert "".join(found) == uniform(passage)
    assert all(0 < len(part) <= block for part in found[:-1])


def test_paths_are_files_and_strings_are_texts(tmp_path):
    (tmp_path / "a").write_text("from a")
    assert list(texts(str(tmp_path / "a"))) == ["from a"]
    assert list(texts(["one", tmp_path / "a", "two"])) == ["one", "from a", "two"]


@given(LINES, LINES, st.integers(1, 9))
def test_the_byte_that_is_not_utf_8_is_named(tmp_path_factory, before, after, block):
    path = tmp_path_factory.mktemp("source") / "a.txt"
    path.write_bytes(before.encode() + b"\xff" + after.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "READ_BYTES", block)
        with pytest.raises(ValueError, match=rf"a\.txt: not UTF-8: byte 0xff at position {len(before.encode())} "):
            list(texts(path))


def test_a_character_cut_off_at_the_end_is_named(tmp_path):
    (tmp_path / "a").write_bytes("né".encode()[:-1])
    with pytest.raises(ValueError, match="not UTF-8: byte 0xc3 at position 1 "):
        list(texts(tmp_path / "a"))


def test_what_is_neither_text_nor_path_is_refused():
    with pytest.raises(TypeError, match="found bytes"):
        list(texts([b"abc"]))


TRAINABLE = [name for name in text.names() if text.is_trainable(name)]


@pytest.mark.parametrize("name", TRAINABLE)
def test_each_kind_that_learns_reads_the_same_sources(name, tmp_path):
    passage = "one two two three\n" * 9
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + passage.replace("\n", "\r\n").encode())
    expected = text.train(name, [passage], 600).to_dict()
    for source in (tmp_path, str(tmp_path), tmp_path / "a.txt", [tmp_path]):
        assert text.train(name, source, 600).to_dict() == expected
    assert text.build(name, passage, 600).to_dict() == expected
    assert text.train(name, [passage], 10**12).vocab_size < 1000


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize(
    ("source", "vocab_size", "error", "message"),
    [
        (["", ""], 600, ValueError, "the source holds no text"),
        ("{tmp}/nowhere", 600, FileNotFoundError, r"nowhere: there is no such file or folder"),
        (["{tmp}/a.txt"], 600, ValueError, r"is the name of a file; give Path"),
        (["text"], 600.0, TypeError, "vocab_size must be an integer, found 600.0"),
        (["text"], 3, ValueError, "vocab_size 3|room for -256"),
    ],
)
def test_each_kind_that_learns_refuses_the_same(name, source, vocab_size, error, message, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    filled = [s.format(tmp=tmp_path) for s in source] if isinstance(source, list) else source.format(tmp=tmp_path)
    with pytest.raises(error, match=message):
        text.train(name, filled, vocab_size)


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_text_of_more_different_pieces_than_memory_holds_is_refused(name, monkeypatch):
    for module in (pieces, wordpiece_training):
        monkeypatch.setattr(module, "MOST_CHARACTERS", 50)
    with pytest.raises(ValueError, match=r"have more than 50 characters.*train on a part"):
        text.train(name, ["".join(chr(0x4E00 + i) for i in range(60))], 600)
    text.train(name, ["many words " * 50], 600)


def test_only_kinds_that_learn_take_a_size():
    with pytest.raises(ValueError, match="char tokenizer has no size to choose; that of bpe, unigram, wordpiece has"):
        text.build("char", "abc", 5)


@pytest.mark.parametrize("passage", ["/", ".", ".."])
def test_marks_alone_are_a_text(passage):
    assert list(texts([passage])) == [passage]
