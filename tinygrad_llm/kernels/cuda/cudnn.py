"""cuDNN's attention in 16 bits, through nvidia-cudnn-frontend where that is installed.

cuDNN is told of one op and of how its arrays lie in memory, and plans how to run it (tenths of a second, once for each
layout); then it is handed addresses. Masks and dropout stay with our kernels: there a query that may look nowhere takes
nothing, and a seed gives the same masks whoever computes.

Source: NVIDIA, cuDNN frontend developer guide, scaled dot product attention.
"""

from __future__ import annotations

import importlib
import math
import threading
import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.kernels.cuda.launch import REALS

OLDEST = 90_000  # cuDNN 9.0, as the library itself counts
WIDEST = 128  # numbers of a head, forward and backward
ROOM = 1 << 30  # bytes that a plan may work in; backward in one order works on all scores, (B, H, T, S) of 16 bits
PLANS = 64  # layouts that are kept planned, those used last
HOW_TO = "pip install 'tinygrad_llm[cudnn]', or backends.cuda.enable_cudnn_sdp(False)"
DTYPES = {REALS[1]: "BFLOAT16", REALS[2]: "HALF"}  # that it serves, and its names for them
ARRAYS = {  # of each way, as cuDNN calls them: what it reads, what it writes
    "forward": (("q", "k", "v"), ("o", "stats")),
    "backward": (("q", "k", "v", "o", "dO", "stats"), ("dQ", "dK", "dV")),
}

_lock = threading.Lock()
deterministic = False  # whether gradients are summed in one order, which gives the same bits every time

Layout = tuple[tuple[int, ...], tuple[int, ...]]  # an array's shape, and its steps in elements


class Plan(NamedTuple):
    """How cuDNN runs one op over arrays that lie in one way, and the bytes it works in."""

    graph: Any
    room: int


@cache
def problem() -> str | None:
    """Why cuDNN cannot be used here, in a sentence that says how to go on, or None if it can.

    One that is there and of no use is a warning, too.
    """
    try:
        found = version()
    except ImportError as error:
        return f"cuDNN's attention is not there ({' '.join(str(error).split())}); {HOW_TO}"
    except Exception as error:  # the frontend is there, and what it stands on is not
        reason = f"cuDNN cannot be loaded ({' '.join(str(error).split())}); {HOW_TO}"
    else:
        if found >= OLDEST:
            return None
        reason = f"cuDNN {found} is older than {OLDEST}, the first that serves here; {HOW_TO}"
    warn(reason)
    return reason


def version() -> int:
    """cuDNN's version as it counts itself: 91002 for 9.10.2."""
    return importlib.import_module("cudnn").backend_version()


def serves(q: Any, k: Any, v: Any, mask: Any, keep: Any) -> bool:
    """Whether cuDNN computes attention of these: 16 bits, no mask, no dropout, heads of 8 to 128 numbers in eights.

    A single query, as when text is written, is left to ours.

    Queries may share keys and values: q (B, H, T, D), k and v (B, G, S, D), where G divides H.
    """
    d = q.shape[-1]
    return (
        mask is None and keep is None and q.dtype in DTYPES and q.dtype == k.dtype == v.dtype
        and q.shape[2] > 1 and bool(q.size and k.size) and d == v.shape[-1] and d % 8 == 0 and d <= WIDEST
        and q.shape[1] % k.shape[1] == 0 and k.shape[1] == v.shape[1] and problem() is None
    )  # fmt: skip


def attention(q: Any, k: Any, v: Any, causal: bool, scale: float) -> tuple[Any, Any]:
    """softmax(q k^T scale) v, in memory as (B, T, H, D), and ln sum exp of each query's scores, (B, H, T) float32.

    Raises: RuntimeError where cuDNN has no plan for arrays of this kind.
    """
    q, k, v = (_readable(x) for x in (q, k, v))
    batch, heads, t, d = q.shape
    y = np.empty_like(q, order="C", shape=(batch, t, heads, d)).transpose(0, 2, 1, 3)
    lse = np.empty_like(q, order="C", shape=(batch, heads, t, 1), dtype=np.float32)
    _run("forward", (q, k, v, y, lse), causal, scale)
    return y, lse[..., 0]


def attention_backward(
    g: Any, q: Any, k: Any, v: Any, y: Any, lse: Any, causal: bool, scale: float, into: Sequence[Any] | None = None
) -> tuple[Any, Any, Any]:  # fmt: skip
    """dq, dk, dv, written into the given arrays where there are some.

    Raises: RuntimeError where cuDNN has no plan for arrays of this kind.
    """
    g, q, k, v, y = (_readable(x) for x in (g, q, k, v, y))
    places = tuple(np.empty_like(x, order="C") for x in (q, k, v)) if into is None else tuple(into)
    written = tuple(a if _in_place(a) else np.empty_like(a, order="C") for a in places)
    _run("backward", (q, k, v, y, g, lse[..., None], *written), causal, scale)
    for place, a in zip(places, written, strict=True):
        if place is not a:
            place[...] = a
    return places[0], places[1], places[2]


def _readable(a: Any) -> Any:
    """An array that cuDNN can read where it lies, else a copy in order."""
    return a if _in_place(a) else a.copy()


def _in_place(a: Any) -> bool:
    """Whether rows lie side by side in memory, start at multiples of 16 bytes and are not told twice."""
    *outer, last = (stride // a.itemsize for stride in a.strides)
    fits = all(step > 0 and step % 8 == 0 for step, n in zip(outer, a.shape[:-1], strict=True) if n > 1)
    return last == 1 and fits and a.data.ptr % 16 == 0


def _run(way: str, arrays: tuple[Any, ...], causal: bool, scale: float) -> None:
    """Let cuDNN read and write arrays, on the current stream; it works in memory of CuPy's pool."""
    q = arrays[0]
    number = q.device.id
    library, handle = _library(number)
    in_order = deterministic or devices.deterministic
    plan = planned(way, DTYPES[q.dtype], tuple(map(_layout, arrays)), bool(causal), float(scale), number, in_order)
    room: Any = np.empty_like(q, order="C", shape=max(1, plan.room), dtype=np.uint8)
    with _lock:  # the stream is the handle's
        library.set_stream(handle=handle, stream=_stream(number).ptr)
        plan.graph.execute({uid: a.data.ptr for uid, a in enumerate(arrays, 1)}, room.data.ptr, handle=handle)


def _layout(a: Any) -> Layout:
    """Along an axis of length one a step means nothing, and may be anything: told is that of an array in order."""
    in_order = (math.prod(a.shape[i + 1 :]) for i in range(a.ndim))
    steps = (stride // a.itemsize for stride in a.strides)
    return a.shape, tuple(step if n > 1 else room for step, n, room in zip(steps, a.shape, in_order, strict=True))


def _stream(number: int) -> Any:
    return devices.module_of(devices.device("cuda", number)).cuda.get_current_stream()


@cache
def _library(number: int) -> tuple[Any, Any]:
    """The frontend, and its handle of a GPU."""
    library = importlib.import_module("cudnn")
    with devices.on(devices.device("cuda", number)):
        return library, library.create_handle()


@lru_cache(maxsize=PLANS)
def planned(
    way: str, dtype: str, layouts: tuple[Layout, ...], causal: bool, scale: float, number: int, in_order: bool
) -> Plan:  # fmt: skip
    """cuDNN's plan for the way "forward" (q, k, v, y, lse) or "backward" (q, k, v, y, g, lse, dq, dk, dv).

    Raises: RuntimeError where there is none, or none that is content with ROOM.
    """
    library, handle = _library(number)
    types = library.data_type
    real, full = getattr(types, dtype), types.FLOAT
    graph = library.pygraph(io_data_type=real, intermediate_data_type=full, compute_data_type=full, handle=handle)
    reads, writes = ARRAYS[way]
    given = {
        name: graph.tensor(name=name, uid=uid, dim=list(shape), stride=list(steps),
                           data_type=full if name == "stats" else real)
        for uid, (name, (shape, steps)) in enumerate(zip(reads, layouts, strict=False), 1)
    }  # fmt: skip
    options = {"attn_scale": scale, "diagonal_alignment": library.diagonal_alignment.TOP_LEFT}
    options |= {"diagonal_band_right_bound": 0} if causal else {}
    if way == "forward":
        made = graph.sdpa(name="attention", **given, generate_stats=True, **options)
    else:
        made = graph.sdpa_backward(name="attention", **given, use_deterministic_algorithm=in_order, **options)
    for uid, (name, tensor) in enumerate(zip(writes, made, strict=True), len(reads) + 1):
        shape, steps = layouts[uid - 1]
        tensor.set_output(True).set_uid(uid).set_dim(list(shape)).set_stride(list(steps))
        tensor.set_data_type(full if name == "stats" else real)
    graph.build([library.heur_mode.A, library.heur_mode.FALLBACK])
    room = graph.get_workspace_size()
    if room > ROOM:
        raise RuntimeError(
            f"cuDNN's attention {way} of {layouts[0][0]} works in {room:,} bytes, which is too much here"
        )
    return Plan(graph, room)


@cache
def warn(message: str) -> None:
    """One line, once in a process."""
    warnings.warn(message, RuntimeWarning, stacklevel=4)
