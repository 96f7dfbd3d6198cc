"""From indices to a batch: the part of a loader that also runs inside its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tinygrad_llm.utils.data.dataset import IterableDataset


class Exhausted(Exception):
    """A stream has no examples left. An exception of our own, since StopIteration cannot cross processes safely."""


@dataclass
class Fetcher:
    """fetch(indices) -> batch. batched: indices is a list, whose examples are collated; else one index.

    Of a stream only the number of indices counts; drop_last leaves out a last batch that is shorter.
    """

    dataset: Any
    collate: Callable[[Any], Any]
    batched: bool
    drop_last: bool
    stream: Iterator[Any] | None = None

    def __call__(self, indices: Any) -> Any:
        if isinstance(self.dataset, IterableDataset):
            return self._next(indices)
        if not self.batched:
            return self.collate(self.dataset[indices])
        many = getattr(self.dataset, "__getitems__", None)
        return self.collate(many(indices) if many else [self.dataset[i] for i in indices])

    def _next(self, indices: Any) -> Any:
        if self.stream is None:
            self.stream = iter(self.dataset)
        examples = list(islice(self.stream, len(indices) if self.batched else 1))
        if not examples or (self.batched and self.drop_last and len(examples) < len(indices)):
            raise Exhausted
        return self.collate(examples if self.batched else examples[0])
