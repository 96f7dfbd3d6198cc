"""The unigram model: a text is pieces drawn on their own, and is spelled with the likeliest ones."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tinygrad_llm.random import Generator, default_generator
from tinygrad_llm.text import unigram_lattice
from tinygrad_llm.text.base import register
from tinygrad_llm.text.huggingface import model_of, option
from tinygrad_llm.text.loading import reads_model
from tinygrad_llm.text.pipeline import Pipeline, byte_token, lossless_words
from tinygrad_llm.text.sources import Source, texts
from tinygrad_llm.text.subword import SubwordTokenizer, pipeline_of, special_tokens_of, subword_settings
from tinygrad_llm.text.unigram_lattice import Edge, Lattice
from tinygrad_llm.text.unigram_training import learn
from tinygrad_llm.text.wordpiece_training import count_words

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
BYTE_TOKENS = [byte_token(b) for b in range(256)]
UNKNOWN_PENALTY = 10.0  # nats that an unknown character costs beyond the rarest piece
HIGHEST_SCORE = 10**9
DIGITS = 9  # of a score after the point, so that every reader of JSON reads the same number


@register
class UnigramTokenizer(SubwordTokenizer):
    """Pieces with log-probabilities; a word is spelled so that their sum is highest.

    One that is trained here has words with the space before them, and spells a character that it does not know in
    bytes: every text comes back whole. One from elsewhere does as its file says.

    pieces: with their scores (natural log-probabilities), in the order of their ids, special tokens and byte tokens
    "<0x..>" among them. unknown: the piece for characters that are no piece and cannot be spelled in bytes.

    Source: Kudo 2018, "Subword Regularization", section 3.
    """

    name = "unigram"

    def __init__(
        self,
        pieces: Sequence[tuple[str, float]],
        special_tokens: Iterable[str] = SPECIAL_TOKENS,
        pipeline: Pipeline | None = None,
        *,
        unknown: str | None = "<unk>",
        byte_fallback: bool = True,
    ) -> None:
        super().__init__([piece for piece, _ in pieces], special_tokens, pipeline or lossless_words())
        if not all(abs(score) < HIGHEST_SCORE for _, score in pieces):
            raise ValueError(f"unigram tokenizer: each score must lie between -{HIGHEST_SCORE} and {HIGHEST_SCORE}")
        self.scores = [float(score) for _, score in pieces]
        if unknown is not None and unknown not in self.ids:
            raise ValueError(f"unigram tokenizer: the unknown piece {unknown!r:.80} is not in the vocabulary")
        self.unknown, self.byte_fallback = unknown, byte_fallback
        self._bytes = [self.ids.get(token, -1) for token in BYTE_TOKENS]
        self._spelling = {piece: i for piece, i in self.ids.items() if piece and piece not in self.special_tokens}
        self._longest = max(map(len, self._spelling), default=1)
        self._unknown_score = min(self.scores, default=0.0) - UNKNOWN_PENALTY

    @classmethod
    def train(
        cls,
        source: Source,
        vocab_size: int,
        *,
        special_tokens: Iterable[str] = SPECIAL_TOKENS,
        pipeline: Pipeline | None = None,
        coverage: float = 0.9995,
        **options: Any,
    ) -> "UnigramTokenizer":
        """Learn pieces from a source: a path, or an iterable of texts (str) and files (Path).

        The vocabulary holds the special tokens, 256 byte tokens, the most frequent characters that make up the share
        `coverage` of the texts, and pieces that `unigram_training.learn` finds, which takes the other options. It is
        smaller than vocab_size where the texts hold too few pieces that repeat.

        Raises: ValueError when vocab_size has no room for special tokens, bytes and characters.
        """
        where = "UnigramTokenizer.train"
        vocab_size, special_tokens = subword_settings(where, vocab_size, special_tokens)
        if "<unk>" not in special_tokens:
            raise ValueError(f'{where}: special_tokens must have "<unk>", for characters that are no piece')
        if not 0 < coverage <= 1:
            raise ValueError(f"{where}: coverage {coverage} must be in (0, 1]")
        pipeline = pipeline or lossless_words()
        words = count_words(texts(source), pipeline)
        fixed = [*special_tokens, *BYTE_TOKENS]
        learned = learn(words, vocab_size - len(fixed), coverage=coverage, never=frozenset(fixed), **options)
        scores = {piece: round(score, DIGITS) for piece, score in learned.items()}
        rarest = min(scores.values(), default=0.0)
        pieces = [(token, 0.0) for token in special_tokens] + [(token, rarest) for token in BYTE_TOKENS]
        return cls([*pieces, *sorted(scores.items(), key=lambda item: (-item[1], item[0]))], special_tokens, pipeline)

    def _lattice(self, word: str) -> Lattice:
        unknown = -1 if self.unknown is None else self.ids[self.unknown]
        return unigram_lattice.lattice(word, self._spelling, self.scores, self._longest, unknown, self._unknown_score)

    def spell(self, word: str) -> list[int]:
        """The ids of one word: the path of its lattice with the highest sum of scores.

        Tie rule: of equal sums the one whose last piece is longest, and so on from the end to the start.
        """
        return self._ids(word, unigram_lattice.best(self._lattice(word)))

    def _ids(self, word: str, path: list[Edge]) -> list[int]:
        """The ids of a path; unknown characters in a row are one piece, spelled in bytes where there are bytes."""
        unknown = -1 if self.unknown is None else self.ids[self.unknown]
        found: list[int] = []
        start = 0  # of the unknown characters that have not been spelled yet
        for at, i, _ in path:
            if i == unknown:
                continue
            found += self._unknown_ids(word[start:at]) if start < at else ()
            found.append(i)
            start = at + len(self.pieces[i])
        return found + self._unknown_ids(word[start:]) if start < len(word) else found

    def _unknown_ids(self, text: str) -> list[int]:
        if self.byte_fallback and min(spelled := [self._bytes[b] for b in text.encode()]) >= 0:
            return spelled
        if self.unknown is None:
            raise ValueError(f"unigram tokenizer: no pieces spell {text!r:.80}, and there is no unknown piece")
        return [self.ids[self.unknown]]

    def sample(self, text: str, alpha: float = 0.1, generator: Generator | None = None) -> list[int]:
        """Ids of the text, spelled at random: a way to spell a word has a probability proportional to exp(alpha score).

        At alpha 1 that is the model's own posterior; towards 0 all ways become alike, as it grows `encode` is what is
        left. Special tokens are ordinary text. generator: the project's default one when None.

        Raises: ValueError for an alpha that is negative or not finite; as `encode_ordinary`.
        Source: Kudo 2018, section 3.2; Scott 2002, "Bayesian Methods for Hidden Markov Models", section 2.1.2.
        """
        if not 0 <= alpha < math.inf:
            raise ValueError(f"unigram tokenizer: alpha {alpha} must be at least 0 and finite")
        stream = generator or default_generator

        def uniform() -> float:
            return float(stream.uniform((1,), "float64")[0])

        found: list[int] = []
        for word in self.pipeline.words(text):
            found += self._ids(word, unigram_lattice.draw(self._lattice(word), alpha, uniform))
        return found

    def nbest(self, text: str, n: int) -> list[tuple[list[int], float]]:
        """The n likeliest ways to spell a text (or all there are) and their log-probabilities, likeliest first.

        Raises: ValueError for n below 1; as `encode_ordinary`.
        """
        if n < 1:
            raise ValueError(f"unigram tokenizer: n {n} must be at least 1")
        ways: list[tuple[float, list[int]]] = [(0.0, [])]
        for word in self.pipeline.words(text):
            following = unigram_lattice.n_best(self._lattice(word), n)
            both = [(a + b, ids + self._ids(word, path)) for a, ids in ways for b, path in following]
            ways = sorted(both, key=lambda way: -way[0])[:n]
        return [(ids, total) for total, ids in ways]

    def log_probability(self, ids: Iterable[int]) -> float:
        """The sum of the scores of ids, in nats; special tokens add nothing. Raises: ValueError for an id outside."""
        special = set(self.special_tokens.values())
        return math.fsum(self.scores[i] for i in self.check_ids(ids) if i not in special)

    def model_fields(self) -> dict[str, Any]:
        """The object "model" of `tokenizer.json`."""
        return {
            "type": "Unigram",
            "unk_id": None if self.unknown is None else self.ids[self.unknown],
            "vocab": [[piece, score] for piece, score in zip(self.pieces, self.scores, strict=True)],
            "byte_fallback": self.byte_fallback,
        }

    @classmethod
    def from_huggingface(cls, fields: dict[str, Any]) -> "UnigramTokenizer":
        """The tokenizer that a `tokenizer.json` with a Unigram model describes. Raises: ValueError."""
        model = model_of(fields, "Unigram")
        pieces = []
        for entry in option(model, "vocab", list):
            if not isinstance(entry, list) or [type(part) for part in entry] not in ([str, float], [str, int]):
                raise ValueError(f"Unigram: each entry of the vocabulary is a piece and its score, found {entry!r:.80}")
            pieces.append((entry[0], entry[1]))
        unknown = option(model, "unk_id", (int, type(None)))
        if unknown is not None and not 0 <= unknown < len(pieces):
            raise ValueError(f'Unigram: "unk_id" {unknown} is outside the vocabulary of {len(pieces)} pieces')
        special, following = special_tokens_of(fields, [piece for piece, _ in pieces])
        return cls(
            [*pieces, *((token, 0.0) for token in following)],
            special,
            pipeline_of(fields),
            unknown=None if unknown is None else pieces[unknown][0],
            byte_fallback=option(model, "byte_fallback", bool, False),
        )


reads_model("Unigram", UnigramTokenizer.from_huggingface)
