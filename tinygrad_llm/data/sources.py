"""Files of text, read in blocks of constant size, whatever the size of a file, a document or a line.

A block is decided by the place where it begins and by nothing else. So a reading that goes on from a place gives the
same blocks as one that was never interrupted.
"""

import codecs
import gzip
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from tinygrad_llm.text.sources import SUFFIXES, files_of, kind_of, not_utf8

BLOCK = 2**20  # bytes of text that are read, and encoded, at once
MOST_RECORD = 2**26  # bytes a JSON line may have: it must be parsed as a whole
PLAIN, RECORDS, PACKED = SUFFIXES, (".jsonl", ".ndjson"), (".gz", ".zst")

# Inside running text, before a space or else behind a line end: no tokenizer here has a token across it, nor does what
# it makes of either side depend on the other, so the ids of the parts are the ids of the whole. (o200k_base has tokens
# of a line end and a slash; one that begins every text with a mark, as some from Hugging Face do, needs the space.)
CUTS = re.compile(r"\S(?= \S)"), re.compile(r"\S(?:\r\n|\n|\r)(?=[^\s/])")


@dataclass(frozen=True)
class Source:
    """A file to read: its path, how it is called in messages, and its size and time of change when it was found."""

    path: Path
    name: str
    size: int
    changed: int

    @property
    def holds_records(self) -> bool:
        """Whether each line is a JSON object, rather than the whole a text."""
        return kind_of(self.path, PACKED) in RECORDS

    def open(self) -> BinaryIO:
        """The file's bytes, unpacked.

        Raises: ValueError when the library that unpacks it is not installed.
        """
        if self.path.suffix == ".gz":
            return gzip.open(self.path, "rb")  # type: ignore[return-value]
        if self.path.suffix == ".zst":
            return _zstd(self.path)
        return open(self.path, "rb")

    def length(self) -> int:
        """Bytes of its text; a packed file is read through for it."""
        if self.path.suffix not in PACKED:
            return self.size
        with self.open() as file:
            return sum(len(piece) for piece in iter(lambda: file.read(BLOCK), b""))


def _zstd(path: Path) -> BinaryIO:
    """A .zst file, by the standard library of Python 3.14 or its backport."""
    for module in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return import_module(module).open(path, "rb")
    raise ValueError(f"{path}: backports.zstd is not installed; pip install -e '.[data]' brings it, or unpack the file")


def find_sources(path: str | os.PathLike[str]) -> list[Source]:
    """The file at path, or every file below the folder that holds text or JSON lines, in the order of their paths.

    Raises: FileNotFoundError when there is nothing at path; ValueError for a folder without such files.
    """
    path = Path(path)
    found = files_of(path, (*PLAIN, *RECORDS), PACKED)
    return [_source(p, p.relative_to(path).as_posix() if path.is_dir() else p.name) for p in found]


def _source(path: Path, name: str) -> Source:
    status = path.stat()
    return Source(path, os.fsencode(name).decode("utf-8", "replace"), status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Place:
    """Where a reading stands: a file's number, a byte in its text, the document that is next, or that it is inside."""

    file: int = 0
    offset: int = 0
    document: int = 0
    inside: bool = False


@dataclass(frozen=True)
class Part:
    """A document or a part of one."""

    text: str
    document: int
    ends: bool
    source: str
    late: bool  # behind the border of `Reader`


@dataclass
class Block:
    """Some parts, how many bytes they were read from, the documents without text among them, and where to go on."""

    parts: list[Part] = field(default_factory=list)
    size: int = 0
    empty: int = 0
    next: Place = field(default_factory=Place)


class Reader:
    """Reads blocks of documents: a file of text is one, or several with a mark between; each JSON line is one.

    mark: what stands between the documents of a text, such as <|endoftext|>; white space around it is dropped. key:
    of the text in a JSON object. border: a place (file, byte) at which a document ends whatever is there.
    Documents without anything but white space are left out. Line ends are made uniform.

    Raises: ValueError naming file and byte for what is not UTF-8, and for a line that is no such JSON object or
    longer than MOST_RECORD.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        mark: str | None = None,
        key: str = "text",
        border: tuple[int, int] | None = None,
    ) -> None:
        if mark is not None and len(mark.split()) != 1:
            raise ValueError(f"the mark {mark!r} between documents must be one word, such as <|endoftext|>")
        self.sources, self.mark, self.key, self.border = sources, mark, key, border
        self._file: BinaryIO | None = None
        self._at = (-1, 0)  # file and byte that the buffer begins with
        self._buffer = b""
        self._ended = False  # whether the buffer reaches to the end of the file

    def block(self, place: Place) -> Block:
        """The block that begins at place; the last one has next.file == len(sources)."""
        block = Block(next=place)
        while block.size < BLOCK // 2 and block.next.file < len(self.sources):
            self._load(block.next, BLOCK)
            if self.sources[block.next.file].holds_records:
                self._records(block)
            else:
                self._text(block)
        return block

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()

    def _load(self, place: Place, size: int) -> None:
        """Make the buffer begin at place and have `size` bytes, or all that are left of the file."""
        source = self.sources[place.file]
        if self._at != (place.file, place.offset):
            self.close()
            self._file, self._buffer, self._ended = source.open(), b"", False
            self._file.seek(place.offset)
            self._at = (place.file, place.offset)
        assert self._file is not None
        while len(self._buffer) < size and not self._ended:
            try:
                piece = self._file.read(size - len(self._buffer))
            except Exception as error:  # whatever the system or the library that unpacks says
                raise ValueError(f"{source.path}: cannot be read to its end ({error})") from None
            self._buffer += piece
            self._ended = not piece

    def _window(self, size: int) -> tuple[bytes, bool]:
        """The first `size` bytes of the buffer, and whether the file ends with them."""
        return self._buffer[:size], self._ended and len(self._buffer) <= size

    def _used(self, block: Block, count: int, document: int, inside: bool) -> None:
        """The first `count` bytes of the buffer are read."""
        block.size += max(count, 1)
        place = replace(block.next, offset=block.next.offset + count, document=document, inside=inside)
        self._buffer = self._buffer[count:]
        self._at = (place.file, place.offset)
        if self._ended and not self._buffer:
            place = Place(place.file + 1, 0, document)
        block.next = place

    def _text(self, block: Block) -> None:
        """Add what the buffer has of a text."""
        place, source = block.next, self.sources[block.next.file]
        late = self.border is not None and (place.file, place.offset) >= self.border
        buffer, last = self._window(BLOCK)
        if self.border is not None and not late and place.file == self.border[0]:
            room = self.border[1] - place.offset
            buffer, last = (buffer[:room], True) if len(buffer) >= room else (buffer, last)
        content = _decode(buffer, last, source, place.offset)
        if not last:
            content = content[: _last_cut(content, self.mark)]
        count = len(content.encode())
        content = content.replace("\r\n", "\n").replace("\r", "\n")
        if place.offset == 0:
            content = content.removeprefix("\ufeff")
        chunks = content.split(self.mark) if self.mark else [content]
        document, inside = place.document, place.inside
        for i, chunk in enumerate(chunks):
            ends = last or i < len(chunks) - 1
            if self.mark and ends:
                chunk = chunk.rstrip()
            if self.mark and not inside:
                chunk = chunk.lstrip()
            if not inside and not chunk.strip() and (ends or not chunk):
                block.empty += ends and not (self.mark and i == len(chunks) - 1)  # behind the last mark is no document
                continue
            block.parts.append(Part(chunk, document, ends, source.name, late))
            document, inside = document + ends, not ends
        self._used(block, count, document, inside)

    def _records(self, block: Block) -> None:
        """Add the lines that the buffer has whole."""
        place, source = block.next, self.sources[block.next.file]
        size = BLOCK
        lines, last = self._window(size)
        while not last and b"\n" not in lines:
            size *= 2
            if size > MOST_RECORD:
                raise ValueError(
                    f"{source.path}: the line at byte {place.offset:,} is longer than {MOST_RECORD:,} bytes; a record "
                    f"is read as a whole, cut its text into several"
                )
            self._load(place, size)
            lines, last = self._window(size)
        count = len(lines) if last else lines.rindex(b"\n") + 1
        document, offset = place.document, place.offset
        late = self.border is not None and (place.file, 0) >= self.border
        for line in re.findall(rb"[^\n]*\n|[^\n]+", lines[:count]):
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                content = self._field(line, source, offset)
                if content.strip():
                    block.parts.append(Part(content, document, True, source.name, late))
                    document += 1
                else:
                    block.empty += 1
            offset += len(line)
        self._used(block, count, document, False)

    def _field(self, line: bytes, source: Source, offset: int) -> str:
        """The text of a JSON line."""
        try:
            record = json.loads(_decode(line, True, source, offset).removeprefix("\ufeff"))
        except RecursionError:
            raise ValueError(f"{source.path}: the line at byte {offset:,} is nested too deep") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{source.path}: the line at byte {offset:,} is not JSON ({error.msg})") from None
        content = record.get(self.key) if isinstance(record, dict) else None
        if not isinstance(content, str):
            keys = f"its keys are {', '.join(map(str, record))}" if isinstance(record, dict) else "it is no object"
            raise ValueError(f"{source.path}: the line at byte {offset:,} has no text under {self.key!r}; {keys[:200]}")
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{source.path}: the line at byte {offset:,} has half a surrogate pair, U+"
                f"{ord(content[error.start]):04X}, in its text, which is no character"
            ) from None
        return content.replace("\r\n", "\n").replace("\r", "\n")


def _decode(content: bytes, last: bool, source: Source, offset: int) -> str:
    """UTF-8 -> text; unless it is the last, a character cut in two at the end is left out."""
    try:
        return codecs.utf_8_decode(content, "strict", last)[0]
    except UnicodeDecodeError as error:
        raise not_utf8(source.path, offset + error.start, error) from None


def _last_cut(content: str, mark: str | None) -> int:
    """How much of content to take when more follows: up to the last place where tokens surely end.

    Where there is none, as in a line without spaces, up to any character: a token may be cut in two there.
    """
    room = len(mark) + 1 if mark else 1
    for cut in CUTS:
        reach = 2**10
        while True:
            begin = max(0, len(content) - reach)
            for found in reversed(list(cut.finditer(content, begin, len(content)))):
                end = found.end()
                before_mark = mark and (content.startswith(mark, end) or content.startswith(mark, end + 1))
                if end + room <= len(content) and not before_mark:
                    return end
            if begin == 0:
                break
            reach *= 16
    end = max(1, len(content) - room)
    if mark and (found_at := content.find(mark, max(0, end - len(mark) + 1), end + len(mark) - 1)) >= 0:
        end = found_at + len(mark)
    return len(content[:end].rstrip()) or max(1, len(content[:end].rstrip("\r")))  # \r\n is one, a mark drops spaces


def sample_texts(sources: Sequence[Source], most: int, mark: str | None = None, key: str = "text") -> Iterator[str]:
    """Texts of about `most` bytes together: blocks evenly spread over the sources, which are read to the end.

    What a vocabulary is learned from where the whole is too much. Raises: as `Reader`.
    """
    total = sum(source.length() for source in sources)
    every = max(1, -(-total // most))
    place, number = Place(), 0
    with closing(Reader(sources, mark, key)) as reader:
        while place.file < len(sources):
            block = reader.block(place)
            if number % every == 0:
                yield from (part.text for part in block.parts)
            place, number = block.next, number + 1


def border_near(sources: Sequence[Source], share: float) -> tuple[int, int]:
    """The place (file, byte) behind `share` of all bytes, moved on to the next place where tokens surely end."""
    lengths = [source.length() for source in sources]
    rest = round(sum(lengths) * share)
    number = 0
    while rest >= lengths[number] and number < len(sources) - 1:
        rest -= lengths[number]
        number += 1
    with sources[number].open() as file:
        file.seek(rest)
        content = file.read(BLOCK)
    start = next((i for i, byte in enumerate(content[:4]) if byte & 0xC0 != 0x80), len(content))
    content_text = content[start:].decode("utf-8", "replace")
    found = next(filter(None, (cut.search(content_text) for cut in CUTS)), None)
    return number, rest + start + (len(content_text[: found.end()].encode()) if found else 0)
