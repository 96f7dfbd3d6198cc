"""The shard that is being filled: two files that only grow, and a count that says how much of them is right."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tinygrad_llm.data.manifest import Shard
from tinygrad_llm.data.shards import ENDS, Header, write_shard

PIECE = 2**20  # ids copied at once


class OpenShard:
    """The shards of a split that are whole, and behind them the one that grows.

    It lies in `<split>.ids.partial` and `<split>.ends.partial`. What `state` returned is enough to go on from, as
    long as `sync` came before and nothing is removed: what was appended later is cut off by `resume`.
    """

    def __init__(self, folder: Path, name: str, dtype: np.dtype, tokenizer: str) -> None:
        self.folder, self.name, self.dtype, self._tokenizer = folder, name, dtype, tokenizer
        self.shards: list[Shard] = []
        self.tokens = self.documents = 0  # of the shard that grows
        self._ids: BinaryIO | None = None
        self._ends: BinaryIO | None = None

    @property
    def total(self) -> int:
        """Tokens of the split so far."""
        return self.tokens + sum(shard.tokens for shard in self.shards)

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self.name}.{kind}.partial"

    def _open(self) -> tuple[BinaryIO, BinaryIO]:
        if self._ids is None or self._ends is None:
            self._ids, self._ends = (self._path(kind).open("ab") for kind in ("ids", "ends"))
        return self._ids, self._ends

    def append(self, ids: np.ndarray, ends: np.ndarray) -> None:
        """Add ids (n,), and the counts of them after which a document ends (D,)."""
        if not len(ids):
            return
        for file, array in zip(self._open(), (ids.astype(self.dtype), (ends + self.tokens).astype(ENDS)), strict=True):
            file.write(array.tobytes())
        self.tokens += len(ids)
        self.documents += len(ends)

    def sync(self) -> None:
        """Wait until the disk has what was appended."""
        for file in (self._ids, self._ends):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())

    def state(self) -> dict[str, Any]:
        """What `resume` needs, as JSON values."""
        return {
            "shards": [vars(shard) for shard in self.shards],
            "tokens": self.tokens,
            "documents": self.documents,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a state: what was appended after it is cut off.

        Raises: ValueError when the files have less than the state says, or a whole shard is missing.
        """
        self.shards = [Shard(**shard) for shard in state["shards"]]
        for shard in self.shards:
            if not (self.folder / shard.file).is_file():
                raise ValueError(f"{shard.file} is missing; begin anew with --fresh")
        self.tokens, self.documents = state["tokens"], state["documents"]
        for file, size in zip(self._open(), (self.tokens * self.dtype.itemsize, self.documents * 8), strict=True):
            if os.fstat(file.fileno()).st_size < size:
                raise ValueError(f"{file.name} is shorter than it was; begin anew with --fresh")
            file.truncate(size)

    def seal(self) -> None:
        """Write the shard that grows as one of the whole ones, which it then is. Its own files are still there."""
        header = Header(self.dtype, self.tokens, self.documents, self._tokenizer)
        name = f"{self.name}-{len(self.shards):05d}.ids"
        ends = np.fromfile(self._path("ends"), ENDS)
        digest = write_shard(self.folder / name, self._pieces(), ends, header)
        self.shards.append(Shard(name, self.tokens, self.documents, digest))
        self.tokens = self.documents = 0

    def _pieces(self) -> Iterator[np.ndarray]:
        with open(self._path("ids"), "rb") as file:
            while len(piece := np.fromfile(file, self.dtype, PIECE)):
                yield piece

    def clear(self) -> None:
        """Empty the files of a shard that was sealed, once that is written down."""
        for file in self._open():
            file.truncate(0)

    def close(self) -> None:
        """Close the files as they are."""
        for file in (self._ids, self._ends):
            if file is not None:
                file.close()
        self._ids = self._ends = None

    def remove(self) -> None:
        """Close and remove the files."""
        self.close()
        for kind in ("ids", "ends"):
            self._path(kind).unlink(missing_ok=True)
