"""Examples of unequal length as batches for a training loop: what to learn from, and what to be judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_llm.data.fingerprint import fingerprint
from tinygrad_llm.data.instructions import Example, InstructionBatch
from tinygrad_llm.data.permutation import Permutation

POOL = 16  # batches whose examples are sorted by length together

Collate = Callable[[Sequence[Example]], InstructionBatch]


class ExampleBatches:
    """An endless stream of batches: every example once an epoch, in a new random order each.

    Padding is computed with and thrown away, so examples of about one length come together: of every `pool` batches in
    the random order the examples are sorted by length, and the batches then come in a random order again. The last
    batch of an epoch may be smaller. The state is how many batches have come.

    Raises: ValueError without examples, or for numbers below 1.
    """

    def __init__(self, examples: Sequence[Example], batch: int, collate: Collate, seed: int, pool: int = POOL) -> None:
        if not examples or batch < 1 or pool < 1:
            raise ValueError(
                f"ExampleBatches: {len(examples)} examples, batch {batch} and pool {pool} must be at least 1"
            )
        self.examples, self.batch, self.collate, self.seed, self.pool = examples, batch, collate, seed, pool
        self.position = 0  # batches that have come, over all epochs
        self._fingerprint = fingerprint(JudgedExamples(examples, collate))
        self._pool: tuple[tuple[int, int], list[np.ndarray]] = ((-1, -1), [])

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.examples) // self.batch)

    def __iter__(self) -> Iterator[InstructionBatch]:
        return self

    def __next__(self) -> InstructionBatch:
        epoch, place = divmod(self.position, len(self))
        which = epoch, place // self.pool
        if self._pool[0] != which:
            self._pool = which, self._batches(*which)
        self.position += 1
        return self.collate([self.examples[i] for i in self._pool[1][place % self.pool]])

    def _batches(self, epoch: int, pool: int) -> list[np.ndarray]:
        """The indices of a pool's batches."""
        size = self.batch * self.pool
        places = np.arange(pool * size, min((pool + 1) * size, len(self.examples)))
        chosen = Permutation(len(self.examples), self.seed, epoch)(places)
        chosen = chosen[np.argsort([len(self.examples[i].ids) for i in chosen], kind="stable")]
        batches = np.split(chosen, range(self.batch, len(chosen), self.batch))
        return [batches[i] for i in np.random.default_rng((self.seed, epoch, pool)).permutation(len(batches))]

    def state_dict(self) -> dict[str, Any]:
        """The number of batches that have come, and what it belongs to."""
        return {**self._facts(), "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that had come. Raises: ValueError for a state of another stream."""
        if {**state, "position": 0} != {**self._facts(), "position": 0} or not isinstance(state["position"], int):
            raise ValueError(f"ExampleBatches: the state {state} is of another stream than {self._facts()}")
        self.position = state["position"]

    def _facts(self) -> dict[str, Any]:
        return {
            "kind": "examples", "examples": len(self.examples), "batch": self.batch, "pool": self.pool,
            "seed": self.seed, "fingerprint": self._fingerprint,
        }  # fmt: skip


class JudgedExamples:
    """Examples that a model is judged by: `spread` as `Windows` has it."""

    def __init__(self, examples: Sequence[Example], collate: Collate) -> None:
        self.examples, self.collate = examples, collate

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of the examples with these indices, as one batch."""
        inputs, targets = self.collate([self.examples[i] for i in indices])
        return inputs, targets

    def spread(self, count: int, batch: int) -> Iterator[InstructionBatch]:
        """The same min(count, len) examples each time, evenly spread, `batch` at a time."""
        count = min(count, len(self))
        chosen = [i * len(self) // count for i in range(count)]
        for start in range(0, count, batch):
            yield self.collate([self.examples[i] for i in chosen[start : start + batch]])
