"""How tokens are chosen from what the model expects: the options, and where the draws come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_llm import devices, kernels
from tinygrad_llm.kernels.sampling import probabilities
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

    def choose(self, logits: Any, u: np.ndarray | None = None) -> np.ndarray:
        """One token a row: logits (B, V) -> (B,) in main memory. u: a number of [0, 1) for each, (B, 1); see `draws`.

        Logits of a GPU stay there; the tokens alone are read back, and waited for.

        Raises: ValueError for logits among which nothing is likeliest: nan, infinity or all minus infinity.
        """
        temperature = 0.0 if u is None else self.temperature
        choose = kernels.of(logits).sample
        found = devices.run(choose, [logits], logits, u, temperature, self.top_k, self.top_p, self.min_p)
        tokens = devices.move(found, devices.CPU)
        self.checked(tokens)
        return tokens

    @staticmethod
    def checked(tokens: np.ndarray) -> list[int]:
        """The tokens as a list. Raises: ValueError where one is -1, since nothing was likeliest."""
        if (tokens < 0).any():
            raise ValueError(
                "generate: the model's logits are nan or infinite; its weights were spoiled, perhaps in training"
            )
        return tokens.tolist()

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """What `choose` draws from: (B, V) -> (B, V) float64, rows adding up to 1, zero where an option refuses.

        Of tokens that are equally likely at the border, the ones of lower number stay. Temperature 0 counts as 1.
        """
        return probabilities(logits, self.temperature, self.top_k, self.top_p, self.min_p)

    def penalize(self, logits: Any, rows: Sequence[Sequence[int]]) -> Any:
        """The logits (B, V) with the repetition penalty for what each row holds; a copy where there is one."""
        if self.repetition_penalty == 1:
            return logits
        seen = [np.unique(np.asarray(row, np.int64)) for row in rows]
        places = np.repeat(np.arange(len(rows)), [len(tokens) for tokens in seen]), np.concatenate(seen)
        there = tuple(devices.move(place, devices.of(logits)) for place in places)
        x, logits = logits[there], logits.copy()
        logits[there] = np.where(x > 0, x / self.repetition_penalty, x * self.repetition_penalty)
        return logits


def draws(generator: Generators, rows: Sequence[int], batch: int) -> np.ndarray:
    """A number of [0, 1) for each of some rows of a batch, (R, 1): from a row's own generator, or its of all rows'."""
    if isinstance(generator, Sequence):
        return np.concatenate([generator[row].uniform((1, 1), np.float64) for row in rows])
    return (generator or default_generator).uniform((batch, 1), np.float64)[rows]


class Ahead:
    """The numbers that `draws` will give for some rows of a batch, from copies: the generators stay where they are."""

    def __init__(self, generator: Generators, rows: Sequence[int], batch: int) -> None:
        self.rows, self.batch, self.alone = rows, batch, isinstance(generator, Sequence)
        if isinstance(generator, Sequence):
            whose = [generator[row] for row in rows]
        else:
            whose = [generator or default_generator]
        self.generators = [Generator().set_state(one.get_state()) for one in whose]

    def next(self, steps: int) -> np.ndarray:
        """Those of the next steps, (steps, R)."""
        if self.alone:
            return np.concatenate([one.uniform((steps, 1), np.float64) for one in self.generators], axis=1)
        return self.generators[0].uniform((steps, self.batch), np.float64)[:, self.rows]
