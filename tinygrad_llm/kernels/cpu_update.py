"""What an optimizer's step does to all parameters, tuned for NumPy: one list of tiles, each through the cache once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm.kernels.reference import REFERENCE
from tinygrad_llm.kernels.threads import for_each
from tinygrad_llm.kernels.tiling import tiles

EACH = 4  # parameters, some of them small, that are worth waking a thread for


def adamw(
    ps: Any, gs: Any, ms: Any, vs: Any, *, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    step: int,
) -> None:  # fmt: skip
    """One step of AdamW in place, a tile at a time, so that p, g, m and v pass through the cache once."""
    rates = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay, "step": step}
    root = math.sqrt(1 - beta2**step)  # sqrt(v_hat) + eps = (sqrt(v) + eps root) / root: one pass less
    step_size = lr / (1 - beta1**step) * root
    pieces = []
    for p, g, m, v in zip(ps, gs, ms, vs, strict=True):
        if all(a.flags.c_contiguous for a in (p, m, v)):
            flat = [a.reshape(-1) for a in (p, g, m, v)]
            pieces += [[a[part] for a in flat] for part in tiles(p.size)]
        else:
            REFERENCE.adamw([p], [g], [m], [v], **rates)

    def work(piece: list[np.ndarray]) -> None:
        p_, g_, m_, v_ = piece
        t = g_ - m_
        t *= 1 - beta1
        m_ += t
        np.multiply(g_, g_, out=t)
        t -= v_
        t *= 1 - beta2
        v_ += t
        np.sqrt(v_, out=t)
        t += eps * root
        np.divide(m_, t, out=t)
        t *= step_size
        if weight_decay:
            p_ *= 1 - lr * weight_decay
        p_ -= t

    for_each(work, pieces, EACH)


def sum_squares(x: np.ndarray) -> Any:
    """sum x^2, as a dot product."""
    flat = x.reshape(-1)
    return np.dot(flat, flat)


def clip(arrays: list[np.ndarray], max_norm: float) -> Any:
    """x *= min(1, max_norm / (norm + 1e-6)), norm that of all arrays as one vector, which adds them up in float64."""
    squares = np.zeros(len(arrays))

    def square(i: int) -> None:
        squares[i] = sum_squares(arrays[i])

    for_each(square, range(len(arrays)), EACH)
    norm = np.sqrt(squares.sum())
    scale = float(max_norm / (norm + 1e-6))
    if not scale >= 1.0:  # written so that nan scales too
        flat = [x.reshape(-1) if x.flags.c_contiguous else x for x in arrays]
        pieces = [x[part] for x in flat for part in (tiles(x.size) if x.ndim == 1 else [...])]

        def shrink(piece: np.ndarray) -> None:
            piece *= scale

        for_each(shrink, pieces, EACH)
    return norm
