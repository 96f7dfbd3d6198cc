"""Exact match: which responses say what was expected, once differences that do not count are taken away."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Normalization:
    """What does not count in a comparison.

    Always: how Unicode writes a character (NFC), space at the ends, and how much of it stands between words.
    ignore_case: capitals. ignore_punctuation: characters of Unicode's categories P (punctuation) and S (symbols).
    """

    ignore_case: bool = False
    ignore_punctuation: bool = False

    def __call__(self, text: str) -> str:
        """The text without it."""
        text = unicodedata.normalize("NFC", text)
        if self.ignore_case:
            text = unicodedata.normalize("NFC", text.casefold())
        if self.ignore_punctuation:
            text = "".join(c for c in text if unicodedata.category(c)[0] not in "PS")
        return " ".join(text.split())


EXACT = Normalization()


def matches(
    responses: Sequence[str], expected: Sequence[str | Sequence[str]], normalization: Normalization = EXACT
) -> list[bool]:
    """Whether each response is, after normalization, what was expected, or one of several such texts.

    Raises: ValueError for another number of responses than of expectations, or an expectation without a text.
    """
    if len(responses) != len(expected):
        raise ValueError(f"matches: {len(responses)} responses, but {len(expected)} expected; give as many of both")
    found = []
    for place, (response, right) in enumerate(zip(responses, expected, strict=True)):
        accepted = [right] if isinstance(right, str) else list(right)
        if not accepted:
            raise ValueError(f"matches: no text is expected of response {place}; give one at least")
        found.append(normalization(response) in map(normalization, accepted))
    return found


def exact_match(
    responses: Sequence[str], expected: Sequence[str | Sequence[str]], normalization: Normalization = EXACT
) -> float:
    """The share of responses that `matches` finds right.

    Raises: as `matches`; ValueError without responses.
    """
    if not responses:
        raise ValueError("exact_match: there are no responses")
    return sum(matches(responses, expected, normalization)) / len(responses)
