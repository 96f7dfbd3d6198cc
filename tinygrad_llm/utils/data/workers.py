"""Workers: processes that fetch batches ahead, each with a copy of the dataset.

Each worker is a pool of one process of the standard library's `concurrent.futures`; batch i is fetched by worker
i modulo their number, and batches are handed out in their order. So the same batches come as without workers.
"""

from __future__ import annotations

import random as python_random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.utils.data.fetch import Exhausted, Fetcher

if TYPE_CHECKING:
    from concurrent.futures import Future


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this process is: its number of num_workers, its seed, and its copy of the dataset."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None  # set in a worker process
_fetch: Fetcher | None = None


def get_worker_info() -> WorkerInfo | None:
    """Inside a worker, its WorkerInfo; in the main process None."""
    return _info


def _start(id: int, count: int, seed: int, fetch: Fetcher, init: Callable[[int], None] | None) -> None:
    """Runs first in a worker: the generators of Python, NumPy and this package start from the worker's own seed."""
    global _info, _fetch
    python_random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  # what a dataset that draws from it expects
    random.manual_seed(seed)
    _info, _fetch = WorkerInfo(id, count, seed, fetch.dataset), fetch
    if init is not None:
        init(id)


def _run(indices: Any, restart: bool) -> Any:
    assert _fetch is not None
    if restart:
        _fetch.stream = None
    try:
        return _fetch(indices)
    except Exhausted:
        raise
    except Exception as error:
        error.add_note(f"raised in DataLoader worker process {_info.id}")  # type: ignore[union-attr]
        raise


class Workers:
    """Processes that fetch. Without persistence they end with the epoch, or with the iterator that is given up."""

    def __init__(self, count: int, seed: int, fetch: Fetcher, init: Any, context: Any):
        from concurrent.futures import ProcessPoolExecutor  # costs 50 ms, which an import of the package need not

        self._pools = [
            ProcessPoolExecutor(1, context, initializer=_start, initargs=(i, count, seed + i, fetch, init))
            for i in range(count)
        ]

    def batches(self, indices: Iterator[Any], ahead: int, timeout: float) -> Iterator[Any]:
        """The batches of an epoch, with up to `ahead` of them in work for each worker.

        Raises:
            RuntimeError: a batch took longer than timeout seconds (0: no limit). What a worker raises comes through.
        """
        waiting: deque[tuple[int, Future[Any]]] = deque()
        open_, turn, started = list(range(len(self._pools))), 0, set[int]()

        def submit() -> bool:
            nonlocal turn
            if not open_:
                return False
            worker = open_[turn % len(open_)]
            for batch in indices:  # at most one
                waiting.append((worker, self._pools[worker].submit(_run, batch, worker not in started)))
                started.add(worker)
                turn += 1
                return True
            return False

        while len(waiting) < ahead * len(self._pools) and submit():
            pass
        while waiting:
            worker, future = waiting.popleft()
            try:
                batch = future.result(timeout or None)
            except Exhausted:  # the worker's share of a stream is at its end; the others go on
                if worker in open_:
                    open_.remove(worker)
                submit()
                continue
            except TimeoutError:
                raise RuntimeError(f"DataLoader timed out after {timeout} seconds in worker {worker}") from None
            submit()
            yield batch

    def stop(self) -> None:
        """End the processes; batches in work are given up."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
