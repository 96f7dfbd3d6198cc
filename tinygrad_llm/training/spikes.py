"""Steps that would ruin a model: a loss that is no number, or that jumps far above those before."""

import math
from typing import Any

DECAY = 0.98  # of the running mean and variance: about the last fifty losses
ENOUGH = 20  # losses before which nothing counts as a jump


class BadStep(RuntimeError):
    """A step that must not be taken. The parameters are as they were before it."""


class NonFiniteLoss(BadStep):
    """The loss or its gradient is no longer a number. The parameters may be ruined: keep no file of them."""


class LossSpike(BadStep):
    """The loss lies far above those of the steps before."""


class SpikeGuard:
    """Knows the mean and deviation of late losses: m = d m + (1 - d) l, v = d v + (1 - d) (l - m)^2, with d = DECAY.

    limit: a loss more than so many deviations above the mean is a spike; 0 means that none is.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.count, self.mean, self.variance = 0, 0.0, 0.0

    def check(self, loss: float, step: int) -> None:
        """Raises: LossSpike with the loss and the bound that it lies above."""
        if not self.limit or self.count < ENOUGH:
            return
        bound = self.mean + self.limit * math.sqrt(self.variance)
        if loss > bound:
            raise LossSpike(
                f"step {step}: the loss jumped to {loss:.4f}, above {bound:.4f}, which lies {self.limit:g} deviations "
                f"over the mean of late, {self.mean:.4f}"
            )

    def accept(self, loss: float) -> None:
        """Take in the loss of a step that was taken."""
        d = min(DECAY, self.count / (self.count + 1))  # at first the plain mean
        self.variance = d * (self.variance + (1 - d) * (loss - self.mean) ** 2)
        self.mean = d * self.mean + (1 - d) * loss
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """What it knows, as JSON values."""
        return {"count": self.count, "mean": self.mean, "variance": self.variance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.count, self.mean, self.variance = (state[key] for key in ("count", "mean", "variance"))
