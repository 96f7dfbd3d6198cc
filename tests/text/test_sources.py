import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.text import sources
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
