"""Rates that rise and fall, and momentum that falls and rises with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..optimizer import Group, Optimizer
from .base import LRScheduler


def _each(name: str, value: float | Sequence[float], optimizer: Optimizer) -> list[float]:
    """One number for every group, or as many as there are groups."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, Sequence):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"expected {groups} values for {name}, got {len(value)}")
    return list(value)


def _set_momentum(group: Group, momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def _check_momentum(optimizer: Optimizer) -> None:
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError("optimizer must support momentum or beta1 with `cycle_momentum` option enabled")


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr in pct_start of all steps, then down to 1 / final_div_factor of the start.

    With three_phase the way down passes the start after as many steps as the way up, and ends from there. Momentum
    (beta1 of Adam) goes the other way, between base_momentum and max_momentum. The ways are half cosines or straight.

    Raises: ValueError for options out of range, an optimizer without momentum, or a step after the last.
    Source: Smith and Topin, Super-convergence (2018), section 4.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if not 0 <= pct_start <= 1 or not isinstance(pct_start, float):
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._anneal_func_type, self.cycle_momentum = anneal_strategy, cycle_momentum
        self._phases = self._plan(pct_start, three_phase)
        if last_epoch == -1:
            for group, top in zip(optimizer.param_groups, _each("max_lr", max_lr, optimizer), strict=True):
                start = top / div_factor
                group.update(initial_lr=start, max_lr=top, min_lr=start / final_div_factor)
        if cycle_momentum:
            _check_momentum(optimizer)
            if last_epoch == -1:
                low, high = _each("base_momentum", base_momentum, optimizer), _each("max", max_momentum, optimizer)
                for group, least, most in zip(optimizer.param_groups, low, high, strict=True):
                    _set_momentum(group, most)
                    group.update(max_momentum=most, base_momentum=least)
        super().__init__(optimizer, last_epoch)

    def _plan(self, pct_start: float, three_phase: bool) -> list[tuple[float, str, str, str, str]]:
        """The phases: the last step, the keys of the rates at both ends, the keys of the momenta."""
        up = (pct_start * self.total_steps - 1.0, "initial_lr", "max_lr", "max_momentum", "base_momentum")
        if not three_phase:
            return [up, (self.total_steps - 1.0, "max_lr", "min_lr", "base_momentum", "max_momentum")]
        middle = 2 * pct_start * self.total_steps - 2.0
        return [
            up,
            (middle, "max_lr", "initial_lr", "base_momentum", "max_momentum"),
            (self.total_steps - 1.0, "initial_lr", "min_lr", "max_momentum", "max_momentum"),
        ]

    def _between(self, start: float, end: float, share: float) -> float:
        if self._anneal_func_type == "cos":
            return end + (start - end) / 2.0 * (1 + math.cos(math.pi * share))
        return (end - start) * share + start

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"Tried to step {t} times. The specified number of total steps is {self.total_steps}")
        begin = 0.0
        for phase in self._phases[:-1]:
            if t <= phase[0]:
                break
            begin = phase[0]
        else:
            phase = self._phases[-1]
        end, lr_from, lr_to, momentum_from, momentum_to = phase
        share = (t - begin) / (end - begin)
        if self.cycle_momentum:
            for group in self.optimizer.param_groups:
                _set_momentum(group, self._between(group[momentum_from], group[momentum_to], share))
        return [self._between(group[lr_from], group[lr_to], share) for group in self.optimizer.param_groups]


def _total_steps(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        given, name = total_steps, "total_steps"
    elif epochs is not None and steps_per_epoch is not None:
        for given, name in ((epochs, "epochs"), (steps_per_epoch, "steps_per_epoch")):
            if not isinstance(given, int) or given <= 0:
                raise ValueError(f"Expected positive integer {name}, but got {given}")
        return epochs * steps_per_epoch
    else:
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    if not isinstance(given, int) or given <= 0:
        raise ValueError(f"Expected positive integer {name}, but got {given}")
    return given


class CyclicLR(LRScheduler):
    """Up from base_lr to max_lr in step_size_up steps, down in step_size_down, and again; momentum the other way.

    mode "triangular" repeats the cycle, "triangular2" halves its height each time, "exp_range" scales it by gamma^t;
    scale_fn of the cycle's number, or for scale_mode "iterations" of t, takes their place.

    Raises: ValueError for an unknown mode, or an optimizer without momentum.
    Source: Smith, Cyclical learning rates for training neural networks (2017), section 3.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | Sequence[float],
        max_lr: float | Sequence[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.8,
        max_momentum: float | Sequence[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, _each("base_lr", base_lr, optimizer), strict=True):
                group["lr"] = lr
        self.max_lrs = _each("max_lr", max_lr, optimizer)
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size, self.step_ratio = float(step_size_up + down), step_size_up / float(step_size_up + down)
        self.mode, self.gamma, self.scale_fn = mode, gamma, scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            _check_momentum(optimizer)
            self.base_momentums = _each("base_momentum", base_momentum, optimizer)
            self.max_momentums = _each("max_momentum", max_momentum, optimizer)
            for group, lr, low, high in zip(
                optimizer.param_groups, self.max_lrs, self.base_momentums, self.max_momentums, strict=True
            ):
                group.update(max_lr=lr, base_momentum=low, max_momentum=high)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = _each("base_lr", base_lr, optimizer)

    def _scale(self, cycle: float) -> float:
        x = cycle if self.scale_mode == "cycle" else self.last_epoch
        if self.scale_fn is not None:
            return self.scale_fn(x)
        if self.mode == "exp_range":
            return self.gamma**x
        return 1.0 if self.mode == "triangular" else 0.5 ** (x - 1)

    def get_lr(self) -> list[float]:
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        rise = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        height = rise * self._scale(cycle)
        if self.cycle_momentum:
            bounds = zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True)
            for group, low, high in bounds:
                _set_momentum(group, high - (high - low) * height)
        return [low + (high - low) * height for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """As the base class, without scale_fn: it is code, and the one who loads the state gives it again."""
        return {key: value for key, value in super().state_dict().items() if key != "scale_fn"}
