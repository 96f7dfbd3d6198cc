"""How a text is split into pieces before byte-pair merging: no token crosses the border of a piece."""

from collections.abc import Iterator
from functools import lru_cache

import regex

# Letters \p{L}, digits \p{N}, white space \s. Whatever the text is, each of its characters lies in exactly one piece.
# Sources: Radford et al. 2019 (the published code of GPT-2); the encodings cl100k_base and o200k_base of tiktoken.
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "gpt4o": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}

_CUT = regex.compile(r"(?r)(?<=[\p{L}\p{N}])\s|(?<=\S) ")  # (?r) searches from the end


@lru_cache(maxsize=8)
def splitter(pattern: str) -> regex.Pattern[str]:
    """The compiled pattern called "gpt2", "gpt4" (cl100k_base) or "gpt4o" (o200k_base).

    Raises: ValueError for another name.
    """
    return regex.compile(expression(pattern))


def expression(pattern: str) -> str:
    """The regular expression called `pattern`. Raises: ValueError for an unknown name."""
    if not isinstance(pattern, str) or pattern not in PATTERNS:
        raise ValueError(f"bpe tokenizer: unknown split pattern {pattern!r}; choose one of {', '.join(PATTERNS)}")
    return PATTERNS[pattern]


def last_cut(text: str) -> int:
    """The last position where `text` may be cut without changing a piece, 0 when there is none.

    It lies before white space that follows a letter or a digit, or before a space that follows a mark. In each pattern
    such white space begins a piece, and a piece that ends without white space does not depend on what comes behind.
    """
    found = _CUT.search(text)
    return found.start() if found else 0


def pieces_of(text: str, pattern: str) -> Iterator[str]:
    """The pieces of a text from left to right; joined they are the text."""
    return (found.group() for found in splitter(pattern).finditer(text))
