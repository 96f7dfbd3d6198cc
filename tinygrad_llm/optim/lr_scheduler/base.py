"""The base class of the schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tinygrad_llm.warning import warn

from ..optimizer import Optimizer


class LRScheduler:
    """Base class: call `step()` after each step of the optimizer. The constructor sets the rates of t = 0.

    last_epoch: -1 to begin, or the t at which to go on; the groups must then know their `initial_lr`.
    """

    optimizer: Optimizer
    base_lrs: list[float]
    last_epoch: int
    resumes_with_present_lr = False  # a constructor that resumes leaves the rates as it finds them

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with "
                    "last_epoch >= 0; load the optimizer's state first"
                )
        self.optimizer = optimizer
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._steps = 0
        self._begin()

    def get_lr(self) -> list[float]:
        """The rates at t = last_epoch, from those that the groups have from t - 1."""
        raise NotImplementedError

    def closed_form(self) -> list[float]:
        """The rates at t = last_epoch from the initial ones alone, where there is a formula."""
        return self.get_lr()

    def get_last_lr(self) -> list[float]:
        """The rates set last, one for each group."""
        return self._last_lr

    def step(self) -> None:
        """t = t + 1, and the rates of the new t."""
        self._count_step()
        self.last_epoch += 1
        self._set(self.get_lr())

    def _count_step(self) -> None:
        """Warn, as PyTorch does, if the first step comes before the optimizer's."""
        self._steps += 1
        if self._steps == 1 and type(self.optimizer).step is Optimizer.step and not self.optimizer._stepped:
            warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`. Call them in the opposite order: "
                "`optimizer.step()` before `lr_scheduler.step()`; otherwise the schedule's first value is skipped.",
            )

    def _begin(self) -> None:
        """What the constructor does: t = last_epoch + 1, and its rates."""
        self.last_epoch += 1
        resumed = self.last_epoch > 0 and self.resumes_with_present_lr
        self._set(self._present() if resumed else self.get_lr())

    def _restart(self) -> None:
        """Back to t = 0."""
        self.last_epoch = 0
        self._set(self.closed_form())

    def _present(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _scaled(self, factor: float) -> list[float]:
        return [lr * factor for lr in self._present()]

    def _set(self, rates: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = list(rates)

    def state_dict(self) -> dict[str, Any]:
        """All that the scheduler knows but the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state; the rates themselves come with the optimizer's state."""
        self.__dict__.update(state_dict)
