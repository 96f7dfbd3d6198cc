"""What every tokenizer is, and the table of their names."""

import json
import operator
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from tinygrad_llm.files import write_atomically
from tinygrad_llm.text.bytelevel import visible
from tinygrad_llm.text.sources import Source

VERSION = 1  # of the files that `save` writes


@lru_cache(maxsize=64)
def _pattern(tokens: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))  # longest first


def _any_of(tokens: Collection[str]) -> re.Pattern[str]:
    """A pattern that finds any of the tokens."""
    return _pattern(frozenset(tokens))


class Tokenizer(ABC):
    """A map from text to ids in [0, vocab_size) and back: decode(encode(text)) == text.

    A subclass gives `name`, the attribute `vocab_size`, `build`, `encode_ordinary`, `decode`, `to_dict` and
    `from_dict`. `special_tokens` maps each token with a meaning of its own, such as "<|endoftext|>", to its id.
    """

    name: ClassVar[str]
    vocab_size: int
    special_tokens: Mapping[str, int] = MappingProxyType({})

    @classmethod
    @abstractmethod
    def build(cls, text: str) -> "Tokenizer":
        """The tokenizer for this text: learned from it, or fixed whatever the text is."""

    @abstractmethod
    def encode_ordinary(self, text: str) -> list[int]:
        """Text -> ids, special tokens in it taken for ordinary text: a corpus cannot smuggle in an end of text."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text.

        Raises: ValueError naming the first id outside [0, vocab_size).
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Everything but the name that `from_dict` needs, as JSON values."""

    @classmethod
    @abstractmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Tokenizer":
        """The inverse of `to_dict`. Raises: ValueError for fields that do not make a tokenizer."""

    def encode(
        self,
        text: str,
        *,
        allowed_special: Collection[str] | Literal["all"] = (),
        disallowed_special: Collection[str] | Literal["all"] = "all",
    ) -> list[int]:
        """Text -> ids. What happens to a special token in it is said as in tiktoken.

        allowed_special: those that become their id; "all" for each there is. disallowed_special: those that may not
        occur; "all" for each that is not allowed. Any other is ordinary text, so encode(text, disallowed_special=())
        takes every text.

        Raises: ValueError naming a special token that may not occur, and its position.
        """
        allowed = set(self.special_tokens) if allowed_special == "all" else set(allowed_special)
        refused = set(self.special_tokens) - allowed if disallowed_special == "all" else set(disallowed_special)
        if refused and (found := _any_of(refused).search(text)):
            raise ValueError(
                f"{self.name} tokenizer: the special token {found.group()!r} stands in the text at position "
                f"{found.start()}; allowed_special={{{found.group()!r}}} makes it one id, disallowed_special=() "
                f"ordinary text"
            )
        if unknown := allowed - set(self.special_tokens):
            raise ValueError(
                f"{self.name} tokenizer: allowed_special names {min(unknown)!r}, which is none of its special tokens"
            )
        if not allowed:
            return self.encode_ordinary(text)
        ids, start = [], 0
        for found in _any_of(allowed).finditer(text):
            ids += self.encode_ordinary(text[start : found.start()])
            ids.append(self.special_tokens[found.group()])
            start = found.end()
        return ids + self.encode_ordinary(text[start:])

    def encode_batch(self, texts: Iterable[str], **policy: Any) -> list[list[int]]:
        """The ids of each text, by `encode` with the same policy for special tokens."""
        return [self.encode(text, **policy) for text in texts]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer as one JSON object, under a temporary name first."""
        fields = {"tokenizer": self.name, "version": VERSION, **self.to_dict()}
        try:
            content = json.dumps(fields, ensure_ascii=False, indent=1).encode()
        except UnicodeEncodeError:  # a lone surrogate, which UTF-8 has no place for
            content = json.dumps(fields, indent=1).encode()
        write_atomically(path, content + b"\n")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """The tokenizer of this kind at a path, which `load` explains.

        Raises: as `load`; ValueError for a tokenizer of another kind.
        """
        from tinygrad_llm.text.loading import load  # here, because it knows every kind, and each kind knows this class

        tokenizer = load(path)
        if not isinstance(tokenizer, cls):
            raise ValueError(f"{path}: holds a {tokenizer.name} tokenizer; load it with {type(tokenizer).__name__}")
        return tokenizer

    def shown(self, ids: Iterable[int]) -> list[str]:
        """Each token for the eye: spaces as ␣, what does not print escaped."""
        return [visible(self.decode([i]).encode("utf-8", "replace")) for i in self.check_ids(ids)]

    def check_ids(self, ids: Iterable[int]) -> list[int]:
        """The ids as a list of Python ints, each inside [0, vocab_size).

        Raises: ValueError naming an id outside, TypeError for what is no sequence of integers.
        """
        try:
            checked = [operator.index(i) for i in ids]
        except TypeError as error:
            raise TypeError(f"{self.name} tokenizer: ids must be a sequence of integers ({error})") from None
        for position, i in enumerate(checked):
            if not 0 <= i < self.vocab_size:
                raise ValueError(
                    f"{self.name} tokenizer: id {i} at position {position} is outside [0, {self.vocab_size})"
                )
        return checked

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"


class Trainable(Tokenizer):
    """A tokenizer that learns as many tokens as it is told from texts, and then has ids for any text."""

    default_size: ClassVar[int]  # tokens that `build` learns

    @classmethod
    @abstractmethod
    def train(cls, source: Source, vocab_size: int) -> Self:
        """Learn at most vocab_size tokens from a source: a path, or an iterable of texts (str) and files (Path)."""

    @classmethod
    def build(cls, text: str, vocab_size: int | None = None) -> Self:
        """The tokenizer of at most vocab_size tokens (`default_size` when None) trained on this text."""
        return cls.train([text], cls.default_size if vocab_size is None else vocab_size)


def training_settings(where: str, vocab_size: int, special_tokens: Iterable[str]) -> tuple[int, list[str]]:
    """The size and the special tokens for a training.

    Raises: TypeError for a size that is no integer, or one str in place of several; ValueError for a token that is
    blank or there twice.
    """
    try:
        size = operator.index(vocab_size)
    except TypeError:
        raise TypeError(f"{where}: vocab_size must be an integer, found {vocab_size!r:.80}") from None
    if isinstance(special_tokens, str):
        raise TypeError(f"{where}: special_tokens must be a list of strings; give [{special_tokens!r}]")
    tokens = list(special_tokens)
    for i, token in enumerate(tokens):
        if not isinstance(token, str) or not token.strip():
            raise ValueError(f"{where}: special token {token!r:.80} must be a string with something visible in it")
        if token in tokens[:i]:
            raise ValueError(f"{where}: special token {token!r} is named twice")
    return size, tokens


_KINDS: dict[str, type[Tokenizer]] = {}


def register(kind: type[Tokenizer]) -> type[Tokenizer]:
    """Make a kind of tokenizer known to `build` and `load` by its `name`; used as a class decorator.

    Raises: ValueError when the name is taken.
    """
    if kind.name in _KINDS:
        raise ValueError(f"register: the name {kind.name!r} already belongs to {_KINDS[kind.name].__name__}")
    _KINDS[kind.name] = kind
    return kind


def names() -> list[str]:
    """The names that `build` accepts, sorted."""
    return sorted(_KINDS)


def kind(name: object, where: str) -> type[Tokenizer]:
    """The class registered under a name; `where` begins the message when there is none. Raises: ValueError."""
    if not isinstance(name, str) or name not in _KINDS:
        raise ValueError(f"{where}: unknown tokenizer {name!r}; choose one of {', '.join(names())}")
    return _KINDS[name]


def is_trainable(name: str) -> bool:
    """Whether the kind of this name is `Trainable`. Raises: ValueError for an unknown name."""
    return issubclass(kind(name, "is_trainable"), Trainable)


def build(name: str, text: str, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer called `name` for this text; with at most vocab_size tokens, where they are learned.

    Raises: ValueError for an unknown name, naming those that exist, or a size for a kind that is not `Trainable`.
    """
    return kind(name, "build").build(text) if vocab_size is None else train(name, [text], vocab_size)


def train(name: str, source: Source, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer called `name` that learns from a source: a path, or an iterable of texts (str) and files (Path).

    Raises: ValueError for an unknown name, a kind that learns nothing, or as its `train`.
    """
    chosen = kind(name, "train")
    if not issubclass(chosen, Trainable):
        able = ", ".join(other for other in names() if is_trainable(other))
        raise ValueError(f"the vocabulary of the {name} tokenizer has no size to choose; that of {able} has")
    return chosen.train(source, chosen.default_size if vocab_size is None else vocab_size)
