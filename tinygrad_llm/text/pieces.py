"""The different pieces of a training text and how often each occurs, counted block by block in several processes."""

import codecs
import io
import multiprocessing
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tinygrad_llm.text.splitting import last_cut, splitter

Source = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Progress = Callable[[str, int, int | None], None]  # what is being done, how much is done, of how much (None: unknown)

BLOCK = 2_000_000  # characters that a process counts at a time
WORTH_PROCESSES = 8  # blocks, below which starting processes costs more than it saves
SUFFIXES = (".txt", ".md")
READ_BYTES = 1 << 20


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The file at path, or every .txt and .md file below the folder, in the order of their paths, hidden ones left out.

    Raises: FileNotFoundError when there is nothing; ValueError for a folder without texts.
    """
    path = Path(path)
    if not _exists(path):
        raise FileNotFoundError(
            f"{str(path)[:80]}: there is no such file or folder; give a text file or a folder of texts "
            f"(a text goes in a list)"
        )
    if not path.is_dir():
        return [path]
    found = [p for p in sorted(path.rglob("*")) if p.suffix in SUFFIXES and p.is_file()]
    found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if not found:
        raise ValueError(f"{path}: the folder holds no {' or '.join(SUFFIXES)} file")
    return found


def _exists(path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.exists(path)
    except (OSError, ValueError):  # no name that a file could have
        return False


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
            at = read - len(error.object) + error.start
            raise ValueError(
                f"{path}: not UTF-8: byte 0x{error.object[error.start]:02x} at position {at} ({error.reason}); "
                f"convert the file to UTF-8 first"
            ) from None


def documents(source: Source) -> Iterator[Iterator[str]]:
    """Each document of the source as an iterator over its parts: a path is read, a string in an iterable is a text.

    A list of paths must hold `Path`s: strings in it are texts.

    Raises: TypeError for an item that is neither; ValueError where the first string is the name of a file.
    """
    if isinstance(source, (str, os.PathLike)):
        source = [Path(source)]
    for number, item in enumerate(source):
        if number == 0 and isinstance(item, str) and item and _exists(item):
            raise ValueError(f"bpe training: {item!r} is the name of a file; give Path({item!r}) to read it")
        if isinstance(item, os.PathLike):
            yield from (read_parts(file) for file in files_of(item))
        elif isinstance(item, str):
            yield iter([item])
        else:
            raise TypeError(f"bpe training: the source must hold strings or Paths, found {type(item).__name__}")


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


def count_block(texts: list[str], pattern: str, boundaries: tuple[str, ...]) -> dict[str, int]:
    """How often each piece occurs in the texts; a boundary (a special token) parts a text and is no piece itself."""
    split, counts = splitter(pattern), Counter[str]()
    parting = re.compile("|".join(map(re.escape, sorted(boundaries, key=len, reverse=True)))) if boundaries else None
    for text in texts:
        for part in parting.split(text) if parting else [text]:
            counts.update(split.findall(part))
    return dict(counts)


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_pieces(
    source: Source, pattern: str, boundaries: tuple[str, ...], workers: int | None, progress: Progress
) -> dict[bytes, int]:
    """How often each piece occurs in the source.

    workers: processes that count; None takes one a core when the source is long enough for it.

    Raises: ValueError for text with a lone surrogate; RuntimeError when a process ends early; as `documents`.
    """
    totals: Counter[str] = Counter()
    characters = 0

    def add(counts: dict[str, int]) -> None:
        nonlocal characters
        for piece, count in counts.items():
            totals[piece] += count
            characters += count * len(piece)
        progress("characters read", characters, None)

    stream = blocks(source, boundaries)
    first: list[list[str]] = []
    wanted = cores() if workers is None else workers
    while wanted > 1 and len(first) < (WORTH_PROCESSES if workers is None else 1) and (block := next(stream, None)):
        first.append(block)
    if wanted > 1 and len(first) == (WORTH_PROCESSES if workers is None else 1):
        _count_in_processes(first, stream, pattern, boundaries, wanted, add)
    else:
        for block in [*first, *stream]:
            add(count_block(block, pattern, boundaries))
    try:
        return {piece.encode(): count for piece, count in totals.items()}
    except UnicodeEncodeError as error:
        raise ValueError(
            f"bpe training: the piece {error.object!r} holds the lone surrogate "
            f"U+{ord(error.object[error.start]):04X}, which is no character; read the text with errors='replace'"
        ) from None


def _count_in_processes(
    first: list[list[str]],
    stream: Iterator[list[str]],
    pattern: str,
    boundaries: tuple[str, ...],
    workers: int,
    add: Callable[[dict[str, int]], None],
) -> None:
    """Count blocks in processes of their own, never more than a few blocks in flight."""
    pending: deque[Future[dict[str, int]]] = deque()
    try:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            for some in (first, stream):
                for block in some:
                    pending.append(pool.submit(count_block, block, pattern, boundaries))
                    if len(pending) > 2 * workers:
                        add(pending.popleft().result())
            while pending:
                add(pending.popleft().result())
    except BrokenProcessPool as error:
        raise RuntimeError(
            "bpe training: a worker process ended early; a script that trains must do so under "
            "`if __name__ == '__main__':`, or give workers=1"
        ) from error
