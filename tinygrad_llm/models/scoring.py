"""What a model thinks of a given text: the probability of each token after those before it."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.nn import Module

from .modes import evaluating


def log_probabilities(
    model: Module, ids: Tensor, context_size: int | None = None, overlap: int | None = None
) -> np.ndarray:
    """ln p of each token but the first, given those before it: ids (B, T) -> (B, T - 1) float64, nats.

    A text longer than the context is read in windows. Of each but the first, the first `overlap` tokens (by default
    half the context) are read only as what comes before the others. context_size - 1 gives each token all the context
    there is, at the price of a pass for each.

    Raises: ValueError for a shape, context_size or overlap out of range, or nan.
    """
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise ValueError(
            f"log_probabilities: ids must be (B, T) with T of at least 2, a token to judge and one before it, not "
            f"{tuple(ids.shape)}"
        )
    size = context_size if context_size is not None else model.config.context_length
    overlap = size // 2 if overlap is None else overlap
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(
            f"log_probabilities: context_size must be at least 1 and overlap in 0..context_size - 1, not {size} and "
            f"{overlap}"
        )
    T, found = ids.shape[1] - 1, []  # positions to read, each judged by the token after it
    start = known = 0
    with no_grad(), evaluating(model):
        while known < T:
            end = min(start + size, T)
            logits = devices.move(model(ids[:, start:end]).array, devices.CPU)[:, known - start :]  # (B, new, V)
            targets = devices.move(ids.array, devices.CPU)[:, known + 1 : end + 1]
            found.append(np.take_along_axis(log_softmax(logits), targets[..., None], axis=-1)[..., 0])
            start, known = end - overlap, end
    return np.concatenate(found, axis=1)


def perplexity(model: Module, ids: Tensor, context_size: int | None = None, overlap: int | None = None) -> float:
    """exp of the mean of -ln p over the tokens of a text but the first: ids (B, T); inf where that is too large.

    The options are those of `log_probabilities`.
    """
    nats = -log_probabilities(model, ids, context_size, overlap).mean()
    return math.exp(nats) if nats < 709 else math.inf


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """x - ln sum exp(x) along the last axis, in float64.

    Raises: ValueError for logits that are nan, infinity or all minus infinity.
    """
    x = logits.astype(np.float64)
    largest = x.max(axis=-1, keepdims=True)
    if not np.isfinite(largest).all():
        raise ValueError("the model's logits are nan or infinite; its weights were spoiled, perhaps in training")
    x -= largest
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
