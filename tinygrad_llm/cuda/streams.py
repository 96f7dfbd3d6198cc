"""Streams and events, as in `torch.cuda`: queues of work on a GPU, and moments in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinygrad_llm import devices
from tinygrad_llm.kernels.cuda import streams


def number_of(device: Any) -> int | None:
    """The number of a GPU given as a number, "cuda:1" or a device; None for the current one."""
    if device is None or isinstance(device, int):
        return device
    target = devices.device(device)
    if target.type != "cuda":
        raise ValueError(f"Expected a cuda device, but got: {target}")
    return target.index


class Stream:
    """A queue of work: what it is given runs in order, beside what other streams are given.

    Two that touch one array must wait for each other:

        side = Stream()
        side.wait_stream(current_stream())  # for what it reads
        with stream(side):
            y = x * 2
        current_stream().wait_stream(side)  # before y is read here
    """

    def __init__(self, device: Any = None, priority: int = 0, **given: Any):
        self._stream = given["_stream"] if given else streams.new(number_of(device), priority)

    def synchronize(self) -> None:
        """Wait until everything that it was given is done."""
        devices.waited(self._stream.synchronize())

    def query(self) -> bool:
        """Whether everything that it was given is done."""
        return self._stream.done

    def record_event(self, event: Event | None = None) -> Event:
        """An event after what it was given so far."""
        with devices.on(self._place()):
            event = event or Event()
            event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Let what it is given from now on come after an event."""
        self._stream.wait_event(event._event)

    def wait_stream(self, stream: Stream) -> None:
        """Let what it is given from now on come after what another stream was given so far."""
        self.wait_event(stream.record_event())

    def _place(self) -> devices.device:
        """The GPU that it is a queue of; the default stream is that of the current one."""
        number = self._stream.device_id
        return devices.device("cuda", None if number < 0 else number)

    @property
    def cuda_stream(self) -> int:
        """CUDA's own handle."""
        return self._stream.ptr

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.cuda_stream == other.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def __repr__(self) -> str:
        return f"<tinygrad_llm.cuda.Stream cuda_stream={self.cuda_stream:#x}>"


class Event:
    """A moment in what the GPU is given to do: `record` it, `synchronize` waits for it."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        self._event = devices.event(enable_timing)

    def record(self, stream: Stream | None = None) -> None:
        """Let the event be after all that a stream, by default the current one, was given so far."""
        self._event.record(None if stream is None else stream._stream)

    def wait(self, stream: Stream | None = None) -> None:
        """Let what a stream, by default the current one, is given from now on come after the event."""
        (current_stream() if stream is None else stream).wait_event(self)

    def synchronize(self) -> None:
        """Wait until the GPU has come to the event."""
        devices.waited(self._event.synchronize())

    def query(self) -> bool:
        """Whether the GPU has come to the event."""
        return self._event.done

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to a later one; both were made with enable_timing."""
        return devices.milliseconds(self._event, end_event._event)


def current_stream(device: Any = None) -> Stream:
    """The stream that a GPU's work goes to."""
    return Stream(_stream=streams.current(number_of(device)))


def default_stream(device: Any = None) -> Stream:
    """The stream that everything goes to unless another one is current."""
    return Stream(_stream=streams.default(number_of(device)))


@contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """Inside, work goes to a stream, and its GPU is the current one; None changes nothing."""
    if stream is None:
        yield
        return
    with devices.on(stream._place()), stream._stream:
        yield
