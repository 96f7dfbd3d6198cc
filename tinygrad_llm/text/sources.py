"""Texts to learn from: a file, files, or strings, a block at a time."""

import codecs
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

Source = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
BLOCK = 1 << 20  # bytes read at once


def texts(source: Source) -> Iterator[str]:
    """The texts of a source, one after the other, never more than a block of a file in memory.

    A source is a path, or an iterable whose strings are texts and whose `Path`s are files. A file comes in blocks that
    end after a line; a line longer than a block is cut.

    Raises: ValueError for a file that is not UTF-8, naming the byte; OSError for one that cannot be read.
    """
    for item in [Path(source)] if isinstance(source, str | os.PathLike) else source:
        if isinstance(item, str):
            yield item
        elif isinstance(item, os.PathLike):
            yield from _blocks(Path(item))
        else:
            raise TypeError(f"texts: a source holds strings (texts) and paths (files), found {type(item).__name__}")


def _blocks(path: Path) -> Iterator[str]:
    decoder, rest, read = codecs.getincrementaldecoder("utf-8")(), "", 0
    with open(path, "rb") as file:
        while True:
            block = file.read(BLOCK)
            waiting = len(decoder.getstate()[0])  # bytes of a character that the last block cut in two
            try:
                text = rest + decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = read - waiting + error.start
                raise ValueError(f"{path}: not UTF-8 at byte {place}; convert it first") from None
            read += len(block)
            end = len(text) if not block or len(text) > BLOCK else text.rfind("\n") + 1
            if end:
                yield text[:end]
            rest = text[end:]
            if not block:
                return
