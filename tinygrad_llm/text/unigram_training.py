"""How the unigram model finds its pieces: many to begin with, EM to weigh them, and the least needed pruned away.

1. Seeds: every substring of a word that occurs twice or more, the best of them by count * length.
2. EM: expected counts of the pieces over all ways to spell each word (E), and scores from them (M).
3. Prune: drop those pieces whose loss would cost the likelihood least; back to 2 until the vocabulary has its size.

`docs/subwords.md` derives the steps. Source: Kudo 2018, "Subword Regularization", section 3.2.
"""

import math
from collections import Counter
from collections.abc import Mapping, Set

import numpy as np

from tinygrad_llm.text.unigram_lattices import Lattices

LONGEST_WORD = 48  # characters; longer ones are cut for training, so that a sweep has at most as many steps
LEAST_COUNT = 0.5  # what a piece is taken to have been seen at least, so that its score is finite


def learn(
    words: Mapping[str, int],
    size: int,
    *,
    coverage: float = 1.0,
    never: Set[str] = frozenset(),
    seeds: int = 200_000,
    longest: int = 16,
    keep: float = 0.75,
    rounds: int = 2,
    most_words: int = 300_000,
) -> dict[str, float]:
    """Words with their counts -> `size` pieces (fewer where fewer repeat) with their scores, log-probabilities.

    seeds: pieces to begin with. longest: characters of a piece. keep: the share of pieces that a pruning leaves.
    rounds: of EM before each pruning. most_words: the most frequent words are learnt from; they and the seeds bound
    the memory. never: what may not become a piece.

    Raises: ValueError for an option out of range, or a size that is too small for the characters.
    """
    if not (0 < keep < 1 and rounds >= 1 and longest >= 1 and seeds >= 1 and most_words >= 1):
        raise ValueError(
            f"unigram: keep {keep} must be in (0, 1); rounds {rounds}, longest {longest}, seeds {seeds} and "
            f"most_words {most_words} at least 1"
        )
    characters = frequent_characters(words, coverage)
    if size < len(characters):
        raise ValueError(
            f"unigram: there is room for {size} pieces beside special tokens and bytes, and {len(characters)} "
            f"characters make up the share {coverage} of the texts; raise vocab_size or lower coverage"
        )
    runs = runs_of(words, characters, most_words)
    texts, counts = list(runs), np.array(list(runs.values()), np.float64)
    weights = seed_pieces(texts, counts, longest, seeds, never) | {c: characters[c] for c in characters}
    pieces = sorted(weights)
    scores = np.log(np.array([weights[p] for p in pieces], np.float64))
    scores -= np.logaddexp.reduce(scores) if len(pieces) else 0.0
    corpus = Lattices(texts, pieces, longest)
    itself = Lattices(pieces, pieces, longest).without_whole()  # the other ways to spell each piece
    alive = np.arange(len(pieces))  # numbers of the pieces that are left, among those of the beginning
    while len(alive):
        for _ in range(rounds):
            expected, _ = corpus.expected_counts(scores, counts)
            scores = np.full(len(pieces), -np.inf)
            scores[alive] = maximise(np.maximum(expected[alive], LEAST_COUNT))
        if len(alive) <= size:
            break
        loss = losses(corpus, itself, scores, counts)
        left = max(size, int(keep * len(alive)))
        order = np.lexsort((alive, -loss[alive]))  # of equal losses the piece that sorts first stays
        alive = np.sort(alive[order[:left]])
        kept = np.zeros(len(pieces), bool)
        kept[alive] = True
        corpus.keep(kept)
        itself.keep(kept)
    return {pieces[i]: float(scores[i]) for i in alive}


def frequent_characters(words: Mapping[str, int], coverage: float) -> dict[str, int]:
    """The most frequent characters that make up that share of the words, and their counts."""
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for c in word:
            counts[c] += times
    wanted, kept = coverage * counts.total(), {}
    for c, times in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if wanted <= 0:
            break
        kept[c] = times
        wanted -= times
    return kept


def runs_of(words: Mapping[str, int], characters: Mapping[str, int], most: int) -> Counter[str]:
    """The `most` frequent words, cut at characters that are none of those given and at LONGEST_WORD; with counts."""
    runs: Counter[str] = Counter()
    known = characters.keys()
    for word, times in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:most]:
        text = word if known >= set(word) else "".join([c if c in known else "\n\n" for c in word])
        for run in [text] if text is word else text.split("\n\n"):
            for start in range(0, len(run), LONGEST_WORD):
                runs[run[start : start + LONGEST_WORD]] += times
    return runs


def seed_pieces(
    texts: list[str], counts: np.ndarray, longest: int, most: int, never: Set[str] = frozenset()
) -> dict[str, float]:
    """Substrings of 2 to `longest` characters that occur twice or more: the `most` best by count * length, with that.

    Substrings of L characters are groups of places in the texts; those of L + 1 split each group by its next
    character. A group of one place has no repeating parts and is dropped, so a level costs one sort of what is left.
    """
    joined = "".join(texts)
    codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32).astype(np.int64)
    lengths = np.array([len(text) for text in texts], np.int64)
    room = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(codes))  # characters from a place to its word's end
    weight = np.repeat(counts, lengths)
    places, group = np.arange(len(codes)), codes
    found: list[tuple[np.ndarray, np.ndarray, int]] = []  # a place of each substring, its value, its length
    for length in range(2, longest + 1):
        more = room[places] >= length
        places, group = places[more], group[more]
        if not len(places):
            break
        keys = group * 0x110000 + codes[places + length - 1]
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        times = np.bincount(group, weights=weight[places])
        frequent = times >= 2
        found.append((places[first[frequent]], times[frequent] * length, length))
        more = frequent[group]
        places, group = places[more], group[more]
    best = [
        (value, joined[place : place + length])
        for starts, values, length in found
        for place, value in zip(starts.tolist(), values.tolist(), strict=True)
    ]
    best.sort(key=lambda item: (-item[0], item[1]))
    return {piece: value for value, piece in best[: most + len(never)] if piece not in never}


def maximise(expected: np.ndarray, bayesian: bool = True) -> np.ndarray:
    """The M-step: expected counts c -> scores; log(c / sum c), or digamma(c) - digamma(sum c), the Bayesian EM's.

    The latter takes about half a count from each piece, which costs frequent ones little and rare ones much.
    Source: Liang and Klein 2007, "Structured Bayesian Nonparametric Models with Variational Inference", section 3.
    """
    if bayesian:
        return digamma(expected) - digamma(expected.sum())
    with np.errstate(divide="ignore"):  # a piece that is never used has probability 0
        return np.log(expected) - math.log(expected.sum())


def digamma(x: np.ndarray) -> np.ndarray:
    """The derivative of log Gamma, for x > 0: moved up to x + 6 by its recurrence, then its asymptotic series.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 6.3.5 and 6.3.18.
    """
    x = np.asarray(x, np.float64)
    below = sum(1 / (x + k) for k in range(6))
    x = x + 6
    y = 1 / (x * x)
    return np.log(x) - 0.5 / x - y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132)))) - below


def losses(corpus: Lattices, itself: Lattices, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What the log-likelihood of the best spellings loses without each piece, the rest taking its place: (P,), nats.

    A piece seen F times is log(F / S) apart, S being the sum of all; without it each piece j of its own best spelling
    is seen F times more and the sum is S + F (k - 1), with k pieces in it. Infinite for a piece that no others spell.
    """
    seen = np.zeros(len(scores))
    for words, pieces in corpus.best_paths(scores):
        seen += np.bincount(pieces, weights=counts[words], minlength=len(scores))
    total = seen.sum()
    instead, parts = np.zeros(len(scores)), np.zeros(len(scores))
    for owners, pieces in itself.best_paths(scores):
        with np.errstate(divide="ignore"):  # a piece that is not seen loses nothing, whatever stands here
            instead[owners] += np.log(seen[pieces] + seen[owners])
        parts[owners] += 1
    loss = np.where(parts > 0, 0.0, np.inf)
    used = (seen > 0) & (parts > 0)
    f, k = seen[used], parts[used]
    loss[used] = f * (np.log(f / total) - instead[used] + k * np.log(total + f * (k - 1)))
    return loss
