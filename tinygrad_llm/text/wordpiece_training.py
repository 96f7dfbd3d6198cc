"""How WordPiece finds its pieces: two neighbours become one, and it is chosen by what the texts gain.

The likelihood criterion. Let the texts be a sequence of N pieces, drawn on their own, c(a) of them a. At the
frequencies that fit best their log-likelihood is sum_a f(c(a)) - f(N) with f(x) = x log x. Joining n neighbours ab
takes n from c(a), from c(b) and from N and adds a piece that is there n times, so the gain is

    f(n) + f(c(a) - n) - f(c(a)) + f(c(b) - n) - f(c(b)) + f(N) - f(N - n)

which for rare n is about n log(n N / (c(a) c(b))): the ratio n / (c(a) c(b)) that WordPiece is known by, weighted by
how often it is of use. The frequency criterion is n alone, that of Hugging Face's trainer (and of BPE).

Tie rule: of equal gains the pair with the smaller id on the left, then on the right.

Source: Schuster and Nakajima 2012, "Japanese and Korean Voice Search", section 4.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from itertools import pairwise

import numpy as np

from tinygrad_llm.text.pipeline import Pipeline

Pair = tuple[int, int]

MOST_CHARACTERS = 2**25  # of different words: spelled in pieces they take a hundred times that in bytes


def count_words(texts: Iterable[str], pipeline: Pipeline) -> Counter[str]:
    """How often each word of the texts occurs.

    Raises: ValueError for a text with a lone surrogate, for no words, or for more different ones than memory holds.
    """
    words: Counter[str] = Counter()
    read = 0
    for text in texts:
        words.update(pipeline.words(text))
        read += len(text)
        if read > MOST_CHARACTERS and sum(map(len, words)) > MOST_CHARACTERS:
            raise ValueError(
                f"the different words have more than {MOST_CHARACTERS:,} characters, as those of a text without spaces "
                f"do; train on a part of the text"
            )
        read %= MOST_CHARACTERS
    if not words:
        raise ValueError("the source holds no text; give one to learn from")
    return words


def learn(
    words: Mapping[str, int],
    size: int,
    first: list[str],
    prefix: str,
    criterion: str,
    min_count: int,
    never: Set[str] = frozenset(),
) -> list[str]:
    """The pieces `first`, which can spell each word, and those that joining adds, up to `size` in all.

    never: what may not become a piece. Raises: ValueError for a criterion or a min_count that is none.
    """
    if criterion not in ("likelihood", "frequency"):
        raise ValueError(f'WordPiece: criterion {criterion!r} must be "likelihood" or "frequency"')
    if min_count < 1:
        raise ValueError(f"WordPiece: min_count {min_count} must be at least 1")
    pieces = list(first)
    ids = {piece: i for i, piece in enumerate(pieces)}
    spelled = [[ids[word[0]], *(ids[prefix + c] for c in word[1:])] for word in words]
    most = min(size, len(pieces) + sum(map(len, spelled)))  # each join makes the words shorter
    state = Neighbours(spelled, list(words.values()), most)
    while len(pieces) < size and (pair := state.best(criterion, min_count)):
        joined = pieces[pair[0]] + pieces[pair[1]].removeprefix(prefix)
        if joined in never:
            state.forbid(pair)
            continue
        if joined not in ids:
            ids[joined] = len(pieces)
            pieces.append(joined)
        state.join(pair, ids[joined])
    return pieces


class Neighbours:
    """Spelled words, and how often each pair of neighbours stands in them, kept up to date as pairs are joined.

    Pairs have rows in arrays, so that one NumPy expression weighs them all. Each knows the words where it has stood;
    only those are spelled anew when it is joined.
    """

    def __init__(self, spelled: list[list[int]], counts: list[int], size: int) -> None:
        self.spelled, self.counts = spelled, counts
        self.pieces = np.zeros(size, np.int64)  # how often each piece stands in the words
        self.rows: dict[Pair, int] = {}
        self.left, self.right, self.count = (np.zeros(1024, np.int64) for _ in range(3))
        self.where: list[list[int]] = []
        self._least = 0.0
        found: defaultdict[Pair, int] = defaultdict(int)
        for w, (word, times) in enumerate(zip(spelled, counts, strict=True)):
            for piece in word:
                self.pieces[piece] += times
            for pair in pairwise(word):
                found[pair] += times
                self._stands(pair, w)
        for pair, times in found.items():
            self.count[self.rows[pair]] = times

    def _stands(self, pair: Pair, word: int) -> None:
        """Note that a pair stands in a word."""
        row = self.rows.get(pair)
        if row is None:
            row = self.rows[pair] = len(self.where)
            self.where.append([])
            if row == len(self.count):
                self.left, self.right, self.count = (
                    np.concatenate([a, np.zeros_like(a)]) for a in (self.left, self.right, self.count)
                )
            self.left[row], self.right[row] = pair
        self.where[row].append(word)

    def best(self, criterion: str, min_count: int) -> Pair | None:
        """The pair to join next; None when no pair that is left occurs min_count times."""
        if criterion == "frequency":
            rows = np.flatnonzero(self.count == max(self.count.max(), min_count))
        else:
            rows = self._most_likely(min_count)
        if not len(rows):
            return None
        row = rows[np.lexsort((self.right[rows], self.left[rows]))[0]]
        return int(self.left[row]), int(self.right[row])

    def _most_likely(self, min_count: int) -> np.ndarray:
        """The rows of the pairs with the highest gain.

        A pair that occurs n times gains at most n (log(N / n) + 1), as it does where its pieces stand nowhere else.
        So the frequent ones are weighed first, and the rest only when one of them could gain more.
        """
        total = int(self.pieces.sum())
        enough = max(min_count, int(self._least))
        while True:
            rows = np.flatnonzero(self.count >= enough)
            gains = self.gains(rows, total)
            top = gains.max(initial=0.0)
            if enough == min_count or (top > 0 and top >= (enough - 1) * (np.log(total / (enough - 1)) + 1)):
                break
            enough = max(min_count, enough // 2)
        if top == 0:
            return rows[:0]
        fewest = top / (np.log(total) + 1)  # no rarer pair can gain as much, nor can one below the next line
        self._least = 0.9 * top / (np.log(total / fewest) + 1)
        return rows[gains == top]

    def gains(self, rows: np.ndarray, total: int) -> np.ndarray:
        """What the log-likelihood gains when each of the pairs becomes a piece: (R,) -> (R,), nats."""
        n, a, b = self.count[rows], self.left[rows], self.right[rows]
        ca, cb = self.pieces[a], self.pieces[b]
        apart = _f(ca - n) - _f(ca) + _f(cb - n) - _f(cb)
        twice = _f(np.maximum(ca - 2 * n, 0)) - _f(ca)  # a piece beside itself
        return _f(n) + np.where(a == b, twice, apart) + _f(total) - _f(total - n)

    def forbid(self, pair: Pair) -> None:
        """Never join this pair."""
        self.count[self.rows[pair]] = np.iinfo(np.int64).min // 2

    def join(self, pair: Pair, piece: int) -> None:
        """Make each occurrence of the pair the piece."""
        row = self.rows[pair]
        change: defaultdict[Pair, int] = defaultdict(int)
        gone = 0
        for w in dict.fromkeys(self.where[row]):
            old = self.spelled[w]
            new = joined(old, pair, piece)
            if len(new) == len(old):
                continue  # another join has taken the pair away
            times = self.counts[w]
            for neighbours in pairwise(old):
                change[neighbours] -= times
            for neighbours in pairwise(new):
                change[neighbours] += times
                if piece in neighbours:
                    self._stands(neighbours, w)
            gone += (len(old) - len(new)) * times
            self.spelled[w] = new
        self.where[row] = []
        self.pieces[[*pair]] -= gone  # a piece beside itself goes twice
        if pair[0] == pair[1]:
            self.pieces[pair[0]] -= gone
        self.pieces[piece] += gone
        for neighbours, times in change.items():
            self.count[self.rows[neighbours]] += times


def joined(word: list[int], pair: Pair, piece: int) -> list[int]:
    """The word with each occurrence of the pair, from the left, made the piece."""
    a, b = pair
    new, i, last = [], 0, len(word) - 1
    while i <= last:
        if word[i] == a and i < last and word[i + 1] == b:
            new.append(piece)
            i += 2
        else:
            new.append(word[i])
            i += 1
    return new


def _f(x: np.ndarray | int) -> np.ndarray:
    """x log x, 0 at 0."""
    x = np.asarray(x, np.float64)
    return x * np.log(np.maximum(x, 1.0))
