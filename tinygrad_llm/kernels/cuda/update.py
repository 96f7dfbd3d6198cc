"""Launchers of what works on all parameters at once: AdamW's step, the norm of gradients, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.kernels.cuda import capture
from tinygrad_llm.kernels.cuda.launch import REAL_OF, in_order, kinds, launch
from tinygrad_llm.kernels.cuda.rows import blocks_of
from tinygrad_llm.kernels.reference import REFERENCE

PIECE = 32_768  # elements of a block, where many arrays are worked on at once; a multiple of 4


def adamw(
    ps: Any, gs: Any, ms: Any, vs: Any, *, each_time: Callable[[], dict[str, Any]] | None = None, **options: Any
) -> None:
    """One step of AdamW, in place on each p, m and v: one launch, whatever their number.

    options: lr, beta1, beta2, eps, weight_decay, step. each_time: what gives them for each replay of a graph.
    """
    ours, others = [], []
    for arrays in zip(ps, gs, ms, vs, strict=True):
        p, g, m, v = arrays
        if p.dtype == m.dtype == v.dtype == g.dtype == np.float32 and all(a.flags.c_contiguous for a in (p, m, v)):
            ours.append((p, in_order(g), m, v))
        else:
            others.append(arrays)
    if ours:
        captured, drawn, rates = capture.at_work(), None, (0.0,) * 6
        if captured is None or each_time is None:
            rates = _rates(**options)
        else:
            drawn = captured.numbers(lambda: _rates(**each_time()), 6, np.float64)
        each("adamw", [list(arrays) for arrays in zip(*ours, strict=True)], drawn, *rates)
    if others and each_time is not None:
        raise RuntimeError("AdamW: only parameters and moments of float32, in order in memory, can be captured")
    for p, g, m, v in others:
        REFERENCE.adamw([p], [g], [m], [v], **options)


def _rates(
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, step: int
) -> tuple[float, float, float, float, float, float]:
    """The numbers of a step as the kernel takes them."""
    return 1 - lr * weight_decay, lr / (1 - beta1**step), 1 - beta1, 1 - beta2, math.sqrt(1 - beta2**step), eps


def cast(arrays: list[Any], dtype: Any) -> list[Any]:
    """The same numbers in another dtype: from float32 to 16 bits in one launch, whatever their number."""
    ours = [x.dtype == np.float32 and x.flags.c_contiguous and REAL_OF.get(np.dtype(dtype), 0) > 0 for x in arrays]
    found = [np.empty_like(x, dtype) if fits else x.astype(dtype) for x, fits in zip(arrays, ours, strict=True)]
    pairs = [(y, x) for y, x, fits in zip(found, arrays, ours, strict=True) if fits]
    if pairs:
        if (captured := capture.at_work()) is not None:
            captured.held += (x for _, x in pairs)
        each("cast", [list(some) for some in zip(*pairs, strict=True)], **kinds(REAL=found))
    return found


def sum_squares(x: Any) -> Any:
    """sum x^2, a 0-d array."""
    if x.dtype != np.float32:
        return REFERENCE.sum_squares(x)
    return _squares_and_norm([in_order(x)])[0].astype(x.dtype)


def clip(arrays: Any, max_norm: float) -> Any:
    """Every array times max_norm / (norm + 1e-6) where that is below 1: three launches, whatever their number."""
    if not all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays):
        return REFERENCE.clip(arrays, max_norm)
    norm = _squares_and_norm(arrays)[1]
    each("scale", [arrays], norm, max_norm)
    return norm


def unscale(arrays: list[Any], factor: Callable[[], float]) -> Any:
    """Every array times factor(), in one launch; int32 () that is 1 where an element is no finite number then."""
    captured, drawn, number = capture.at_work(), None, 0.0
    if not all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays):
        if captured is not None:
            raise RuntimeError("unscale: only gradients of float32, in order in memory, can be captured")
        return REFERENCE.unscale(arrays, factor)
    if captured is None:
        number = factor()
    else:
        drawn = captured.numbers(lambda: [factor()], 1, np.float64)
    found = devices.filled(arrays[0], (), 0, np.int32)
    each("unscale", [arrays], found, drawn, number)
    return found


def _squares_and_norm(arrays: list[Any]) -> tuple[Any, Any]:
    """The sum of squares over all arrays and its root, 0-d arrays of float64."""
    count = count_pieces(arrays)
    if not count:
        return (devices.filled(arrays[0], (), 0, np.float64),) * 2
    room = np.empty_like(arrays[0], np.float64, shape=count + 2)
    found, sums = room[:2], room[2:]
    each("squares", [arrays], sums)
    launch("update", "total", (1,), (256,), sums, found, count, PIECE=PIECE)
    return found[:1].reshape(()), found[1:].reshape(())


# --- many arrays in one launch: tables say where they lie, and which block takes what ---


def count_pieces(arrays: list[Any]) -> int:
    """The pieces of PIECE elements, at most, that arrays are cut into."""
    return sum(blocks_of(a.size, PIECE) for a in arrays)


def each(name: str, lists: list[list[Any]], *rest: Any, **definitions: int) -> None:
    """Launch a kernel with a block for each piece of arrays: lists[0][i], lists[1][i], ... are of one length."""
    count = count_pieces(lists[0])
    if not count:
        return
    first = lists[0][0]
    sizes = tuple(a.size for a in lists[0])
    places = tuple(a.data.ptr for arrays in lists for a in arrays)
    captured = capture.at_work()
    if captured is None:
        kind: Any = type(first)
        number = first.device.id
        tables = _pieces(kind, number, sizes), _arrays(kind, number, sizes, places)
    else:  # which keeps its own as long as it is replayed
        tables = captured.table(_piece_rows(sizes)), captured.table(_array_rows(sizes, places))
    launch("update", name, (count,), (512,), *tables, *rest, PIECE=PIECE, **definitions)


@lru_cache(maxsize=64)
def _pieces(kind: type, number: int, sizes: tuple[int, ...]) -> Any:
    """On a GPU, what `_piece_rows` says."""
    return devices.move(_piece_rows(sizes), devices.device("cuda", number))


def _piece_rows(sizes: tuple[int, ...]) -> np.ndarray:
    """For every piece the number of its array and its first element there: (pieces, 2)."""
    counts = [blocks_of(size, PIECE) for size in sizes]
    array = np.repeat(np.arange(len(sizes)), counts)
    piece = np.arange(len(array)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([array, piece * PIECE], axis=1)


@lru_cache(maxsize=64)
def _arrays(kind: type, number: int, sizes: tuple[int, ...], places: tuple[int, ...]) -> Any:
    """On a GPU, what `_array_rows` says.

    Moved there anew only where an array does not lie where it lay in a step before; weights and moments always do, and
    gradients mostly, since the pool hands the same memory out in the same order.
    """
    return devices.move(_array_rows(sizes, places), devices.device("cuda", number))


def _array_rows(sizes: tuple[int, ...], places: tuple[int, ...]) -> np.ndarray:
    """The length of every array and its addresses, one for each list: (arrays, 1 + lists)."""
    return np.ascontiguousarray(np.array([*sizes, *places], np.int64).reshape(-1, len(sizes)).T)
