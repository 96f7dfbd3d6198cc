"""Adam: steps of about lr in each coordinate, whatever the scale of its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd import Tensor

from .optimizer import Group, Optimizer, check_not_negative, in_tiles, moment, switches


class Adam(Optimizer):
    """p -= lr m_hat / (sqrt(v_hat) + eps), m and v the running means of g and g^2, the hats undoing their start at 0.

    Weight decay adds weight_decay p to g; with `decoupled_weight_decay` it is p -= lr weight_decay p instead (AdamW).
    With amsgrad the largest v so far takes v's place. State: `step`, `exp_avg` (m), `exp_avg_sq` (v) and, with amsgrad,
    `max_exp_avg_sq`.

    Raises: ValueError for options out of range.
    Source: Kingma and Ba, Adam: a method for stochastic optimization (2015), algorithm 1; Reddi et al., On the
    convergence of Adam and beyond (2018), algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        check_not_negative("learning rate", lr)
        check_not_negative("epsilon value", eps)
        for i, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        check_not_negative("weight_decay value", weight_decay)
        options: Group = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        options |= {"amsgrad": amsgrad, "maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay}
        options |= switches(foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused)
        super().__init__(params, options)

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: Group) -> None:
        """Take one step for one parameter."""
        if not state:
            state.update(step=0, exp_avg=moment(p), exp_avg_sq=moment(p))
        state["step"] += 1
        decay = group["weight_decay"]
        if group["maximize"]:
            g = -g
        if decay and not group["decoupled_weight_decay"]:
            g, decay = g + decay * p.array, 0.0
        beta1, beta2 = group["betas"]
        m, v = state["exp_avg"].array, state["exp_avg_sq"].array
        rates: Group = {"lr": group["lr"], "beta1": beta1, "beta2": beta2, "eps": group["eps"], "step": state["step"]}
        if not group["amsgrad"]:
            kernels.of(p.array).adamw(p.array, g, m, v, weight_decay=decay, **rates)
            return
        top = state.setdefault("max_exp_avg_sq", moment(p)).array
        for parts in in_tiles(p.array, g, m, v, top):
            amsgrad(*parts, weight_decay=decay, **rates)


def amsgrad(
    p: Any, g: Any, m: Any, v: Any, top: Any, *, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, step: int,
) -> None:  # fmt: skip
    """One step in place on p, m, v and the largest v so far, all of one shape:

    p -= lr weight_decay p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  top = max(top, v);
    p -= lr m_hat / (sqrt(top_hat) + eps).
    """
    p *= 1 - lr * weight_decay
    m += (1 - beta1) * (g - m)
    v *= beta2
    v += (1 - beta2) * (g * g)
    np.maximum(top, v, out=top)
    p -= lr / (1 - beta1**step) * m / (np.sqrt(top) / (1 - beta2**step) ** 0.5 + eps)
