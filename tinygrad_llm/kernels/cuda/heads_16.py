"""Launchers of attention in bfloat16 and float16, on the tensor cores: attention_16.cuh says how.

The same kernels are compiled in two ways: TENSOR_CORES_16 for every GPU from sm_80 on, and HOPPER_16 with the products
that only a Hopper has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.kernels.cuda.asked import Asked, Mask, Way, definitions, dropout_of, has_work, placed, steps_of
from tinygrad_llm.kernels.cuda.launch import REALS, is_hopper, launch
from tinygrad_llm.kernels.cuda.rows import blocks_of

WIDTHS = (32, 64, 96, 128)  # that the kernels are compiled for
AMPERE = 99 * 1024  # bytes of shared memory for a block, at least: older GPUs, without the instructions, have 96 KiB


def serves(asked: Asked, room: int) -> bool:
    """16-bit numbers, on a GPU that has the instructions."""
    return asked.q.dtype in REALS[1:] and has_work(asked) and room >= AMPERE


class Tiles(NamedTuple):
    """How a kernel divides its work: rows of a block, columns that pass at once, threads; what tells the compiler."""

    rows: int
    columns: int
    threads: int
    width: int
    definitions: dict[str, int]

    def launch(self, kernel: str, rows: int, heads: int, *args: Any, shared: int, **definitions: int) -> None:
        """A block for each tile of rows of each head, with so many bytes of shared memory."""
        file = kernel.replace("attention", "attention_16")
        grid = (blocks_of(rows, self.rows), heads)
        defined = definitions | self.definitions
        launch(file, kernel, grid, (self.threads,), *args, shared=shared, **defined)


TilesOf = Callable[[str, int, bool], Tiles]  # of a kernel for heads of a width, masks or dropout beside


def tiles_of_warps(kernel: str, d: int, lean: bool) -> Tiles:
    """A warp has 32 rows, or 16 where masks and dropout want registers."""
    width = next(width for width in WIDTHS if d <= width)
    few = lean and (width > 64 or kernel == "attention_dkv")
    return Tiles(128, 64 if kernel == "attention" else 32, 256 if few else 128, width, {})


def tiles_of_warpgroups(which: int, kernel: str, d: int, lean: bool) -> Tiles:
    """Four warps have 64 rows. As many of them as registers allow, for one's products hide another's exponentials."""
    width = 64 if d <= 64 else 128
    choices = [BY_ONE] if lean else OF_WARPGROUPS[kernel, width]
    rows, columns, blocks = choices[min(which, len(choices) - 1)]
    told = {"HOPPER": 1, "ROWS": rows, "COLUMNS": columns, "BLOCKS": blocks}
    return Tiles(rows, columns, 2 * rows, width, told)


BY_ONE = 128, 64, 1  # rows and columns of a tile, blocks at once on a multiprocessor
OF_WARPGROUPS = {  # of a kernel and a width, as registers and 160 KiB of shared memory allow; measuring decides
    ("attention", 64): [(128, 64, 2), (192, 128, 1)],
    ("attention", 128): [(128, 128, 1), BY_ONE],
    ("attention_dq", 64): [(128, 64, 2), (192, 64, 1)],
    ("attention_dq", 128): [(192, 64, 1), BY_ONE],
    ("attention_dkv", 64): [BY_ONE, (128, 128, 1)],
    ("attention_dkv", 128): [BY_ONE],
}


def forward(tiles_of: TilesOf, asked: Asked) -> tuple[Any, Any]:
    """The result lies in memory as (B, T, H, D), so that joining the heads copies nothing."""
    (batch, heads, t, d), s = asked.q.shape, asked.k.shape[2]
    q, k, v = (_in_chunks(x) for x in asked[:3])
    columns = q.shape[-1]
    y = np.empty_like(q, order="C", shape=(batch, t, heads, columns)).transpose(0, 2, 1, 3)
    lse = np.empty_like(q, order="C", shape=(batch, heads, t), dtype=np.float32)
    mask = Mask(asked)
    tiles = tiles_of("attention", d, mask.is_lean)
    tiles.launch(
        "attention", t, batch * heads, q, k, v, y, lse,
        t, s, heads, heads // k.shape[1], columns, *steps_of(q, k, v, y), asked.scale, asked.causal,
        *mask.arguments, *dropout_of(asked), shared=2 * tiles.width * (tiles.rows + 4 * tiles.columns),
        **definitions(asked, tiles.width, mask),
    )  # fmt: skip
    return y[..., :d], lse


def backward(tiles_of: TilesOf, g: Any, asked: Asked, y: Any, lse: Any, into: Any) -> tuple[Any, Any, Any]:
    """dq by one kernel, dk and dv by another: each number has one writer, so that it is the same every time."""
    (batch, heads, t, d), s = asked.q.shape, asked.k.shape[2]
    g, q, k, v, y = (_in_chunks(x) for x in (g.astype(y.dtype, copy=False), *asked[:3], y))
    shares, columns = k.shape[1], q.shape[-1]
    places = (None, None, None) if into is None else into
    dq, dk, dv = (
        place if place is not None and _is_in_chunks(place) else np.empty_like(x, order="C")
        for place, x in zip(places, (q, k, v), strict=True)
    )
    mask, drop = Mask(asked), dropout_of(asked)
    numbers = np.empty_like(lse, shape=(batch, heads, t, 2))
    by_query, by_key = (tiles_of(kernel, d, mask.is_lean) for kernel in ("attention_dq", "attention_dkv"))
    defined = definitions(asked, by_query.width, mask)
    launch(
        "attention_16_dq", "attention_delta", (blocks_of(t, 16), batch * heads), (128,), g, y, lse, numbers,
        t, heads, columns, *steps_of(g, y), **defined,
    )  # fmt: skip
    sizes = (t, s, heads, heads // shares, columns)
    by_query.launch(
        "attention_dq", t, batch * heads, g, q, k, v, numbers, dq, *sizes, *steps_of(g, q, k, v, dq),
        asked.scale, asked.causal, *mask.arguments, *drop, shared=_room_of(by_query), **defined,
    )  # fmt: skip
    by_key.launch(
        "attention_dkv", s, batch * shares, g, q, k, v, numbers, dk, dv, *sizes, *steps_of(g, q, k, v, dk, dv),
        asked.scale, asked.causal, *mask.arguments, *drop, shared=_room_of(by_key) + 16 * by_key.columns, **defined,
    )  # fmt: skip
    return placed((dq[..., :d], dk[..., :d], dv[..., :d]), into)


def _room_of(tiles: Tiles) -> int:
    """Bytes of shared memory for two tiles of rows and, twice, two tiles of columns."""
    return 2 * tiles.width * (2 * tiles.rows + 4 * tiles.columns)


def _in_chunks(x: Any) -> Any:
    """An array (B, H, T, D) whose rows are whole chunks of 16 bytes: itself, or a copy with zeros behind each row."""
    if _is_in_chunks(x):
        return x
    d = x.shape[-1]
    copy = np.zeros_like(x, order="C", shape=(*x.shape[:-1], -(-d // 8) * 8))
    copy[..., :d] = x
    return copy


def _is_in_chunks(x: Any) -> bool:
    return (
        x.shape[-1] % 8 == 0
        and x.strides[-1] == x.itemsize
        and x.data.ptr % 16 == 0
        and all(stride % 16 == 0 for stride in x.strides[:3])
    )


def serves_hopper(which: int, asked: Asked, room: int) -> bool:
    """As `serves`, queries that fill 64 rows, on a GPU of compute capability 9.0: those after it have other products.

    Fewer queries, as when text is written, are tried anew for each number of keys; and where masks or dropout leave
    one way to divide the work, the others would be the same kernels tried again.
    """
    lean = asked.mask is not None or asked.keep is not None
    wanted = asked.q.shape[2] >= 64 and not (which and lean)
    return wanted and serves(asked, room) and is_hopper(asked.q.device.id)


TENSOR_CORES_16 = Way("attention_16.cu", serves, partial(forward, tiles_of_warps), partial(backward, tiles_of_warps))
HOPPER_16 = [
    Way(
        f"attention_16.cu by wgmma, {i}", partial(serves_hopper, i), partial(forward, partial(tiles_of_warpgroups, i)),
        partial(backward, partial(tiles_of_warpgroups, i)),
    ) for i in range(2)
]  # fmt: skip
