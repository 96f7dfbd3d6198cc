"""Loss scaling: gradients of float16 are lifted out of the numbers that it rounds to 0, and lowered before the step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes, kernels
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.graph import note_write
from tinygrad_llm.optim.optimizer import Optimizer
from tinygrad_llm.warning import warn

READY, UNSCALED, STEPPED = "READY", "UNSCALED", "STEPPED"


class GradScaler:
    """Multiplies the loss by a factor, divides the gradients by it, and leaves out a step whose gradients overflowed.

        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)      # where gradients are looked at or clipped before the step
        scaler.step(optimizer)
        scaler.update()

    The factor starts at init_scale; a step that was left out multiplies it by backoff_factor, growth_interval steps
    in a row without one by growth_factor. All gradients of an optimizer are looked at together: a GPU is waited for
    once a step. bfloat16 has float32's range and needs none of this.

    Raises:
        ValueError: gradients of float16, which come of weights of float16: they must be float32 (`autocast`).
        RuntimeError: unscale_ or step twice between two updates.
    Source: Micikevicius et al., Mixed precision training (2018), section 3.2.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ):
        if enabled and device == "cuda" and (problem := devices.cuda_problem()):
            warn(f"GradScaler is enabled, but CUDA is not available. Disabling. ({problem})")
            enabled = False
        if enabled and growth_factor <= 1.0:
            raise ValueError(f"The growth factor must be > 1.0, not {growth_factor}.")
        if enabled and backoff_factor >= 1.0:
            raise ValueError(f"The backoff factor must be < 1.0, not {backoff_factor}.")
        self._enabled, self._scale = enabled, float(init_scale)
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval, self._growth_tracker = growth_interval, 0
        self._stages: dict[int, tuple[str, list[Any]]] = {}  # by optimizer: how far it is, what is not 0 on overflow

    def scale(self, outputs: Any) -> Any:
        """The factor times a tensor, or times each in a list or tuple."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):  # a 0-d loss of float16 becomes float32, which holds the product
            return outputs * Tensor(np.float32(self._scale)).to(outputs.device)
        if not isinstance(outputs, (list, tuple)):
            raise ValueError("outputs must be a Tensor or an iterable of Tensors")
        return type(outputs)(map(self.scale, outputs))

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer's parameters by the factor, in place."""
        if not self._enabled:
            return
        stage = self._stage(optimizer)
        if stage == UNSCALED:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if stage == STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        self.was_unscaled(optimizer, self.divided(optimizer))

    def divided(self, optimizer: Optimizer) -> list[Any]:
        """Divide the gradients, which can be captured: numbers or 0-d arrays, one not 0 where a gradient overflowed."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        assert gradients, "No inf checks were recorded for this optimizer."
        if any(g.dtype is dtypes.float16 for g in gradients):
            raise ValueError("Attempting to unscale FP16 gradients.")
        by_device: dict[Any, list[Any]] = {}
        for gradient in gradients:
            by_device.setdefault(gradient.device, []).append(gradient.array)
            note_write(gradient.array)
        with np.errstate(over="ignore"):
            return [
                devices.run(kernels.of(arrays[0]).unscale, arrays[:1], arrays, lambda: 1 / self._scale)
                for arrays in by_device.values()
            ]

    def was_unscaled(self, optimizer: Optimizer, found: list[Any]) -> None:
        """Take for done what `divided` does, for instance in a graph that was replayed; found: what it returned."""
        self._stages[id(optimizer)] = UNSCALED, found

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """optimizer.step(), after unscale_ unless that was done; None without a step where a gradient overflowed."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        if self._stage(optimizer) == STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if id(optimizer) not in self._stages:
            self.unscale_(optimizer)
        overflowed = self.overflowed(optimizer)
        self._stages[id(optimizer)] = STEPPED, [overflowed]
        return None if overflowed else optimizer.step(*args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the factor to what happened since the last update, or set it."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        else:
            assert self._stages, "No inf checks were recorded prior to update."
            if any(_any(found) for _, found in self._stages.values()):
                self._scale, self._growth_tracker = self._scale * self._backoff_factor, 0
            else:
                self._growth_tracker += 1
                if self._growth_tracker == self._growth_interval:
                    grown = float(np.float32(self._scale * self._growth_factor))
                    self._scale, self._growth_tracker = grown if math.isfinite(grown) else self._scale, 0
        self._stages.clear()

    def overflowed(self, optimizer: Optimizer) -> bool:
        """Whether the gradients that unscale_ last saw of an optimizer hold inf or nan, so that step leaves it out.

        A GPU is waited for when this is asked, by `step` at the latest, and once.
        """
        if id(optimizer) not in self._stages:
            return False
        stage, found = self._stages[id(optimizer)]
        self._stages[id(optimizer)] = stage, [_any(found)]
        return self._stages[id(optimizer)][1][0]

    def _stage(self, optimizer: Optimizer) -> str:
        return self._stages.get(id(optimizer), (READY, []))[0]

    def get_scale(self) -> float:
        """The factor; 1 where scaling is disabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the factor is multiplied by after growth_interval good steps."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set it."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the factor is multiplied by after a step that was left out."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set it."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """Good steps in a row before the factor grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set it."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether it scales at all."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """The factor and how it changes, under PyTorch's names; empty where scaling is disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            RuntimeError: the state is that of a disabled scaler.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        self._scale, self._growth_tracker = float(state_dict["scale"]), int(state_dict["_growth_tracker"])
        self._growth_factor = float(state_dict["growth_factor"])
        self._backoff_factor = float(state_dict["backoff_factor"])
        self._growth_interval = int(state_dict["growth_interval"])


def _any(found: list[Any]) -> bool:
    """Whether one of some numbers and 0-d arrays is not 0."""
    return any(devices.waited(bool(number)) for number in found)
