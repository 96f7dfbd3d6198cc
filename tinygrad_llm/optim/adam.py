"""Adam: steps of about lr in each coordinate, whatever the scale of its gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygrad_llm import kernels
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.kernels.cuda import capture

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

    def update_group(self, params: list[Tensor], group: Group) -> None:
        """Take one step for all parameters, in one call of the kernel for those that have taken as many."""
        bare = not group["maximize"] and (not group["weight_decay"] or group["decoupled_weight_decay"])
        if capture.at_work() is not None and (not bare or group["amsgrad"]):
            self.refuse_capture()
        alike: defaultdict[int, list[Tensor]] = defaultdict(list)
        for p in params:
            if not self.state[p]:
                if capture.at_work() is not None:
                    raise RuntimeError("Adam: the moments are made in the first step; take one before the capture")
                self.state[p].update(step=0, exp_avg=moment(p), exp_avg_sq=moment(p))
            alike[self.state[p]["step"]].append(p)
        for some in alike.values():  # a gradient that is changed first takes memory: one at a time
            for part in [some] if bare else [[p] for p in some]:
                self._step(part, group)

    def _count(self, params: list[Tensor], group: Group) -> Group:
        """The options of the next step of parameters that have taken as many, which is counted."""
        for p in params:
            self.state[p]["step"] += 1
        beta1, beta2 = group["betas"]
        step = self.state[params[0]]["step"]
        return {"lr": group["lr"], "beta1": beta1, "beta2": beta2, "eps": group["eps"], "step": step}

    def _step(self, params: list[Tensor], group: Group) -> None:
        """The next step of parameters that have taken as many."""
        ps, gs = [p.array for p in params], [p.grad.array for p in params]  # type: ignore[union-attr]
        ms, vs = ([self.state[p][name].array for p in params] for name in ("exp_avg", "exp_avg_sq"))
        decay = group["weight_decay"]
        if group["maximize"]:
            gs = [-g for g in gs]
        if decay and not group["decoupled_weight_decay"]:
            gs, decay = [g + decay * p for g, p in zip(gs, ps, strict=True)], 0.0
        if capture.at_work() is not None:  # replays count, and see what lr is then
            each_time = lambda: {**self._count(params, group), "weight_decay": group["weight_decay"]}  # noqa: E731
            kernels.of(ps[0]).adamw(ps, gs, ms, vs, each_time=each_time)
            return
        rates = self._count(params, group)
        if not group["amsgrad"]:
            kernels.of(ps[0]).adamw(ps, gs, ms, vs, weight_decay=decay, **rates)
            return
        for tensor, *arrays in zip(params, ps, gs, ms, vs, strict=True):
            top = self.state[tensor].setdefault("max_exp_avg_sq", moment(tensor)).array
            for parts in in_tiles(*arrays, top):
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
