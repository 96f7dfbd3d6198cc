"""The dtype that a run computes its products in, and what float16 asks of a step."""

from __future__ import annotations

from typing import Any

from tinygrad_llm import devices, dtypes
from tinygrad_llm.amp import GradScaler, autocast
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.optim.optimizer import Optimizer
from tinygrad_llm.training.recipe import check_dtype
from tinygrad_llm.training.spikes import NonFiniteLoss

OLDEST_WITH_BFLOAT16 = 8  # compute capability


class Precision:
    """float32, or products in bfloat16 or float16 around weights, moments, norms and losses of float32.

    float16 has no exponents below 2^-24, so the loss is scaled; a step whose gradients overflow is computed again
    with half the factor, until it is below 1.

    Raises:
        ValueError: an unknown dtype, or bfloat16 on a GPU that cannot multiply it.
    """

    def __init__(self, dtype: str, device: str) -> None:
        self.name, target = check_dtype(dtype), devices.device(device)
        self.kind, self.dtype = target.type, getattr(dtypes, dtype)
        if self.kind == "cuda" and dtype == "bfloat16":
            about = devices.properties(target.index)
            if about["major"] < OLDEST_WITH_BFLOAT16:
                raise ValueError(
                    f"--dtype bfloat16: device {device} has compute capability {about['major']}.{about['minor']}, "
                    f"which multiplies no bfloat16; use --dtype float16"
                )
        self.scaler = GradScaler(self.kind, enabled=dtype == "float16")

    def region(self) -> autocast:
        """Where the model computes."""
        return autocast(self.kind, self.dtype, enabled=self.name != "float32")

    def backward(self, loss: Tensor) -> None:
        """The gradients of a loss, as they are before `ready`."""
        self.scaler.scale(loss).backward()

    def ready(self, optimizer: Optimizer) -> bool:
        """Make the gradients what they are; False where they overflowed and are to be computed again.

        Raises: NonFiniteLoss where a smaller factor would help no more.
        """
        self.scaler.unscale_(optimizer)
        return self.settled(optimizer)

    def settled(self, optimizer: Optimizer) -> bool:
        """As ready, of gradients that have been divided."""
        if not self.scaler.overflowed(optimizer):
            return True
        self.scaler.step(optimizer)  # which it leaves out
        self.scaler.update()
        optimizer.zero_grad()
        if self.scaler.get_scale() < 1:
            raise NonFiniteLoss("the gradients overflow float16 whatever the loss is scaled by; use --dtype bfloat16")
        return False

    def step(self, optimizer: Optimizer) -> None:
        """Take the step of gradients that are ready."""
        self.scaler.step(optimizer)
        self.stepped()

    def stepped(self) -> None:
        """Adapt the factor after a step."""
        if self.scaler.is_enabled():
            self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """What the next steps are scaled by, as JSON values."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; that of a run in another dtype has none."""
        if state:
            self.scaler.load_state_dict(state)
