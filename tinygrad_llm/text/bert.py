"""BERT's way from text to words, and from pieces back to text.

Characters are told apart by Python's Unicode tables. Hugging Face's are older: on some characters that came with or
changed their class after Unicode 7 the two differ.

Source: Devlin et al. 2018, "BERT", section 3; google-research/bert, tokenization.py.
"""

import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

CJK = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
CONTRACTIONS = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip


def is_space(c: str) -> bool:
    """Whether Unicode calls c white space (Python adds four separators of ASCII, which it does not)."""
    return c.isspace() and not "\x1c" <= c <= "\x1f"


@lru_cache(maxsize=65536)
def _clean(c: str) -> str:
    """A blank for white space, nothing for what cannot be seen, else c."""
    if c in "\0\ufffd" or (c not in "\t\n\r" and unicodedata.category(c) in ("Cc", "Cf", "Co")):
        return ""
    return " " if is_space(c) else c


@lru_cache(maxsize=65536)
def _spaced(c: str) -> str:
    return f" {c} " if any(first <= ord(c) <= last for first, last in CJK) else c


@lru_cache(maxsize=65536)
def _base(c: str) -> str:
    return "" if unicodedata.category(c) == "Mn" else c


@lru_cache(maxsize=65536)
def _is_mark(c: str) -> bool:
    return unicodedata.category(c)[0] == "P" or c in "$+<=>^`|~"


def normalizer(clean: bool, chinese: bool, accents: bool, lower: bool) -> Callable[[str], str]:
    """Text -> text: cleaned, Chinese characters set apart, accents taken off, in lower case, each if wished."""

    def normalize(text: str) -> str:
        if clean:
            text = "".join([_clean(c) for c in text])
        if chinese:
            text = "".join([_spaced(c) for c in text])
        if accents:
            text = "".join([_base(c) for c in unicodedata.normalize("NFD", text)])
        if lower:
            text = "".join([c.lower() for c in text])  # one by one: no final sigma, as in Hugging Face's
        return text

    return normalize


def words(text: str) -> list[str]:
    """Text -> its words and marks, white space left out."""
    found, start = [], 0
    for i, c in enumerate(text):
        if is_space(c) or _is_mark(c):
            if start < i:
                found.append(text[start:i])
            if not is_space(c):
                found.append(c)
            start = i + 1
    return found + [text[start:]] if start < len(text) else found


def spaced(tokens: list[str], prefix: str, cleanup: bool) -> list[str]:
    """Tokens -> parts of a text: a blank before each but the first and those that go on with a word."""
    parts = []
    for i, token in enumerate(tokens):
        if i:
            token = token[len(prefix) :] if token.startswith(prefix) else f" {token}"
        for wide, narrow in CONTRACTIONS if cleanup else ():
            token = token.replace(wide, narrow)
        parts.append(token)
    return parts


def fields(lowercase: bool) -> dict[str, dict[str, Any]]:
    """BERT's steps as `tokenizer.json` names them; `lowercase` also takes accents off."""
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }
