"""Byte-pair training: which merges shorten a text most. docs/tokenizers.md derives what happens here.

The different pieces lie end to end in one array of symbols, linked to their neighbours. A pair's occurrences are an
array of positions, so a merge is a few array operations whatever the number of its occurrences.
"""

import heapq
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tinygrad_llm.text.bytelevel import BYTE_ORDER
from tinygrad_llm.text.pieces import Progress

END, MERGED = -1, -2  # in place of a symbol: the gap between two pieces, and the right half of a pair after its merge
MOST_SYMBOLS = 2**31 - 1


class Pairs(NamedTuple):
    """Different pairs: left << 32 | right, how often each occurs in the text, and where."""

    keys: list[int]
    counts: list[int]
    places: list[np.ndarray]


class Symbols:
    """The pieces as symbols: `ids`, the positions of the `next` and `prev` symbol, and the `weight` of the piece.

    pieces: bytes -> how often they occur. A symbol below 256 is a byte, by its place in GPT-2's order.

    Raises: ValueError when the different pieces are too long together to be numbered.
    """

    def __init__(self, pieces: Mapping[bytes, int]) -> None:
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        size = 1 + int(lengths.sum()) + len(pieces)  # a gap in front, and one after each piece
        if size > MOST_SYMBOLS:
            raise ValueError(
                f"bpe training: the {len(pieces):,} different pieces have {size:,} bytes, more than {MOST_SYMBOLS:,}; "
                f"train on a part of the text"
            )
        number = np.empty(256, np.int32)
        number[BYTE_ORDER] = np.arange(256)
        place = 1 + np.arange(size - 1 - len(pieces)) + np.repeat(np.arange(len(pieces)), lengths)
        self.ids = np.full(size, END, np.int32)
        self.ids[place] = number[np.frombuffer(b"".join(pieces), np.uint8)]
        self.weight = np.zeros(size, np.int64)
        self.weight[place] = np.repeat(np.fromiter(pieces.values(), np.int64, len(pieces)), lengths)
        self.next = np.arange(1, size + 1, dtype=np.int32)
        self.prev = np.arange(-1, size - 1, dtype=np.int32)

    def pairs(self, at: np.ndarray) -> Pairs:
        """The pairs whose left symbols are at the positions `at`; the places of each keep their order in `at`."""
        left, right = self.ids[at], self.ids[self.next[at]]
        real = (left >= 0) & (right >= 0)
        at, keys = at[real], left[real].astype(np.int64) << 32 | right[real]
        if not len(keys):
            return Pairs([], [], [])
        order = np.argsort(keys, kind="stable")
        at, keys = at[order], keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        counts = np.add.reduceat(self.weight[at], starts)
        return Pairs(keys[starts].tolist(), counts.tolist(), np.split(at, starts[1:]))

    def all_pairs(self) -> Pairs:
        """Every pair there is."""
        return self.pairs(np.flatnonzero(self.ids != END).astype(np.int32))

    def merge(self, at: np.ndarray, left: int, right: int, new: int) -> tuple[Pairs, Pairs]:
        """Put `new` in place of each pair (left, right) that begins at one of `at`, ascending; some may be gone by now.

        Returns the pairs that this took away and those that came about.
        """
        at = at[(self.ids[at] == left) & (self.ids[self.next[at]] == right)]
        if left == right:
            at = self._every_second(at)
        half, before = self.next[at], self.prev[at]
        apart = np.r_[True, before[1:] != half[:-1]][: len(at)]  # False where the symbol before is merged as well
        before = before[apart]
        lost = self.pairs(np.concatenate([before, half]))
        self.ids[at], self.ids[half] = new, MERGED
        after = self.next[half]
        self.next[at], self.prev[after] = after, at
        return lost, self.pairs(np.concatenate([before, at]))

    def _every_second(self, at: np.ndarray) -> np.ndarray:
        """Of places that overlap (the pair a a in a a a), the first, third, ... of each run: from left to right."""
        starts = np.r_[True, self.next[at[:-1]] != at[1:]][: len(at)]
        steps = np.arange(len(at))
        return at[(steps - np.maximum.accumulate(np.where(starts, steps, 0))) % 2 == 0]


def learn_merges(
    pieces: Mapping[bytes, int], most: int, min_frequency: int, progress: Progress
) -> list[tuple[int, int]]:
    """At most `most` merges, each of the pair that is most frequent after those before it.

    The i-th merge makes symbol 256 + i. Of equally frequent pairs the one with the smaller left symbol comes first,
    then the one with the smaller right symbol. Pairs that occur less than `min_frequency` times are left alone.

    A heap holds (-count, pair). Counts only fall after a pair has come about, so an entry whose count is too high goes
    back with the right one, and the first entry that is right is the maximum.
    """
    symbols = Symbols(pieces)
    merges: list[tuple[int, int]] = []
    counts: dict[int, int] = {}
    places: dict[int, np.ndarray] = {}
    heap: list[tuple[int, int]] = []

    def take_in(new: Pairs) -> None:
        for key, count, at in zip(*new, strict=True):
            if count >= min_frequency:
                counts[key], places[key] = count, at
                heapq.heappush(heap, (-count, key))

    take_in(symbols.all_pairs())
    while heap and len(merges) < most:
        minus_count, key = heapq.heappop(heap)
        count = counts[key]
        if count != -minus_count:
            if count >= min_frequency:
                heapq.heappush(heap, (-count, key))
            else:
                del counts[key], places[key]
            continue
        left, right = key >> 32, key & 0xFFFFFFFF
        del counts[key]
        lost, gained = symbols.merge(places.pop(key), left, right, 256 + len(merges))
        merges.append((left, right))
        for pair, count in zip(lost.keys, lost.counts, strict=True):
            if pair in counts:
                counts[pair] -= count
        take_in(gained)
        if len(merges) % 64 == 0 or len(merges) == most:
            progress("merges learned", len(merges), most)
    return merges
