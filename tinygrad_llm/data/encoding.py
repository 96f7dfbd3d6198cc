"""Blocks of text to ids, by worker processes that take turns, in the order of the blocks."""

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinygrad_llm import text
from tinygrad_llm.data.manifest import TOKENIZER
from tinygrad_llm.data.sources import Block, Part
from tinygrad_llm.data.windows import ids_array
from tinygrad_llm.text import Tokenizer

ENDS_OF_TEXT = ("<|endoftext|>", "[EOS]", "</s>")
Encoded = tuple[tuple[np.ndarray, np.ndarray], ...]  # for each split: ids (n,), and counts of them where documents end


def end_of_text(tokenizer: Tokenizer) -> int | None:
    """The id that ends a document, None where the tokenizer has none."""
    return next((tokenizer.special_tokens[t] for t in ENDS_OF_TEXT if t in tokenizer.special_tokens), None)


@dataclass(frozen=True)
class Encoder:
    """Parts of documents -> ids for training and for validation.

    share: of the documents, for validation, evenly spread: document d when floor((d + 1) share) > floor(d share).
    None: what is late in the text is for validation.
    """

    share: float | None

    def is_validation(self, part: Part) -> bool:
        """Whether a part is to judge by."""
        if self.share is None:
            return part.late
        return int((part.document + 1) * self.share) > int(part.document * self.share)

    def __call__(self, parts: Iterable[Part], tokenizer: Tokenizer) -> Encoded:
        """Encode the parts.

        Raises: ValueError naming the file when the tokenizer refuses its text.
        """
        last = end_of_text(tokenizer)
        ids: tuple[list[int], list[int]] = ([], [])
        ends: tuple[list[int], list[int]] = ([], [])
        for part in parts:
            split = self.is_validation(part)
            try:
                ids[split].extend(tokenizer.encode_ordinary(part.text))
            except ValueError as error:
                raise ValueError(f"{part.source}: {error}") from None
            if part.ends:
                if last is not None:
                    ids[split].append(last)
                ends[split].append(len(ids[split]))
        return tuple(
            (ids_array(row, tokenizer.vocab_size), np.array(stops, np.int64))
            for row, stops in zip(ids, ends, strict=True)
        )


_worker: Tokenizer | None = None  # set in a worker process


def _start(path: Path) -> None:
    """Runs first in a worker: loads the tokenizer, and ends when the parent ends."""
    import multiprocessing

    global _worker
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # a killed parent must not leave workers behind that wait for ever

    threading.Thread(target=watch, daemon=True).start()
    _worker = text.load(path)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C is for the parent: a process that is started inside never sees it; here it waits until the block ends."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _encode(encoder: Encoder, parts: list[Part]) -> Encoded:
    assert _worker is not None
    return encoder(parts, _worker)


def in_order(
    blocks: Iterable[Block], encoder: Encoder, tokenizer: Tokenizer, folder: Path, workers: int
) -> Generator[tuple[Block, Encoded], None, None]:
    """Each block with its ids, in order; a few blocks for each worker are in memory at a time.

    workers: processes, each with the tokenizer that the folder holds; 0 encodes here.

    Raises: RuntimeError when a worker process was killed.
    """
    if not workers:
        for block in blocks:
            yield block, encoder(block.parts, tokenizer)
        return
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import resource_tracker

    if os.name == "posix":
        resource_tracker.ensure_running()  # here, because starting it lets Ctrl-C through again
    # A process that is spawned has none of our open files, so no lock outlives us in it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(folder / TOKENIZER,))
    waiting: deque[tuple[Block, Future[Encoded]]] = deque()
    try:
        for block in blocks:
            with _deaf_to_interrupts():  # the pool starts a process when there is work for it
                waiting.append((block, pool.submit(_encode, encoder, block.parts)))
            block.parts = []  # the worker has them
            if len(waiting) > 2 * workers:
                block, future = waiting.popleft()
                yield block, future.result()
        while waiting:
            block, future = waiting.popleft()
            yield block, future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker process ended before its work was done, perhaps for want of memory; give the same command again "
            "to go on, with fewer workers"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
