"""What tells one row of examples from another of the same length, at the cost of a batch."""

import hashlib
from typing import Any, Protocol

import numpy as np

LOOKED_AT = 256  # examples


class Examples(Protocol):
    """Windows, PackedRows or anything else with numbered examples."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray, /) -> tuple[Any, ...]:
        """The examples with these indices as arrays (B, ...)."""


def fingerprint(examples: Examples) -> str:
    """16 digits: a SHA-256 over the number of examples, and 256 of them, from the first to the last, evenly spread.

    Another text of the same length has another; so has one with a word changed only where one of the 256 has the word.
    """
    chosen = np.linspace(0, len(examples) - 1, min(LOOKED_AT, len(examples))).round().astype(np.int64)
    digest = hashlib.sha256(str(len(examples)).encode())
    for part in examples.take(chosen):
        digest.update(np.asarray(part, "<i8").tobytes())
    return digest.hexdigest()[:16]
