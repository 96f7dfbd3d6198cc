"""A trainer's steps on a GPU as CUDA graphs: recorded when they have been taken a few times, and then repeated.

A step is three pieces of work, since Python looks at the loss and at the norm before the weights change: forward and
backward of a batch, a graph for each shape; the clipping; the update. In float16 there is one more before the clipping,
which divides the gradients by what the loss was scaled by, and tells whether they overflowed. They share memory. Every
number is that of an ordinary step, to the last bit.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm import cuda, dtypes
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import empty, full
from tinygrad_llm.kernels.cuda import products
from tinygrad_llm.nn import Module
from tinygrad_llm.nn.utils import clip_grad_norm_
from tinygrad_llm.optim import Optimizer
from tinygrad_llm.random import fast_masks
from tinygrad_llm.training.ahead import Courier, Sent, shapes
from tinygrad_llm.training.precision import Precision
from tinygrad_llm.training.step import Loss, Step

WARM_UP = 3  # ordinary steps with a shape before it is captured: they compile kernels and make the moments
MOST_GRAPHS = 8  # of forward and backward; batches of further shapes take the ordinary way


class Pass(NamedTuple):
    """A captured forward and backward: it reads a batch here, and leaves the loss there."""

    graph: cuda.CUDAGraph
    inputs: list[Tensor]
    share: Tensor
    scale: Tensor
    loss: Tensor


class CapturedStep(Step):
    """A Step that is captured where it can be. Where not, warn says why, once, and the steps go on as ordinary ones."""

    def __init__(
        self, model: Module, optimizer: Optimizer, loss: Loss, clip: float, device: Any, precision: Precision,
        parameters: Sequence[Tensor] | None = None, warn: Callable[[str], None] = warnings.warn,
    ):  # fmt: skip
        super().__init__(model, optimizer, loss, clip, device, precision, parameters)
        self.warn, self.possible = warn, True
        self._seen: Counter[Any] = Counter()
        self._courier: Courier | None = None
        self._sent: dict[int, tuple[Sequence[np.ndarray], Sent]] = {}
        self._forget()

    def _forget(self) -> None:
        """Give up all graphs and their memory."""
        self._passes: dict[Any, Pass] = {}
        self._gradients: list[tuple[Tensor, Tensor]] = []  # of each parameter, where the graphs leave it
        self._unscale: tuple[cuda.CUDAGraph, list[Any]] | None = None  # in float16
        self._clip: tuple[cuda.CUDAGraph, Tensor] | None = None
        self._update: cuda.CUDAGraph | None = None
        self._pool: Any = None
        self._known: list[Any] = []
        self._at_work, self._first, self._left = False, True, 0

    # --- the parts of a step ---

    def begin(self, batches: Sequence[Sequence[np.ndarray]]) -> None:
        """As of an ordinary step; captures what is missing for these batches, where all have been seen often enough."""
        super().begin(batches)
        keys = [(shapes(batch), i == 0) for i, batch in enumerate(batches)]
        self._at_work = self.possible and bool(batches) and all(self._seen[shape] >= WARM_UP for shape, _ in keys)
        self._at_work = self._at_work and bool(self.optimizer.state)  # no step may have been taken yet in float16
        if self._at_work and self._moved():
            self._forget()
            self._at_work = True
        if self._at_work and len(self._passes.keys() | set(keys)) > MOST_GRAPHS:
            self._at_work = False
        if self._at_work:
            self._at_work = self._capture_missing(dict.fromkeys(keys))
        if not self._at_work:
            self._seen.update({shape for shape, _ in keys})
            self._unsent()
        self._first, self._left = True, len(batches)

    def forward(self, batch: Sequence[np.ndarray], share: float) -> float:
        """The loss; where it is captured, backward has been given to the GPU, too."""
        if not self._at_work:
            return self._ordinary(batch, share)
        recorded = self._passes[shapes(batch), self._first]
        self._first, self._left = False, self._left - 1
        assert self._courier is not None
        _, room = self._sent.pop(id(batch), (None, None))
        self._courier.deliver(room or self._courier.send(batch), recorded.inputs)
        recorded.share.fill_(share)
        if self.precision.scaler.is_enabled():
            recorded.scale.fill_(self.precision.scaler.get_scale())
        recorded.graph.replay()
        self._hand_over()
        if not self._left:
            self.meanwhile()
        return recorded.loss.item()

    def _ordinary(self, batch: Sequence[np.ndarray], share: float) -> float:
        """The loss by an ordinary step; where the GPU is full beside the memory of graphs, that is given up for it."""
        try:
            return super().forward(batch, share)
        except MemoryError as error:
            if not self._passes:
                raise
            self._give_up(error)
        cuda.empty_cache()
        return super().forward(batch, share)

    def backward(self) -> None:
        """Nothing, where it is captured: see forward."""
        if not self._at_work:
            super().backward()

    def ready(self) -> bool:
        """As of an ordinary step."""
        if not self._at_work:
            return super().ready()
        if self._unscale is None:
            return True
        graph, found = self._unscale
        graph.replay()
        self.precision.scaler.was_unscaled(self.optimizer, found)
        return self.precision.settled(self.optimizer)

    def clip(self) -> float:
        """As of an ordinary step."""
        if not self._at_work:
            return super().clip()
        assert self._clip is not None
        graph, norm = self._clip
        graph.replay()
        return norm.item()

    def update(self) -> None:
        """As of an ordinary step."""
        if not self._at_work:
            if not self.optimizer.state:  # moments in pieces of what activations left would keep all of that
                cuda.empty_cache()
            super().update()
            return
        assert self._update is not None
        self._update.replay()
        self.precision.stepped()

    def send(self, batches: Sequence[Sequence[np.ndarray]]) -> None:
        """Start to copy the batches of the next step, where this one is captured."""
        if self._at_work and self._courier is not None:
            self._unsent()
            self._sent = {id(batch): (batch, self._courier.send(batch)) for batch in batches}

    def _unsent(self) -> None:
        """Give up what was sent and not used."""
        while self._sent and self._courier is not None:
            self._courier.give_up(self._sent.popitem()[1][1])

    # --- what they are made of ---

    def _hand_over(self) -> None:
        for parameter, gradient in self._gradients:
            parameter.grad = gradient

    def _moved(self) -> bool:
        """Whether weights or moments lie elsewhere than when they were captured, or others are trained."""
        now = self._places()
        return bool(self._known) and not (
            len(now) == len(self._known) and all(a is b for a, b in zip(now, self._known, strict=True))
        )

    def _places(self) -> list[Any]:
        every = {id(p): p for p in (*self.model.parameters(), *self.parameters())}.values()
        moments = [s[name].array for s in self.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        return [p.array for p in every] + [p.requires_grad for p in every] + moments

    def _capture_missing(self, keys: dict[Any, None]) -> bool:
        """Capture the passes of these shapes, and the rest of the step. Returns whether that was possible."""
        if all(key in self._passes for key in keys) and self._update is not None:
            return True
        try:
            if not products.can_be_captured():
                raise RuntimeError("CuPy's matrix products cannot be; pip install nvmath-python brings some that can")
            if self._pool is None:
                self._pool, self._known = cuda.graph_pool_handle(), self._places()
                self._courier = self._courier or Courier(self.device)
            for key in keys:
                if key not in self._passes:
                    self._passes[key] = self._capture_pass(*key)
            if self._update is None:
                self._capture_rest()
            self._hand_over()
        except (RuntimeError, MemoryError, NotImplementedError) as error:
            self.optimizer.zero_grad()
            self._give_up(error)
            return False
        return True

    def _give_up(self, error: Exception) -> None:
        """Take ordinary steps from now on."""
        self._forget()
        self.possible = False
        self.warn(f"steps are not captured as CUDA graphs, and take longer: {error}")

    def _capture_pass(self, shape: Any, first: bool) -> Pass:
        """Forward and backward of a batch. The first of a step makes the gradients, the others add to them."""
        inputs = [empty(size, dtype=_dtype(name), device=self.device) for size, name in shape]
        share, scale = (full((), 1.0, dtype=dtypes.float64, device=self.device) for _ in range(2))
        graph = cuda.CUDAGraph()
        for parameter, gradient in self._gradients:
            parameter.grad = None if first else gradient
        with fast_masks(), cuda.graph(graph, pool=self._pool):
            with self.precision.region():
                loss = self.loss(self.model, inputs)
            part = loss * share.to(loss.dtype)
            if self.precision.scaler.is_enabled():
                part = part * scale.to(part.dtype)
            part.backward()
            if first and self._gradients:  # where those of the first shape lie
                for parameter, gradient in self._gradients:
                    gradient.copy_(parameter.grad)
        if not self._gradients:
            self._gradients = [(p, p.grad) for p in self.parameters() if p.grad is not None]
        self._hand_over()
        return Pass(graph, inputs, share, scale, loss.detach())

    def _capture_rest(self) -> None:
        unscale, clip, update = (cuda.CUDAGraph() for _ in range(3))
        if self.precision.scaler.is_enabled():
            with cuda.graph(unscale, pool=self._pool):
                found = self.precision.scaler.divided(self.optimizer)
            self._unscale = unscale, found
        with cuda.graph(clip, pool=self._pool):
            norm = clip_grad_norm_(self.parameters(), self.largest_norm)
        with cuda.graph(update, pool=self._pool):
            self.optimizer.step()
        self._clip, self._update = (clip, norm), update


def _dtype(name: str) -> Any:
    return getattr(dtypes, name)
