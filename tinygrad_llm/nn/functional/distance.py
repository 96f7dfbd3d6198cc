"""Lengths, distances and angles of vectors, and the losses made of them."""

from __future__ import annotations

from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions.common import dimension
from tinygrad_llm.autograd.functions.elementwise import where
from tinygrad_llm.autograd.functions.reduce import norm, sum_
from tinygrad_llm.autograd.tensor import Tensor
from tinygrad_llm.nn.functional.loss import reduced


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(||x||_p, eps) along dim."""
    dimension(dim, input.ndim)
    return input / norm(input, p, dim, keepdim=True).clamp(min=eps)


@autocasts
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / (max(|x1|, eps) max(|x2|, eps)) along dim."""
    lengths = norm(x1, 2, dim).clamp(min=eps) * norm(x2, 2, dim).clamp(min=eps)
    return sum_(x1 * x2, dim) / lengths


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """||x1 - x2 + eps||_p along the last dimension."""
    return norm(x1 - x2 + eps, p, -1, keepdim=keepdim)


@autocasts
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, *, reduction: str = "mean"
) -> Tensor:
    """1 - cos(x1, x2) where target is 1, max(cos(x1, x2) - margin, 0) where it is -1: (N, D), (N, D), (N,).

    Raises:
        RuntimeError: ranks or shapes do not fit.
    """
    if target.ndim > 1 or (input1.ndim, input2.ndim) != (target.ndim + 1,) * 2:
        raise RuntimeError(
            f"{target.ndim}D target tensor expects {target.ndim + 1}D input tensors, but found inputs with sizes "
            f"{list(input1.shape)} and {list(input2.shape)}."
        )
    dot, square1, square2 = ((a * b).sum(-1) for a, b in ((input1, input2), (input1, input1), (input2, input2)))
    cos = dot / ((square1 + 1e-12) * (square2 + 1e-12)).sqrt()
    apart = where(target == -1, (cos - margin).clamp(min=0), cos * 0)
    return reduced(where(target == 1, 1 - cos, cos * 0) + apart, reduction)


@autocasts
def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2, eps: float = 1e-6,
    swap: bool = False, *, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(d(anchor, positive) - d(anchor, negative) + margin, 0); with swap, positive to negative where that is less.

    Raises:
        ValueError: margin is not positive.
    """
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = far.minimum(pairwise_distance(positive, negative, p, eps))
    return reduced((margin + near - far).clamp(min=0), reduction)
