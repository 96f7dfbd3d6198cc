"""Launchers of the norms, alone and behind a shortcut."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels import as_rows, philox
from tinygrad_llm.kernels.cuda.elementwise import dropout
from tinygrad_llm.kernels.cuda.launch import a_key, instead_of, kinds, launch, vector
from tinygrad_llm.kernels.cuda.rows import add_blocks, blocks_of
from tinygrad_llm.kernels.reference import REFERENCE
from tinygrad_llm.kernels.shortcut import behind_a_shortcut

MOST_COLUMNS = 32  # that a thread of a norm's backward keeps in registers
MOST_WARPS = 8  # that share a row there
ROWS = 4  # of a block, each of which a warp has for itself
MULTIPROCESSORS = 132  # of an H100
RESIDENT = {96: 16, 130: 12}  # warps that a multiprocessor has at once, by the registers that numbers take in a thread
PHILOX = 24  # registers for masks
MOST_OF_A_ROW = 64  # numbers that a thread keeps of the sum whose norm is taken


@instead_of(REFERENCE.layer_norm, real="x", param="weight bias")
def layer_norm(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    """(x - mean) rstd weight + bias."""
    n, c = as_rows(x).shape
    y, mean, rstd = np.empty_like(x), *statistics(x, n)
    options = _in_registers(c, vector(c, x, y, weight, bias)) | kinds(REAL=[x], PARAM=[weight, bias])
    arrays = (x, weight, bias, y, mean, rstd)
    launch("norm", "layer_norm", (blocks_of(n, 4),), (128,), *arrays, n, c, eps, **options)
    return y, mean, rstd


def _in_registers(columns: int, vec: int) -> dict[str, int]:
    """What tells the compiler how a warp has its row: in registers, if it is not too wide."""
    row = blocks_of(columns, 32 * vec)
    return {"VEC": vec, **({"ROW": row} if row * vec <= MOST_OF_A_ROW else {})}


def statistics(x: Any, n: int) -> tuple[Any, Any]:
    """Room for two numbers of each row."""
    return np.empty_like(x, np.float32, shape=(n, 1)), np.empty_like(x, np.float32, shape=(n, 1))


@instead_of(REFERENCE.rms_norm, real="x", param="weight")
def rms_norm(x: Any, weight: Any, eps: float) -> tuple[Any, Any]:
    """x rstd weight."""
    n, c = as_rows(x).shape
    y, rstd = np.empty_like(x), np.empty_like(x, np.float32, shape=(n, 1))
    options = _in_registers(c, vector(c, x, y, weight)) | kinds(REAL=[x], PARAM=[weight])
    launch("norm", "rms_norm", (blocks_of(n, 4),), (128,), x, weight, y, rstd, n, c, eps, **options)
    return y, rstd


@instead_of(REFERENCE.layer_norm_backward, real="g x", param="weight")
def layer_norm_backward(g: Any, x: Any, weight: Any, mean: Any, rstd: Any, needs: Any) -> tuple[Any, Any, Any]:
    """dx, dweight, dbias in two launches."""
    way = _Backward(needs[1:3], weight, x, g)
    if not way.fits:
        return NotImplemented
    dx = np.empty_like(x) if needs[0] else None
    arrays, options = (g, x, weight, mean, rstd, dx, way.sums), way.options | kinds(REAL=[x], PARAM=[weight])
    launch("norm", "layer_norm_backward", *way.launch, *arrays, *way.needs, way.n, way.c, **options)
    return dx, *way.added()


@instead_of(REFERENCE.rms_norm_backward, real="g x", param="weight")
def rms_norm_backward(g: Any, x: Any, weight: Any, rstd: Any, needs: Any) -> tuple[Any, Any]:
    """dx, dweight in two launches."""
    way = _Backward((needs[1], False), weight, x, g)
    if not way.fits:
        return NotImplemented
    dx = np.empty_like(x) if needs[0] else None
    arrays, options = (g, x, weight, rstd, dx, way.sums), way.options | kinds(REAL=[x], PARAM=[weight])
    launch("norm", "rms_norm_backward", *way.launch, *arrays, needs[1], way.n, way.c, **options)
    return dx, way.added()[0]


class _Backward:
    """How a norm's backward is laid out over the GPU: rows n, columns c, grid and block, columns a thread.

    Each block leaves its sums of columns in a row, for dweight, dbias or both as they are needed; they are added next.
    """

    def __init__(self, needs: tuple[bool, bool], weight: Any, x: Any, g: Any, *behind_a_shortcut: Any):
        self.n, self.c = as_rows(x).shape
        self.needs, parts = needs, sum(needs)
        vec = vector(self.c, x, g, weight, *behind_a_shortcut)
        warps = blocks_of(vec * blocks_of(self.c, vec), 32 * MOST_COLUMNS)
        self.fits = warps <= MOST_WARPS
        packs, rows = blocks_of(self.c, 32 * warps * vec), ROWS if warps == 1 else 1
        held = packs * vec * (2 + (x.itemsize + g.itemsize) / 4)
        if behind_a_shortcut:
            held += packs * vec * x.itemsize / 4 + PHILOX
        each = next((n for most, n in RESIDENT.items() if held <= most), 8) // (rows * warps)
        self.options: dict[str, Any] = {"VEC": vec, "PACKS": packs, "WARPS": warps, "BLOCKS": each}
        if weight is None:
            self.options["PLAIN"] = 1
        blocks = min(blocks_of(self.n, rows), MULTIPROCESSORS * each)
        self.launch = (blocks,), (32 * warps * rows,)
        self.sums = np.empty_like(x, np.float32, shape=(blocks, parts, self.c)) if parts else None

    def added(self) -> list[Any]:
        """dweight and dbias, each None where it is not needed."""
        found = [np.empty_like(self.sums, shape=self.c) if needed else None for needed in self.needs]
        if self.sums is not None:
            first, *rest = (d for d in found if d is not None)
            add_blocks(self.sums, first, rest[0] if rest else None)
        return found


composed = behind_a_shortcut(dropout, layer_norm, layer_norm_backward)  # for rows too wide, and masks in memory


@instead_of(composed[0], real="x", param="weight bias", trunk="shortcut")
def dropout_add_norm(
    x: Any, keep: Any, p: float, shortcut: Any, weight: Any, bias: Any, eps: float
) -> tuple[Any, Any, Any, Any]:
    """s = shortcut + dropout(x), y = (s - mean) rstd weight + bias."""
    n, c = as_rows(x).shape
    options = _in_registers(c, vector(c, x, shortcut, weight, bias))
    if "ROW" not in options or not (keep is None or philox.is_key(keep)):
        return NotImplemented
    s, y, mean, rstd = np.empty_like(shortcut), np.empty_like(x), *statistics(x, n)
    launch(
        "shortcut", "dropout_add_norm", (blocks_of(n, 4),), (128,), x, shortcut, weight, bias, s, y, mean, rstd, n, c,
        eps, *_drop(keep, p), **options, **kinds(REAL=[x], PARAM=[weight, bias], TRUNK=[shortcut]),
    )  # fmt: skip
    return s, y, mean, rstd


def _drop(keep: Any, p: float) -> tuple[int, Any, int, float]:
    """What tells a kernel the mask: key, where it lies, limit, scale; nothing is dropped without a key."""
    return (0, None, 0, 1.0) if keep is None else (*a_key(keep), philox.limit(p), 1 / (1 - p))


@instead_of(composed[1], real="g", param="weight", trunk="s d")
def dropout_add_norm_backward(
    g: Any, d: Any, s: Any, weight: Any, mean: Any, rstd: Any, keep: Any, p: float, needs: Any
) -> tuple[Any, Any, Any, Any]:
    """The gradients of x, the shortcut, weight and bias in two launches."""
    way = _Backward(needs[2:], weight, g, s, d)
    if not way.fits or not (keep is None or philox.is_key(keep)):
        return NotImplemented
    apart = keep is not None or g.dtype != s.dtype  # else both gradients are one array
    ds = np.empty_like(s) if needs[1] or (needs[0] and not apart) else None
    dx = np.empty_like(g) if needs[0] and apart else None
    arrays, counts = (g, d, s, weight, mean, rstd, ds, dx, way.sums), (*way.needs, way.n, way.c)
    options = way.options | kinds(REAL=[g], PARAM=[weight], TRUNK=[s])
    launch("shortcut", "dropout_add_norm_backward", *way.launch, *arrays, *counts, *_drop(keep, p), **options)
    return (dx if apart else ds) if needs[0] else None, ds if needs[1] else None, *way.added()
