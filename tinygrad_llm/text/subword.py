"""What WordPiece and Unigram share: pieces with ids, words that are spelled with them, and `tokenizer.json`."""

import json
import os
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

from tinygrad_llm.files import write_atomically
from tinygrad_llm.text.base import Trainable, training_settings
from tinygrad_llm.text.huggingface import added_tokens, option, tokenizer_json
from tinygrad_llm.text.pipeline import Pipeline, byte_of

LONGEST_KEPT = 64  # characters of a word whose ids are remembered
MOST_KEPT = 1 << 16  # words that are remembered


def subword_settings(where: str, vocab_size: int, special_tokens: Iterable[str]) -> tuple[int, list[str]]:
    """The settings of a training whose special tokens no word of a text can spell, and decode to themselves.

    Raises: as `training_settings`; ValueError naming a token that is not of two or more visible ASCII characters, or
    reserved.
    """
    size, tokens = training_settings(where, vocab_size, special_tokens)
    for token in tokens:
        if len(token) < 2 or not all("!" <= c <= "~" for c in token):
            raise ValueError(f"{where}: a special token is two or more visible ASCII characters, not {token!r:.80}")
        if token.startswith("##") or byte_of(token) is not None:
            raise ValueError(f"{where}: {token!r} cannot be a special token, pieces are written so")
    return size, tokens


class SubwordTokenizer(Trainable):
    """A vocabulary of pieces and a way to spell a word with them; the pipeline makes words of text, and text of pieces.

    A special token is never part of an ordinary word. Ids of short words are remembered, up to `MOST_KEPT` words.

    Raises: ValueError for a piece that is there twice, or a special token that is none of the pieces.
    """

    default_size = 4096

    def __init__(self, pieces: Sequence[str], special_tokens: Iterable[str], pipeline: Pipeline) -> None:
        self.pieces = list(pieces)
        self.vocab_size = len(self.pieces)
        self.pipeline = pipeline
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        if len(self.ids) < self.vocab_size:
            twice = next(piece for i, piece in enumerate(self.pieces) if self.ids[piece] != i)
            raise ValueError(f"{self.name} tokenizer: piece {twice!r:.80} stands more than once in the vocabulary")
        special_tokens = list(special_tokens)
        for token in special_tokens:
            if not token or token not in self.ids:
                raise ValueError(f"{self.name} tokenizer: special token {token!r:.80} is not in the vocabulary")
        self.special_tokens = {token: self.ids[token] for token in special_tokens}
        self._kept: dict[str, list[int]] = {}

    @abstractmethod
    def spell(self, word: str) -> list[int]:
        """The ids of one word as the pipeline gives it."""

    @abstractmethod
    def model_fields(self) -> dict[str, Any]:
        """The object "model" of `tokenizer.json`."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Text -> ids, in time proportional to its length.

        Raises: ValueError naming a lone surrogate and its position, or a word that cannot be spelled where there is
        no unknown token.
        """
        found: list[int] = []
        for word in self.pipeline.words(text):
            ids = self._kept.get(word)
            if ids is None:
                ids = self.spell(word)
                if len(word) <= LONGEST_KEPT:
                    if len(self._kept) >= MOST_KEPT:
                        self._kept.clear()
                    self._kept[word] = ids
            found += ids
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self.pipeline.join([self.pieces[i] for i in self.check_ids(ids)])

    def to_huggingface(self) -> dict[str, Any]:
        """The JSON object of Hugging Face's `tokenizer.json` for this tokenizer."""
        return tokenizer_json(self.model_fields(), self.special_tokens, **self.pipeline.fields)

    @classmethod
    @abstractmethod
    def from_huggingface(cls, fields: dict[str, Any]) -> Self:
        """The tokenizer that a `tokenizer.json` describes.

        What such a file says of truncation, padding and ids put around a text is left to the caller.

        Raises: ValueError for a file of another kind, or with a part that is not known here.
        """

    def save_huggingface(self, path: str | os.PathLike[str]) -> None:
        """Write a `tokenizer.json` for Hugging Face's reader."""
        write_atomically(path, (json.dumps(self.to_huggingface(), ensure_ascii=False, indent=1) + "\n").encode())

    def to_dict(self) -> dict[str, Any]:
        """The object of `tokenizer.json`."""
        return {"huggingface": self.to_huggingface()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The tokenizer of such an object."""
        return cls.from_huggingface(option(fields, "huggingface", dict))


def pipeline_of(fields: dict[str, Any]) -> Pipeline:
    """The steps around the model of a `tokenizer.json`."""
    return Pipeline(fields.get("normalizer"), fields.get("pre_tokenizer"), fields.get("decoder"))


def special_tokens_of(fields: dict[str, Any], pieces: list[str]) -> tuple[list[str], list[str]]:
    """The special tokens of a `tokenizer.json`, and those of them that follow the model's pieces.

    Raises: ValueError for one that is not special, eats white space, matches whole words or normalized text only, or
    has an id that is not its own.
    """
    known = {piece: i for i, piece in enumerate(pieces)}
    special, following = [], []
    for content, i in added_tokens(fields, special=True, normalized=False):
        if content not in known:
            known[content] = len(known)
            following.append(content)
        if known[content] != i:
            raise ValueError(f"tokenizer.json: added token {content!r:.80} has id {i}, expected {known[content]}")
        special.append(content)
    return special, following
