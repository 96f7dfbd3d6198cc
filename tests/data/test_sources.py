import gzip
import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.data import sources
from tinygrad_llm.data.sources import CUTS, Place, Reader, border_near, find_sources
from tinygrad_llm.text.splitting import PATTERNS, pieces_of

MARK = "<|end|>"
pieces = st.sampled_from(
    ["a", "bc", " ", "  ", "\n", "\r\n", "\r", "é", "漢", "\u3000", "😀", ".", "<", "<|end", "x" * 50]
)
passages = st.lists(pieces, max_size=60).map("".join).filter(lambda p: not re.search(r"\s{12}", p))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 40)


def uniform(content):
    return content.replace("\r\n", "\n").replace("\r", "\n")


def blocks(reader, place=None):
    place = place or Place()
    while place.file < len(reader.sources):
        block = reader.block(place)
        place = block.next
        yield block
    reader.close()


def documents(reader):
    """The documents, joined from their parts, which must come in order and end once."""
    found, open_number = [], None
    for part in (part for block in blocks(reader) for part in block.parts):
        if open_number is None:
            assert part.document == len(found)
            found.append("")
            open_number = part.document
        assert part.document == open_number
        found[-1] += part.text
        open_number = None if part.ends else open_number
    assert open_number is None
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("texts")


@given(contents=st.lists(passages, min_size=1, max_size=4))
def test_each_file_is_a_document_with_its_line_ends_made_uniform(folder, contents):
    for path in folder.iterdir():
        path.unlink()
    for i, content in enumerate(contents):
        (folder / f"{i}.txt").write_bytes(content.encode())
    assert documents(Reader(find_sources(folder))) == [uniform(c) for c in contents if c.strip()]


@given(contents=st.lists(passages, min_size=1, max_size=6), ends_with_mark=st.booleans())
def test_a_mark_stands_between_the_documents_of_a_file(folder, contents, ends_with_mark):
    path = folder / "marked.txt"
    path.write_bytes((MARK.join(contents) + MARK * ends_with_mark).encode())
    expected = [uniform(c).strip() for c in MARK.join(contents).split(MARK)]
    assert documents(Reader(find_sources(path), MARK)) == [c for c in expected if c]


@given(contents=st.lists(passages, min_size=1, max_size=6), mark=st.booleans(), records=st.booleans())
def test_reading_goes_on_from_any_block_as_if_never_interrupted(folder, contents, mark, records):
    for path in folder.iterdir():
        path.unlink()
    if records:
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": c}) + "\n" for c in contents))
    else:
        for i, content in enumerate(contents):
            (folder / f"{i}.txt").write_bytes((content + MARK + content).encode())

    def reader():
        return Reader(find_sources(folder), MARK if mark else None)

    whole, place = list(blocks(reader())), Place()
    for i, block in enumerate(whole):
        assert next(blocks(reader(), place)) == block, i
        place = block.next


@given(contents=st.lists(st.text(), max_size=6), blank=st.booleans(), last=st.booleans())
def test_each_json_line_is_a_document(folder, contents, blank, last):
    path = folder / "records.jsonl"
    lines = "\n".join(json.dumps({"text": c, "n": 1}) + "\n" * blank for c in contents)
    path.write_text("\ufeff" + lines + "\n" * last)
    assert documents(Reader(find_sources(path))) == [uniform(c) for c in contents if c.strip()]


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_packed_file_is_read_like_a_plain_one(tmp_path, kind):
    pack = gzip.compress if kind == "gz" else pytest.importorskip("backports.zstd").compress
    content = "A line of text.\n" * 100
    path = tmp_path / f"text.txt.{kind}"
    path.write_bytes(pack(content[:800].encode()) + pack(content[800:].encode()))  # of two packed parts, as some are
    (source,) = find_sources(path)
    assert documents(Reader([source])) == [content] and source.length() == 1600
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"text\.txt\.{kind}: cannot be read to its end"):
        documents(Reader(find_sources(path)))


def words(content):
    """A tokenizer whose ids show how the text was split, as GPT-2's pattern does."""
    return re.findall(r"'(?:[sdmt]|ll|ve|re)| ?\w+| ?[^\s\w]+|\s+(?!\S)|\s+", content)


@given(content=st.lists(pieces.filter(lambda p: len(p) < 50), max_size=80).map("".join))
def test_where_there_are_spaces_the_tokens_of_the_parts_are_those_of_the_whole(folder, content):
    path = folder / "whole.txt"
    path.write_bytes("a b".join(content[i : i + 5] for i in range(0, len(content) + 5, 5)).encode())
    parts = [part.text for block in blocks(Reader(find_sources(path))) for part in block.parts]
    assert [word for part in parts for word in words(part)] == words(uniform(path.read_bytes().decode())) or not content


def test_gpt2s_ids_of_the_parts_are_those_of_the_whole(tmp_path):
    try:
        tokenizer = text.build("gpt2", "")
    except (ConnectionError, ValueError):
        pytest.skip("GPT-2's files are not there")
    path = tmp_path / "text.txt"
    path.write_text("It's a line, isn't it?\n\n  Indented   twice\t\n10000 years ... naïve 漢字\n" * 50)
    parts = [part.text for block in blocks(Reader(find_sources(path))) for part in block.parts]
    assert len(parts) > 30
    assert [i for part in parts for i in tokenizer.encode_ordinary(part)] == tokenizer.encode_ordinary(path.read_text())


@pytest.mark.parametrize("pattern", PATTERNS)
@given(content=st.text(st.sampled_from("ab1/; (\n'é"), min_size=150))
def test_no_pattern_sees_where_a_text_was_cut(folder, pattern, content):
    path = folder / "patterns.txt"
    path.write_text("a b\n" + content + " b a\nb")
    parts = [part.text for block in blocks(Reader(find_sources(path))) for part in block.parts]
    for before, after in pairwise(parts):
        ends = {found.end() for cut in CUTS for found in cut.finditer(before + after[:2])}
        if len(before) in ends:  # else there was no place, and the cut was forced
            both = list(pieces_of(before + after, pattern))
            assert [*pieces_of(before, pattern), *pieces_of(after, pattern)] == both


@given(content=passages.filter(str.strip), share=st.floats(0.05, 0.95))
def test_the_border_cuts_a_text_in_two_documents(folder, content, share):
    path = folder / "cut.txt"
    path.write_bytes(content.encode())
    found = find_sources(path)
    border = border_near(found, share)
    parts = [part for block in blocks(Reader(found, border=border)) for part in block.parts]
    early, late = ("".join(p.text for p in parts if p.late == side) for side in (False, True))
    both = [uniform(content.encode()[side].decode()) for side in (slice(border[1]), slice(border[1], None))]
    assert [early, late] == [side if side.strip() else "" for side in both]


def test_a_folder_is_listed_by_path_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/z.jsonl.gz", "a/y.md", ".git/x.txt", "c.py", "d.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [s.name for s in find_sources(tmp_path)] == ["a/y.md", "a/z.jsonl.gz", "b.txt"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": 1}', "the line at byte 14 has no text under 'text'; its keys are text"),
        (b"[1]", "the line at byte 14 has no text under 'text'; it is no object"),
        (b'{"text": ', "the line at byte 14 is not JSON"),
        (b'{"text": "\\ud800"}', r"the line at byte 14 has half a surrogate pair, U\+D800"),
        (b'{"text": "\xff"}', "not UTF-8: byte 0xff at position 24"),
        (b"[" * 100_000, "the line at byte 14 is nested too deep"),
    ],
)
def test_a_bad_record_is_named_by_its_place(tmp_path, line, message):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(ValueError, match=rf"records\.jsonl: {message}"):
        documents(Reader(find_sources(path)))


def test_a_record_too_long_to_be_parsed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_RECORD", 1000)
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({"text": "x" * 2000}))
    with pytest.raises(ValueError, match=r"the line at byte 0 is longer than 1,000 bytes"):
        documents(Reader(find_sources(path)))


@pytest.mark.parametrize("offset", [0, 39, 40, 41, 1000])
def test_the_byte_that_is_not_utf8_is_named_wherever_it_is(tmp_path, offset):
    path = tmp_path / "text.txt"
    path.write_bytes(b"x" * offset + b"\xe9 y")
    with pytest.raises(ValueError, match=rf"text\.txt: not UTF-8: byte 0xe9 at position {offset} "):
        documents(Reader(find_sources(path)))


def test_a_mark_must_be_one_word(tmp_path):
    for mark in ("", " ", "two words"):
        with pytest.raises(ValueError, match="must be one word"):
            Reader([], mark)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such file"):
        find_sources(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"the folder holds no \.txt, \.md, \.jsonl"):
        find_sources(tmp_path)
