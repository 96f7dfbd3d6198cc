"""Causal self-attention with several heads."""

from __future__ import annotations

from tinygrad_llm.autograd import Tensor

from .functional.attention import attention_of_packed
from .linear import Linear
from .module import Module


class MultiHeadAttention(Module):
    """Each position mixes the values of those before it and its own: x (B, T, d_in) -> (B, T, d_out).

    softmax(q k^T / sqrt(D) + causal mask) v for each of the H = num_heads heads of width D = d_out / H, then the heads
    side by side through `out_proj`. One product with `qkv.weight` (3 d_out, d_in) makes queries, keys and values: its
    rows are those of W_query, W_key and W_value, in this order. `dropout` is the probability of a softmax weight to be
    dropped in training. `mask`: bool (True takes part), broadcast to (B, H, T, T), takes away from what is seen.

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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        T = x.shape[1]
        if self.context_length < T:
            raise ValueError(f"MultiHeadAttention: {T} positions are more than the context of {self.context_length}")
        mixed = attention_of_packed(self.qkv(x), self.num_heads, self.dropout if self.training else 0.0, mask)
        return self.out_proj(mixed)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, context_length={self.context_length}, dropout={self.dropout}"
