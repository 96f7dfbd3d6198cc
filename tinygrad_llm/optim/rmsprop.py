"""RMSprop: steps of about lr in each coordinate, the scale taken from recent gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_llm.autograd import Tensor

from .optimizer import Group, Optimizer, check_not_negative, in_tiles, moment, switches


class RMSprop(Optimizer):
    """p -= lr g / (sqrt(v) + eps), v the running mean of g^2; see `rmsprop`.

    centered takes the running mean of g out of v, so that it is the variance. State: `step`, `square_avg` (v), and
    where they are used `momentum_buffer` and `grad_avg`.

    Raises: ValueError for options out of range.
    Source: Hinton, Neural networks for machine learning, lecture 6e (2012); Graves, Generating sequences with recurrent
    neural networks (2013), eq. 38 to 45, for the centred form.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        for name, value in (("learning rate", lr), ("epsilon value", eps), ("momentum value", momentum)):
            check_not_negative(name, value)
        check_not_negative("weight_decay value", weight_decay)
        check_not_negative("alpha value", alpha)
        options: Group = {"lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered}
        options |= {"weight_decay": weight_decay, "maximize": maximize}
        options |= switches(capturable=capturable, foreach=foreach, differentiable=differentiable)
        del options["fused"]  # PyTorch has none here
        super().__init__(params, options)

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: Group) -> None:
        """Take one step for one parameter."""
        wanted = ["square_avg", *(["momentum_buffer"] if group["momentum"] else []),
                  *(["grad_avg"] if group["centered"] else [])]  # fmt: skip
        for name in wanted:
            state.setdefault(name, moment(p))
        state["step"] = state.get("step", 0) + 1
        v, b, a = (state[n].array if n in wanted else None for n in ("square_avg", "momentum_buffer", "grad_avg"))
        options = {key: group[key] for key in ("lr", "alpha", "eps", "weight_decay", "momentum", "maximize")}
        for parts in in_tiles(p.array, g, v, b, a):
            rmsprop(*parts, **options)


def rmsprop(
    p: Any, g: Any, v: Any, b: Any, a: Any, *, lr: float, alpha: float, eps: float, weight_decay: float,
    momentum: float, maximize: bool,
) -> None:  # fmt: skip
    """One step in place on p, v, the momentum buffer b and the running mean a of the gradient (None where not used):

    d = g + weight_decay p;  v = alpha v + (1 - alpha) d^2;  a = alpha a + (1 - alpha) d;
    u = d / (sqrt(v - a^2) + eps);  b = momentum b + u;  p -= lr b, or lr u without momentum.
    """
    d = -g if maximize else g
    if weight_decay:
        d = d + weight_decay * p
    v *= alpha
    v += (1 - alpha) * (d * d)
    if a is None:
        scale = np.sqrt(v)
    else:
        a += (1 - alpha) * (d - a)
        scale = np.sqrt(v - a * a)
    u = d / (scale + eps)
    if b is not None:
        b *= momentum
        b += u
        u = b
    p -= lr * u
