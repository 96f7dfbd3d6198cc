"""Stochastic gradient descent, plain or with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinygrad_llm.autograd import Tensor

from .optimizer import Group, Optimizer, check_not_negative, in_tiles, moment, switches


class SGD(Optimizer):
    """p -= lr d, where d is the gradient g, or its running sum where there is momentum; see `sgd`.

    Source: Sutskever et al., On the importance of initialization and momentum in deep learning (2013), section 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        check_not_negative("learning rate", lr)
        check_not_negative("momentum value", momentum)
        check_not_negative("weight_decay value", weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        options: Group = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        options |= {"nesterov": nesterov, "maximize": maximize}
        super().__init__(params, options | switches(foreach=foreach, differentiable=differentiable, fused=fused))

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: Group) -> None:
        """Take one step for one parameter."""
        buffer = state.get("momentum_buffer")
        if group["momentum"] and buffer is None:  # the first sum is the first gradient, undampened
            buffer = state["momentum_buffer"] = moment(p)
            group = {**group, "dampening": 0.0}
        options = {key: group[key] for key in ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")}
        for p_, g_, b_ in in_tiles(p.array, g, None if buffer is None else buffer.array):
            sgd(p_, g_, b_, **options)


def sgd(
    p: Any,
    g: Any,
    b: Any,
    *,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """One step, in place on p and on the momentum buffer b (None where momentum is 0), all of one shape:

    d = g + weight_decay p;  b = momentum b + (1 - dampening) d;  p -= lr b, or lr (d + momentum b) with nesterov.
    """
    d = -g if maximize else g
    if weight_decay:
        d = d + weight_decay * p
    if momentum:
        b *= momentum
        b += d if dampening == 0 else (1 - dampening) * d
        d = d + momentum * b if nesterov else b
    p -= lr * d
