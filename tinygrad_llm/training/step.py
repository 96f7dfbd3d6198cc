"""What a trainer does to model and optimizer in a step: forward, backward, clip, update."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import from_numpy
from tinygrad_llm.nn import Module
from tinygrad_llm.nn.utils import clip_grad_norm_
from tinygrad_llm.optim import Optimizer
from tinygrad_llm.random import fast_masks
from tinygrad_llm.training.precision import Precision

Loss = Callable[[Module, Sequence[Tensor]], Tensor]


def decay_groups(parameters: Sequence[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer that decays matrices, and leaves biases and norms alone.

    A norm's weight has no reason to be small.
    """
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class Step:
    """The parts of a step, in this order: begin; forward and backward for each batch; ready; clip; update.

    Where ready says no, it begins anew. loss: of a batch's tensors, the mean over its targets. clip: the largest norm
    of the gradient; 0 = no limit. parameters: of which it is the gradient, by default the model's. meanwhile: called
    where a GPU has been given all batches and Python would wait for it next.
    """

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self, model: Module, optimizer: Optimizer, loss: Loss, clip: float, device: Any, precision: Precision,
        parameters: Sequence[Tensor] | None = None,
    ):  # fmt: skip
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self._given = parameters
        self.device, self.precision = device, precision
        self.largest_norm = clip or math.inf
        self._part: Tensor | None = None

    def parameters(self) -> list[Tensor]:
        """Those that learn, and perhaps others."""
        return list(self.model.parameters() if self._given is None else self._given)

    def begin(self, batches: Sequence[Sequence[np.ndarray]]) -> None:
        """Forget the gradients of the step before; the batches are those that forward will be given."""
        self.model.train()
        self.optimizer.zero_grad()

    def forward(self, batch: Sequence[np.ndarray], share: float) -> float:
        """The loss of a batch, whose part in the step's loss is `share`."""
        with fast_masks(), self.precision.region():
            part = self.loss(self.model, [from_numpy(array).to(self.device) for array in batch])
        self._part = part * share
        return part.item()

    def backward(self) -> None:
        """Add the gradients of what forward computed."""
        part, self._part = self._part, None
        assert part is not None
        self.precision.backward(part)

    def ready(self) -> bool:
        """Make the gradients what they are; False where they overflowed and are to be computed again.

        Raises: NonFiniteLoss where that would help no more.
        """
        return self.precision.ready(self.optimizer)

    def clip(self) -> float:
        """Shorten the gradient to the largest norm; returns what it was."""
        return clip_grad_norm_(self.parameters(), self.largest_norm).item()  # one over all parameters

    def update(self) -> None:
        """Take the step."""
        self.precision.step(self.optimizer)

    def send(self, batches: Sequence[Sequence[np.ndarray]]) -> None:
        """Let the batches of the next step start on their way to where it computes."""
