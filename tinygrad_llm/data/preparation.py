"""From files of text to a folder of shards: any size in constant memory, and a kill at any time loses minutes at most.

Blocks of text are read in order, encoded by worker processes, and appended in order to one open file for each split.
Every so often a checkpoint says how far the open files are right and where the reading goes on. docs/data.md tells
why nothing half-written is ever taken for whole.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinygrad_llm.data import encoding
from tinygrad_llm.data.manifest import (
    CHECKED,
    FORMAT,
    MANIFEST,
    PROGRESS,
    SPLITS,
    TOKENIZER,
    Manifest,
    is_prepared,
    read_manifest,
)
from tinygrad_llm.data.open_shard import OpenShard
from tinygrad_llm.data.shards import dtype_for, tokenizer_hash
from tinygrad_llm.data.sources import BLOCK, Block, Place, Reader, Source, border_near, find_sources
from tinygrad_llm.files import write_atomically
from tinygrad_llm.text import Tokenizer

SHARD_TOKENS = 2**25
CHECKPOINT_EVERY = 32 * BLOCK  # bytes of text
LOCK = ".lock"
OURS = re.compile(
    rf"(?:{'|'.join(SPLITS)})(?:-\d{{5}}\.ids|\.(?:ids|ends)\.partial)"
    rf"|{'|'.join(map(re.escape, (MANIFEST, PROGRESS, TOKENIZER, CHECKED)))}"
)


@dataclass(frozen=True)
class Settings:
    """What decides the ids of a folder, beside the files and the tokenizer.

    validation: the share of the text to judge by. mark, key: as for `Reader`. shard_tokens: a shard is closed when it
    has as many.

    Raises: ValueError for a value out of range.
    """

    validation: float = 0.1
    mark: str | None = None
    key: str = "text"
    shard_tokens: int = SHARD_TOKENS

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"prepare: the validation share {self.validation} must lie in [0, 1)")
        if self.shard_tokens < 1:
            raise ValueError(f"prepare: shard_tokens {self.shard_tokens} must be at least 1")


@dataclass(frozen=True)
class Progress:
    """How far a preparation is: bytes of text done, all there are (None where packed files hide it), tokens."""

    done: int
    total: int | None
    tokens: int


def prepare(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    tokenizer: Tokenizer,
    settings: Settings | None = None,
    workers: int = 0,
    fresh: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    judge: str | os.PathLike[str] | None = None,
) -> Manifest:
    """Encode the file or folder `source` into shards in `folder`; goes on where an earlier call was interrupted.

    Documents lie one behind the other, each with the tokenizer's end-of-text id behind it where it has one. Where
    there are many documents every 1/validation-th is for validation; of a few long texts it is the last part.

    judge: a file or folder of its own for validation instead.
    workers: processes that encode; 0 encodes in this one. The files are the same whatever their number. Worker
    processes import the main module, which must guard its own start by `if __name__ == "__main__":`.
    fresh: begin anew, and remove what an earlier preparation wrote in the folder.

    Raises: ValueError for text or settings that cannot be used, a folder that holds something else, an interrupted
    preparation of other files or settings, or another process at work in the folder; OSError for a full disk.
    """
    sources, folder = find_sources(source), Path(folder)
    border = None if judge is None else (len(sources), 0)
    sources += [] if judge is None else find_sources(judge)
    job = _Job(sources, border, folder, tokenizer, settings or Settings(), on_progress)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: exists and is not a folder; name another one")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _check_folder(folder)
        if fresh:
            _remove(folder)
        for path in folder.glob(".*.*"):  # what a kill left of a file that was being replaced
            if path.name != CHECKED and OURS.match(path.name[1:]):
                path.unlink()
        if (folder / MANIFEST).is_file():
            return job.finished_before()
        return job.run(workers)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the lock is the system's and ends with the process, however that ends."""
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise ValueError("prepare: filelock is not installed; pip install -e '.[data]' brings it") from None
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{folder}: another process is preparing this folder; wait for it, or name another") from None


def _check_folder(folder: Path) -> None:
    """Refuse a folder with visible files that no preparation wrote."""
    present = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if present and not is_prepared(folder):
        raise ValueError(f"{folder}: holds {min(present)} and is no folder of shards; name an empty or a new one")


def _remove(folder: Path) -> None:
    """Remove what a preparation wrote, last what says that it was one."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name in (MANIFEST, PROGRESS)):
        if OURS.fullmatch(path.name):
            path.unlink()


class _Job:
    """One preparation: what it was told, its reader, and the open shard of each split."""

    def __init__(
        self,
        sources: list[Source],
        border: tuple[int, int] | None,
        folder: Path,
        tokenizer: Tokenizer,
        settings: Settings,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.sources, self.folder, self.tokenizer, self.settings = sources, folder, tokenizer, settings
        self.border, self.on_progress = border, on_progress
        self.hash, self.dtype = tokenizer_hash(tokenizer), dtype_for(tokenizer.vocab_size)
        self.splits = [OpenShard(folder, name, self.dtype, self.hash) for name in SPLITS]
        self.place, self.done, self.empty = Place(), 0, 0
        packed = any(s.path.suffix in (".gz", ".zst") for s in sources)
        self.total = None if packed else sum(s.size for s in sources)

    @property
    def plan(self) -> str:
        """A hash over all that decides the result: another plan must not go on with these files."""
        files = [(s.name, s.size, s.changed) for s in self.sources]
        plan = [2, BLOCK, self.hash, asdict(self.settings), self.border, files]
        return hashlib.sha256(json.dumps(plan).encode()).hexdigest()

    def finished_before(self) -> Manifest:
        """The manifest of the finished folder, if it is of this plan."""
        manifest = read_manifest(self.folder)
        if manifest.settings.get("plan") != self.plan:
            raise ValueError(
                f"{self.folder}: holds shards of other files, settings or another tokenizer; name another folder, or "
                f"begin anew with --fresh"
            )
        self._tidy()
        return manifest

    def run(self, workers: int) -> Manifest:
        """Go on from the last checkpoint, or begin."""
        try:
            if (self.folder / PROGRESS).is_file():
                self._resume()
            else:
                self._checkpoint()
            self.tokenizer.save(self.folder / TOKENIZER)
            self._work(workers)
            return self._finish()
        finally:
            for split in self.splits:
                split.close()

    def _work(self, workers: int) -> None:
        share, border = self.settings.validation, self.border
        few = len(self.sources) * share < 2 and not self.settings.mark
        if border is None and share and few and not any(source.holds_records for source in self.sources):
            border = border_near(self.sources, 1 - share)
        reader = Reader(self.sources, self.settings.mark, self.settings.key, border)
        encode = encoding.Encoder(share if border is None else None)
        work = encoding.in_order(self._blocks(reader), encode, self.tokenizer, self.folder, workers)
        marked = self.done
        with closing(reader), closing(work):
            for block, encoded in work:
                for split, (ids, ends) in zip(self.splits, encoded, strict=True):
                    split.append(ids, ends)
                self.place, self.done, self.empty = block.next, self.done + block.size, self.empty + block.empty
                full = [split for split in self.splits if split.tokens >= self.settings.shard_tokens]
                if full or self.done - marked >= CHECKPOINT_EVERY:
                    self._checkpoint(full)
                    marked = self.done
                self.on_progress(Progress(self.done, self.total, sum(split.total for split in self.splits)))

    def _blocks(self, reader: Reader) -> Iterator[Block]:
        place = self.place
        while place.file < len(self.sources):
            block = reader.block(place)
            place = block.next
            yield block

    def _checkpoint(self, full: Sequence[OpenShard] = ()) -> None:
        """Close the full shards, and write down how far all is right. The order of the steps is what makes it safe."""
        for split in self.splits:
            split.sync()
        for split in full:
            split.seal()
        values = {
            "format": FORMAT,
            "plan": self.plan,
            "place": asdict(self.place),
            "done": self.done,
            "empty": self.empty,
            "splits": {split.name: split.state() for split in self.splits},
        }
        write_atomically(self.folder / PROGRESS, json.dumps(values).encode())
        for split in full:
            split.clear()

    def _resume(self) -> None:
        path = self.folder / PROGRESS
        try:
            values: Any = json.loads(path.read_bytes())
            if values["plan"] != self.plan:
                raise ValueError(
                    "it was begun with other files, settings or another tokenizer, or a file changed since; give the "
                    "same command, or begin anew with --fresh"
                )
            self.place, self.done, self.empty = Place(**values["place"]), values["done"], values["empty"]
            for split in self.splits:
                split.resume(values["splits"][split.name])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: this preparation cannot be gone on with: {error}") from None

    def _finish(self) -> Manifest:
        for split in self.splits:
            if not split.total and (split.name == "train" or self.settings.validation or self.border):
                documents = self.place.document
                _remove(self.folder)
                raise ValueError(
                    f"{self.folder}: nothing is left for {split.name}: {documents} documents with text were found; "
                    f"give more text or another validation share"
                )
        self._checkpoint([split for split in self.splits if split.tokens])
        manifest = Manifest(
            tokenizer=self.tokenizer.name,
            tokenizer_sha256=self.hash,
            vocab_size=self.tokenizer.vocab_size,
            dtype=self.dtype.name,
            end_of_text=encoding.end_of_text(self.tokenizer),
            splits={split.name: tuple(split.shards) for split in self.splits if split.shards},
            settings={
                **asdict(self.settings),
                "plan": self.plan,
                "files": len(self.sources),
                "bytes": self.done,
                "empty_documents": self.empty,
            },
        )
        manifest.write(self.folder)
        self._tidy()
        return manifest

    def _tidy(self) -> None:
        """Remove what only an unfinished preparation needs."""
        for split in self.splits:
            split.remove()
        (self.folder / PROGRESS).unlink(missing_ok=True)
