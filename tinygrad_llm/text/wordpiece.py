"""WordPiece: a word is spelled with the longest pieces there are, from its start to its end."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from tinygrad_llm.text.base import register
from tinygrad_llm.text.bytelevel import to_printable
from tinygrad_llm.text.huggingface import model_of, option
from tinygrad_llm.text.loading import reads_model
from tinygrad_llm.text.pipeline import Pipeline, lossless_bytes
from tinygrad_llm.text.sources import Source, texts
from tinygrad_llm.text.subword import SubwordTokenizer, pipeline_of, special_tokens_of, subword_settings
from tinygrad_llm.text.wordpiece_training import count_words, learn

PREFIX = "##"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NO_LIMIT = 2**31 - 1  # characters a word

# The bytes that UTF-8 is made of: any of them may go on with a word, and those that go on with a character start none.
_LATER = [*range(0xC0), *range(0xC2, 0xF5)]
_FIRST = [b for b in _LATER if not 0x80 <= b < 0xC0]
BYTES = [*to_printable(bytes(_FIRST)), *(PREFIX + c for c in to_printable(bytes(_LATER)))]


def longest(pieces: Iterable[str]) -> int:
    """The length of the longest piece, 0 when there is none."""
    return max(map(len, pieces), default=0)


@register
class WordPieceTokenizer(SubwordTokenizer):
    """Pieces that start a word, and pieces "##x" that go on with one; greedy, longest first.

    One that is trained here spells words in bytes, with the space before them: every text comes back whole and [UNK]
    never arises. One from elsewhere, such as BERT's, does as its file says: white space, and case and accents where
    they are normalized, are lost, and a word that cannot be spelled is [UNK].

    pieces: in the order of their ids, special tokens among them. unknown: the piece for what cannot be spelled.
    longest_word: characters; a longer word is unknown.

    Source: Schuster and Nakajima 2012, "Japanese and Korean Voice Search"; Devlin et al. 2018, "BERT", section 3.
    """

    name = "wordpiece"

    def __init__(
        self,
        pieces: Sequence[str],
        special_tokens: Iterable[str] = (),
        pipeline: Pipeline | None = None,
        *,
        unknown: str = "[UNK]",
        prefix: str = PREFIX,
        longest_word: int = NO_LIMIT,
    ) -> None:
        super().__init__(pieces, special_tokens, pipeline or lossless_bytes())
        self.unknown, self.prefix, self.longest_word = unknown, prefix, longest_word
        self._first = {piece: i for piece, i in self.ids.items() if piece and piece not in self.special_tokens}
        self._later = {
            piece[len(prefix) :]: i
            for piece, i in self._first.items()
            if piece.startswith(prefix) and len(piece) > len(prefix)
        }
        self._longest_first, self._longest_later = longest(self._first), longest(self._later)

    @classmethod
    def train(
        cls,
        source: Source,
        vocab_size: int,
        *,
        special_tokens: Iterable[str] = SPECIAL_TOKENS,
        pipeline: Pipeline | None = None,
        criterion: Literal["likelihood", "frequency"] = "likelihood",
        min_count: int = 2,
    ) -> "WordPieceTokenizer":
        """Learn pieces from a source: a path, or an iterable of texts (str) and files (Path).

        Starting from bytes (from the characters of the texts with another pipeline than the default, such as
        `bert_words()`), two neighbouring pieces become a new one, again and again: those that raise the likelihood
        of the texts most, or the most frequent pair, as `wordpiece_training` says. Pairs that occur fewer than
        min_count times are left; so the vocabulary of a small text is smaller than vocab_size.

        Raises: ValueError when vocab_size has no room for the special tokens and the first pieces.
        """
        vocab_size, special_tokens = subword_settings("WordPieceTokenizer.train", vocab_size, special_tokens)
        own = pipeline is None
        pipeline = pipeline or lossless_bytes()
        words = count_words(texts(source), pipeline)
        first = BYTES if own else _characters(words)
        least = len(special_tokens) + len(first)
        if vocab_size < least:
            raise ValueError(
                f"WordPieceTokenizer.train: vocab_size {vocab_size} must be at least {least}: "
                f"{len(special_tokens)} special tokens and {len(first)} pieces to begin with"
            )
        room = vocab_size - len(special_tokens)
        pieces = learn(words, room, first, PREFIX, criterion, min_count, set(special_tokens))
        return cls([*special_tokens, *pieces], special_tokens, pipeline, longest_word=NO_LIMIT if own else 100)

    def spell(self, word: str) -> list[int]:
        """The ids of one word: the longest piece that it starts with, then the longest "##" piece, to its end."""
        found: list[int] = []
        table, most, start = self._first, self._longest_first, 0
        while start < len(word) <= self.longest_word:
            for end in range(min(len(word), start + most), start, -1):
                if (i := table.get(word[start:end])) is not None:
                    break
            else:
                break
            found.append(i)
            table, most, start = self._later, self._longest_later, end
        if start < len(word):
            if self.unknown not in self.ids:
                raise ValueError(
                    f"wordpiece tokenizer: no pieces spell {word!r:.80}, and there is no {self.unknown!r:.80}"
                )
            return [self.ids[self.unknown]]
        return found

    def model_fields(self) -> dict[str, Any]:
        """The object "model" of `tokenizer.json`."""
        return {
            "type": "WordPiece",
            "unk_token": self.unknown,
            "continuing_subword_prefix": self.prefix,
            "max_input_chars_per_word": self.longest_word,
            "vocab": self.ids,
        }

    def to_huggingface(self) -> dict[str, Any]:
        """The JSON object of `tokenizer.json`, with [CLS] before and [SEP] after a text when there are both."""
        fields = super().to_huggingface()
        if {"[CLS]", "[SEP]"} <= set(self.special_tokens):
            ids = {token: self.special_tokens[token] for token in ("[CLS]", "[SEP]")}
            fields["post_processor"] = {
                "type": "BertProcessing",
                "sep": ["[SEP]", ids["[SEP]"]],
                "cls": ["[CLS]", ids["[CLS]"]],
            }
        return fields

    @classmethod
    def from_huggingface(cls, fields: dict[str, Any]) -> "WordPieceTokenizer":
        """The tokenizer that a `tokenizer.json` with a WordPiece model describes. Raises: ValueError."""
        model = model_of(fields, "WordPiece")
        vocabulary = option(model, "vocab", dict)
        pieces: list[str | None] = [None] * len(vocabulary)
        for piece, i in vocabulary.items():
            if type(i) is not int or not 0 <= i < len(pieces) or pieces[i] is not None:
                ids = f"0 to {len(pieces) - 1}"
                raise ValueError(f"WordPiece: ids must be {ids}, each once; {piece!r:.80} has {i!r:.80}")
            pieces[i] = piece
        special, following = special_tokens_of(fields, list(vocabulary))
        limit = option(model, "max_input_chars_per_word", int, 100)
        if limit < 0:
            raise ValueError(f'WordPiece: "max_input_chars_per_word" {limit} must be at least 0')
        return cls(
            [*pieces, *following],  # type: ignore[list-item]
            special,
            pipeline_of(fields),
            unknown=option(model, "unk_token", str),
            prefix=option(model, "continuing_subword_prefix", str),
            longest_word=limit,
        )


def _characters(words: Iterable[str]) -> list[str]:
    """The characters that words have, in order; then those that go on with one, with the prefix."""
    first: set[str] = set()
    later: set[str] = set()
    for word in words:
        first.update(word)
        later.update(word[1:])
    return sorted(first) + [PREFIX + c for c in sorted(later)]


reads_model("WordPiece", WordPieceTokenizer.from_huggingface)
