"""Steps of `clean` that remove a document for what it is: its length, or how strange a small model finds it."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from tinygrad_llm.autograd import no_grad
from tinygrad_llm.autograd.creation import from_numpy
from tinygrad_llm.data.cleaning import Finding, Judge
from tinygrad_llm.models.gpt import GPTModel
from tinygrad_llm.models.modes import evaluating
from tinygrad_llm.text.base import Tokenizer

ROWS = 8  # windows that a document's loss is computed for at once


@dataclass(frozen=True)
class Length:
    """Removes a document of fewer than `least` or more than `most` characters, white space around it not counted."""

    least: int = 1
    most: float = math.inf
    name: str = "length"

    def start(self) -> Judge:
        """A judge, which remembers nothing."""

        def judge(index: int, text: str) -> Finding | None:
            length = len(text.strip())
            if length == 0:
                return Finding("empty", 0)
            if self.least <= length <= self.most:
                return None
            return Finding(f"{'fewer' if length < self.least else 'more'} characters than allowed", length)

        return judge


@dataclass(frozen=True)
class Perplexity:
    """Removes a document that costs a model more than `limit` nats a token, which is the logarithm of its perplexity.

    nats: text -> nats a token, nan for a text that is too short to say; such a document stays. The limit is on the
    logarithm since perplexities are so skewed that the outliers themselves would raise a limit made of their mean.

    Source: Wenzek et al., CCNet: extracting high quality monolingual datasets from web crawl data (2020).
    """

    nats: Callable[[str], float]
    limit: float
    name: str = "perplexity"

    @classmethod
    def fitted(cls, nats: Callable[[str], float], documents: Iterable[str], sigmas: float = 3.0) -> Self:
        """With the limit mean + sigmas x standard deviation over documents: those to be filtered, or a fair sample.

        Raises: ValueError for so few documents that not one could lie above the limit.
        """
        count, mean, squares = 0, 0.0, 0.0
        for text in documents:
            cost = nats(text)
            if not math.isnan(cost):
                count += 1
                step = cost - mean
                mean += step / count
                squares += step * (cost - mean)
        if count <= sigmas**2 + 1:
            raise ValueError(
                f"Perplexity: of {count} documents none can lie {sigmas:g} standard deviations above their mean; "
                f"fit it on at least {math.floor(sigmas**2) + 2}"
            )
        return cls(nats, mean + sigmas * math.sqrt(squares / count))

    def start(self) -> Judge:
        """A judge, which remembers nothing."""

        def judge(index: int, text: str) -> Finding | None:
            cost = self.nats(text)
            if not cost > self.limit:
                return None
            return Finding(f"above {self.limit:.4f} nats a token", cost if math.isfinite(cost) else None)

        return judge


def nats_by(model: GPTModel, tokenizer: Tokenizer) -> Callable[[str], float]:
    """What a text costs a model in nats a token, for `Perplexity`; nan for one of fewer than two tokens.

    The text is cut into windows of the model's context that share no target.

    Raises: ValueError for a vocabulary larger than the model's; the function as `tokenizer.encode_ordinary`.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"nats_by: the tokenizer has {tokenizer.vocab_size} tokens and the model knows {model.config.vocab_size}"
        )
    context, device = model.config.context_length, model.tok_emb.weight.device

    def nats(text: str) -> float:
        ids = np.array(tokenizer.encode_ordinary(text), np.int64)
        if len(ids) < 2:
            return math.nan
        predictions, total = len(ids) - 1, 0.0
        whole = predictions - predictions % context
        with no_grad(), evaluating(model):
            for start in [*range(0, whole, ROWS * context), *([whole] if whole < predictions else [])]:
                end = predictions if start == whole else min(start + ROWS * context, whole)
                shape = (-1, min(context, end - start))
                x, y = (from_numpy(ids[a:b].reshape(shape)).to(device) for a, b in ((start, end), (start + 1, end + 1)))
                total += model.loss(x, y).item() * (end - start)
        return total / predictions

    return nats
