"""Launchers of the elementwise chains: activations with a bias, dropout with a shortcut."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm.devices import array_module
from tinygrad_llm.kernels import as_rows, philox
from tinygrad_llm.kernels.cuda.launch import a_key, instead_of, kinds, launch, vector
from tinygrad_llm.kernels.cuda.rows import add_blocks, blocks_of, threads_for
from tinygrad_llm.kernels.reference import REFERENCE

BLOCKS = 768  # that share the rows: about six for each multiprocessor
WIDE = 2048  # numbers of a row where columns do not matter
MOST_BLOCKS = 4096  # of dropout: a thread takes several packs where there are more


class _Layout:
    """How rows (n, c) are laid out over the GPU: columns across, chunks of rows down.

    Where columns do not matter rows are WIDE, or half or a quarter of it, so that a thread takes many; where the size
    does not allow that, all is one row.
    """

    def __init__(self, by_column: bool, bias: Any, *arrays: Any):
        if by_column:
            self.n, self.c = as_rows(arrays[0]).shape
        else:
            size = arrays[0].size
            wide = math.gcd(size, WIDE)
            self.c = wide if 4 * wide >= WIDE else size
            self.n = size // self.c
        self.vec = vector(self.c, *arrays, bias)
        packs = blocks_of(self.c, self.vec)
        across = blocks_of(packs, 256)
        threads = threads_for(blocks_of(packs, across), 256)
        self.chunk = blocks_of(self.n, max(1, BLOCKS // across))
        self.launch = (across, blocks_of(self.n, self.chunk)), (threads,)


def _defined(form: str) -> Any:
    """What tells the compiler which activation."""
    return {form.upper(): 1}


@instead_of(REFERENCE.activate, real="x", param="bias")
def activate(x: Any, bias: Any, form: str) -> Any:
    """f(x + bias)."""
    y = np.empty_like(x)
    at = _Layout(bias is not None, bias, x, y)
    options: dict[str, Any] = {"VEC": at.vec, **_defined(form), **kinds(REAL=[x], PARAM=[bias])}
    launch("activate", "activate", *at.launch, x, bias, y, at.n, at.c, at.chunk, **options)
    return y


@instead_of(REFERENCE.activate_backward, real="g x y into", param="bias")
def activate_backward(
    g: Any, x: Any, bias: Any, form: str, needs: Any, y: Any = None, into: Any = None
) -> tuple[Any, Any]:
    """dx and dbias: the chunks' sums of columns come first, one row each."""
    dx = np.empty_like(x) if into is None and needs[0] else into
    at = _Layout(bias is not None or needs[1], bias, *(a for a in (g, x, dx, y) if a is not None))
    dbias = np.empty_like(x, np.float32, shape=(at.launch[0][1], at.c)) if needs[1] else None
    arrays = (g, x, bias, dx, y, dbias)
    options: dict[str, Any] = {"VEC": at.vec, **_defined(form), **kinds(REAL=[x], PARAM=[bias])}
    launch("activate", "activate_backward", *at.launch, *arrays, at.n, at.c, at.chunk, **options)
    if dbias is None:
        return dx if needs[0] else None, None
    total = np.empty_like(dbias, shape=at.c)
    add_blocks(dbias.reshape(-1, 1, at.c), total)
    return dx if needs[0] else None, total


@instead_of(REFERENCE.dropout, real="x", param="plus")
def dropout(x: Any, keep: Any, p: float, plus: Any = None) -> Any:
    """x / (1 - p) where it is kept, added to plus; with a mask in memory as the reference."""
    if not philox.is_key(keep):
        return NotImplemented
    y = np.empty_like(x if plus is None else plus)
    options: dict[str, Any] = {"VEC": vector(x.size, x, plus), **kinds(REAL=[x], PARAM=[y])}
    grid = (min(MOST_BLOCKS, blocks_of(x.size, 256 * options["VEC"])),)
    numbers = (*a_key(keep), philox.limit(p), 1 / (1 - p))
    launch("dropout", "dropout", grid, (256,), x, plus, y, x.size, *numbers, **options)
    return y


def keep_mask(key: Any, p: float, shape: tuple[int, ...], like: Any) -> Any:
    """What dropout keeps by this key."""
    keep, n = array_module(like).empty(shape, bool), math.prod(shape)
    if n:
        launch("dropout", "keep_mask", (blocks_of(n, 1024),), (256,), keep, n, *a_key(key), philox.limit(p))
    return keep
