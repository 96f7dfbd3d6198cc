"""What a model thinks of given texts: the probability of each token after those before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.tensor import wrap
from tinygrad_llm.nn import Module
from tinygrad_llm.nn import functional as F

from .gpt import GPTModel
from .modes import evaluating

BLOCK = 2**22  # logits that stand in memory at once
SPOILED = "the model's logits are nan or infinite; its weights were spoiled, perhaps in training"


class Scored(NamedTuple):
    """ln p of each judged token of a row, (T,) float64 in nats, and whether it was the likeliest, (T,) bool."""

    logp: np.ndarray
    likeliest: np.ndarray


class Window(NamedTuple):
    """Positions begin..end - 1 of a row are read, and from `known` on judged by the token after each."""

    row: int
    begin: int
    known: int
    end: int


def score_rows(
    model: Module,
    rows: Sequence[Sequence[int]],
    first: Sequence[int] | None = None,
    context_size: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
) -> list[Scored]:
    """What a model thinks of rows of ids, of any lengths: of each its tokens from number first[b] on, by default 1.

    Each token is judged once, given those before it. A row longer than the context is read in windows, in each of which
    `overlap` tokens at least (by default half the context) come before the first that it judges, if the row has them.
    context_size - 1 gives each token all the context there is, at the price of a pass for each. `batch` windows are
    read at once, padded behind, where causal attention does not see it: a row's numbers are those it gets alone.

    Raises: ValueError for a row without a token to judge and one before it, an option out of range, or nan.
    """
    size = context_size if context_size is not None else model.config.context_length
    overlap = size // 2 if overlap is None else overlap
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(
            f"score_rows: context_size must be at least 1 and overlap in 0..context_size - 1, not {size} and {overlap}"
        )
    if batch < 1:
        raise ValueError(f"score_rows: batch must be at least 1, not {batch}")
    first = [1] * len(rows) if first is None else first
    for b, (row, start) in enumerate(zip(rows, first, strict=True)):
        if not 1 <= start < len(row):
            raise ValueError(
                f"score_rows: row {b} of {len(row)} tokens has none from number {start} on to judge and one before it"
            )
    plan = [w for b, row in enumerate(rows) for w in windows(b, len(row) - 1, first[b] - 1, size, overlap)]
    plan.sort(key=lambda w: w.begin - w.end)  # the longest first, and those of a batch of nearly one length
    found = [
        Scored(np.empty(len(row) - start), np.empty(len(row) - start, bool))
        for row, start in zip(rows, first, strict=True)
    ]
    with no_grad(), evaluating(model):
        for start in range(0, len(plan), batch):
            part = plan[start : start + batch]
            logp, likeliest = _judged(model, rows, part)
            ends = np.cumsum([w.end - w.known for w in part])[:-1]
            for w, p, top in zip(part, np.split(logp, ends), np.split(likeliest, ends), strict=True):
                place = slice(w.known + 1 - first[w.row], w.end + 1 - first[w.row])
                found[w.row].logp[place], found[w.row].likeliest[place] = p, top
    return found


def windows(row: int, positions: int, known: int, size: int, overlap: int) -> Iterator[Window]:
    """The windows in which a row's positions from `known` on are judged; the last one reaches back as far as it can."""
    while known < positions:
        begin = max(0, min(known - overlap, positions - size))
        end = min(begin + size, positions)
        yield Window(row, begin, known, end)
        known = end


def _judged(model: Module, rows: Sequence[Sequence[int]], part: Sequence[Window]) -> tuple[np.ndarray, np.ndarray]:
    """ln p of the judged tokens of some windows, one window after the other, and whether each was the likeliest."""
    ids = np.zeros((len(part), max(w.end - w.begin for w in part)), np.int64)
    for i, w in enumerate(part):
        ids[i, : w.end - w.begin] = rows[w.row][w.begin : w.end]
    places = (
        np.repeat(np.arange(len(part)), [w.end - w.known for w in part]),
        np.concatenate([np.arange(w.known - w.begin, w.end - w.begin) for w in part]),
    )
    targets = np.concatenate([np.asarray(rows[w.row][w.known + 1 : w.end + 1], np.int64) for w in part])
    weight = next(iter(model.parameters()), None)
    device = devices.CPU if weight is None else weight.device
    logp, likeliest, start = [], [], 0
    for logits in _logits(model, wrap(ids).to(device), places):
        some = targets[start : start + len(logits)]
        largest, chosen = logits.max(-1)
        if not bool(largest.isfinite().all()):
            raise ValueError(SPOILED)
        losses = F.cross_entropy(logits, wrap(some).to(device), reduction="none")
        logp.append(-devices.move(losses.array, devices.CPU).astype(np.float64))
        likeliest.append(devices.move(chosen.array, devices.CPU) == some)
        start += len(some)
    return np.concatenate(logp), np.concatenate(likeliest)


def _logits(model: Module, ids: Tensor, places: tuple[np.ndarray, np.ndarray]) -> Iterator[Tensor]:
    """The logits at some places (row, column) of ids (B, T), a few (N, V) at a time; elsewhere the head is spared."""
    if not model.is_plainly(GPTModel):
        yield model(ids)[places]
        return
    features, rows = model.features(ids)[places], max(1, BLOCK // len(model.out_head.weight))
    for start in range(0, len(features), rows):
        yield model.out_head(features[start : start + rows])


def log_probabilities(
    model: Module, ids: Tensor, context_size: int | None = None, overlap: int | None = None
) -> np.ndarray:
    """ln p of each token but the first, given those before it: ids (B, T) -> (B, T - 1) float64, nats.

    The options are those of `score_rows`.

    Raises: ValueError for a shape, context_size or overlap out of range, or nan.
    """
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise ValueError(
            f"log_probabilities: ids must be (B, T) with T of at least 2, a token to judge and one before it, not "
            f"{tuple(ids.shape)}"
        )
    found = score_rows(model, ids.tolist(), None, context_size, overlap)
    return np.array([scored.logp for scored in found]).reshape(len(found), ids.shape[1] - 1)


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
        raise ValueError(SPOILED)
    x -= largest
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
