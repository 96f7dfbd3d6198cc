"""Tokenizers whose tokens are bytes, run by tiktoken."""

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from tinygrad_llm.text.base import Tokenizer
from tinygrad_llm.text.bytelevel import visible
from tinygrad_llm.text.merging import merge_steps
from tinygrad_llm.text.splitting import pieces_of

# tiktoken gives up at a match that goes back over a million characters, which white space does.
LONG_WHITE = 250_000


@dataclass(frozen=True)
class Step:
    """One step of byte-pair encoding: the parts of a piece after it, the pair it merged and into which id.

    The first step of a piece is its bytes, and merges nothing.
    """

    parts: tuple[bytes, ...]
    pair: tuple[bytes, bytes] | None = None
    id: int | None = None

    def __str__(self) -> str:
        shown = " ".join(map(visible, self.parts))
        if self.pair is None:
            return shown
        return f"{shown}    {visible(self.pair[0])} + {visible(self.pair[1])} -> {self.id}"


class EncodingTokenizer(Tokenizer):
    """A tokenizer over bytes: any text has ids, and so has every string of bytes.

    `_run_by` a tiktoken.Encoding, whose split pattern is the one of this name in `splitting.PATTERNS`.
    """

    pattern: str

    def _run_by(self, encoding: Any, pattern: str) -> None:
        self._encoding = encoding
        self.pattern = pattern
        self.vocab_size = encoding.n_vocab
        self.special_tokens: Mapping[str, int] = dict(encoding._special_tokens)

    def encode_ordinary(self, text: str) -> list[int]:
        """Text -> ids.

        Raises: ValueError for a lone surrogate, which is no character and which decoding could not give back.
        """
        try:
            text.isascii() or text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{self.name} tokenizer: the lone surrogate U+{ord(text[error.start]):04X} at position {error.start} "
                f"is no character; decode the bytes it comes from with errors='replace', or give them to encode_bytes"
            ) from None
        if len(text) > LONG_WHITE and _has_long_white_space(text):
            return [i for piece in pieces_of(text, self.pattern) for i in self._encode_piece(piece)]
        return self._encoding.encode_ordinary(text)

    def _encode_piece(self, piece: str) -> list[int]:
        return self._encoding._encode_single_piece(piece)

    def encode_bytes(self, data: bytes) -> list[int]:
        """Bytes -> ids; what is no UTF-8 becomes one id a byte, so decode_bytes(encode_bytes(data)) == data."""
        text = data.decode("utf-8", "surrogateescape")  # a byte that is no UTF-8 becomes one of U+DC80 .. U+DCFF
        ids: list[int] = []
        for part in re.split("([\udc80-\udcff]+)", text):
            if part and "\udc80" <= part[0] <= "\udcff":
                ids += [self._encoding.encode_single_token(bytes([ord(c) - 0xDC00])) for c in part]
            else:
                ids += self.encode_ordinary(part)
        return ids

    def encode_batch(self, texts: Iterable[str], *, threads: int = 8, **policy: Any) -> list[list[int]]:
        """The ids of each text, by `encode` with the same policy for special tokens, in several threads."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(partial(self.encode, **policy), texts))

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Ids -> bytes, exactly.

        Raises: ValueError naming the first id that is outside the vocabulary or that no token has.
        """
        checked = self.check_ids(ids)
        try:
            return self._encoding.decode_bytes(checked)
        except KeyError:
            position = next(n for n, i in enumerate(checked) if not self._has(i))
            raise ValueError(
                f"{self.name} tokenizer: id {checked[position]} at position {position} is a gap: no token has it"
            ) from None

    def _has(self, i: int) -> bool:
        try:
            self._encoding.decode_single_token_bytes(i)
        except KeyError:
            return False
        return True

    @property
    def ranks(self) -> Mapping[bytes, int]:
        """The id of each token but the special ones; the lower, the earlier it is merged."""
        return self._encoding._mergeable_ranks

    def trace(self, text: str) -> Iterator[Step]:
        """How text becomes tokens: of each piece the bytes, then the parts after each merge; print(step) shows one."""
        ranks = self.ranks
        for piece in pieces_of(text, self.pattern):
            yield Step(tuple(bytes([b]) for b in piece.encode()))
            for parts, (left, right) in merge_steps(piece.encode(), ranks):
                yield Step(tuple(parts), (left, right), ranks[left + right])

    def shown(self, ids: Iterable[int]) -> list[str]:
        r"""Each token for the eye, bytes that are no whole character as \xNN."""
        return [visible(self.decode_bytes([i])) for i in self.check_ids(ids)]


def _has_long_white_space(text: str) -> bool:
    """Whether LONG_WHITE positions in a row are white space; surely found from twice that number on."""
    return any(text[at : at + LONG_WHITE].isspace() for at in range(0, len(text) - LONG_WHITE + 1, LONG_WHITE))
