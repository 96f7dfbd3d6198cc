"""The loader: a dataset in batches, shuffled on request, fetched ahead by workers on request."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from tinygrad_llm import devices
from tinygrad_llm.utils.data.collate import default_collate, default_convert
from tinygrad_llm.utils.data.dataset import IterableDataset
from tinygrad_llm.utils.data.fetch import Exhausted, Fetcher
from tinygrad_llm.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler, draw_seed
from tinygrad_llm.utils.data.workers import Workers

T = TypeVar("T", covariant=True)


class DataLoader(Generic[T]):
    """Iterate over a dataset in batches.

    dataset: with `__getitem__` and `__len__`, or an IterableDataset. batch_size: examples a batch; None gives them
    one by one. shuffle: in a new random order every epoch. sampler, batch_sampler: iterables of indices, or of lists of
    them, in place of those orders. collate_fn: a list of examples -> a batch. drop_last: leave out a last batch that
    is shorter. num_workers: processes that fetch prefetch_factor batches each ahead; timeout: seconds that a batch
    may take them; worker_init_fn(id) runs first in each; persistent_workers stay from epoch to epoch.
    pin_memory: tensors of a batch lie where a GPU, if one is in use, copies them from by itself. generator: where the
    order's randomness comes from.

    Every epoch draws a seed for its workers from the generator, also where there are none, and a shuffled one another.
    So the orders are PyTorch's, and so is what is drawn afterwards.

    Raises:
        ValueError: options that exclude each other, or a number out of range.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ):
        _check_workers(num_workers, timeout, prefetch_factor, persistent_workers)
        self.dataset, self.num_workers, self.timeout, self.generator = dataset, num_workers, timeout, generator
        self.pin_memory, self.pin_memory_device, self.in_order = pin_memory, pin_memory_device, in_order
        self.worker_init_fn, self.persistent_workers = worker_init_fn, persistent_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        if isinstance(multiprocessing_context, str):
            import multiprocessing

            multiprocessing_context = multiprocessing.get_context(multiprocessing_context)
        self.multiprocessing_context = multiprocessing_context
        stream = isinstance(dataset, IterableDataset)
        if stream:
            _check_stream(shuffle, sampler, batch_sampler)
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
                )
            batch_size, drop_last = None, False
        elif batch_size is None and drop_last:
            raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")
        if sampler is None:
            if stream:
                sampler = itertools.repeat(None)
            elif shuffle:
                sampler = RandomSampler(dataset, generator=generator)
            else:
                sampler = SequentialSampler(dataset)
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size, self.drop_last = batch_size, drop_last
        self.sampler, self.batch_sampler = sampler, batch_sampler
        self.collate_fn = collate_fn or (default_convert if batch_sampler is None else default_collate)
        self._workers: Workers | None = None

    def __len__(self) -> int:
        """The number of batches; for a stream of known length, what it promises."""
        if not isinstance(self.dataset, IterableDataset):
            return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]
        n = len(self.dataset)  # type: ignore[arg-type]
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        indices = iter(self.sampler if self.batch_sampler is None else self.batch_sampler)
        fetch = Fetcher(self.dataset, self.collate_fn, self.batch_sampler is not None, self.drop_last)
        if not self.num_workers:
            draw_seed(self.generator)
            batches = _fetched(fetch, indices)
        else:
            batches = self._from_workers(self._workers or self._start(fetch), indices)
        return map(pinned, batches) if self.pin_memory and devices.in_use else batches

    def _start(self, fetch: Fetcher) -> Workers:
        seed = draw_seed(self.generator)
        workers = Workers(self.num_workers, seed, fetch, self.worker_init_fn, self.multiprocessing_context)
        if self.persistent_workers:
            self._workers = workers
        return workers

    def _from_workers(self, workers: Workers, indices: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from workers.batches(indices, self.prefetch_factor or 2, self.timeout)
        finally:
            if workers is not self._workers:
                workers.stop()

    def __del__(self) -> None:
        if getattr(self, "_workers", None) is not None:
            self._workers.stop()  # type: ignore[union-attr]


def pinned(batch: Any) -> Any:
    """A batch with its tensors, also in tuples, lists and dictionaries, in pinned memory."""
    if hasattr(batch, "pin_memory"):
        return batch.pin_memory()
    if isinstance(batch, dict):
        return {key: pinned(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(pinned, batch))
    return type(batch)(map(pinned, batch)) if isinstance(batch, (tuple, list)) else batch


def _fetched(fetch: Fetcher, indices: Iterator[Any]) -> Iterator[Any]:
    for batch in indices:
        try:
            yield fetch(batch)
        except Exhausted:
            return


def _check_workers(num_workers: int, timeout: float, prefetch_factor: int | None, persistent_workers: bool) -> None:
    if num_workers < 0:
        raise ValueError(
            "num_workers option should be non-negative; use num_workers=0 to disable multiprocessing "
            f"(got {num_workers})"
        )
    if timeout < 0:
        raise ValueError(f"timeout option should be non-negative, not {timeout}")
    if prefetch_factor is not None and num_workers == 0:
        raise ValueError("prefetch_factor option could only be specified with num_workers > 0")
    if prefetch_factor is not None and prefetch_factor < 1:
        raise ValueError(f"prefetch_factor must be at least 1, not {prefetch_factor}")
    if persistent_workers and num_workers == 0:
        raise ValueError("persistent_workers option needs num_workers > 0")


def _check_stream(shuffle: Any, sampler: Any, batch_sampler: Any) -> None:
    """Refuse orders for a dataset that has an order of its own."""
    for name, value in (("shuffle", shuffle), ("sampler", sampler), ("batch_sampler", batch_sampler)):
        if value not in (None, False):
            raise ValueError(
                f"DataLoader with IterableDataset: expected unspecified {name} option, but got {name}={value}"
            )
