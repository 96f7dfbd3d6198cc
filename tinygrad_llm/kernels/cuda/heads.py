"""Attention on a GPU: which implementation serves a call.

A call goes to the first of `WAYS` that serves it and is allowed (`sdp`), or to one of the `RIVALS`, where that gave the
same numbers sooner (`choice`). Its way back is chosen apart, when it comes to that: most ways keep the same of a call
there, ln sum exp of each query's scores, so that any of them can go back. Another one is another `Way` in a list.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.kernels import philox
from tinygrad_llm.kernels.cuda import cudnn, sdp
from tinygrad_llm.kernels.cuda.asked import Asked, Way
from tinygrad_llm.kernels.cuda.choice import Call, Choice
from tinygrad_llm.kernels.cuda.heads_16 import HOPPER_16, TENSOR_CORES_16
from tinygrad_llm.kernels.cuda.heads_32 import PLAIN, TENSOR_CORES_TF32
from tinygrad_llm.kernels.cuda.launch import REALS, shared_memory
from tinygrad_llm.kernels.reference import REFERENCE

LARGE = 1 << 24  # scores, from which on it is worth a warning that they stand in memory

chosen, chosen_back = Choice("attention"), Choice("attention backward")


class Saved(NamedTuple):
    """What the way back needs: who went there, the result and what that way kept, the mask and the order."""

    way: Way
    y: Any
    kept: Any
    mask: Any
    causal: bool


def attention(
    q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float, keep: Any, drop: float
) -> tuple[Any, Saved]:
    """softmax(q k^T scale + mask) v by the way that is chosen."""
    asked = Asked(q, k, v, mask, causal, scale, keep, drop)
    way = choose(asked)
    y, kept = way.forward(asked)
    return y, Saved(way, y, kept, mask, causal)


def attention_backward(
    g: Any, q: Any, k: Any, v: Any, saved: Saved, scale: float, keep: Any, drop: float, need_scores: bool,
    into: Any = None,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """dq, dk, dv by the way that is chosen; dscores (B, H, T, S), which a mask may ask for, by the reference."""
    asked = Asked(q, k, v, saved.mask, saved.causal, scale, keep, drop)
    gradients = choose_back(g, asked, saved, into).backward(g, asked, saved.y, saved.kept, into)
    return *gradients, _scores_gradient(g, asked) if need_scores else None


def choose(asked: Asked) -> Way:
    """The way of a call.

    Warns, once a reason, where that takes much memory and time. Raises: RuntimeError where none is allowed.
    """
    ways = serving(asked)
    if not ways:
        raise RuntimeError(
            "scaled_dot_product_attention: No available kernel. Aborting execution. (Those that are allowed do not "
            "serve these arrays; backends.cuda.enable_math_sdp(True) lets the reference do it)"
        )
    if ways[0] is BY_REFERENCE:
        _warn(asked)
    return _of(chosen, ways, asked, asked[:3], lambda way: partial(way.forward, asked))


def choose_back(g: Any, asked: Asked, saved: Saved, into: Any) -> Way:
    """The way back of a call: the one that went there where nobody else knows what it kept, or may go."""
    ways = [way for way in serving(asked) if way.keeps_lse] if saved.way.keeps_lse else []
    arrays = (g, *asked[:3], saved.y, *(into or ()))

    def once(way: Way) -> Call:
        return lambda: way.backward(g, asked, saved.y, saved.kept, _places_like(into))

    return _of(chosen_back, ways or [saved.way], asked, arrays, once, cudnn.deterministic)


def serving(asked: Asked) -> list[Way]:
    """The ways that are allowed and serve a call: the one that is trusted, then rivals that keep what it keeps.

    A clock decides between them; so there are no rivals where each run must give the same bits.
    """
    room = shared_memory(asked.q.device.id)

    def able(way: Way) -> bool:
        return sdp.allowed[way.switch] and way.serves(asked, room)

    trusted = next(filter(able, WAYS), None)
    if trusted is None:
        return []
    rivals = [way for way in RIVALS if way is not trusted and way.keeps_lse == trusted.keeps_lse]
    return [trusted, *filter(able, [] if devices.deterministic else rivals)]


@contextmanager
def only(way: Way) -> Iterator[None]:
    """Inside, what a way serves goes its way, whatever others take: to test it, and to measure it."""
    before = WAYS[:], RIVALS[:]
    WAYS[:], RIVALS[:] = [way, *WAYS], []
    try:
        yield
    finally:
        WAYS[:], RIVALS[:] = before


def _of(
    choice: Choice, ways: list[Way], asked: Asked, arrays: Sequence[Any], once: Callable[[Way], Call], *more: Hashable
) -> Way:
    """The one of the ways that is chosen for calls of this kind: of arrays that lie so, and one call by a way."""
    if len(ways) == 1:
        return ways[0]
    lie = [None if a is None else (a.dtype, a.shape, a.strides, a.data.ptr % 16) for a in (*arrays, asked.mask)]
    kind = (*lie, asked.causal, asked.keep is not None, asked.q.device.id, *more)
    name = choice.of(kind, {way.name: once(way) for way in ways})
    return next(way for way in ways if way.name == name)


def _places_like(into: Any) -> Any:
    """Other places that lie to each other as these parts of an array do; None where there are none, or gaps in it."""
    if into is None:
        return None
    starts, size = [a.data.ptr for a in into], into[0].itemsize
    spans = [size + sum((n - 1) * step for n, step in zip(a.shape, a.strides, strict=True)) for a in into]
    begin, end = min(starts), max(start + span for start, span in zip(starts, spans, strict=True))
    if end - begin != sum(a.nbytes for a in into):
        return None
    room: Any = np.empty_like(into[0], order="C", shape=(end - begin) // size)
    part = devices.array_module(room).lib.stride_tricks.as_strided
    return tuple(part(room[(at - begin) // size :], a.shape, a.strides) for at, a in zip(starts, into, strict=True))


def _warn(asked: Asked) -> None:
    (batch, heads, t, d), s = asked.q.shape, asked.k.shape[2]
    if batch * heads * t * s < LARGE or asked.q.dtype not in REALS or not sdp.allowed["flash"]:
        return
    if asked.v.shape[-1] != d or d > 128:
        why = f"heads are {d} and {asked.v.shape[-1]} wide, and the kernels know one width of at most 128"
    elif not (asked.keep is None or philox.is_key(asked.keep)):
        why = "dropout was given as a mask in memory"
    else:
        why = f"no kernel serves {asked.q.dtype} with a scale of {asked.scale:g} on this GPU"
    if why not in _warned:
        _warned.add(why)
        warnings.warn(f"attention: scores ({batch}, {heads}, {t}, {s}) stand in memory, since {why}", stacklevel=2)


_warned: set[str] = set()


# --- those of others ---


def _by_cudnn(asked: Asked) -> tuple[Any, Any]:
    return cudnn.attention(*asked[:3], asked.causal, asked.scale)


def _back_by_cudnn(g: Any, asked: Asked, y: Any, lse: Any, into: Any) -> tuple[Any, Any, Any]:
    return cudnn.attention_backward(g, *asked[:3], y, lse, asked.causal, asked.scale, into)


def _by_reference(asked: Asked) -> tuple[Any, Any]:
    return REFERENCE.attention(*asked)


def _back_by_reference(g: Any, asked: Asked, y: Any, p: Any, into: Any) -> tuple[Any, Any, Any]:
    how = (asked.scale, asked.keep, asked.drop, False, into)
    return REFERENCE.attention_backward(g, *asked[:3], p, *how)[:3]


def _scores_gradient(g: Any, asked: Asked) -> Any:
    """(B, H, T, S), which only a mask that is differentiated asks for."""
    p = REFERENCE.attention(*asked)[1]
    return REFERENCE.attention_backward(g, *asked[:3], p, asked.scale, asked.keep, asked.drop, True)[3]


def _cudnn_serves(asked: Asked, room: int) -> bool:
    return asked.scale > 0 and cudnn.serves(*asked[:4], asked.keep)


BY_CUDNN = Way("cuDNN", _cudnn_serves, _by_cudnn, _back_by_cudnn, "cudnn")
BY_REFERENCE = Way("reference", lambda asked, room: True, _by_reference, _back_by_reference, "math", keeps_lse=False)
WAYS = [TENSOR_CORES_16, TENSOR_CORES_TF32, PLAIN, BY_CUDNN, BY_REFERENCE]  # the first that serves is trusted
RIVALS = [*HOPPER_16, BY_CUDNN]  # taken where they were measured against it, gave its numbers, and were faster
