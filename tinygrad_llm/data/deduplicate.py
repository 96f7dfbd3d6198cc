"""Steps of `clean` that remove what was there before: the same text, or nearly the same.

A text's n-grams are a set. Two texts are as near as their sets share, J = |A and B| / |A or B|. Hash all grams and keep
the least hash: two texts keep the same one with probability J, since it belongs to a gram chosen evenly from both. So
many hash functions make a signature, and the share of equal places in two signatures estimates J. To find near ones
without comparing all pairs, signatures are cut into bands: texts that agree on a whole band meet in a table.

Source: Broder, On the resemblance and containment of documents (1997); Indyk and Motwani, Approximate nearest neighbors
(1998); Lee et al., Deduplicating training data makes language models better (2022).
"""

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinygrad_llm.data.cleaning import Finding, Judge

RECALL = 0.99  # of the pairs that are just as near as the threshold, how many meet in a band
CHUNK = 16_384  # grams that are hashed at a time: 8 MB for 128 functions


def normalised(text: str) -> str:
    """The text in NFC, without case, each run of white space one space: what counts as the same."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


@dataclass(frozen=True)
class ExactDuplicates:
    """Removes a document whose normalised text was there before. It keeps 16 bytes for each that stays."""

    name: str = "exact duplicates"

    def start(self) -> Judge:
        """A judge that has seen no document."""
        first: dict[bytes, int] = {}

        def judge(index: int, text: str) -> Finding | None:
            key = hashlib.blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
            earlier = first.setdefault(key, index)
            return None if earlier == index else Finding(f"the text of document {earlier}", 1.0)

        return judge


@dataclass(frozen=True)
class NearDuplicates:
    """Removes a document that shares at least `threshold` of its n-grams with one that stayed before it.

    The grams are of n characters of the normalised text, so that languages without spaces have them too. The similarity
    is an estimate with a standard error of sqrt(J (1 - J) / permutations). Bands have as many rows as still find 99 %
    of the pairs at the threshold. It keeps 4 bytes a permutation for each document that stays, and its bands.

    Put it after the steps that remove documents for what they are: of two near ones, it keeps the first it sees.

    Raises: ValueError for a threshold outside 0..1 or numbers below 1.
    """

    threshold: float = 0.8
    n: int = 8
    permutations: int = 128
    seed: int = 0
    name: str = "near duplicates"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or self.n < 1 or self.permutations < 1:
            raise ValueError(
                f"NearDuplicates: threshold {self.threshold} must lie in 0..1, n {self.n} and permutations "
                f"{self.permutations} be at least 1"
            )

    def start(self) -> Judge:
        """A judge that has seen no document."""
        signature_of = MinHash(self.n, self.permutations, self.seed)
        stayed = _Signatures(self.permutations, band_rows(self.threshold, self.permutations))

        def judge(index: int, text: str) -> Finding | None:
            signature = signature_of(text)
            earlier, similarity = stayed.nearest(signature)
            if similarity >= self.threshold:
                return Finding(f"near document {earlier}", similarity)
            stayed.add(index, signature)
            return None

        return judge


class _Signatures:
    """The signatures of documents, and for each band a table from its hashes to those who have them there."""

    def __init__(self, permutations: int, rows: int) -> None:
        self.rows = rows
        self.tables: list[dict[bytes, list[int]]] = [{} for _ in range(permutations // rows)]
        self.documents: list[int] = []
        self.signatures = np.empty((64, permutations), np.uint32)  # one a document, and space for more

    def bands(self, signature: np.ndarray) -> Iterator[tuple[dict[bytes, list[int]], bytes]]:
        """Each band's table and what this signature has there."""
        for band, table in enumerate(self.tables):
            yield table, signature[band * self.rows : (band + 1) * self.rows].tobytes()

    def nearest(self, signature: np.ndarray) -> tuple[int, float]:
        """The document most similar to this one among those who share a band, and how much; (-1, 0.0) for none."""
        near = sorted({place for table, key in self.bands(signature) for place in table.get(key, ())})
        if not near:
            return -1, 0.0
        similar = (self.signatures[near] == signature).mean(axis=1)
        best = int(similar.argmax())
        return self.documents[near[best]], float(similar[best])

    def add(self, document: int, signature: np.ndarray) -> None:
        """Remember a document."""
        place = len(self.documents)
        if place == len(self.signatures):
            self.signatures = np.concatenate([self.signatures, np.empty_like(self.signatures)])
        self.signatures[place] = signature
        self.documents.append(document)
        for table, key in self.bands(signature):
            table.setdefault(key, []).append(place)


class MinHash:
    """The signature of a text: for each of P hash functions, the least hash of its n-grams, (P,) uint32.

    Function p of a gram x is the upper half of its 64-bit hash, h, sent through a_p h + b_p modulo 2^32. A text of
    fewer than n characters is one gram.
    """

    def __init__(self, n: int, permutations: int, seed: int = 0) -> None:
        self.n = n
        self.a, self.b = np.random.default_rng(seed).integers(2**32, size=(2, permutations, 1), dtype=np.uint32)
        self.a |= np.uint32(1)  # odd: a permutation of the 2^32 hashes

    def __call__(self, text: str) -> np.ndarray:
        text = normalised(text)
        least = np.full(len(self.a), 2**32 - 1, np.uint32)
        for start in range(0, max(min(1, len(text)), len(text) - self.n + 1), CHUNK):
            h = gram_hashes(text[start : start + CHUNK + self.n - 1], self.n)
            np.minimum(least, (self.a * h + self.b).min(axis=1), out=least)
        return least


def gram_hashes(text: str, n: int) -> np.ndarray:
    """A 32-bit hash of each different n-gram of characters, sorted."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    n = min(n, max(1, len(codes)))
    h = np.zeros(max(0, len(codes) - n + 1), np.uint64)
    for offset in range(n):  # a polynomial in the characters
        h = h * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + len(h)]
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return np.unique((h >> np.uint64(32)).astype(np.uint32))


def band_rows(threshold: float, permutations: int) -> int:
    """The most rows r a band for which 1 - (1 - J^r)^(P // r), the chance to meet, is RECALL at J = threshold."""
    rows = range(1, permutations + 1)
    return max((r for r in rows if 1 - (1 - threshold**r) ** (permutations // r) >= RECALL), default=1)
