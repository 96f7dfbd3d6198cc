"""Words and marks, without the spaces between them: the simplest tokenizer of words."""

import re
from collections.abc import Iterable
from typing import Any

from tinygrad_llm.text.base import Tokenizer, register

SPLIT = re.compile(r"""([,.:;?_!"()']|--|\s)""")
SPACE_BEFORE_A_MARK = re.compile(r"""\s+([,.:;?!"()'])""")
SPECIAL_TOKENS = ("[BOS]", "[EOS]", "[PAD]", "[UNK]")


@register
class SimpleTokenizer(Tokenizer):
    """One id a word or mark; a word outside the vocabulary becomes the special token `unknown`.

    words: the vocabulary, whose ids follow the sorted words; the special tokens come after them, in their order.
    unknown: one of the special tokens, or None to refuse a word that is not in the vocabulary.

    What is between words is not kept and decoding puts a space there, none before a mark: decode(encode(text)) is
    `text` only if it is written that way and holds no unknown word. Its ids are the same as the text's in any case.
    `WordTokenizer` gives back every text.

    Raises: ValueError for an empty, repeated or split word, or an `unknown` that is no special token.
    Source: Raschka 2024, "Build a Large Language Model (From Scratch)", section 2.4.
    """

    name = "simple"

    def __init__(
        self, words: Iterable[str], *, special_tokens: Iterable[str] = SPECIAL_TOKENS, unknown: str | None = "[UNK]"
    ) -> None:
        self.words = sorted(words)
        self.special_tokens = {token: len(self.words) + i for i, token in enumerate(special_tokens)}
        self.unknown = unknown
        self.vocab_size = len(self.words) + len(self.special_tokens)
        self._ids = {word: i for i, word in enumerate(self.words)}
        self._names = [*self.words, *self.special_tokens]
        for word in self.words:
            if _split(word) != [word]:
                raise ValueError(f"simple tokenizer: {word!r} is no single word or mark")
        if len(set(self._names)) != self.vocab_size or "" in self.special_tokens or not self._names:
            raise ValueError("simple tokenizer: there must be words or special tokens, each of them once, none empty")
        if unknown is not None and unknown not in self.special_tokens:
            raise ValueError(f"simple tokenizer: unknown={unknown!r} is none of the special tokens; give it, or None")

    @classmethod
    def build(cls, text: str) -> "SimpleTokenizer":
        """The tokenizer of the words and marks of `text`."""
        return cls({word for word in _split(text) if word not in SPECIAL_TOKENS})

    def encode_ordinary(self, text: str) -> list[int]:
        """Text -> ids, one a word or mark.

        Raises: ValueError naming the first word outside the vocabulary, if there is no token for it.
        """
        words = _split(text)
        if self.unknown is not None:
            other = self.special_tokens[self.unknown]
            return [self._ids.get(word, other) for word in words]
        try:
            return [self._ids[word] for word in words]
        except KeyError as error:
            raise ValueError(
                f"simple tokenizer: {error.args[0]!r} is not among the {len(self.words)} words of the vocabulary; "
                f"build the tokenizer from a text that has it, or with a special token for unknown words"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text: a space between words, none before a mark."""
        return SPACE_BEFORE_A_MARK.sub(r"\1", " ".join([self._names[i] for i in self.check_ids(ids)]))

    def to_dict(self) -> dict[str, Any]:
        """Words, special tokens, and which of them stands for unknown words."""
        return {"words": self.words, "special_tokens": list(self.special_tokens), "unknown": self.unknown}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "SimpleTokenizer":
        """The tokenizer with this vocabulary."""
        words, special, unknown = fields.get("words"), fields.get("special_tokens"), fields.get("unknown")
        for name, value in (("words", words), ("special_tokens", special)):
            if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
                raise ValueError(f'simple tokenizer: "{name}" must be a list of strings')
        if unknown is not None and not isinstance(unknown, str):
            raise ValueError(f'simple tokenizer: "unknown" must be a string or null, found {unknown!r}')
        assert words is not None and special is not None
        return cls(words, special_tokens=special, unknown=unknown)


def _split(text: str) -> list[str]:
    return [word for part in SPLIT.split(text) if (word := part.strip())]
