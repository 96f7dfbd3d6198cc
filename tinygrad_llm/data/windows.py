"""From one long row of ids to batches of windows: inputs, and targets one step ahead."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from tinygrad_llm.data.shards import Row


def split(sequence: Any, fractions: Sequence[float]) -> list[Any]:
    """Cut a text or an array of ids into consecutive parts, one per fraction; together they are the whole.

    Part i ends at round(len * (fractions[0] + ... + fractions[i])).

    Raises: ValueError unless the fractions are positive and sum to 1.
    """
    if any(not f > 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"split: fractions {tuple(fractions)} must be positive and sum to 1")
    ends = [round(len(sequence) * f) for f in accumulate(fractions)]
    return [sequence[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def ids_array(ids: Sequence[int], vocab_size: int) -> np.ndarray:
    """The ids in the narrowest of uint16, uint32 and int64 that holds every id below vocab_size.

    Raises: ValueError naming the first id outside [0, vocab_size) and its position.
    """
    wide = np.asarray(ids, dtype=np.int64)
    outside = (wide < 0) | (wide >= vocab_size)
    if outside.any():
        position = int(outside.argmax())
        raise ValueError(f"ids_array: id {wide[position]} at position {position} is outside [0, {vocab_size})")
    dtype = np.uint16 if vocab_size <= 2**16 else np.uint32 if vocab_size <= 2**32 else np.int64
    return wide.astype(dtype)


def checked_indices(where: str, indices: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """The indices (B,) as int64. Raises: IndexError naming the first outside [0, n)."""
    chosen = np.asarray(indices, dtype=np.int64)
    outside = (chosen < 0) | (chosen >= n)
    if outside.any():
        raise IndexError(f"{where}: index {chosen[outside][0]} is outside [0, {n})")
    return chosen


class Windows:
    """Windows of T inputs and T targets over ids (n,), in memory or a Row on disk, one at every multiple of `stride`.

    Window i is x = ids[s : s+T], y = ids[s+1 : s+1+T] with s = i * stride, so a text of n ids has
    floor((n - T - 1) / stride) + 1 of them. stride=1 has every window there is (draw from it with `random`);
    stride=T predicts no id twice and leaves out fewer than T at the end (walk it with `batches`).

    Raises: ValueError when the ids do not fill one window.
    """

    def __init__(self, ids: Sequence[int] | np.ndarray | Row, context: int, stride: int = 1) -> None:
        if context < 1 or stride < 1:
            raise ValueError(f"Windows: context {context} and stride {stride} must be at least 1")
        self.ids = ids if isinstance(ids, Row) else np.asarray(ids)
        self.context, self.stride = context, stride
        if self.ids.ndim != 1 or not np.issubdtype(self.ids.dtype, np.integer):
            raise ValueError(f"Windows: ids must be one row of integers, found {self.ids.shape} {self.ids.dtype}")
        if len(self.ids) < context + 1:
            raise ValueError(
                f"Windows: {len(self.ids)} tokens do not fill one window, which needs {context} + 1; use a longer "
                f"text or a shorter context"
            )

    def __len__(self) -> int:
        return (len(self.ids) - self.context - 1) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Window `index`: x (T,), y (T,), int64."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"Windows: index {index} is out of range for {len(self)} windows")
        x, y = self.take([index % len(self)])
        return x[0], y[0]

    def take(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows with these indices: x (B, T), y (B, T), int64. Raises: IndexError for one outside [0, len)."""
        starts = checked_indices("Windows", indices, len(self)) * self.stride
        rows = self.ids[starts[:, None] + np.arange(self.context + 1)].astype(np.int64)  # (B, T + 1)
        return rows[:, :-1], rows[:, 1:]

    def random(self, batch: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """`batch` windows drawn with replacement: x (B, T), y (B, T)."""
        return self.take(rng.integers(len(self), size=batch))

    def batches(
        self, batch: int, rng: np.random.Generator | None = None, drop_last: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every window once, in order or shuffled by rng, `batch` at a time: x (B, T), y (B, T).

        The last batch may be smaller, or is left out with drop_last.
        """
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        end = len(order) - len(order) % batch if drop_last else len(order)
        for start in range(0, end, batch):
            yield self.take(order[start : start + batch])

    def spread(self, count: int, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same min(count, len) windows each time, evenly spread over the text, `batch` at a time.

        What an evaluation uses: fixed, so that two evaluations differ by the model alone.
        """
        count = min(count, len(self))
        chosen = np.arange(count) * len(self) // count
        for start in range(0, count, batch):
            yield self.take(chosen[start : start + batch])
