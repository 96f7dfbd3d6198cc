"""Streams of batches that go on for ever, in a reproducible order, and from any batch on.

A stream is an iterator over (x, y) with `state_dict()` and `load_state_dict(state)`: a stream of the same kind over
the same windows that is given the state goes on with the very batches that would have come. States are JSON values.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from tinygrad_llm.data.fingerprint import fingerprint
from tinygrad_llm.data.permutation import Permutation
from tinygrad_llm.data.windows import Windows

Batch = tuple[np.ndarray, np.ndarray]


class Stream(Protocol):
    """What a training loop draws its batches from."""

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]:
        """What the stream needs to go on from here."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class RandomWindows:
    """Batches of windows drawn with replacement by rng: x (B, T), y (B, T). The state is the generator's."""

    def __init__(self, windows: Windows, batch: int, rng: np.random.Generator) -> None:
        self.windows, self.batch, self.rng = windows, batch, rng
        self._facts = {"kind": "random", **_facts(windows, batch)}

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self.windows.random(self.batch, self.rng)

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator."""
        return {**self._facts, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the generator into a state. Raises: ValueError for a state of another stream."""
        _check_state(state, self._facts)
        try:
            self.rng.bit_generator.state = state["rng"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"RandomWindows: the generator of the state does not fit this one ({error})") from None


class ShuffledWindows:
    """Batches of windows, every window once an epoch, in a new random order each: x (B, T), y (B, T).

    Epochs follow each other without a gap: a batch may begin in one and end in the next, so that all are full.
    Neither order nor state takes memory: window number i of epoch e is Permutation(n, seed, e)(i), and the state is
    how many windows have come.
    """

    def __init__(self, windows: Windows, batch: int, seed: int) -> None:
        self.windows, self.batch, self.seed = windows, batch, seed
        self._facts = {"kind": "shuffled", **_facts(windows, batch), "seed": seed}
        self.position = 0  # windows that have come, over all epochs
        self._order = (-1, Permutation(1, 0))

    @property
    def epoch(self) -> float:
        """How often every window has come: 1.5 is the middle of the second epoch."""
        return self.position / len(self.windows)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        n, chosen = len(self.windows), []
        end = self.position + self.batch
        while self.position < end:
            epoch, start = divmod(self.position, n)
            count = min(n - start, end - self.position)
            if self._order[0] != epoch:
                self._order = (epoch, Permutation(n, self.seed, epoch))
            chosen.append(self._order[1](np.arange(start, start + count)))
            self.position += count
        return self.windows.take(np.concatenate(chosen))

    def state_dict(self) -> dict[str, Any]:
        """The seed and the number of windows that have come."""
        return {**self._facts, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the windows that had come. Raises: ValueError for a state of another stream or seed."""
        _check_state(state, self._facts)
        position = state.get("position")
        if not isinstance(position, int) or position < 0:
            raise ValueError(f"ShuffledWindows: the position of the state is {position!r}, not a number of windows")
        self.position = position


def _facts(windows: Windows, batch: int) -> dict[str, Any]:
    """What a state belongs to."""
    if batch < 1:
        raise ValueError(f"a batch of {batch} windows: it must have at least 1")
    return {
        "windows": len(windows), "context": windows.context, "stride": windows.stride, "batch": batch,
        "text": fingerprint(windows),
    }  # fmt: skip


def _check_state(state: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if state.get(name) != value:
            raise ValueError(
                f"the state is of a stream with {name} {state.get(name)!r}, this one has {value!r}; resume with the "
                f"same text, context, batch and seed"
            )


class Prefetch:
    """A stream whose next batches, up to `ahead`, are made in a thread while the step before is computed.

    What it gives, and the states it has, are those of the stream without it: batches that are ready but were not yet
    handed out do not count. Close it, or use it in a `with` block, to end the thread; an exception of the stream comes
    when the batch would. For batches that wait for a disk: reading and copying arrays leave the interpreter to others.
    finish: done to each batch in the thread, such as copying it into pinned memory from where a GPU fetches it.
    """

    def __init__(self, stream: Stream, ahead: int = 2, finish: Callable[[Any], Any] = lambda batch: batch) -> None:
        if ahead < 1:
            raise ValueError(f"Prefetch: {ahead} batches ahead; it must be at least 1")
        self.stream, self.ahead, self.finish = stream, ahead, finish
        self._state = stream.state_dict()
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._thread is None:
            self._start()
        batch, self._state, error = self._ready.get()
        if error is not None:
            self.close()
            raise error
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch that was handed out."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; the batches that were ready are given up. Raises: what the stream raises."""
        self.close()
        self.stream.load_state_dict(state)
        self._state = self.stream.state_dict()

    def close(self) -> None:
        """End the thread and put the stream to where it stands for whoever draws from it."""
        if self._thread is None:
            return
        self._stop.set()
        with suppress(queue.Empty):  # the thread may wait for room
            while True:
                self._ready.get_nowait()
        self._thread.join()
        self._thread = None
        self.stream.load_state_dict(self._state)

    def _start(self) -> None:
        self._ready: queue.Queue[tuple[Any, dict[str, Any], BaseException | None]] = queue.Queue(self.ahead)
        self._stop = threading.Event()
        arguments = (self.stream, self.finish, self._state, self._ready, self._stop)
        self._thread = threading.Thread(target=_fill, args=arguments, daemon=True, name="prefetch")
        self._thread.start()

    def __del__(self) -> None:
        if getattr(self, "_thread", None) is not None:
            self._stop.set()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _fill(
    stream: Stream,
    finish: Callable[[Any], Any],
    state: dict[str, Any],
    ready: queue.Queue[Any],
    stop: threading.Event,
) -> None:
    """Runs in the thread, and knows nothing of the Prefetch: one that is forgotten can end it."""
    error: BaseException | None = None
    while error is None:
        batch = None
        try:
            batch = finish(next(stream))
            state = stream.state_dict()
        except BaseException as caught:  # StopIteration too: it ends the loop of whoever draws
            error = caught
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put((batch, state, error), timeout=0.1)
                break
        else:
            return
