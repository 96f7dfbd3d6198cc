"""Batches on their way to a GPU while it computes the step before: drawn ahead, and copied on a stream of their own."""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinygrad_llm import cuda, devices
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import empty, from_numpy
from tinygrad_llm.data.stream import Stream


class LookAhead:
    """A stream whose next batches can be looked at; what it gives, and its states, are those of the stream itself."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._seen: deque[tuple[dict[str, Any], Any]] = deque()  # what was looked at, each with the state before it

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._seen.popleft()[1] if self._seen else next(self.stream)

    def look(self, count: int) -> list[Any]:
        """The next batches, which will come all the same."""
        while len(self._seen) < count:
            before = self.stream.state_dict()
            self._seen.append((before, next(self.stream)))
        return [batch for _, batch in list(self._seen)[:count]]

    def state_dict(self) -> dict[str, Any]:
        """The state after the last batch that has come."""
        return self._seen[0][0] if self._seen else self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises: what the stream raises."""
        self.stream.load_state_dict(state)
        self._seen.clear()


class Sent:
    """Room for a batch of one shape: in pinned memory, and on the GPU."""

    def __init__(self, batch: Sequence[np.ndarray], device: Any) -> None:
        self.here = [from_numpy(array).pin_memory() for array in batch]
        self.there = [empty(tensor.shape, dtype=tensor.dtype, device=device) for tensor in self.here]
        self.copied, self.used = cuda.Event(), cuda.Event()
        devices.outlasts(self, ([*self.here, *self.there], self.copied._event))
        self.used.record()  # the room is filled with zeros first, which may be after all that was given before


class Courier:
    """Copies batches to a GPU: `send` starts, `deliver` lets the current stream wait for the copy and hands it over."""

    def __init__(self, device: Any) -> None:
        self.device, self._stream = device, cuda.Stream(device)
        self._free: defaultdict[Any, list[Sent]] = defaultdict(list)

    def send(self, batch: Sequence[np.ndarray]) -> Sent:
        """Start to copy; the arrays may be written to when this returns."""
        free = self._free[shapes(batch)]
        room = free.pop() if free else Sent(batch, self.device)
        room.copied.synchronize()  # long ago
        for here, array in zip(room.here, batch, strict=True):
            here.array[...] = array
        self._stream.wait_event(room.used)
        with cuda.stream(self._stream):
            for there, here in zip(room.there, room.here, strict=True):
                there.copy_(here, non_blocking=True)
            room.copied.record()
        return room

    def deliver(self, room: Sent, into: Sequence[Tensor]) -> None:
        """Write a batch that was sent into tensors of its shapes."""
        room.copied.wait()
        for tensor, there in zip(into, room.there, strict=True):
            tensor.copy_(there)
        room.used.record()
        self.give_up(room)

    def give_up(self, room: Sent) -> None:
        """Let the room be for another batch."""
        self._free[shapes(room.here)].append(room)


def shapes(batch: Sequence[Any]) -> tuple[Any, ...]:
    """What two batches must have in common to take the same graph."""
    return tuple((tuple(array.shape), str(array.dtype).rpartition(".")[2]) for array in batch)
