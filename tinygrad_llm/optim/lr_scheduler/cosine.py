"""Half waves down, with and without restarts."""

from __future__ import annotations

import math

from ..optimizer import Optimizer
from .base import LRScheduler


class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (initial lr - eta_min) (1 + cos(pi t / T_max)) / 2: down in T_max steps, then up again.

    Source: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts (2017), eq. 5.
    """

    resumes_with_present_lr = True

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t == 0:
            return self._present()
        if (t - 1 - self.T_max) % (2 * self.T_max) == 0:  # at the bottom the quotient below would be 0 / 0
            rise = (1 - math.cos(math.pi / self.T_max)) / 2
            return [lr + (base - self.eta_min) * rise for lr, base in zip(self._present(), self.base_lrs, strict=True)]
        ratio = (1 + math.cos(math.pi * t / self.T_max)) / (1 + math.cos(math.pi * (t - 1) / self.T_max))
        return [ratio * (lr - self.eta_min) + self.eta_min for lr in self._present()]

    def closed_form(self) -> list[float]:
        share = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (lr - self.eta_min) * share for lr in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """lr = eta_min + (initial lr - eta_min) (1 + cos(pi s / T)) / 2, s the steps since the last of the restarts.

    The first period T is T_0 steps, and each of those after it T_mult times as long. `step(epoch)` goes to any t, whole
    or not.

    Raises: ValueError unless T_0 and T_mult are positive integers.
    Source: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts (2017), eq. 5.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        if T_0 <= 0 or not isinstance(T_0, int):
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if T_mult < 1 or not isinstance(T_mult, int):
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        self.T_i: int = T_0
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def _begin(self) -> None:
        self._forward()

    def get_lr(self) -> list[float]:
        share = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (lr - self.eta_min) * share for lr in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """t = t + 1, or epoch, and its rates."""
        self._count_step()
        if epoch is None:
            self._forward()
        else:
            self._go_to(epoch)

    def _forward(self) -> None:
        self.last_epoch += 1
        self.T_cur += 1
        if self.T_cur >= self.T_i:
            self.T_cur %= self.T_i
            self.T_i *= self.T_mult
        self._set(self.get_lr())

    def _go_to(self, t: float) -> None:
        if t < 0:
            raise ValueError(f"Expected non-negative epoch, but got {t}")
        self.last_epoch, self.T_cur, self.T_i = math.floor(t), t, self.T_0
        if self.T_mult == 1:
            self.T_cur = t % self.T_0
        else:
            while self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
        self._set(self.get_lr())
