"""From logits to a token: what is taken out of the model's distribution, and the draw from what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinygrad_llm.random import Generator, default_generator

Generators = Generator | Sequence[Generator] | None


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; the values a run starts with take the likeliest.

    temperature: 0 takes the likeliest token; otherwise logits are divided by it and a token is drawn.
    top_k: draw from the k likeliest only. top_p: draw from the fewest likeliest tokens whose probabilities reach p.
    min_p: draw from the tokens that are at least min_p times as likely as the likeliest. All that are given hold, one
    after the other in this order.
    repetition_penalty: before all that, logits of tokens that the row has already are divided by it where positive, and
    multiplied where not.

    Raises: ValueError naming the option and its value.
    Source: Fan et al., Hierarchical neural story generation (2018) for top_k; Holtzman et al., The curious case of
    neural text degeneration (2020), section 3.1 for top_p; Nguyen et al., Turning up the heat: min-p sampling (2024);
    Keskar et al., CTRL (2019), section 4.1 for the penalty.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"generate: temperature must be 0 or a positive number, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"generate: top_k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"generate: top_p must lie in 0 < top_p <= 1, not {self.top_p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"generate: min_p must lie in 0 <= min_p <= 1, not {self.min_p}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(
                f"generate: repetition_penalty must be a positive number (1 for none), not {self.repetition_penalty}"
            )

    def choose(self, logits: np.ndarray, u: np.ndarray | None = None) -> np.ndarray:
        """One token a row: logits (B, V) -> (B,). u: a number of [0, 1) for each row, (B, 1); see `draws`.

        Raises: ValueError for logits among which nothing is likeliest: nan, infinity or all minus infinity.
        """
        if not np.isfinite(logits.max(axis=-1)).all():
            raise ValueError(
                "generate: the model's logits are nan or infinite; its weights were spoiled, perhaps in training"
            )
        if self.temperature == 0 or u is None:
            return logits.argmax(axis=-1)
        below = self.probabilities(logits).cumsum(axis=-1)
        # 1 - u lies in (0, 1]: the first sum to reach it belongs to a token of positive probability, whatever rounding
        return (below < (1.0 - u) * below[:, -1:]).sum(axis=-1)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """What `choose` draws from: (B, V) -> (B, V) float64, rows adding up to 1, zero where an option refuses.

        Of tokens that are equally likely at the border, the ones of lower number stay. Temperature 0 counts as 1.
        """
        x = logits.astype(np.float64)
        p = np.exp((x - x.max(axis=-1, keepdims=True)) / (self.temperature or 1.0))
        p /= p.sum(axis=-1, keepdims=True)
        if self.top_k is not None or self.top_p is not None:
            for weights, row in zip(p, x, strict=True):
                self._keep_likeliest(weights, row)
        if self.min_p is not None:
            p[p < self.min_p * p.max(axis=-1, keepdims=True)] = 0.0
            p /= p.sum(axis=-1, keepdims=True)
        return p

    def _keep_likeliest(self, p: np.ndarray, x: np.ndarray) -> None:
        """top_k and top_p in place, on the probabilities (V,) of logits x. Only what may stay is sorted."""
        rest = np.arange(len(p))
        top_k = None if self.top_k is None or self.top_k >= len(p) else self.top_k
        if top_k is not None:
            rest = np.flatnonzero(x >= np.partition(x, -top_k)[-top_k])
        elif self.top_p is not None:  # all that are less likely than this together are less than 1 - top_p
            rest = np.flatnonzero(p >= (1 - self.top_p) / len(p))
        order = rest[np.argsort(-x[rest], kind="stable")]  # likeliest first
        kept = p[order[:top_k]]
        if top_k is not None:
            kept /= kept.sum()
        if self.top_p is not None:
            before = kept.cumsum() - kept  # a token stays while those before it have not reached top_p
            kept = kept[: np.count_nonzero(before < self.top_p)]
            kept /= kept.sum()
        p[:] = 0.0
        p[order[: len(kept)]] = kept

    def penalize(self, logits: np.ndarray, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The logits (B, V) with the repetition penalty for what each row holds; a copy where there is one."""
        if self.repetition_penalty == 1:
            return logits
        logits = logits.copy()
        for x, row in zip(logits, rows, strict=True):
            seen = np.unique(np.asarray(row, np.int64))
            x[seen] = np.where(x[seen] > 0, x[seen] / self.repetition_penalty, x[seen] * self.repetition_penalty)
        return logits


def draws(generator: Generators, rows: Sequence[int], batch: int) -> np.ndarray:
    """A number of [0, 1) for each of some rows of a batch, (R, 1): from a row's own generator, or its of all rows'."""
    if isinstance(generator, Sequence):
        return np.concatenate([generator[row].uniform((1, 1), np.float64) for row in rows])
    return (generator or default_generator).uniform((batch, 1), np.float64)[rows]
