"""Byte-pair encoding: trained here, run by tiktoken."""

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tinygrad_llm.files import write_atomically
from tinygrad_llm.text import bpe_formats as formats
from tinygrad_llm.text.base import Trainable, register, training_settings
from tinygrad_llm.text.bpe_formats import Vocabulary
from tinygrad_llm.text.bpe_training import learn_merges
from tinygrad_llm.text.bytelevel import BYTE_ORDER, from_printable, to_printable
from tinygrad_llm.text.encoding import EncodingTokenizer
from tinygrad_llm.text.loading import read_bytes, reads_folder, reads_model
from tinygrad_llm.text.merging import merges_of
from tinygrad_llm.text.pieces import Progress, count_pieces
from tinygrad_llm.text.sources import Source
from tinygrad_llm.text.splitting import expression

END_OF_TEXT = "<|endoftext|>"
MOST_IDS = 1 << 24


@register
class BPETokenizer(EncodingTokenizer, Trainable):
    """Byte-pair encoding over bytes: tokens (bytes -> id) merge in the order of their ids.

    tokens: every single byte, with any id, and tokens of several bytes, each the union of two that are single bytes or
    have lower ids. pattern: how text is split before merging, a name in `splitting.PATTERNS`.

    Raises: ValueError for a vocabulary that breaks these rules.
    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2; over bytes
    as in Radford et al. 2019, section 2.2.
    """

    name = "bpe"
    default_size = 8192

    def __init__(
        self, tokens: Mapping[bytes, int], *, pattern: str = "gpt2", special_tokens: Mapping[str, int] | None = None
    ) -> None:
        import tiktoken  # here, because most runs with other tokenizers never need it

        special_tokens = dict(special_tokens or {})
        _check(tokens, special_tokens)
        encoding = tiktoken.Encoding(
            "bpe", pat_str=expression(pattern), mergeable_ranks=dict(tokens), special_tokens=special_tokens
        )
        self._run_by(encoding, pattern)

    @classmethod
    def train(
        cls,
        source: Source,
        vocab_size: int,
        *,
        pattern: str = "gpt2",
        special_tokens: Iterable[str] = (END_OF_TEXT,),
        min_frequency: int = 2,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> "BPETokenizer":
        """The tokenizer of at most vocab_size tokens that shortens the source most: bytes, merges, special tokens.

        source: the path of a file or folder of texts, or an iterable of texts (str) and Paths; each text and file is
        split into pieces by itself. A special token in a text ends a piece and is not learned from.
        min_frequency: pairs that occur less often make no token. workers: processes that count pieces; None takes one
        a core for sources of some ten megabytes, 1 none. progress(what, done, of) is told how it goes on.

        Each merge is of the most frequent pair. Among equals the pair with the smaller left token comes first, then
        that with the smaller right token, where bytes come before merges, bytes in GPT-2's order (those that Latin-1
        prints first). This is the rule of Hugging Face's `tokenizers`, and so are the merges: ByteLevel without
        prefix space, the 256 bytes as initial alphabet, trained on the same texts (its `train` takes each line of
        a file for a text). What the source needs in memory is its different pieces, about 30 bytes for each of theirs.

        Raises: ValueError for a source without text, not UTF-8, or a vocab_size without room for the bytes;
        FileNotFoundError; RuntimeError when a worker process dies.
        """
        vocab_size, special_tokens = training_settings("bpe training", vocab_size, special_tokens)
        room = vocab_size - 256 - len(special_tokens)
        if room < 0:
            raise ValueError(
                f"bpe training: vocab_size {vocab_size} has no room for 256 bytes and {len(special_tokens)} special "
                f"tokens; give at least {256 + len(special_tokens)}"
            )
        if min_frequency < 1 or (workers is not None and workers < 1):
            raise ValueError(f"bpe training: min_frequency {min_frequency} and workers {workers} must be at least 1")
        expression(pattern)
        report = progress or (lambda what, done, of: None)
        pieces = count_pieces(source, pattern, tuple(special_tokens), workers, report)
        if not pieces:
            raise ValueError("bpe training: the source holds no text; give one to learn from")
        symbols = [bytes([b]) for b in BYTE_ORDER]
        for left, right in learn_merges(pieces, room, min_frequency, report):
            symbols.append(symbols[left] + symbols[right])
        tokens = {token: i for i, token in enumerate(symbols)}
        return cls(
            tokens, pattern=pattern, special_tokens={token: len(tokens) + i for i, token in enumerate(special_tokens)}
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens, special tokens and split pattern."""
        return Vocabulary(self.ranks, dict(self.special_tokens), self.pattern)

    @cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs that are merged, first merge first. Raises: ValueError for a token that no merge makes."""
        return merges_of(self.ranks)

    def to_dict(self) -> dict[str, Any]:
        """Pattern, special tokens, and each token, written with one printable character a byte, with its id."""
        tokens = sorted(self.ranks.items(), key=lambda item: item[1])
        return {
            "pattern": self.pattern,
            "special_tokens": dict(self.special_tokens),
            "tokens": {to_printable(token): i for token, i in tokens},
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "BPETokenizer":
        """The tokenizer with this vocabulary."""
        tokens, special_tokens = fields.get("tokens"), fields.get("special_tokens")
        if not isinstance(tokens, dict) or not isinstance(special_tokens, dict):
            raise ValueError('bpe tokenizer: "tokens" and "special_tokens" must be objects of names and ids')
        pattern: Any = fields.get("pattern")
        return cls({from_printable(t): i for t, i in tokens.items()}, pattern=pattern, special_tokens=special_tokens)

    def save_gpt2(self, folder: str | os.PathLike[str]) -> None:
        """Write GPT-2's vocab.bpe and encoder.json into a folder, which is made if need be.

        Raises: ValueError for a split pattern other than GPT-2's, of which these files could not tell.
        """
        files = formats.gpt2_files(self.vocabulary, self.merges)
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(Path(folder, name), content)

    @classmethod
    def from_gpt2(cls, folder: str | os.PathLike[str]) -> "BPETokenizer":
        """The tokenizer in a folder with vocab.bpe and encoder.json, or the same as merges.txt and vocab.json.

        Raises: ValueError naming the file and the rule it breaks; OSError.
        """
        merges, encoder = next(
            (pair for pair in formats.GPT2_NAMES if Path(folder, pair[0]).exists()), formats.GPT2_NAMES[0]
        )
        contents = read_bytes(Path(folder, merges)), read_bytes(Path(folder, encoder))
        try:
            return cls._of(formats.read_gpt2(*contents))
        except ValueError as error:
            raise ValueError(f"{folder}: {merges} and {encoder}: {error}") from None

    def save_huggingface(self, path: str | os.PathLike[str]) -> None:
        """Write a tokenizer.json that Hugging Face's `tokenizers` loads."""
        write_atomically(path, formats.huggingface_file(self.vocabulary, self.merges))

    @classmethod
    def from_huggingface(cls, fields: dict[str, Any]) -> "BPETokenizer":
        """The tokenizer that a `tokenizer.json` describes, byte-level BPE; ids are those without its post-processor.

        Raises: ValueError naming what in it has no counterpart here.
        """
        return cls._of(formats.read_huggingface(fields))

    def save_tiktoken(self, path: str | os.PathLike[str]) -> None:
        """Write tiktoken's rank file: the tokens alone. Pattern and special tokens are told when it is loaded."""
        write_atomically(path, formats.rank_file(self.ranks))

    @classmethod
    def from_tiktoken(
        cls, path: str | os.PathLike[str], *, pattern: str, special_tokens: Mapping[str, int] | None = None
    ) -> "BPETokenizer":
        """The tokenizer in a rank file of tiktoken, which holds neither split pattern nor special tokens.

        Raises: ValueError naming the file and the rule it breaks; OSError.
        """
        try:
            tokens = formats.read_ranks(read_bytes(path))
            return cls(tokens, pattern=pattern, special_tokens=special_tokens)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def _of(cls, vocabulary: Vocabulary) -> "BPETokenizer":
        return cls(vocabulary.tokens, pattern=vocabulary.pattern, special_tokens=vocabulary.special_tokens)


def _check(tokens: Mapping[bytes, int], special_tokens: Mapping[str, int]) -> None:
    """Raises: ValueError unless each byte is a token, each token has an id of its own, and none is empty."""
    owners: dict[int, object] = {}
    for token, i in [*tokens.items(), *special_tokens.items()]:
        if not token:
            raise ValueError("bpe tokenizer: a token is empty")
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < MOST_IDS:
            raise ValueError(f"bpe tokenizer: token {token!r} must have an integer id in [0, {MOST_IDS}), found {i!r}")
        if i in owners:
            raise ValueError(f"bpe tokenizer: the tokens {owners[i]!r} and {token!r} have the same id {i}")
        owners[i] = token
    for b in range(256):
        if bytes([b]) not in tokens:
            raise ValueError(f"bpe tokenizer: the byte 0x{b:02x} is no token; each must be, so that any text has ids")
    for special in special_tokens:
        try:
            special.encode()
        except UnicodeEncodeError:
            raise ValueError(f"bpe tokenizer: the special token {special!r} holds a lone surrogate") from None


for _names in formats.GPT2_NAMES:
    reads_folder(_names, BPETokenizer.from_gpt2)
reads_model("BPE", BPETokenizer.from_huggingface)
