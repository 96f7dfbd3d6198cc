"""The lattices of many words at once, as arrays: what EM and pruning sweep over.

Each word of T characters has T + 1 nodes, and an edge from node s to node t for each piece that stands between them.
Edges are sorted by the distance of t from the start of its word, then by t, so a sweep is one NumPy pass a distance,
over all words together: what it needs from shorter distances is there.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Self

import numpy as np


class Lattices:
    """The lattices of `texts` with `pieces`, numbered as they stand; edges have a piece, a start and an end, each (E,).

    Texts that no pieces can spell have no path; sweeps leave them out.
    """

    def __init__(self, texts: list[str], pieces: list[str], longest: int) -> None:
        lengths = np.array([len(text) for text in texts], np.int64)
        self.size = len(pieces)
        self.last = (np.cumsum(lengths + 1) - 1).astype(np.int32)  # the last node of each word
        self.first = self.last - lengths.astype(np.int32)
        self.word = np.repeat(np.arange(len(texts), dtype=np.int32), lengths + 1)  # the word of each node
        piece, start, length = _matches(_codes(texts), lengths, pieces, longest)
        start += np.repeat(np.arange(len(texts), dtype=np.int32), lengths)[
            start
        ]  # a place of the joined texts -> a node
        end = start + length
        distance = end - self.first[self.word[end]]
        order = np.lexsort((start, end, distance))
        self.piece, self.start, self.end = piece[order], start[order], end[order]
        self._cut()

    def _cut(self) -> None:
        """The slices of the edges that end at each distance, and in each the first edge of each node."""
        distance = self.end - self.first[self.word[self.end]]
        borders = np.flatnonzero(np.diff(distance, prepend=-1, append=-1))
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(borders)]
        self.heads = [np.flatnonzero(np.diff(self.end[part], prepend=-1)) for part in self.slices]

    def _only(self, kept: np.ndarray) -> None:
        self.piece, self.start, self.end = self.piece[kept], self.start[kept], self.end[kept]
        self._cut()

    def keep(self, pieces: np.ndarray) -> None:
        """Drop the edges of those pieces whose entry in `pieces`, bool (P,), is False."""
        self._only(pieces[self.piece])

    def without_whole(self) -> Self:
        """Drop the edges that are a whole word."""
        word = self.word[self.end]
        self._only((self.start != self.first[word]) | (self.end != self.last[word]))
        return self

    def expected_counts(self, scores: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, float]:
        """How often each piece is expected in words that occur counts[w] times, and their log-likelihood: (P,), nats.

        Forward: sums[t] = log sum over the edges into t of exp(sums[s] + score), and each edge's share of it, the
        probability that a way to t ends with this edge. Backward: each node hands its flow, counts[w] at the last one,
        to the edges into it by their shares, and these to their starts. The flow through an edge is what we look for.
        """
        sums = np.full(len(self.word), -np.inf)
        sums[self.first] = 0.0
        share = np.empty(len(self.piece))
        for part, heads in zip(self.slices, self.heads, strict=True):
            values = sums[self.start[part]] + scores[self.piece[part]]
            widths = np.diff(heads, append=len(values))
            top = np.maximum.reduceat(values, heads)
            top[top == -np.inf] = 0.0  # nodes that no path leads to
            values = np.exp(values - np.repeat(top, widths))
            total = np.add.reduceat(values, heads)
            with np.errstate(divide="ignore"):
                sums[self.end[part][heads]] = top + np.log(total)
            share[part] = values / np.repeat(np.maximum(total, np.finfo(float).tiny), widths)
        reached = sums[self.last] > -np.inf
        flow = np.zeros(len(self.word))
        flow[self.last] = np.where(reached, counts, 0.0)
        for part in reversed(self.slices):
            share[part] *= flow[self.end[part]]
            np.add.at(flow, self.start[part], share[part])
        expected = np.bincount(self.piece, weights=share, minlength=self.size)
        return expected, float(counts[reached] @ sums[self.last][reached])

    def best_paths(self, scores: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The best path of each word, from its end: in turn words (n,), and the next piece back of each of them.

        Tie rule: as `unigram_lattice.best`, the edge that starts first.
        """
        sums = np.full(len(self.word), -np.inf)
        sums[self.first] = 0.0
        choice = np.zeros(len(self.word), np.int64)
        for part, heads in zip(self.slices, self.heads, strict=True):
            values = sums[self.start[part]] + scores[self.piece[part]]
            top = np.maximum.reduceat(values, heads)
            sums[self.end[part][heads]] = top
            hits = np.flatnonzero(values == np.repeat(top, np.diff(heads, append=len(values))))[::-1]
            choice[self.end[part][hits]] = hits + part.start  # of equal ones the first is written last
        words = np.flatnonzero((sums[self.last] > -np.inf) & (self.last > self.first))
        nodes = self.last[words]
        while len(words):
            edges = choice[nodes]
            yield words, self.piece[edges]
            before = self.start[edges]
            going = before > self.first[words]
            words, nodes = words[going], before[going]


def _codes(texts: list[str]) -> np.ndarray:
    return np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32).astype(np.int64)


def _matches(
    codes: np.ndarray, lengths: np.ndarray, pieces: list[str], longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where pieces stand in texts: the piece, the place where it starts in the joined texts, its length; each (E,).

    A trie, a level at a time: all pieces walk down it together and make its nodes, then all places walk down it.
    """
    room = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(codes))
    places, node = np.arange(len(codes)), np.zeros(len(codes), np.int64)
    spelled, sizes = _codes(pieces), np.array([len(p) for p in pieces], np.int64)
    starts = np.cumsum(sizes) - sizes
    walkers, at = np.arange(len(pieces)), np.zeros(len(pieces), np.int64)  # pieces, and the nodes where they are
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for length in range(1, longest + 1):
        going = sizes[walkers] >= length
        walkers, at = walkers[going], at[going]
        keys, at = np.unique(at * 0x110000 + spelled[starts[walkers] + length - 1], return_inverse=True)
        if not len(keys):
            break
        whole = np.full(len(keys), -1)
        whole[at[sizes[walkers] == length]] = walkers[sizes[walkers] == length]
        going = room[places] >= length
        places, node = places[going], node[going]
        wanted = node * 0x110000 + codes[places + length - 1]
        node = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        there = keys[node] == wanted
        places, node = places[there], node[there]
        hits = whole[node] >= 0
        size = np.full(np.count_nonzero(hits), length, np.int32)
        found.append((whole[node[hits]].astype(np.int32), places[hits].astype(np.int32), size))
    if not found:
        return (np.zeros(0, np.int32),) * 3
    piece, place, size = (np.concatenate(part) for part in zip(*found, strict=True))
    return piece, place, size
