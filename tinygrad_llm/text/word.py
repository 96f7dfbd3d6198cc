"""One id per word, with the space before it; what is rare is spelled."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tinygrad_llm.text.base import Tokenizer, register

PIECE = re.compile(r" ?\w+(?:['’]\w+)*| ?[^\w\s]|\s")  # a word, a mark, each with a space before it, or white space
MOST_PIECES = 8192


@register
class WordTokenizer(Tokenizer):
    """Words and marks as they stand in the text, " little" and "Little" apart; so joining them gives the text back.

    The vocabulary holds every character of the text it was built from and its most frequent pieces, sorted. A piece
    outside it is spelled with its characters, so decode(encode(text)) == text for every text whose characters the
    vocabulary has; another character is refused. `SimpleTokenizer` has a token for unknown words instead.

    Raises: ValueError when there is no piece, or one twice, or an empty one.
    """

    name = "word"

    def __init__(self, pieces: Iterable[str]) -> None:
        self.pieces = sorted(pieces)
        if not self.pieces or not self.pieces[0]:
            raise ValueError("word tokenizer: there must be at least one piece, and none may be empty")
        for piece, following in zip(self.pieces, self.pieces[1:], strict=False):
            if piece == following:
                raise ValueError(f"word tokenizer: piece {piece!r} stands more than once in the vocabulary")
        self.vocab_size = len(self.pieces)
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}

    @classmethod
    def build(cls, text: str, most: int = MOST_PIECES) -> "WordTokenizer":
        """The tokenizer of the characters of `text` and its most frequent pieces, up to `most` in all."""
        characters = set(text)
        counts = Counter(piece for piece in PIECE.findall(text) if len(piece) > 1)
        frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))
        return cls([*characters, *frequent[: max(0, most - len(characters))]])

    def encode_ordinary(self, text: str) -> list[int]:
        """Text -> ids, one per known piece, and one per character of the others.

        Raises: ValueError naming the first character outside the vocabulary and its position.
        """
        ids, found = self._ids, []
        for match in PIECE.finditer(text):
            piece = match.group()
            if piece in ids:
                found.append(ids[piece])
            else:
                found.extend(self._spell(piece, match.start()))
        return found

    def _spell(self, piece: str, start: int) -> list[int]:
        for offset, c in enumerate(piece):
            if c not in self._ids:
                raise ValueError(
                    f"word tokenizer: character {c!r} (U+{ord(c):04X}) at position {start + offset} is not in the "
                    f"vocabulary of {self.vocab_size} pieces; build the tokenizer from a text that has it"
                )
        return [self._ids[c] for c in piece]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text."""
        return "".join([self.pieces[i] for i in self.check_ids(ids)])

    def to_dict(self) -> dict[str, Any]:
        """The vocabulary as a list of strings."""
        return {"pieces": self.pieces}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "WordTokenizer":
        """The tokenizer with this vocabulary."""
        pieces = fields.get("pieces")
        if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
            raise ValueError('word tokenizer: "pieces" must be a list of strings')
        return cls(pieces)
