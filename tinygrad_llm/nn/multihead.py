"""PyTorch's own multi-head attention, for scripts that use it; the GPT's is in attention.py."""

from __future__ import annotations

import math
from typing import Any

from tinygrad_llm import dtypes
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import empty

from . import functional as F
from . import init
from .linear import Linear
from .module import Module
from .parameter import Parameter


class NonDynamicallyQuantizableLinear(Linear):
    """A linear layer under the name that PyTorch prints for it."""


class MultiheadAttention(Module):
    """Attention of query (T, N, E) on key and value (S, N, E) with num_heads heads of E / num_heads: -> (T, N, E).

    With batch_first N stands first; all three may also come without N. Rows of `in_proj_weight` (3 E, E) are those of
    queries, keys and values. `dropout` drops softmax weights in training.

    Raises:
        ValueError: sizes are not positive. AssertionError: num_heads does not divide embed_dim, or shapes do not fit.
        NotImplementedError: kdim, vdim, add_bias_kv or add_zero_attn.
    Source: Vaswani et al., Attention is all you need (2017), section 3.2.
    """

    in_proj_bias: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and num_heads={num_heads} "
                "instead"
            )
        for name, value, only in (
            ("add_bias_kv", add_bias_kv, False),
            ("add_zero_attn", add_zero_attn, False),
            ("kdim", kdim or embed_dim, embed_dim),
            ("vdim", vdim or embed_dim, embed_dim),
        ):
            if value != only:
                raise NotImplementedError(f"MultiheadAttention: {name}={value} is not supported; leave it out")
        assert embed_dim % num_heads == 0, "embed_dim must be divisible by num_heads"
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.dropout, self.batch_first = dropout, batch_first
        self.in_proj_weight = Parameter(empty(3 * embed_dim, embed_dim, device=device, dtype=dtype))
        self.in_proj_bias = Parameter(empty(3 * embed_dim, device=device, dtype=dtype)) if bias else None
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """in_proj_weight uniform as Glorot and Bengio's, biases 0."""
        init.xavier_uniform_(self.in_proj_weight)
        if self.in_proj_bias is not None and self.out_proj.bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the result and, with need_weights, the softmax weights (N, T, S) averaged over the heads, or each.

        key_padding_mask: (N, S); attn_mask: (T, S) or (N num_heads, T, S). True takes no part; floats are added to the
        scores. is_causal says that attn_mask is the causal one, which is computed no differently.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.ndim == 3
        assert query.ndim in (2, 3), f"query should be unbatched 2D or batched 3D tensor but received {query.ndim}-D"
        assert key.ndim == value.ndim == query.ndim, "query, key and value must all be batched, or all be not"
        assert query.size(-1) == self.embed_dim, (
            f"was expecting embedding dimension of {self.embed_dim}, but got {query.size(-1)}"
        )
        q, k, v = self._projected(query, key, value)  # (N, H, T or S, D)
        scores = (q * (1.0 / math.sqrt(self.head_dim))) @ k.transpose(-2, -1)
        for mask in self._masks(scores, attn_mask, key_padding_mask):
            scores = scores + mask
        weights = scores.softmax(-1)
        if self.training:
            weights = F.dropout(weights, self.dropout)
        mixed = self.out_proj((weights @ v).transpose(1, 2).flatten(-2))  # (N, T, E)
        shown = None
        if need_weights:
            shown = weights.mean(1) if average_attn_weights else weights
        if not batched:
            return mixed.squeeze(0), None if shown is None else shown.squeeze(0)
        return mixed if self.batch_first else mixed.transpose(0, 1), shown

    def _projected(self, *inputs: Tensor) -> list[Tensor]:
        """Queries, keys and values (N, H, L, D) of inputs (L, N, E), (N, L, E) or (L, E)."""
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        projected = []
        for x, weight, bias in zip(inputs, weights, biases, strict=True):
            rows = x.unsqueeze(0) if x.ndim == 2 else x if self.batch_first else x.transpose(0, 1)
            y = F.linear(rows, weight, bias)
            projected.append(y.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2))
        return projected

    def _masks(self, scores: Tensor, attn_mask: Tensor | None, key_padding_mask: Tensor | None) -> list[Tensor]:
        """The masks as what is added to the scores (N, H, T, S)."""
        n, heads, t, s = scores.shape
        masks = []
        if attn_mask is not None:
            if attn_mask.shape not in ((t, s), (n * heads, t, s)):
                raise RuntimeError(
                    f"The shape of the {attn_mask.ndim}D attn_mask is {tuple(attn_mask.shape)}, but should be {(t, s)} "
                    f"or {(n * heads, t, s)}."
                )
            masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.reshape(scores.shape))
        if key_padding_mask is not None:
            if key_padding_mask.shape not in ((n, s), (s,)):
                raise RuntimeError(f"expected key_padding_mask of shape {(n, s)}, but got {key_padding_mask.shape}")
            masks.append(key_padding_mask.reshape(n, 1, 1, s))
        zero = scores.new_zeros(())
        return [zero.masked_fill(mask, -math.inf) if mask.dtype is dtypes.bool_ else mask for mask in masks]
