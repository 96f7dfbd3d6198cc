"""Adagrad: the more a coordinate has moved, the smaller its steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_llm.autograd import Tensor

from .optimizer import Group, Optimizer, check_not_negative, in_tiles, switches


class Adagrad(Optimizer):
    """p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps), s = initial_accumulator_value + the sum of g^2.

    Weight decay adds weight_decay p to g. State: `step` (t) and `sum` (s).

    Raises: ValueError for options out of range.
    Source: Duchi, Hazan and Singer, Adaptive subgradient methods (2011), eq. 1 with diagonal matrices.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_not_negative("learning rate", lr)
        check_not_negative("lr_decay value", lr_decay)
        check_not_negative("weight_decay value", weight_decay)
        check_not_negative("initial_accumulator_value value", initial_accumulator_value)
        check_not_negative("epsilon value", eps)
        options: Group = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay}
        options |= {"initial_accumulator_value": initial_accumulator_value, "maximize": maximize}
        super().__init__(params, options | switches(foreach=foreach, differentiable=differentiable, fused=fused))

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: Group) -> None:
        """Take one step for one parameter."""
        if not state:
            state.update(step=0, sum=Tensor(np.full_like(p.array, group["initial_accumulator_value"])))
        state["step"] += 1
        lr = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        for p_, g_, s in in_tiles(p.array, g, state["sum"].array):
            d = -g_ if group["maximize"] else g_
            if group["weight_decay"]:
                d = d + group["weight_decay"] * p_
            s += d * d
            p_ -= lr * d / (np.sqrt(s) + group["eps"])
