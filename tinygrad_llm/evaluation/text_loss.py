"""What a text costs a model: in nats a token, as a perplexity, and in bits a byte."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tinygrad_llm.models.commandline import END
from tinygrad_llm.models.scoring import score_rows
from tinygrad_llm.nn import Module
from tinygrad_llm.text import Tokenizer


@dataclass(frozen=True)
class TextLoss:
    """The sum of -ln p over the judged tokens of a text, with how many they are and how many bytes of UTF-8 they make.

    Perplexities compare models of one tokenizer alone, since it says how much text is a token. Bits per byte compare
    any two models, if no token of either stands for text that is unknown to it.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def nats_per_token(self) -> float:
        """The loss as training shows it."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats per token); inf where that is too large."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 709 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """nats / ln 2 / bytes: the size of the text, compressed with the model, to that as it is, times 8."""
        return self.nats / math.log(2) / self.bytes

    def __add__(self, other: TextLoss) -> TextLoss:
        """Both texts, each judged by itself."""
        return TextLoss(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as JSON values; a perplexity that is too large is None."""
        return {
            "nats": self.nats, "tokens": self.tokens, "bytes": self.bytes, "nats_per_token": self.nats_per_token,
            "perplexity": self.perplexity if math.isfinite(self.perplexity) else None,
            "bits_per_byte": self.bits_per_byte,
        }  # fmt: skip


def text_loss(
    model: Module,
    tokenizer: Tokenizer,
    text: str,
    context_size: int | None = None,
    stride: int | None = None,
    batch: int = 8,
) -> TextLoss:
    """What a text costs, each token counted once, given those before it.

    The window of context_size tokens, by default the model's context, moves by `stride`, by default half of it. The
    smaller, the more each token has before it, and the longer it takes; context_size itself cuts the text into pieces.
    The first token stands after the tokenizer's end of text, if it has one; else it is not judged, and its bytes do not
    count. Special tokens in the text are ordinary text.

    Raises: ValueError for a text with nothing to judge, or an option out of range.
    """
    size = model.config.context_length if context_size is None else context_size
    stride = max(1, size // 2) if stride is None else stride
    if not 1 <= stride <= size:
        raise ValueError(f"text_loss: stride must lie in 1..{size}, the context, not {stride}")
    ids, start = tokenizer.encode_ordinary(text), tokenizer.special_tokens.get(END)
    row = ids if start is None else [start, *ids]
    if len(row) < 2:
        raise ValueError(f"text_loss: {len(ids)} tokens leave nothing to judge; give a longer text")
    unjudged = tokenizer.decode(ids[:1]) if start is None else ""
    scored = score_rows(model, [row], None, size, size - stride, batch)[0]
    return TextLoss(-float(scored.logp.sum()), len(scored.logp), _bytes(text) - _bytes(unjudged))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
