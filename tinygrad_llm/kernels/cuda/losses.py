"""Launchers of the losses made of softmax, with the product that gives them their logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.kernels.cuda.launch import aligned, instead_of, kinds, launch, shared_memory
from tinygrad_llm.kernels.cuda.products import matmul
from tinygrad_llm.kernels.cuda.rows import blocks_of, int64, softmax_threads, threads_for
from tinygrad_llm.kernels.reference import REFERENCE

PITCH = 64  # numbers
PACK = 16  # bytes that a thread loads at once
LOGITS = 268_435_456  # that stand in memory at once between the head and its loss: 1 GiB in float32


@instead_of(REFERENCE.cross_entropy, real="x")
def cross_entropy(x: Any, targets: Any) -> tuple[Any, Any]:
    """-ln softmax(x)[target] and the logsumexp of each row."""
    n, v = x.shape
    nll, lse = np.empty_like(x, np.float32, shape=n), np.empty_like(x, np.float32, shape=n)
    arrays = (x, int64(targets), nll, lse)
    launch("softmax", "cross_entropy", (n,), softmax_threads(x), *arrays, v, **kinds(REAL=[x]))
    return nll, lse


@instead_of(REFERENCE.cross_entropy_backward, real="x")
def cross_entropy_backward(x: Any, targets: Any, lse: Any, g_target: Any, g_softmax: Any, g_all: Any) -> Any:
    """g_softmax softmax(x) - g_target onehot(target) + g_all."""
    x = aligned(x)
    dx, (n, v) = np.empty_like(x), x.shape
    arrays = (x, int64(targets), lse, g_target, g_softmax, g_all, dx)
    launch("softmax", "cross_entropy_backward", (n,), softmax_threads(x), *arrays, v, **kinds(REAL=[x]))
    return dx


@instead_of(REFERENCE.linear_cross_entropy, real="x", param="weight")
def linear_cross_entropy(x: Any, weight: Any, targets: Any, g: Any, needs: tuple[bool, bool]) -> tuple[Any, Any, Any]:
    """Cross-entropy of the logits x weight^T and the gradients of sum(g nll): LOGITS of them at a time.

    A block of rows has its logits, their loss and their gradient in the same memory, all in the dtype of x; dweight is
    added up in float32.
    """
    (n, c), v = x.shape, len(weight)
    weight = padded(weight, x)
    pitch = len(weight)
    nll = np.empty_like(x, np.float32, shape=n)
    dx = np.empty_like(x) if needs[0] else None
    dweight = np.empty_like(x, np.float32, shape=(pitch, c)) if needs[1] else None
    size = max(1, min(n, LOGITS // pitch))
    room = np.empty_like(x, shape=(size, pitch))
    targets, threads = int64(targets), (threads_for(blocks_of(v * x.itemsize, PACK), 1024),)
    shared = v * x.itemsize + PACK
    in_shared = any(needs) and shared <= shared_memory(x.device.id) - 1024
    for start in range(0, n, size):
        rows = slice(start, min(start + size, n))
        d = matmul(x[rows], weight.T, room[: rows.stop - start])
        arrays = (d, targets[rows], g[rows], nll[rows])
        launch(
            "softmax", "loss_then_gradient", (len(d),), threads, *arrays, v, pitch, any(needs), in_shared,
            shared=shared if in_shared else 0, **kinds(REAL=[x]),
        )  # fmt: skip
        if dx is not None:
            matmul(d, weight, dx[rows])
        if dweight is not None:
            matmul(d.T, x[rows], dweight, add=start > 0)
    return nll, dx, None if dweight is None else dweight[:v]


def padded(weight: Any, like: Any) -> Any:
    """The weight of a head (V, C) in another array's dtype, with rows of zeros below up to a multiple of PITCH.

    The tensor cores take factors whose rows start at multiples of 16 bytes: GPT-2's 50,257 classes would make the three
    products of its head three times as slow. A copy is made where rows are missing or the dtype is another. For GPT-2
    124M it moves 154 MB in bfloat16, 309 MB in float32, once a step, whose logits alone are 3.3 GB at 32 x 1,024 tokens
    in bfloat16, moved five times: what would save the copy (a weight that lies padded from the beginning, products of
    their own for the last rows) is worth less than a hundredth of that.
    """
    v, c = weight.shape
    pitch = PITCH * blocks_of(v, PITCH)
    if pitch == v:
        return weight.astype(like.dtype, copy=False)
    room = np.empty_like(like, shape=(pitch, c))
    room[:v], room[v:] = weight, 0
    return room
