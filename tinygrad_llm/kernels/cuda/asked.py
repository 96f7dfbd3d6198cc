"""What attention is asked for, what an implementation is, and what the launchers of our own kernels share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.kernels import attention_forms as forms
from tinygrad_llm.kernels import philox
from tinygrad_llm.kernels.cuda.launch import REALS, a_key, in_order, launch
from tinygrad_llm.kernels.cuda.rows import blocks_of

TILE = 64  # rows of the tiles in all files, and positions of a range of documents


class Asked(NamedTuple):
    """What attention is asked for: the arguments of `Kernels.attention`."""

    q: Any
    k: Any
    v: Any
    mask: Any
    causal: bool
    scale: float
    keep: Any
    drop: float


class Way(NamedTuple):
    """An implementation: whether it serves a call, the result and what it keeps, and the gradients of q, k and v.

    serves(asked, room): room is the bytes of shared memory that a block may have. backward(g, asked, y, kept, into) ->
    dq, dk, dv: in `into` where that is given; y is forward's result. switch: of `sdp.allowed`, which allows it.
    keeps_lse: what it keeps is ln sum exp of each query's scores, (B, H, T) float32 in order, infinite where a query
    sees nothing. Any way that keeps this can go back from where another one went; another keeps what it alone knows.
    """

    name: str
    serves: Callable[[Asked, int], bool]
    forward: Callable[[Asked], tuple[Any, Any]]
    backward: Callable[[Any, Asked, Any, Any, Any], tuple[Any, Any, Any]]
    switch: str = "flash"
    keeps_lse: bool = True


def has_work(asked: Asked) -> bool:
    """What all files ask for: something to do, heads of one width, dropout by a key, a scale that keeps the order."""
    q, k, v, *_, scale, keep, _ = asked
    if not (q.size and k.size and v.size) or v.shape[-1] != q.shape[-1] or q.shape[-1] > 128 or not scale > 0:
        return False
    return q.shape[0] * q.shape[1] < 65536 and (keep is None or philox.is_key(keep))


class Mask:
    """A mask as the kernels take it: its kind (MASK in attention.cuh), and the arguments that tell of it."""

    def __init__(self, asked: Asked):
        q, mask = asked.q, asked.mask
        (batch, heads, t, _), s = q.shape, asked.k.shape[2]
        seen = added = documents = ranges = None
        steps = [0, 0, 0, 0]
        self.kind = 0
        if mask is not None and forms.is_documents(mask):
            self.kind, documents = 3, in_order(mask.astype(np.int64, copy=False))
            pieces = blocks_of(t, TILE)
            ranges = np.empty_like(documents, shape=(batch, pieces, 2))
            launch("documents", "document_ranges", (blocks_of(pieces, 4), batch), (128,), documents, ranges, t, pieces)
        elif mask is not None:
            self.kind = 1 if mask.dtype == bool else 2
            mask = mask if self.kind == 1 else mask.astype(q.dtype, copy=False)
            mask = np.broadcast_to(mask, (batch, heads, t, s))
            steps = [stride // mask.itemsize for stride in mask.strides]
            seen, added = (mask, None) if self.kind == 1 else (None, mask)
        self.is_lean = self.kind > 0 or asked.keep is not None  # LEAN in attention_16.cu
        self.arguments = seen, added, *steps, documents, ranges


def dropout_of(asked: Asked) -> tuple[int, Any, int, float]:
    """The key, a number or where one lies, the limit of its words and the scale of what is kept."""
    if asked.keep is None:
        return 0, None, 0, 1.0
    return *a_key(asked.keep), philox.limit(asked.drop), philox.scale_of_kept(asked.drop)


def definitions(asked: Asked, width: int, mask: Mask) -> dict[str, int]:
    """What tells the compiler which attention."""
    real = REALS.index(asked.q.dtype)
    return {"REAL": real, "D": width, "MASK": mask.kind, "DROPOUT": int(asked.keep is not None)}


def steps_of(*arrays: Any) -> list[int]:
    """The distances between sequences, heads and rows of each array (B, H, T, D), in elements."""
    return [stride // a.itemsize for a in arrays for stride in a.strides[:3]]


def placed(gradients: tuple[Any, Any, Any], into: Any) -> tuple[Any, Any, Any]:
    """The gradients in the arrays that are to take them."""
    for place, gradient in zip(into or (), gradients, strict=False):
        if place.data.ptr != gradient.data.ptr:
            place[...] = gradient
    return gradients if into is None else into
