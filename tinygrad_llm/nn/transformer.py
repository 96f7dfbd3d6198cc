"""The transformer block of GPT-2: attention and a feed-forward network, each behind a normalisation and a shortcut."""

from __future__ import annotations

from tinygrad_llm.autograd import Tensor

from .activation import GELU
from .attention import MultiHeadAttention, Past
from .containers import Sequential
from .dropout import Dropout
from .functional.layers import gelu_linear
from .linear import Linear
from .module import Module
from .norm import LayerNorm


class FeedForward(Module):
    """W2 gelu(W1 x + b1) + b2 at every position alone: x (B, T, C) -> (B, T, C), 4 C hidden units."""

    def __init__(self, emb_dim: int) -> None:
        super().__init__()
        self.layers = Sequential(
            Linear(emb_dim, 4 * emb_dim),
            GELU(approximate="tanh"),
            Linear(4 * emb_dim, emb_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        if len(self.layers) == 3 and self.layers.is_plainly(Sequential):
            first, gelu, second = self.layers
            if gelu.is_plainly(GELU) and second.is_plainly(Linear):  # one op, which keeps one hidden array
                return gelu_linear(first(x), second.weight, second.bias, gelu.approximate)
        return self.layers(x)


class TransformerBlock(Module):
    """x = x + drop(att(norm1(x), mask)); x = x + drop(ff(norm2(x))): x (B, T, C) -> (B, T, C).

    Normalising before each part leaves the shortcut untouched from the first block to the last.
    Source: Radford et al., Language models are unsupervised multitask learners (2019), section 2.3.
    """

    def __init__(
        self, emb_dim: int, n_heads: int, context_length: int, drop_rate: float = 0.0, qkv_bias: bool = False
    ) -> None:
        super().__init__()
        self.att = MultiHeadAttention(emb_dim, emb_dim, context_length, drop_rate, n_heads, qkv_bias)
        self.ff = FeedForward(emb_dim)
        self.norm1 = LayerNorm(emb_dim)
        self.norm2 = LayerNorm(emb_dim)
        self.drop_shortcut = Dropout(drop_rate)

    def forward(self, x: Tensor, mask: Tensor | None = None, past: Past | None = None) -> Tensor:
        given = (mask,) if past is None else (mask, past)  # an attention of one's own need not know the past
        x = x + self.drop_shortcut(self.att(self.norm1(x), *given))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))
