"""CUDA graphs, as in `torch.cuda`: what Python gives a GPU is recorded once, and repeated without Python.

    for _ in range(3):                      # compiles the kernels, and makes the optimizer's moments
        step(x, y)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()                   # so that the gradients are made in the graph's own memory
    with torch.cuda.graph(graph):
        loss = step(x, y)                   # is recorded, and not run
    for batch in batches:
        x.copy_(batch)                      # what the graph reads lies where it lay
        graph.replay()                      # loss, weights, moments have new values

What a step draws or counts in Python is drawn and counted for each replay as an ordinary step would: keys of dropout's
masks, the learning rate and step of Adam and AdamW. All other numbers are those of the capture. What must be known in
Python on the way (`item()`, an `if` on a tensor, a mask as an index, a copy from or to main memory) cannot be captured.
While one thread captures, no other may wait for the GPU: CUDA then gives the capture up.
"""

from __future__ import annotations

import gc
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

from tinygrad_llm import devices
from tinygrad_llm.cuda.streams import Stream, current_stream
from tinygrad_llm.cuda.streams import stream as on_stream
from tinygrad_llm.kernels.cuda import capture, memory, streams


def graph_pool_handle() -> streams.Pool:
    """Memory that several graphs may share, each captured with `pool=`, if they are replayed in the order of capture.

    What one of them has let go of, the next one writes to.
    """
    return streams.Pool()


def is_current_stream_capturing() -> bool:
    """Whether what the current stream is given is recorded as a graph, and not run."""
    return devices.cuda_problem() is None and streams.is_capturing()


class CUDAGraph:
    """A recorded piece of work. Arrays made while it was recorded lie in memory of its own, as long as it lives."""

    def __init__(self) -> None:
        self._graph: Any = None
        self._capture: capture.Capture | None = None
        self._pool: streams.Pool | None = None
        self._stream: Any = None  # while it is captured
        self._device: devices.device | None = None
        self._inside = ExitStack()

    def capture_begin(self, pool: streams.Pool | None = None, capture_error_mode: str = "global") -> None:
        """From here on record what the current stream, which is not the default one, is given, instead of running it.

        capture_error_mode changes nothing: CuPy's memory may grow meanwhile, which only PyTorch's "relaxed" allows.

        Raises: RuntimeError on the default stream, in a graph that has been captured, or while another one is.
        """
        if self._graph is not None or self._stream is not None:
            raise RuntimeError("This CUDAGraph instance already owns a captured graph. reset() it, or make a new one.")
        if capture.at_work() is not None:
            raise RuntimeError("CUDAGraph: another graph is being captured in this thread; end it first")
        stream = streams.current()
        if not stream.ptr:
            raise RuntimeError(
                "CUDA graphs must be captured on a non-default stream. (However, after capture, it's ok to replay them "
                "on the default stream.) with torch.cuda.graph(g): does so"
            )
        self._pool = streams.Pool() if pool is None else pool
        self._device = devices.device("cuda", devices.current())
        self._inside.enter_context(self._pool.used())
        try:
            self._capture = capture.Capture()
            stream.begin_capture()
        except BaseException:
            self._inside.close()
            raise
        self._stream = stream
        capture.begin(self._capture)

    def capture_end(self) -> None:
        """End the recording.

        Raises: RuntimeError where nothing was begun, or where the work cannot be repeated.
        """
        if self._stream is None:
            raise RuntimeError("CUDAGraph.capture_end: capture_begin was not called")
        stream, self._stream = self._stream, None
        capture.end()
        try:
            self._graph = stream.end_capture()
        finally:
            self._inside.close()
        assert self._capture is not None
        self._capture.move_tables()

    def replay(self) -> None:
        """Give the recorded work to the current stream once more, with new numbers where it takes any from Python."""
        if self._graph is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        assert self._capture is not None and self._device is not None
        with devices.on(self._device):
            self._capture.fill()
            self._graph.launch()

    def reset(self) -> None:
        """Forget what was recorded. Its memory is free again when no array lies there."""
        self._graph = self._capture = self._pool = None

    def pool(self) -> streams.Pool:
        """Its memory, for another graph's `pool=`."""
        if self._pool is None:
            raise RuntimeError("CUDAGraph.pool: nothing was captured")
        return self._pool


@lru_cache
def usual_stream(number: int) -> Stream:
    """Where graphs of a GPU are captured, unless on another stream: one for all, so that they can share memory."""
    return Stream(number)


class graph:
    """A context manager: the work inside is recorded in a CUDAGraph, and not run.

    pool: another graph's memory, see `graph_pool_handle`. stream: one to record on. Where the work raises, the
    recording is thrown away, and the graph can be captured again.
    """

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: streams.Pool | None = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
    ):
        self.cuda_graph, self.pool = cuda_graph, pool
        self.capture_stream = usual_stream(devices.current()) if stream is None else stream
        self._inside = on_stream(self.capture_stream)

    def __enter__(self) -> None:
        devices.synchronize()
        gc.collect()
        memory.free_unused()
        self.capture_stream.wait_stream(current_stream())
        self._inside.__enter__()
        try:
            self.cuda_graph.capture_begin(self.pool)
        except BaseException:
            self._inside.__exit__(None, None, None)
            raise

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.cuda_graph.capture_end()
        except Exception:
            if error is None:
                raise
        finally:
            self._inside.__exit__(None, None, None)
            if error is not None:
                self.cuda_graph.reset()
                error.add_note("while a CUDA graph was captured: nothing of it has run")
        current_stream().wait_stream(self.capture_stream)
