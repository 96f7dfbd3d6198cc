"""Texts to learn from: files, folders and strings, in blocks of constant size, cut where no tokenizer looks across."""

import codecs
import io
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from tinygrad_llm.text.splitting import last_cut

Source = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

BLOCK = 2_000_000  # characters of a block
READ_BYTES = 1 << 20  # bytes read at once
SUFFIXES = (".txt", ".md")


def files_of(
    path: str | os.PathLike[str], kinds: tuple[str, ...] = SUFFIXES, packed: tuple[str, ...] = ()
) -> list[Path]:
    """The file at path, or every file of these kinds below the folder but the hidden ones, in the order of their paths.

    packed: endings that may follow a kind's.

    Raises: FileNotFoundError when there is nothing; ValueError for a folder without such files, or what is neither.
    """
    path = Path(path)
    if not exists(path):
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]}..."
        raise FileNotFoundError(f"{shown}: there is no such file or folder; give a text file or a folder of texts")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: neither a regular file nor a folder")
    found = [p for p in sorted(path.rglob("*")) if kind_of(p, packed) in kinds and p.is_file()]
    found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if not found:
        also = f", plain or packed as {' or '.join(packed)}" if packed else ""
        raise ValueError(f"{path}: the folder holds no {', '.join(kinds[:-1])} or {kinds[-1]} file{also}")
    return found


def kind_of(path: Path, packed: tuple[str, ...] = ()) -> str:
    """The ending of a file's name, that before .gz and the like where it is packed."""
    return path.with_suffix("").suffix if path.suffix in packed else path.suffix


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is anything at path; False also for what could be no name, such as a long text."""
    try:
        return os.path.exists(path)
    except (OSError, ValueError):
        return False


def not_utf8(path: Path, at: int, error: UnicodeDecodeError) -> ValueError:
    """What to say of a file whose byte at `at` is the first that is not UTF-8."""
    return ValueError(
        f"{path}: not UTF-8: byte 0x{error.object[error.start]:02x} at position {at} ({error.reason}); convert the "
        f"file to UTF-8 first"
    )


def read_parts(path: Path) -> Iterator[str]:
    """A file's text in parts of about a megabyte: strict UTF-8, a byte order mark dropped, line ends made uniform.

    Raises: ValueError naming the first byte that is not UTF-8.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    with path.open("rb") as file:
        read = 0
        try:
            while chunk := file.read(READ_BYTES):
                read += len(chunk)
                yield decoder.decode(chunk)
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise not_utf8(path, read - len(error.object) + error.start, error) from None


def documents(source: Source) -> Iterator[Iterator[str]]:
    """Each document of the source as an iterator over its parts: a path is read, a string in an iterable is a text.

    A list of paths must hold `Path`s: strings in it are texts.

    Raises: TypeError for an item that is neither; ValueError where the first string is the name of a file, unless it
    has no letter or digit, as "/" and "." have none.
    """
    if isinstance(source, (str, os.PathLike)):
        if not exists(source):
            raise FileNotFoundError(f"{str(source)[:80]}: there is no such file or folder (a text goes in a list)")
        source = [Path(source)]
    for number, item in enumerate(source):
        if number == 0 and isinstance(item, str) and any(map(str.isalnum, item)) and exists(item):
            raise ValueError(f"{item!r} is the name of a file; give Path({item!r}) to read it")
        if isinstance(item, os.PathLike):
            yield from map(read_parts, files_of(item))
        elif isinstance(item, str):
            yield iter([item])
        else:
            raise TypeError(f"a source to learn from must hold strings or Paths, found {type(item).__name__}")


def texts(source: Source) -> Iterator[str]:
    """The texts of a source, long ones in parts of about BLOCK characters, cut as `blocks` says."""
    return chain.from_iterable(blocks(source))


def blocks(source: Source, kept_whole: Iterable[str] = ()) -> Iterator[list[str]]:
    """The source as lists of texts of about BLOCK characters in all; splitting each text alone changes no piece.

    A text is cut where every split pattern cuts (`last_cut`), and never inside one of `kept_whole`. Text that has no
    such place in BLOCK characters is cut after them, which can part one piece in two.
    """
    kept = [token for token in kept_whole if any(c.isspace() for c in token)]
    enough = BLOCK + max(map(len, kept), default=0)
    ready: list[str] = []
    size = 0
    for parts in documents(source):
        rest = ""
        for part in parts:
            rest += part
            while len(rest) >= enough:
                cut = _cut(rest, kept) or BLOCK
                yield [rest[:cut]]
                rest = rest[cut:]
        if rest:
            ready.append(rest)
            size += len(rest)
        if size >= BLOCK:
            yield ready
            ready, size = [], 0
    if ready:
        yield ready


def _cut(text: str, kept: list[str]) -> int:
    """The last place in the first BLOCK characters where text may be cut outside each of `kept`, 0 if there is none."""
    at = last_cut(text[:BLOCK])
    while at:
        around = [text.find(token, max(0, at - len(token) + 1), at + len(token) - 1) for token in kept]
        inside = [start for start in around if start >= 0]
        if not inside:
            break
        at = last_cut(text[: min(inside)])
    return at
