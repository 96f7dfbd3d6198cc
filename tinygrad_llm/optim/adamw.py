"""AdamW: Adam with the weight decay applied to the weights themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .adam import Adam


class AdamW(Adam):
    """p -= lr weight_decay p, then Adam's step on the bare gradient, so that large gradients do not shrink the decay.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization (2019), algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **switches: Any,
    ) -> None:
        """switches: maximize, foreach, capturable, differentiable and fused, as for Adam."""
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True, **switches)
