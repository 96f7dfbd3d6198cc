"""Several documents in a row of exactly T ids: what padding would waste is spent on text.

A row knows the document of each id and the place in it. The model is told, so that no position sees another document,
and the loss is that of the documents one by one: docs/packing.md says why.

Source: Krell et al., Efficient sequence packing without cross-contamination (2021); Ding et al., Fewer truncations
improve language modeling (2024), for packing without cuts.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.data.windows import checked_indices

IGNORED = -100  # a target that cross_entropy leaves out
PADDING = -1  # the document of what belongs to none


class PackedBatch(NamedTuple):
    """Rows (B, T) int64; as tensors they are what `model.loss(ids, targets, documents=documents)` takes.

    targets: the next id of the same document, -100 where there is none. documents: which one, -1 for padding.
    positions: 0 where a document begins in a row, then 1, 2, ...; the model counts them itself where it has documents.
    """

    ids: np.ndarray
    targets: np.ndarray
    documents: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True)
class PackingReport:
    """How much of the rows is text: packed, and padded with no more than one document a row."""

    documents: int
    cut: int  # documents that lie in more than one row
    tokens: int
    max_length: int
    rows: int
    padded_rows: int  # what padding takes: as many for a document as it fills

    @property
    def packed(self) -> float:
        """The share of real tokens in the packed rows."""
        return self.tokens / (self.rows * self.max_length)

    @property
    def padded(self) -> float:
        """The share of real tokens in padded rows."""
        return self.tokens / (self.padded_rows * self.max_length)

    def __str__(self) -> str:
        return (
            f"{self.documents:,} documents of {self.tokens:,} tokens, rows of {self.max_length:,}\n"
            f"padded  {self.padded_rows:>9,} rows, {self.padded:6.1%} of them text\n"
            f"packed  {self.rows:>9,} rows, {self.packed:6.1%} of them text, {self.cut:,} documents cut\n"
            f"a step learns from {self.packed / self.padded:.2f} times as many tokens"
        )


class PackedRows:
    """Documents (each a row of ids) laid into rows of exactly T = max_length; what stays free is padding.

    split=True puts one document after another and cuts where a row is full: only the last row has padding, and no
    prediction is lost, since the target at a cut is the id that begins the next row. But what follows a cut no longer
    sees what came before it. split=False cuts only what is longer than a row: pieces are placed longest first, each
    into the row with the least space that holds it, or else a new one.

    Ends of text are the caller's: a document that should teach where it ends has the id for it as its last.

    Raises: ValueError for max_length below 1, no documents, or one that is empty or no row of integers.
    """

    def __init__(
        self, documents: Sequence[Sequence[int] | np.ndarray], max_length: int, *, split: bool = True, pad_id: int = 0
    ) -> None:
        if max_length < 1:
            raise ValueError(f"PackedRows: max_length {max_length} must be at least 1")
        arrays = [_checked(ids, i) for i, ids in enumerate(documents)]
        if not arrays:
            raise ValueError("PackedRows: there are no documents")
        self.max_length, self.pad_id = max_length, pad_id
        self.tokens = np.concatenate(arrays)  # all documents, one after another
        self.ends = np.cumsum([len(ids) for ids in arrays])  # of each in `tokens`
        starts, lengths, rows, columns = self._in_order() if split else self._without_cuts()
        order = np.lexsort((columns, rows))
        self._starts, self._lengths, self._columns = starts[order], lengths[order], columns[order]
        self._documents = np.searchsorted(self.ends, self._starts, side="right")  # of each piece
        self._first = np.searchsorted(rows[order], np.arange(int(rows.max()) + 2))  # pieces of row r: first[r]..[r + 1]

    def _in_order(self) -> tuple[np.ndarray, ...]:
        """Start in `tokens`, length, row and column of each piece: a row ends after every T tokens."""
        cuts = np.arange(0, len(self.tokens), self.max_length)
        starts = np.union1d(np.concatenate(([0], self.ends[:-1])), cuts)
        lengths = np.diff(starts, append=len(self.tokens))
        return starts, lengths, starts // self.max_length, starts % self.max_length

    def _without_cuts(self) -> tuple[np.ndarray, ...]:
        """The same by best fit decreasing."""
        begins = np.concatenate(([0], self.ends[:-1]))
        pieces = -(-(self.ends - begins) // self.max_length)  # of each document
        nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = np.repeat(begins, pieces) + nth * self.max_length
        lengths = np.minimum(self.max_length, np.repeat(self.ends, pieces) - starts)
        return starts, lengths, *best_fit(lengths, self.max_length)

    def __len__(self) -> int:
        return len(self._first) - 1

    def __getitem__(self, index: int) -> PackedBatch:
        """Row `index`: four arrays (T,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"PackedRows: index {index} is out of range for {len(self)} rows")
        return PackedBatch(*(part[0] for part in self.take([index % len(self)])))

    def take(self, indices: Sequence[int] | np.ndarray) -> PackedBatch:
        """The rows with these indices: four arrays (B, T). Raises: IndexError for one outside [0, len)."""
        indices = checked_indices("PackedRows", indices, len(self))
        shape = (len(indices), self.max_length)
        ids, targets, documents, positions = (
            np.full(shape, fill, np.int64) for fill in (self.pad_id, IGNORED, PADDING, 0)
        )
        for b, row in enumerate(indices):
            for piece in range(self._first[row], self._first[row + 1]):
                start, length, document = self._starts[piece], self._lengths[piece], self._documents[piece]
                at = slice(self._columns[piece], self._columns[piece] + length)
                ids[b, at] = self.tokens[start : start + length]
                following = self.tokens[start + 1 : min(start + length + 1, self.ends[document])]
                targets[b, at.start : at.start + len(following)] = following
                documents[b, at] = document
                positions[b, at] = np.arange(length)
        return PackedBatch(ids, targets, documents, positions)

    def random(self, batch: int, rng: np.random.Generator) -> PackedBatch:
        """`batch` rows drawn with replacement."""
        return self.take(rng.integers(len(self), size=batch))

    def batches(
        self, batch: int, rng: np.random.Generator | None = None, drop_last: bool = False
    ) -> Iterator[PackedBatch]:
        """Every row once, in order or shuffled by rng, `batch` at a time; drop_last leaves out a smaller last one."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        end = len(order) - len(order) % batch if drop_last else len(order)
        for start in range(0, end, batch):
            yield self.take(order[start : start + batch])

    def report(self) -> PackingReport:
        """What packing gained; printed, it is four lines."""
        sizes = np.diff(self.ends, prepend=0)
        pieces = np.bincount(self._documents)
        return PackingReport(
            documents=len(self.ends),
            cut=int((pieces > 1).sum()),
            tokens=len(self.tokens),
            max_length=self.max_length,
            rows=len(self),
            padded_rows=int((-(-sizes // self.max_length)).sum()),
        )


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each piece, longest first, into the fullest row that still holds it: (N,) -> (N,), (N,).

    Equal lengths keep their order. Rows are looked up by the space that they have left, of which there are at most
    `capacity` kinds, so that N pieces take N log(capacity) comparisons.
    """
    rows, columns = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.int64)
    spaces: list[int] = []  # sorted, each with the rows that have so much left
    having: dict[int, list[int]] = {}
    count = 0
    for piece in np.argsort(-lengths, kind="stable"):
        length = int(lengths[piece])
        at = bisect.bisect_left(spaces, length)
        if at == len(spaces):
            row, space = count, capacity
            count += 1
        else:
            space = spaces[at]
            row = having[space].pop()
            if not having[space]:
                del having[space], spaces[at]
        rows[piece], columns[piece] = row, capacity - space
        if left := space - length:
            if left not in having:
                bisect.insort(spaces, left)
                having[left] = []
            having[left].append(row)
    return rows, columns


def documents_of(ids: Sequence[int] | np.ndarray, end_id: int) -> list[np.ndarray]:
    """One long row of ids (N,) cut after each end_id: views of it, none empty; the last may have no end_id."""
    row = np.asarray(ids)
    ends = np.flatnonzero(row == end_id) + 1
    return [part for part in np.split(row, ends) if len(part)]


def _checked(ids: Any, index: int) -> np.ndarray:
    array = np.asarray(ids)
    if array.size == 0:
        raise ValueError(f"PackedRows: document {index} is empty; leave it out")
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"PackedRows: document {index} must be one row of integers, found {array.shape} {array.dtype}")
    return array
