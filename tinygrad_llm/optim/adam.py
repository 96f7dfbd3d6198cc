"""Adam: steps of about lr in each coordinate, whatever the scale of its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd import Tensor

from .optimizer import FIXED, Group, Optimizer, check_not_negative


class Adam(Optimizer):
    """p -= lr m_hat / (sqrt(v_hat) + eps), m and v the running means of g and g^2, the hats undoing their start at 0.

    Weight decay adds weight_decay p to g; with `decoupled_weight_decay` it is p -= lr weight_decay p instead (AdamW).
    State: `step`, `exp_avg` (m) and `exp_avg_sq` (v).

    Raises: ValueError for options out of range.
    Source: Kingma and Ba, Adam: a method for stochastic optimization (2015), algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        check_not_negative("learning rate", lr)
        check_not_negative("epsilon value", eps)
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        check_not_negative("weight_decay value", weight_decay)
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        options |= {"amsgrad": False, "capturable": False}
        super().__init__(
            params, {**options, "maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay, **FIXED}
        )

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: Group) -> None:
        """Take one step for one parameter."""
        if not state:
            state.update(step=0, exp_avg=Tensor(np.zeros_like(p.array)), exp_avg_sq=Tensor(np.zeros_like(p.array)))
        state["step"] += 1
        decay = group["weight_decay"]
        if group["maximize"]:
            g = -g
        if decay and not group["decoupled_weight_decay"]:
            g, decay = g + decay * p.array, 0.0
        beta1, beta2 = group["betas"]
        kernels.of(p.array).adamw(
            p.array,
            g,
            state["exp_avg"].array,
            state["exp_avg_sq"].array,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=decay,
            step=state["step"],
        )
