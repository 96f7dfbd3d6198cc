"""What every trainer has, so that its run can be saved, go on, be written down and be shown."""

import base64
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import from_numpy
from tinygrad_llm.models.checkpoint import aliases
from tinygrad_llm.nn import Module, Parameter
from tinygrad_llm.optim import Optimizer
from tinygrad_llm.random import get_rng_state, set_rng_state

Record = dict[str, Any]


class Resumable(ABC):
    """A model on its way through a run: how far it is, and all that decides how it goes on."""

    model: Module
    optimizer: Optimizer

    def __init__(self) -> None:
        self.step = 0
        self.tokens = 0  # predictions learned from so far
        self.last_loss: float | None = None
        self.last_norm = 0.0  # of the gradient, before clipping
        self.seconds = 0.0  # spent in training steps
        self.beside: dict[str, float] = {}  # seconds spent in evaluations and whatever else was `timed`

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many the run has."""

    @property
    @abstractmethod
    def history(self) -> list[Record]:
        """A record an evaluation so far."""

    @property
    @abstractmethod
    def best_step(self) -> int | None:
        """The step of the best evaluation so far; None before there is one."""

    @abstractmethod
    def evaluation_due(self) -> bool:
        """Whether the model is to be judged before the next step."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything but the arrays of model and optimizer that decides how the run goes on, as JSON values."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises: ValueError for a state of another run."""

    @property
    def spent(self) -> float:
        """Seconds, to the hundredth, of steps and of what was `timed` beside them, over all processes of the run."""
        return round(self.seconds + sum(self.beside.values()), 2)

    def tensors(self) -> dict[str, Tensor]:
        """What training changes, by name, tied ones once: the parameters that learn, and buffers."""
        shared = aliases(self.model)
        own = self.model.state_dict(keep_vars=True)
        return {
            name: tensor
            for name, tensor in own.items()
            if name not in shared and (tensor.requires_grad or not isinstance(tensor, Parameter))
        }

    def best_weights(self) -> dict[str, Any]:
        """The arrays of the best evaluation's weights by name, for a trainer that goes back to them in the end."""
        return {}

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Count the time of the block as spent on `what`, beside the steps; it is kept in the state."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.beside[what] = self.beside.get(what, 0.0) + time.perf_counter() - start


def masks_state() -> str:
    """The state of the generator that dropout draws from, as text."""
    return base64.b64encode(get_rng_state().array.tobytes()).decode()


def set_masks_state(state: str) -> None:
    """Let dropout go on drawing from a state."""
    set_rng_state(from_numpy(np.frombuffer(base64.b64decode(state), np.uint8).copy()))
