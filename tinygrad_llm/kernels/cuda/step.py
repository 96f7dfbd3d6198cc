"""Launchers of a token's step: few rows, of which each reads every weight, so that memory sets the pace.

Results go into arrays that are there, and what changes from token to token lies on the GPU: a step allocates nothing,
waits for nothing, and may be captured once and replayed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels.cuda import products
from tinygrad_llm.kernels.cuda.launch import REALS, kinds, launch
from tinygrad_llm.kernels.cuda.rows import blocks_of, threads_for
from tinygrad_llm.kernels.step import CHUNK, FEW

FORMS = (None, "gelu", "gelu_tanh", "silu")  # by the numbers that the kernel knows them by
WARPS = 8  # of a block
FEATURES = {1: 1, 2: 1, 4: 2, 8: 2}  # rows of the weight that a warp takes, by the rows of x
AHEAD = 16 * 2**20  # bytes of a later weight that are brought to the level-2 cache, which has 40 MB and more
BUSY = 2048  # warps that keep a GPU's memory busy
BLOCKS = 96  # that are worth reading a weight more than once for
SHARED = 96 * 1024  # bytes for rows that were normalised, which every GPU since 2020 has
TILES = (2, 4, 8)  # of 8 rows that a block of many_rows takes
WIDTHS = (32, 64, 128)  # of heads that the kernel is compiled for


def embedding_step(state: Any, draws: Any, u: Any, table: Any, places: Any, x: Any, seen: Any, most: int) -> None:
    """One position more for each row, and what the model sees there."""
    (rows, c), v = x.shape, len(table)
    launch(
        "step", "embedding_step", (rows,), (threads_for(c, 256),), state, draws, u, table, places, x, seen, rows, c, v,
        most, REAL=REALS.index(table.dtype),
    )  # fmt: skip


def penalize(x: Any, seen: Any, penalty: float) -> None:
    """Logits of tokens that a row holds, in place."""
    launch("step", "penalize", (blocks_of(x.size, 256),), (256,), x, seen, penalty, x.size, REAL=0)


def linear_step(
    x: Any, weight: Any, bias: Any, out: Any, norm: Any = None, form: str | None = None, add: bool = False,
    room: Any = None, ahead: Any = None,
) -> None:  # fmt: skip
    """out = f(W norm(x) + b), or added to it: for many rows of 16 bits on the tensor cores, by cublasLt or by ours."""
    (rows, k), n, vec = x.shape, len(weight), _vec(x.shape[1], weight, x)
    options = (*(norm or (None, None, 0.0)), norm is not None)
    real = REALS.index(weight.dtype)
    if real and rows > FEW and vec > 1:
        if norm is not None or x.dtype != weight.dtype:
            h = np.empty_like(weight, shape=x.shape) if room is None else room
            launch("step_linear", "norm_rows", (rows,), (32 * WARPS,), x, *options, h, k, REAL=real)
            x = h
        if not _by_cublaslt(x, weight, bias, out, form, add):
            _many_rows(x, weight, bias, out, form, add, real)
        return
    at_once = min(8, 1 << (rows - 1).bit_length())
    while norm and at_once > 1 and 4 * at_once * k > SHARED:
        at_once //= 2
    features, groups = FEATURES[at_once], blocks_of(rows, at_once)
    split = _split(blocks_of(n, features) * groups, k, 32 * vec, WARPS)
    grid = blocks_of(n, features * (WARPS // split)), groups
    fetched = 0 if ahead is None else min(ahead.size, AHEAD // ahead.itemsize)
    launch(
        "step_linear", "few_rows", grid, (32 * WARPS,), x, *options, weight, bias, out, FORMS.index(form), add, rows, n,
        k, split, ahead, fetched, shared=16 * blocks_of(at_once * k, 4) if norm else 0, VEC=vec, ROWS=at_once,
        FEATURES=features, **kinds(REAL=[weight], PARAM=[bias]),
    )  # fmt: skip


def _by_cublaslt(x: Any, weight: Any, bias: Any, out: Any, form: str | None, add: bool) -> bool:
    """The same of rows in the dtype of the weight by cublasLt; False where it is missing or does not compute this.

    Shapes and dtypes decide, and no measurement, so that a seed gives the same text every time. Results whose rows do
    not start at multiples of 16 bytes are ours: there cublasLt has its slower algorithms only.
    """
    served = form is None or (form == "gelu_tanh" and not add and out.dtype == weight.dtype)
    if not served or len(weight) % 8 or (bias is not None and bias.dtype != out.dtype):
        return False
    epilogue = ("DEFAULT", "GELU", "BIAS", "GELU_BIAS")[(form is not None) + 2 * (bias is not None)]
    return products.run(products.plan(x, weight.T, out), add=add, epilogue=epilogue, bias=bias)


def _many_rows(x: Any, weight: Any, bias: Any, out: Any, form: str | None, add: bool, real: int) -> None:
    """The same of rows in the dtype of the weight, whose lengths are multiples of 8."""
    (rows, k), n = x.shape, len(weight)
    tiles = next((tiles for tiles in TILES if rows <= 8 * tiles), TILES[-1])
    while tiles > TILES[0] and blocks_of(n, 16) * blocks_of(rows, 8 * tiles) < BLOCKS:
        tiles //= 2
    groups = blocks_of(rows, 8 * tiles)
    split = _split(blocks_of(n, 16) * groups, k, 32, WARPS)
    wide = out.dtype == REALS[0]
    launch(
        "step_linear", "many_rows", (blocks_of(n, 16 * (WARPS // split)), groups), (32 * WARPS,), x, weight, bias,
        out if wide else None, None if wide else out, FORMS.index(form), add, rows, n, k, split, TILES=tiles,
        **kinds(REAL=[weight], PARAM=[bias]),
    )  # fmt: skip


def _split(warps: int, columns: int, at_once: int, most: int) -> int:
    """Among how many warps the columns are shared out: as many as keep a GPU busy, while each has some."""
    split = 1
    while split < most and warps * split < BUSY and at_once * split < columns:
        split *= 2
    return split


def attention_step(qkv: Any, keys: Any, values: Any, lengths: Any, scale: float, out: Any, room: Any) -> None:
    """The new position's attention, its key and value put into the memory."""
    rows, kv_heads, size, d = keys.shape
    heads = out.shape[1] // d
    rounded = out.dtype == keys.dtype and keys.dtype != REALS[0]
    launch(
        "step_attention", "attention_step", (blocks_of(size, CHUNK), heads, rows), (256,), qkv, keys, values, lengths,
        *room, None if rounded else out, out if rounded or keys.dtype == REALS[0] else None, heads, kv_heads, d, size,
        scale, REAL=REALS.index(keys.dtype), D=next(width for width in WIDTHS if d <= width),
        VEC=_vec(d, keys, values), CHUNK=CHUNK,
    )  # fmt: skip


def _vec(columns: int, *arrays: Any) -> int:
    """How many numbers of 16 bytes a thread loads at once, or 1 where rows do not start at multiples of that."""
    most = 16 // arrays[0].itemsize
    return most if columns % most == 0 and all(a.data.ptr % 16 == 0 for a in arrays) else 1
