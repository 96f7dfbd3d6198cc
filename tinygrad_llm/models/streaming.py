"""Text from tokens as they come: characters whose bytes span tokens, and strings at which a text ends."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tinygrad_llm.nn import Module
from tinygrad_llm.text.base import Tokenizer

from .generation import stream

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that make no character, or not yet


class TextDecoder:
    """Ids one at a time -> the text that each adds: what all pieces add up to is decode(all ids), after decode(before).

    A character whose bytes are not all there yet is held back. Where a tokenizer has no `decode_bytes`, the text is
    decoded as a whole again with each id; what was given out stays, should a later id change it (a run of bytes that
    turns out to be no text).

    before: ids that come before the first, the prompt's: they decide, say, whether a space comes first.
    """

    def __init__(self, tokenizer: Tokenizer, before: Iterable[int] = ()) -> None:
        self.tokenizer, self.ids = tokenizer, list(before)
        self._bytes: Any = getattr(tokenizer, "decode_bytes", None)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if self._bytes is not None:
            self._decoder.decode(self._bytes(self.ids))
        self._shown = len(tokenizer.decode(self.ids))

    def feed(self, token: int) -> str:
        """The text that is certain with one more id. Raises: ValueError for an id that the tokenizer has not."""
        if self._bytes is not None:
            return self._decoder.decode(self._bytes([token]))
        self.ids.append(token)
        whole = self.tokenizer.decode(self.ids)
        return self._more(whole.rstrip(REPLACEMENT))

    def finish(self) -> str:
        """What was held back: U+FFFD for a character whose end never came."""
        if self._bytes is not None:
            return self._decoder.decode(b"", final=True)
        return self._more(self.tokenizer.decode(self.ids))

    def _more(self, text: str) -> str:
        piece = text[self._shown :]
        self._shown += len(piece)
        return piece


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces up to the first place where one of the strings begins; what may still become one is held back.

    Of several that begin at one place it does not matter which. Reading ends with the piece that completes one.
    """
    held = ""
    for piece in pieces:
        held += piece
        places = [place for place in (held.find(stop) for stop in stops) if place >= 0]
        if places:
            held = held[: min(places)]
            break
        safe = len(held) - _longest_start(held, stops)
        if safe:
            yield held[:safe]
            held = held[safe:]
    if held:
        yield held


def _longest_start(text: str, stops: Sequence[str]) -> int:
    """The length of the longest end of a text with which one of the strings begins."""
    longest = min(len(text), max(map(len, stops), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)


def stream_text(
    model: Module,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    max_new_tokens: int,
    context_size: int | None = None,
    *,
    stop: str | Sequence[str] = (),
    eos_id: int | Sequence[int] | None = None,
    **options: Any,
) -> Iterator[str]:
    """The continuation of a text, or of its ids, in pieces as they come.

    stop: one or several strings; the text ends before the first of them to appear. eos_id: the text ends before it; its
    own text is not shown. Other options are those of `stream`.

    Raises: ValueError for an empty stop string, a prompt that the tokenizer cannot take or that has no tokens, and as
    `generate`.
    """
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(stops):
        raise ValueError("stream_text: a stop string is empty; leave it out, or give the text to stop at")
    ids = tokenizer.encode(prompt, allowed_special="all") if isinstance(prompt, str) else list(prompt)
    if not ids:
        raise ValueError("stream_text: the prompt is empty; the model needs one token at least to go on from")
    ends = [] if eos_id is None else [eos_id] if isinstance(eos_id, int) else list(eos_id)
    written = stream(model, ids, max_new_tokens, context_size, eos_id=ends, **options)
    return until(_texts(TextDecoder(tokenizer, ids), written, ends), stops)


def _texts(decoder: TextDecoder, tokens: Iterable[int], ends: Sequence[int]) -> Iterator[str]:
    for token in tokens:
        if token not in ends and (piece := decoder.feed(token)):
            yield piece
    if rest := decoder.finish():
        yield rest
