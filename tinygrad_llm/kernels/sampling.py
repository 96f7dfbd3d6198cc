"""From logits to a token: what is taken out of the model's distribution, and the draw from what is left."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm import devices


def sample(
    x: Any, u: Any, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None, into: Any = None
) -> Any:
    """A token for each row of logits x (B, V) by a number of [0, 1) for each, u (B, 1) -> (B,) int64.

    Temperature 0 takes the likeliest. -1 where nothing is likeliest: nan, infinity or all minus infinity. What it looks
    at is read back from a GPU. into: an array that takes the tokens.
    """
    here = devices.move(x, devices.CPU)
    lost = ~np.isfinite(here.max(axis=-1))
    if temperature == 0:
        tokens = here.argmax(axis=-1)
    else:
        below = probabilities(np.where(lost[:, None], 0, here), temperature, top_k, top_p, min_p).cumsum(axis=-1)
        # 1 - u lies in (0, 1]: the first sum to reach it belongs to a token of positive probability, whatever rounding
        tokens = (below < (1.0 - devices.move(u, devices.CPU)) * below[:, -1:]).sum(axis=-1)
    found = devices.move(np.where(lost, -1, tokens), devices.of(x))
    if into is None:
        return found
    into[...] = found
    return into


def probabilities(
    x: np.ndarray, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None
) -> np.ndarray:
    """What `sample` draws from: (B, V) -> (B, V) float64, rows adding up to 1, zero where an option refuses.

    Of tokens that are equally likely at the border, the ones of lower number stay. Temperature 0 counts as 1.
    """
    x = x.astype(np.float64)
    p = np.exp((x - x.max(axis=-1, keepdims=True)) / (temperature or 1.0))
    p /= p.sum(axis=-1, keepdims=True)
    if top_k is not None or top_p is not None:
        for weights, row in zip(p, x, strict=True):
            _keep_likeliest(weights, row, top_k, top_p)
    if min_p is not None:
        p[p < min_p * p.max(axis=-1, keepdims=True)] = 0.0
        p /= p.sum(axis=-1, keepdims=True)
    return p


def _keep_likeliest(p: np.ndarray, x: np.ndarray, top_k: int | None, top_p: float | None) -> None:
    """top_k and top_p in place, on the probabilities (V,) of logits x. Only what may stay is sorted."""
    rest = np.arange(len(p))
    top_k = None if top_k is None or top_k >= len(p) else top_k
    if top_k is not None:
        rest = np.flatnonzero(x >= np.partition(x, -top_k)[-top_k])
    elif top_p is not None:  # all that are less likely than this together are less than 1 - top_p
        rest = np.flatnonzero(p >= (1 - top_p) / len(p))
    order = rest[np.argsort(-x[rest], kind="stable")]  # likeliest first
    kept = p[order[:top_k]]
    if top_k is not None:
        kept /= kept.sum()
    if top_p is not None:
        before = kept.cumsum() - kept  # a token stays while those before it have not reached top_p
        kept = kept[: np.count_nonzero(before < top_p)]
        kept /= kept.sum()
    p[:] = 0.0
    p[order[: len(kept)]] = kept
