"""A GPT of plain layers as products of arrays, for writing: no modules are called, no ops recorded, no shapes checked.

A token reads every weight once, and by then the caches have forgotten what Python touched for the layer before: each
line of a module or of an op that takes part is fetched from memory again, at twelve layers 2 ms of a token's 22.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.kernels import Kernels, as_rows, of
from tinygrad_llm.nn import (
    GELU,
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    Linear,
    Module,
    MultiHeadAttention,
    Sequential,
    SiLU,
    TransformerBlock,
)
from tinygrad_llm.nn.transformer import form_of

from .gpt import GPTModel

PLAIN = (
    GPTModel, TransformerBlock, MultiHeadAttention, FeedForward, Sequential, Linear, LayerNorm, GELU, Embedding,
    SiLU, Dropout,
)  # fmt: skip


class Layer(NamedTuple):
    """A weight, a bias or None, and the eps of a normalisation. Tensors, whose arrays may be exchanged meanwhile."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def arrays(self) -> tuple[Any, Any]:
        """Those of the weight and the bias."""
        weight, bias = (None if p is None else p.array for p in self[:2])
        return weight, bias


class Block(NamedTuple):
    """The layers of a block in the order in which x meets them."""

    norm1: Layer
    qkv: Layer
    out_proj: Layer
    norm2: Layer
    first: Layer
    form: Any
    second: Layer


class PlainGPT:
    """What `GPTModel.after` computes, in the same bits. Made by `plain`, of a model that qualifies."""

    def __init__(self, model: GPTModel) -> None:
        self.tok_emb, self.pos_emb, self.heads = model.tok_emb, model.pos_emb, model.config.n_heads
        self.blocks = [
            Block(
                _norm(block.norm1), _linear(block.att.qkv), _linear(block.att.out_proj), _norm(block.norm2),
                _linear(block.ff.layers[0]), form_of(block.ff.layers[1]), _linear(block.ff.layers[2]),
            )
            for block in model.trf_blocks
        ]  # fmt: skip
        self.final_norm, self.head = _norm(model.final_norm), _linear(model.out_head)

    def arrays(self) -> list[Any]:
        """All weights and biases."""
        layers = [part for block in self.blocks for part in block if isinstance(part, Layer)]
        pairs = (layer.arrays() for layer in (*layers, self.final_norm, self.head))
        return [self.tok_emb.weight.array, self.pos_emb.weight.array, *(a for pair in pairs for a in pair)]

    @property
    def narrow(self) -> bool:
        """Whether its numbers have 16 bits, which are computed with in 32."""
        return self.tok_emb.weight.dtype.itemsize < 4

    def after(self, ids: Tensor, positions: Tensor, last: Any, past: Sequence[Any]) -> Any:
        """Logits after new ids (B, T) at positions (B, T), their keys and values added to `past` -> (B, V).

        last: the index (rows, columns) of the last new id of each row.
        """
        batch, t = ids.shape
        x = as_rows((self.tok_emb(ids) + self.pos_emb(positions)).array)  # (B T, C)
        k = of(x)
        for block, remembered in zip(self.blocks, past, strict=True):
            qkv = _product(k, _normal(k, x, block.norm1), block.qkv).reshape(batch, t, -1)
            x += _product(k, as_rows(remembered.mix(qkv, self.heads)), block.out_proj)
            hidden = _product(k, _normal(k, x, block.norm2), block.first)
            x += _product(k, k.activate(hidden, None, block.form), block.second)
        there = tuple(devices.move(places, devices.of(x)) for places in last)
        return _product(k, _normal(k, x.reshape(batch, t, -1)[there], self.final_norm), self.head)


def plain(model: Module) -> PlainGPT | None:
    """The same model as arrays, where all its layers are plain ones that no hook watches, of one dtype; else None.

    Numbers of 16 bits count on a GPU alone, which has kernels for them.
    """
    if not (isinstance(model, GPTModel) and all(map(_is_plain, model.modules()))):
        return None
    dtypes = {p.dtype for p in model.parameters()}
    if not all(_is_usual(block.ff.layers) for block in model.trf_blocks) or len(dtypes) > 1:
        return None
    found = PlainGPT(model)
    return None if found.narrow and model.tok_emb.weight.is_cpu else found


def _is_plain(module: Module) -> bool:
    kind = type(module)
    affine = not isinstance(module, LayerNorm) or len(module.normalized_shape) == 1
    return affine and kind in PLAIN and module.is_plainly(kind)


def _is_usual(layers: Sequential) -> bool:
    """Whether a feed-forward network has two products, and between them an activation that the kernels know."""
    return len(layers) == 3 and type(layers[0]) is type(layers[2]) is Linear and form_of(layers[1]) is not None


def _norm(layer: LayerNorm) -> Layer:
    return Layer(layer.weight, layer.bias, layer.eps)


def _linear(layer: Linear) -> Layer:
    return Layer(layer.weight, layer.bias, 0.0)


def _normal(k: Kernels, x: Any, layer: Layer) -> Any:
    return k.layer_norm(x, *layer.arrays(), layer.eps)[0]


def _product(k: Kernels, x: Any, layer: Layer) -> Any:
    assert layer.weight is not None
    y = k.matmul(x, layer.weight.array.T)
    if layer.bias is not None:
        y += layer.bias.array
    return y
