"""Causal self-attention with several heads."""

from __future__ import annotations

import math
from typing import Protocol

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import ones
from tinygrad_llm.dtypes import bool_

from .functional.attention import attention_of_packed
from .linear import Linear
from .module import Module


class Past(Protocol):
    """The keys and values of one layer so far."""

    def attend(self, qkv: Tensor, heads: int) -> Tensor:
        """Add the new ones to them, and mix what each new position sees: qkv (B, T, 3 C) -> (B, T, C)."""
        ...


class MultiHeadAttention(Module):
    """Each position mixes the values of those before it and its own: x (B, T, d_in) -> (B, T, d_out).

    softmax(q k^T / sqrt(D) + causal mask) v for each of the H = num_heads heads of width D = d_out / H, then the heads
    side by side through `out_proj`. One product with `qkv.weight` (3 d_out, d_in) makes queries, keys and values: its
    rows are those of W_query, W_key and W_value, in this order. `dropout` is the probability of a softmax weight to be
    dropped in training. `mask` takes away from what is seen: bool (True takes part), broadcast to (B, H, T, T), or
    whole numbers (B, T), the document of each position, for positions that see their own document alone.
    `past`: the keys and values of earlier positions, which x goes on from; without gradients, for writing.

    Raises: ValueError if num_heads does not divide d_out, or for a sequence longer than context_length.
    Source: Vaswani et al., Attention is all you need (2017), section 3.2.
    """

    def __init__(
        self, d_in: int, d_out: int, context_length: int, dropout: float, num_heads: int, qkv_bias: bool = False
    ) -> None:
        super().__init__()
        if d_out % num_heads:
            raise ValueError(f"MultiHeadAttention: d_out {d_out} must be divisible by num_heads {num_heads}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiHeadAttention: dropout must lie in 0..1, not {dropout}")
        self.d_out, self.num_heads, self.head_dim = d_out, num_heads, d_out // num_heads
        self.context_length, self.dropout = context_length, dropout
        self.qkv = Linear(d_in, 3 * d_out, bias=qkv_bias)
        self.out_proj = Linear(d_out, d_out)

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Past | None = None) -> Tensor:
        if past is not None:
            return self.out_proj(past.attend(self.qkv(x), self.num_heads))
        T = x.shape[1]
        if self.context_length < T:
            raise ValueError(f"MultiHeadAttention: {T} positions are more than the context of {self.context_length}")
        mixed = attention_of_packed(self.qkv(x), self.num_heads, self.dropout if self.training else 0.0, mask)
        return self.out_proj(mixed)

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much each position looks at each: x (B, T, d_in) -> softmax(q k^T / sqrt(D) + causal mask) (B, H, T, T).

        Row t of a head adds up to 1 over the positions 0..t. Dropout is left out. For study: forward never makes them.
        """
        q, k, _ = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)  # (B, H, T, T)
        seen = ones(scores.shape[-2:], dtype=bool_, device=x.device).tril()
        if mask is not None:
            seen = seen & (mask if mask.dtype is bool_ else (mask.unsqueeze(-1) == mask.unsqueeze(-2)).unsqueeze(1))
        return scores.masked_fill(~seen, -math.inf).softmax(-1)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, context_length={self.context_length}, dropout={self.dropout}"
