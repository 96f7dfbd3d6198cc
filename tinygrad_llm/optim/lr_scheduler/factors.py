"""Rates that are the initial ones, or the last ones, times a factor of t."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..optimizer import Optimizer
from .base import LRScheduler


class LambdaLR(LRScheduler):
    """lr = initial lr * lr_lambda(t), one function for all groups or a list with one for each."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        groups = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            raise ValueError(f"Expected {groups} lr_lambdas, but got {len(self.lr_lambdas)}")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * scale(self.last_epoch) for lr, scale in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """As the base class, without the functions: they are code, and the one who loads the state gives them again."""
        return {key: value for key, value in super().state_dict().items() if key != "lr_lambdas"}


class MultiplicativeLR(LambdaLR):
    """lr = last lr * lr_lambda(t), from t = 1 on."""

    resumes_with_present_lr = True

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._present()
        return [lr * scale(self.last_epoch) for lr, scale in zip(self._present(), self.lr_lambdas, strict=True)]


class StepLR(LRScheduler):
    """lr = initial lr * gamma^(t // step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        due = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return self._scaled(self.gamma if due else 1.0)

    def closed_form(self) -> list[float]:
        return [lr * self.gamma ** (self.last_epoch // self.step_size) for lr in self.base_lrs]


class MultiStepLR(LRScheduler):
    """lr = initial lr * gamma^n, n the number of milestones up to t."""

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return self._scaled(self.gamma ** self.milestones[self.last_epoch])

    def closed_form(self) -> list[float]:
        passed = bisect_right(sorted(self.milestones.elements()), self.last_epoch)
        return [lr * self.gamma**passed for lr in self.base_lrs]


class ExponentialLR(LRScheduler):
    """lr = initial lr * gamma^t."""

    resumes_with_present_lr = True

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return self._scaled(1.0 if self.last_epoch == 0 else self.gamma)

    def closed_form(self) -> list[float]:
        return [lr * self.gamma**self.last_epoch for lr in self.base_lrs]


class ConstantLR(LRScheduler):
    """lr = initial lr * factor while t < total_iters, and the initial lr from then on."""

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        if not 0 <= factor <= 1:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.factor)
        return self._scaled(1.0 / self.factor if self.last_epoch == self.total_iters else 1.0)

    def closed_form(self) -> list[float]:
        return [lr * (self.factor if self.last_epoch < self.total_iters else 1.0) for lr in self.base_lrs]


class LinearLR(LRScheduler):
    """lr = initial lr * f, f going in a straight line from start_factor at t = 0 to end_factor at t = total_iters."""

    resumes_with_present_lr = True

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError("Starting multiplicative factor expected to be greater than 0 and less or equal to 1.")
        if not 0 <= end_factor <= 1:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return self._scaled(self.start_factor)
        if self.last_epoch > self.total_iters:
            return self._present()
        rise = self.end_factor - self.start_factor
        return self._scaled(1.0 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise))

    def closed_form(self) -> list[float]:
        way = min(self.last_epoch, self.total_iters) / self.total_iters
        return [lr * (self.start_factor + (self.end_factor - self.start_factor) * way) for lr in self.base_lrs]


class PolynomialLR(LRScheduler):
    """lr = initial lr * (1 - t / total_iters)^power, and 0 from total_iters on."""

    resumes_with_present_lr = True

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t == 0 or t > self.total_iters:
            return self._present()
        return self._scaled(((1.0 - t / self.total_iters) / (1.0 - (t - 1) / self.total_iters)) ** self.power)

    def closed_form(self) -> list[float]:
        left = 1.0 - min(self.total_iters, self.last_epoch) / self.total_iters
        return [lr * left**self.power for lr in self.base_lrs]


def warmup_cosine(warmup_steps: int, total_steps: int, min_ratio: float = 0.1) -> Callable[[int], float]:
    """The factor on lr at step t, for LambdaLR: a line from 0 up to 1, then half a cosine down to min_ratio.

    (t + 1) / (warmup_steps + 1) while t < warmup_steps; then min_ratio + (1 - min_ratio) (1 + cos(pi s)) / 2, s going
    from 0 to 1 at total_steps; min_ratio from then on.

    Raises: ValueError unless 0 <= warmup_steps <= total_steps and 0 <= min_ratio <= 1.
    """
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_cosine: warmup_steps {warmup_steps} must lie in 0..total_steps ({total_steps})")
    if not 0 <= min_ratio <= 1:
        raise ValueError(f"warmup_cosine: min_ratio must lie in 0..1, not {min_ratio}")

    def factor(t: int) -> float:
        if t < warmup_steps:
            return (t + 1) / (warmup_steps + 1)
        if t >= total_steps:
            return min_ratio
        s = (t - warmup_steps) / (total_steps - warmup_steps)
        return min_ratio + (1 - min_ratio) * (1 + math.cos(math.pi * s)) / 2

    return factor


def warmup_constant(warmup_steps: int) -> Callable[[int], float]:
    """The factor on lr at step t, for LambdaLR: warmup_cosine's line up to 1, then 1 for ever."""
    return lambda t: min(1.0, (t + 1) / (warmup_steps + 1))


def warmup_inverse_sqrt(warmup_steps: int, min_ratio: float = 0.0) -> Callable[[int], float]:
    """The factor on lr at step t, for LambdaLR: w = warmup_steps + 1; (t + 1) / w up to 1, then sqrt(w / (t + 1)).

    It does not fall below min_ratio, and needs no last step.

    Source: Vaswani et al., Attention is all you need (2017), equation 3, scaled to a highest factor of 1.
    """
    w = warmup_steps + 1
    return lambda t: (t + 1) / w if t < w else max(min_ratio, math.sqrt(w / (t + 1)))


def warmup_stable_decay(
    warmup_steps: int, total_steps: int, decay_steps: int, min_ratio: float = 0.0
) -> Callable[[int], float]:
    """The factor on lr at step t, for LambdaLR: a line up to 1, then 1, then in the last steps a line to min_ratio.

    The same at every step before total_steps - decay_steps, whatever total_steps is: a run can be made longer.

    Raises: ValueError unless warmup_steps + decay_steps <= total_steps.
    Source: Hu et al., MiniCPM (2024), section 4.
    """
    if warmup_steps + decay_steps > total_steps:
        raise ValueError(
            f"warmup_stable_decay: {warmup_steps} steps up and {decay_steps} down are more than {total_steps}"
        )
    start = total_steps - decay_steps

    def factor(t: int) -> float:
        if t < warmup_steps:
            return (t + 1) / (warmup_steps + 1)
        if t < start:
            return 1.0
        s = min(1.0, (t - start) / max(decay_steps, 1)) if t < total_steps else 1.0
        return 1.0 - (1.0 - min_ratio) * s

    return factor
