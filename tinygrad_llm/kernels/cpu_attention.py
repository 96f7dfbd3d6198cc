"""Attention tuned for NumPy: blocks of queries and the keys that they see, so that no (T, S) array stays in memory.

A piece of work is a few heads, done by one thread with a BLAS of one thread. Its scores are computed for a block of
queries at a time. Where they are few their softmax is kept for the way back; else it is computed again from one number
a query, the logarithm of the sum of its exponentials: an exponential costs less than keeping it.

Source: Rabe and Staats, Self-attention does not need O(n^2) memory (2021); Dao et al., FlashAttention (2022).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.kernels import attention_forms as forms
from tinygrad_llm.kernels.cpu_decoding import attention_of_one
from tinygrad_llm.kernels.philox import scale_of_kept
from tinygrad_llm.kernels.threads import blas_uses_avx512, for_each
from tinygrad_llm.kernels.tiling import FAINT, MODERATE, row_dots, row_sums, tiles

QUERIES = 128  # a block's; with a causal mask the keys behind it are skipped
SCORES = 262_144  # elements of the block of scores that a piece of work holds at a time, about
KEPT = 1_048_576  # so many probabilities in all are kept

Group = tuple[slice, slice]  # of sequences and of their heads


class Saved(NamedTuple):
    """What the way back needs.

    y; and p = softmax(scores) (B, H, T, S), or None: then, to compute it again, lse = ln sum exp(scores) (B, H, T, 1)
    and what was added to the scores.
    """

    y: Any
    p: Any
    lse: Any
    mask: Any
    causal: bool


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: Any, causal: bool, scale: float, keep: Any, drop: float
) -> tuple[np.ndarray, Saved]:
    """softmax(q k^T scale + mask) v.

    The result lies in memory as q does: where q is a view of (B, T, H, D), joining the heads copies nothing.
    """
    batch, heads, t, _ = q.shape
    k, v = forms.shared(q, k, v)
    if t == 1 and not causal and keep is None:
        y, weights = attention_of_one(q, k, v, None if mask is None else _added(mask, q.dtype), scale)
        return y, Saved(y, weights, None, None, False)
    y = np.empty_like(q, shape=(batch, heads, t, v.shape[-1]))
    lse = np.empty((batch, heads, t, 1), q.dtype)
    count = batch * heads * t * k.shape[-2]
    p = np.zeros((batch, heads, t, k.shape[-2]), q.dtype) if count <= KEPT else None
    keep, keep_scale = forms.kept(keep, drop, (batch, heads, t, k.shape[-2]), q), scale_of_kept(drop)
    scores = _Scores(q, k, mask, causal, scale)

    def work(group: Group) -> None:
        of_group = scores.of(group)
        for rows, seen in scores.blocks:
            e = of_group(rows, seen)
            moderate = -MODERATE < e.max(initial=-np.inf) < MODERATE
            if moderate:
                sums, shift = _exp_and_sum(e), 0.0
            if not moderate or sums.min(initial=1.0) < FAINT:
                e = of_group(rows, seen)
                shift = e.max(axis=-1, keepdims=True, initial=-np.inf)
                shift[np.isneginf(shift)] = 0  # a query that may look nowhere takes nothing
                e -= shift
                sums = _exp_and_sum(e)
            nowhere = sums == 0
            sums[nowhere] = 1
            if p is not None:
                np.divide(e, sums, out=p[group][..., rows, seen])
            if keep is not None:
                e *= keep[group][..., rows, seen]
                e *= keep_scale
            part = e @ v[group][..., seen, :]
            part /= sums
            y[group][..., rows, :] = part
            np.log(sums, out=sums)
            sums += shift
            sums[nowhere] = np.inf  # exp(score - inf) is 0
            lse[group][..., rows, :] = sums

    for_each(work, scores.groups, each=1)
    return y, Saved(y, p, lse, mask if p is None else None, causal)


def _exp_and_sum(scores: np.ndarray) -> np.ndarray:
    """exp in place, and the sum of each row: (..., S) -> (..., 1)."""
    return row_sums(np.exp(scores, out=scores))


def attention_backward(
    g: Any, q: Any, k: Any, v: Any, saved: Saved, scale: float, keep: Any, drop: float, need_scores: bool,
    into: Any = None,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """dv = p'^T g, ds = p (dp - g . y), dq = ds k scale, dk = ds^T q scale; p' is p after dropout.

    The sum of dp p over a row, which softmax subtracts, is that of g y.
    """
    if k.shape[1] != q.shape[1]:
        keys, values = forms.shared(q, k, v)
        each = attention_backward(g, q, keys, values, saved, scale, keep, drop, need_scores)
        found = each[0], *(forms.of_groups(d, k.shape[1]) for d in each[1:3])
        for place, gradient in zip(into or (), found, strict=False):
            place[...] = gradient
        return *(into or found), each[3]
    dq, dk, dv = (np.empty_like(x) for x in (q, k, v)) if into is None else into
    scores = _Scores(q, k, saved.mask, saved.causal, scale)
    shape = (*q.shape[:3], k.shape[-2])
    keep = forms.kept(keep, drop, shape, q)
    dscores = np.zeros(shape, q.dtype) if need_scores else None

    def work(group: Group) -> None:
        of_group = scores.of(group)
        queries, keys, values_t = q[group] * scale, k[group] * scale, transposed(v[group])
        towards = g[group]
        delta = row_dots(towards, saved.y[group])
        dkeys, dvalues = np.zeros(keys.shape, q.dtype), np.zeros(v[group].shape, q.dtype)
        for rows, seen in scores.blocks:
            if saved.p is not None:
                p = saved.p[group][..., rows, seen]
            else:
                p = of_group(rows, seen)
                p -= saved.lse[group][..., rows, :]
                np.exp(p, out=p)
            ds = towards[..., rows, :] @ values_t[..., seen]
            kept = p
            if keep is not None:
                dropped = keep[group][..., rows, seen] * p.dtype.type(scale_of_kept(drop))
                ds *= dropped
                kept = dropped
                kept *= p
            dvalues[..., seen, :] += kept.swapaxes(-1, -2) @ towards[..., rows, :]
            ds -= delta[..., rows, :]
            ds *= p
            if dscores is not None:
                dscores[group][..., rows, seen] = ds
            dq[group][..., rows, :] = ds @ keys[..., seen, :]
            dkeys[..., seen, :] += ds.swapaxes(-1, -2) @ queries[..., rows, :]
        dk[group], dv[group] = dkeys, dvalues

    for_each(work, scores.groups, each=1)
    return dq, dk, dv, dscores


class _Scores:
    """q k^T scale + mask, in pieces.

    groups: whole sequences, or heads of one where these are too large. blocks: pairs of a slice of queries and one of
    the keys that they see.
    """

    def __init__(self, q: np.ndarray, k: np.ndarray, mask: Any, causal: bool, scale: float):
        (batch, heads, t, _), s = q.shape, k.shape[-2]
        self.q, self.k, self.scale = q, k, scale
        rows = [slice(a, min(a + QUERIES, t)) for a in range(0, t, QUERIES)]
        self.blocks = [(r, slice(0, min(r.stop, s) if causal else s)) for r in rows]
        self.groups = _groups(batch, heads, min(QUERIES, t) * s)
        self.added = None if mask is None else np.broadcast_to(_added(mask, q.dtype), (batch, heads, t, s))
        self.futures = {r.start: _future(r, seen.stop, q.dtype) for r, seen in self.blocks} if causal else None

    def of(self, group: Group) -> Any:
        """A function from a block to the scores of a group's heads."""
        queries, keys_t = self.q[group] * self.scale, transposed(self.k[group])
        added = None if self.added is None else self.added[group]

        def scores(rows: slice, seen: slice) -> np.ndarray:
            block = queries[..., rows, :] @ keys_t[..., seen]
            if added is not None:
                block += added[..., rows, seen]
            if self.futures is not None:
                _add(self.futures[rows.start], block)
            return block

        return scores


def _future(rows: slice, keys: int, dtype: Any) -> np.ndarray:
    """-inf where a key comes after its query, else 0, for all keys of a block or, if they are many, for the last."""
    first = 0 if keys <= 2 * QUERIES else rows.start
    after = np.arange(first, keys) > np.arange(rows.start, rows.stop)[:, None]
    return np.where(after, -np.inf, 0.0).astype(dtype)


def _add(future: np.ndarray, block: np.ndarray) -> None:
    """Add to the last keys of a block (..., R, S): as rows of R S elements where it is all of them, which is faster."""
    if future.size and future.shape == block.shape[-2:] and block.flags.c_contiguous:
        flat = block.reshape(-1, future.size)
        flat += future.reshape(-1)
    else:
        block[..., block.shape[-1] - future.shape[1] :] += future


def _groups(batch: int, heads: int, size: int) -> list[Group]:
    """Sequences together, or heads of one sequence, whose blocks of this size have about SCORES elements.

    Threads with smaller pieces would mostly wait for the interpreter's lock.
    """
    together = max(1, SCORES // max(size, 1))
    if heads <= together:
        return [(part, slice(0, heads)) for part in tiles(batch, together // heads)]
    return [(slice(b, b + 1), part) for b in range(batch) for part in tiles(heads, together)]


def transposed(x: np.ndarray) -> np.ndarray:
    """(..., S, D) -> (..., D, S): copied where a small product with a transposed view takes OpenBLAS twice as long."""
    turned = x.swapaxes(-1, -2)
    return np.ascontiguousarray(turned) if blas_uses_avx512() else turned


def _added(mask: np.ndarray, dtype: Any) -> np.ndarray:
    """A mask in the form that is added to the scores."""
    mask = forms.seen(mask)
    return np.where(mask, 0.0, -np.inf).astype(dtype) if mask.dtype == bool else mask
