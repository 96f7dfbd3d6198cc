"""Writing on: one token at a time, each drawn from the model's distribution given those before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.functions import cat
from tinygrad_llm.nn import Module
from tinygrad_llm.random import Generator, default_generator


def generate(
    model: Module,
    ids: Tensor,
    max_new_tokens: int,
    context_size: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_id: int | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Continue each row of ids (B, T) -> (B, T + up to max_new_tokens), the prompt included.

    temperature: 0 takes the likeliest token; otherwise logits are divided by it and a token is drawn.
    top_k: draw from the k likeliest only. top_p: draw from the fewest likeliest tokens whose probabilities reach p.
    eos_id: a row that has written it goes on writing it, and all stops when every row has.
    context_size: how many of the last positions the model sees; by default its config's.
    The model is put into evaluation mode for the time, and nothing is recorded.

    Raises: ValueError for options out of range, an empty prompt or a model whose logits are nan.
    Source: Fan et al., Hierarchical neural story generation (2018) for top_k; Holtzman et al., The curious case of
    neural text degeneration (2020), section 3.1 for top_p.
    """
    check_options(ids, max_new_tokens, temperature, top_k, top_p)
    size = context_size if context_size is not None else model.config.context_length
    if size < 1:
        raise ValueError(f"generate: context_size must be at least 1, not {size}")
    ended = np.zeros(ids.shape[0], dtype=bool)
    with no_grad(), evaluating(model):
        for _ in range(max_new_tokens):
            logits = devices.move(model(ids[:, -size:])[:, -1].array, devices.CPU)  # (B, V)
            chosen = choose(logits, temperature, top_k, top_p, generator)  # (B,)
            if eos_id is not None:
                chosen = np.where(ended, eos_id, chosen)
                ended |= chosen == eos_id
            new = Tensor(chosen[:, None].astype(ids.array.dtype)).to(ids.device)
            ids = cat([ids, new], dim=1)
            if ended.all():
                break
    return ids


def choose(
    logits: np.ndarray,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generator | None = None,
) -> np.ndarray:
    """One token a row: logits (B, V) -> (B,). The options are those of `generate`."""
    if np.isnan(logits).any():
        raise ValueError("generate: the model's logits are nan; its weights were spoiled, perhaps in training")
    if temperature == 0:
        return logits.argmax(axis=-1)
    below = probabilities(logits, temperature, top_k, top_p).cumsum(axis=-1)
    u = (generator or default_generator).uniform((len(below), 1), np.float64)
    # 1 - u lies in (0, 1]: the first sum to reach it belongs to a token of positive probability, whatever the rounding
    return (below < (1.0 - u) * below[:, -1:]).sum(axis=-1)


def probabilities(
    logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """What `choose` draws from: logits (B, V) -> (B, V) float64, rows adding up to 1, zero where top_k or top_p refuse.

    Of tokens that are equally likely at the border, the ones of lower number stay.
    """
    x = logits.astype(np.float64)
    p = np.exp((x - x.max(axis=-1, keepdims=True)) / temperature)
    p /= p.sum(axis=-1, keepdims=True)
    if top_k is None and top_p is None:
        return p
    order = np.argsort(-x, axis=-1, kind="stable")  # likeliest first
    p = np.take_along_axis(p, order, axis=-1)
    if top_k is not None:
        p[:, top_k:] = 0.0
        p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None:
        p[p.cumsum(axis=-1) - p >= top_p] = 0.0  # a token stays while those before it have not reached top_p
        p /= p.sum(axis=-1, keepdims=True)
    by_token = np.empty_like(p)
    np.put_along_axis(by_token, order, p, axis=-1)
    return by_token


def check_options(
    ids: Tensor, max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    """Refuse a prompt or an option that `generate` cannot work with, by a ValueError naming it."""
    if ids.ndim != 2 or ids.shape[1] < 1:
        raise ValueError(f"generate: ids must have shape (B, T) with T of at least 1, not {tuple(ids.shape)}")
    if max_new_tokens < 0:
        raise ValueError(f"generate: max_new_tokens must not be negative, but is {max_new_tokens}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"generate: temperature must be 0 or a positive number, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p must lie in 0 < top_p <= 1, not {top_p}")


def generate_text_simple(model: Module, idx: Tensor, max_new_tokens: int, context_size: int) -> Tensor:
    """Continue each row of idx (B, T) with the likeliest token each time -> (B, T + max_new_tokens)."""
    return generate(model, idx, max_new_tokens, context_size)


@contextmanager
def evaluating(model: Module) -> Iterator[Any]:
    """Evaluation mode for a while; each module then gets back the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
