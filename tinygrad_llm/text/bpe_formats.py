"""Byte-pair vocabularies in the files of others: GPT-2's two files, Hugging Face's tokenizer.json, tiktoken's ranks."""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tinygrad_llm.text.bytelevel import from_printable, to_printable
from tinygrad_llm.text.huggingface import added_tokens, model_of, option, tokenizer_json
from tinygrad_llm.text.loading import parse_json
from tinygrad_llm.text.merging import merges_of
from tinygrad_llm.text.splitting import PATTERNS

GPT2_NAMES = (("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json"))

# Hugging Face's ByteLevel splits by this expression, another spelling of GPT-2's.
BYTE_LEVEL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

MOST_WORK = 10**8  # steps of checking merges, which take the square of a token's length; GPT-2's need 3 million

Merges = list[tuple[bytes, bytes]]


class Vocabulary(NamedTuple):
    """Tokens (bytes -> id), special tokens (name -> id), and the name of the split pattern."""

    tokens: Mapping[bytes, int]
    special_tokens: Mapping[str, int]
    pattern: str


def in_order(tokens: Mapping[Any, int]) -> list[tuple[Any, int]]:
    """Tokens and ids in the order of their ids."""
    return sorted(tokens.items(), key=lambda item: item[1])


def check_merges(tokens: Mapping[bytes, int], merges: Iterable[tuple[bytes, bytes]]) -> None:
    """Make sure that merging by the order of ids does what the merges do, one after the other.

    Raises: ValueError naming the merge or the token for which it does not.
    """
    given = list(merges)
    last = -1
    for left, right in given:
        if left not in tokens or right not in tokens or left + right not in tokens:
            raise ValueError(f"the merge of {left!r} and {right!r} names or makes a token outside the vocabulary")
        if (i := tokens[left + right]) <= last:
            raise ValueError(
                f"token {left + right!r:.80} (id {i}) is merged after id {last}; ids must follow the merges, each once"
            )
        last = i
    if sum(len(token) ** 2 for token in tokens) > MOST_WORK:
        raise ValueError("the tokens are too long to be a vocabulary")
    known = set(given)
    for pair in merges_of(tokens):
        if pair not in known:
            raise ValueError(f"token {pair[0] + pair[1]!r} comes from {pair[0]!r} and {pair[1]!r}, which no merge says")


def read_gpt2(merges_file: bytes, encoder_file: bytes) -> Vocabulary:
    """vocab.bpe and encoder.json; entries of the encoder that no merge makes are special tokens."""
    header, *lines = merges_file.decode().split("\n")
    if header.startswith("#version"):
        if header.split() != ["#version:", "0.2"]:
            raise ValueError(f'the first line must be "#version: 0.2", found {header[:40]!r}')
    else:
        lines = [header, *lines]
    merges = []
    for line in filter(str.strip, lines):
        left, _, right = line.rstrip("\r").partition(" ")
        merges.append((from_printable(left), from_printable(right)))
    encoder = parse_json(encoder_file)
    if not isinstance(encoder, dict):
        raise ValueError("the vocabulary must be a JSON object of tokens and ids")
    made = {to_printable(left + right) for left, right in merges}
    ordinary = {from_printable(t): _checked_id(t, i) for t, i in encoder.items() if len(t) == 1 or t in made}
    special = {t: i for t, i in encoder.items() if len(t) != 1 and t not in made}
    check_merges(ordinary, merges)
    return Vocabulary(ordinary, special, "gpt2")


def _checked_id(token: str, i: object) -> int:
    if isinstance(i, bool) or not isinstance(i, int):
        raise ValueError(f"the id of token {token!r} must be an integer, found {i!r}")
    return i


def gpt2_files(vocabulary: Vocabulary, merges: Merges) -> dict[str, bytes]:
    """The contents of vocab.bpe and encoder.json. Raises: ValueError for another split pattern than GPT-2's."""
    if vocabulary.pattern != "gpt2":
        raise ValueError(
            f"bpe tokenizer: GPT-2's files hold no split pattern and are read with gpt2, but this one's is "
            f"{vocabulary.pattern}; use save or save_huggingface"
        )
    lines = ["#version: 0.2", *(f"{to_printable(left)} {to_printable(right)}" for left, right in merges), ""]
    encoder = {to_printable(token): i for token, i in vocabulary.tokens.items()} | dict(vocabulary.special_tokens)
    return {
        "vocab.bpe": "\n".join(lines).encode(),
        "encoder.json": json.dumps(dict(in_order(encoder))).encode(),
    }


def read_huggingface(fields: dict[str, Any]) -> Vocabulary:
    """A parsed tokenizer.json. Raises: ValueError naming what has no counterpart here."""
    model = model_of(fields, "BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise ValueError(f"tokenizer.json: {key} {model[key]!r:.80} is not supported by a byte-level BPE")
    if fields.get("normalizer") is not None:
        raise ValueError("tokenizer.json: a normalizer changes the text, so decoding could not give it back")
    special = dict(added_tokens(fields))
    vocab = option(model, "vocab", dict)
    tokens = {from_printable(t): _checked_id(t, i) for t, i in vocab.items() if t not in special}
    check_merges(tokens, map(_pair, option(model, "merges", (list, type(None))) or []))
    return Vocabulary(tokens, special, _pattern(fields.get("pre_tokenizer")))


def _pair(merge: object) -> tuple[bytes, bytes]:
    """A merge, written "a b" or ["a", "b"]."""
    halves = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(halves, list) or len(halves) != 2 or not all(isinstance(half, str) for half in halves):
        raise ValueError(f"tokenizer.json: the merge {str(merge)[:80]!r} is no pair of tokens")
    return from_printable(halves[0]), from_printable(halves[1])


def _pattern(pre_tokenizer: Any) -> str:
    """The name of the split pattern that a pre-tokenizer stands for."""
    steps = pre_tokenizer.get("pretokenizers") if _is(pre_tokenizer, "Sequence") else [pre_tokenizer]
    if isinstance(steps, list) and steps and _is(steps[-1], "ByteLevel") and not steps[-1].get("add_prefix_space"):
        split_by = steps[-1].get("use_regex", True)
        if len(steps) == 1 and split_by is True:
            return "gpt2"
        if len(steps) == 2 and split_by is False and _is(steps[0], "Split"):
            found = steps[0].get("pattern")
            written = found.get("Regex") if isinstance(found, dict) else None
            names = {**{e: name for name, e in PATTERNS.items()}, BYTE_LEVEL: "gpt2"}
            if isinstance(written, str) and steps[0].get("behavior") == "Isolated" and written in names:
                return names[written]
    raise ValueError(
        f"tokenizer.json: the pre-tokenizer must be ByteLevel without prefix space, splitting as GPT-2 or "
        f"after a Split by the expression of {', '.join(PATTERNS)}; found {json.dumps(pre_tokenizer)[:200]}"
    )


def _is(step: object, type_: str) -> bool:
    return isinstance(step, dict) and step.get("type") == type_


def huggingface_file(vocabulary: Vocabulary, merges: Merges) -> bytes:
    """The content of a tokenizer.json."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if vocabulary.pattern == "gpt2":
        pre_tokenizer: dict[str, Any] = byte_level
    else:
        by = {"Regex": PATTERNS[vocabulary.pattern]}
        split = {"type": "Split", "pattern": by, "behavior": "Isolated", "invert": False}
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}
    names = {to_printable(token): i for token, i in vocabulary.tokens.items()} | dict(vocabulary.special_tokens)
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": dict(in_order(names)),
        "merges": [[to_printable(left), to_printable(right)] for left, right in merges],
    }  # fmt: skip
    fields = tokenizer_json(model, vocabulary.special_tokens, None, pre_tokenizer, byte_level)
    return (json.dumps(fields, ensure_ascii=False, indent=1) + "\n").encode()


def read_ranks(content: bytes) -> dict[bytes, int]:
    """tiktoken's rank file: a line a token, base64 and rank. Raises: ValueError naming the first line that is none."""
    tokens: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            word, rank = line.split()
            token = base64.b64decode(word, validate=True)
            if not rank.isdigit() or token in tokens:
                raise ValueError
        except (ValueError, binascii.Error):
            raise ValueError(
                f"tiktoken's ranks: line {number} must hold a new token in base64 and its rank, found {line[:60]!r}"
            ) from None
        tokens[token] = int(rank)
    return tokens


def rank_file(tokens: Mapping[bytes, int]) -> bytes:
    """The content of tiktoken's rank file."""
    return b"".join(base64.b64encode(token) + f" {rank}\n".encode() for token, rank in in_order(tokens))
