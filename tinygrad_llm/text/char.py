"""The simplest tokenizer: one id per character."""

from collections.abc import Iterable
from typing import Any

from tinygrad_llm.text.base import Tokenizer, register


@register
class CharTokenizer(Tokenizer):
    """One id per character; the ids follow the sorted characters.

    Raises: ValueError when there is no character, or one twice.
    """

    name = "char"

    def __init__(self, characters: str) -> None:
        if not characters:
            raise ValueError("char tokenizer: there must be at least one character")
        if len(set(characters)) != len(characters):
            twice = next(c for c in characters if characters.count(c) > 1)
            raise ValueError(f"char tokenizer: character {twice!r} stands more than once in the vocabulary")
        self.characters = "".join(sorted(characters))
        self.vocab_size = len(self.characters)
        self._ids = {c: i for i, c in enumerate(self.characters)}

    @classmethod
    def build(cls, text: str) -> "CharTokenizer":
        """The tokenizer whose vocabulary is the characters of `text`."""
        return cls("".join(set(text)))

    def encode_ordinary(self, text: str) -> list[int]:
        """Text -> ids, one per character.

        Raises: ValueError naming the first character outside the vocabulary and its position.
        """
        ids = self._ids
        try:
            return [ids[c] for c in text]
        except KeyError as error:
            c = error.args[0]
            raise ValueError(
                f"char tokenizer: character {c!r} (U+{ord(c):04X}) at position {text.index(c)} is not among the "
                f"{self.vocab_size} characters of the vocabulary; build the tokenizer from a text that has it"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text."""
        return "".join([self.characters[i] for i in self.check_ids(ids)])

    def to_dict(self) -> dict[str, Any]:
        """The vocabulary as one string."""
        return {"characters": self.characters}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "CharTokenizer":
        """The tokenizer with this vocabulary."""
        characters = fields.get("characters")
        if not isinstance(characters, str):
            raise ValueError(f'char tokenizer: "characters" must be a string, found {characters!r}')
        return cls(characters)
