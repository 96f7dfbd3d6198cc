"""The transformer block of GPT-2: attention and a feed-forward network, each behind a normalisation and a shortcut."""

from __future__ import annotations

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.autocast import narrow_dtype

from .activation import GELU, SiLU
from .attention import MultiHeadAttention, Past
from .containers import Sequential
from .dropout import Dropout
from .functional.layers import activated_linear, dropout_add, dropout_add_norm, feed_forward, linear
from .linear import Linear
from .module import Module
from .norm import LayerNorm

IN_THE_CACHE = 1_048_576  # numbers of a hidden layer: fewer of them do not leave a core's level-2 cache between ops


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
            first, activation, second = self.layers
            form = form_of(activation)
            if form and second.is_plainly(Linear):  # one op, which keeps one hidden array
                if first.is_plainly(Linear) and x.is_cuda and (narrow_dtype(x) or x.itemsize == 2):
                    return feed_forward(x, first.weight, first.bias, second.weight, second.bias, form)
                if first.is_plainly(Linear) and _is_large(x, first):  # and adds this layer's bias on its way
                    return activated_linear(linear(x, first.weight), first.bias, second.weight, second.bias, form)
                return activated_linear(first(x), None, second.weight, second.bias, form)
        return self.layers(x)


def _is_large(x: Tensor, layer: Linear) -> bool:
    """Whether a layer's result is so large that a pass over it costs more than adding the bias again in backward."""
    return x.is_cuda or x.numel() // max(layer.in_features, 1) * layer.out_features >= IN_THE_CACHE


def form_of(activation: Module) -> str | None:
    """The kernels' name of an activation that no hook watches, None of another."""
    if activation.is_plainly(GELU):
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(activation.approximate)
    return "silu" if activation.is_plainly(SiLU) and not activation.inplace else None


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
        x, y = self._attend(x, self.norm1(x), mask, past)
        return self._add(x, self.ff(y))

    def between_norms(self, x: Tensor, y: Tensor, mask: Tensor | None, norm: Module) -> tuple[Tensor, Tensor]:
        """The block's result for x, where y = norm1(x) is at hand, and the norm of it that follows the block."""
        x, y = self._attend(x, y, mask, None)
        return self._add_and_normalise(x, self.ff(y), norm)

    def _attend(self, x: Tensor, y: Tensor, mask: Tensor | None, past: Past | None) -> tuple[Tensor, Tensor]:
        """x + drop(att(y, mask)), and norm2 of it."""
        given = (mask,) if past is None else (mask, past)  # an attention of one's own need not know the past
        return self._add_and_normalise(x, self.att(y, *given), self.norm2)

    def _add(self, x: Tensor, part: Tensor) -> Tensor:
        """x + drop(part)."""
        drop = self.drop_shortcut
        if drop.is_plainly(Dropout) and not drop.inplace:
            return dropout_add(part, x, drop.p, drop.training)
        return x + drop(part)

    def _add_and_normalise(self, x: Tensor, part: Tensor, norm: Module) -> tuple[Tensor, Tensor]:
        """x + drop(part), and norm of it."""
        drop = self.drop_shortcut
        plain = drop.is_plainly(Dropout) and not drop.inplace and norm.is_plainly(LayerNorm)
        if plain and norm.normalized_shape == x.shape[-1:]:
            return dropout_add_norm(part, x, drop.p, drop.training, norm.weight, norm.bias, norm.eps)
        x = self._add(x, part)
        return x, norm(x)
