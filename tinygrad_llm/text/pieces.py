"""The different pieces of a training text and how often each occurs, counted block by block in several processes."""

import multiprocessing
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tinygrad_llm.text.sources import Source, blocks
from tinygrad_llm.text.splitting import splitter

Progress = Callable[[str, int, int | None], None]  # what is being done, how much is done, of how much (None: unknown)

MOST_CHARACTERS = 2**27  # of different pieces: merging takes some 40 times that in bytes
WORTH_PROCESSES = 8  # blocks, below which starting processes costs more than it saves


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

    Raises: ValueError for text with a lone surrogate, or more different pieces than memory holds; RuntimeError when a
    process ends early; as `sources.documents`.
    """
    totals: Counter[str] = Counter()
    characters = different = 0

    def add(counts: dict[str, int]) -> None:
        nonlocal characters, different
        for piece, count in counts.items():
            different += 0 if piece in totals else len(piece)
            totals[piece] += count
            characters += count * len(piece)
        if different > MOST_CHARACTERS:
            raise ValueError(
                f"bpe training: the different pieces have more than {MOST_CHARACTERS:,} characters, as those of a text "
                f"without spaces do; train on a part of the text"
            )
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
