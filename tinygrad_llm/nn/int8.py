"""Layers whose weight does not learn and is kept in eight bits: some 27 % of the memory of float32."""

from __future__ import annotations

import math

from tinygrad_llm import dtypes, kernels
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.tensor import wrap

from . import init
from .embedding import Embedding
from .functional.layers import int8_embedding, int8_linear
from .linear import Linear
from .module import Module
from .parameter import Parameter


def check_weight(weight: Tensor, where: str) -> None:
    """Refuse what cannot be packed.

    Raises: ValueError for a weight of 16 bits, whose scales would be too coarse, or with nan or infinity.
    """
    if weight.dtype not in (dtypes.float32, dtypes.float64):
        raise ValueError(f"{where}: the weight is {weight.dtype}; make the model float32 first, with .float()")
    array = weight.array
    if array.size and not (math.isfinite(array.max()) and math.isfinite(array.min())):  # without an array of answers
        raise ValueError(f"{where}: the weight holds nan or infinity")


class Int8Weight(Module):
    """A frozen weight (N, C): `codes` (N, C) in -127..127, and `scales` (N, ceil(C / 64)), one for 64 of a row.

    weight = codes scale, where the scale is 1/127 of the largest absolute value of its block, so that no number moves
    by more than 1/254 of that. The scales have the dtype of the weight, and so has what is unpacked.

    Raises: ValueError for a weight that `check_weight` refuses.
    Source: Dettmers et al., 8-bit optimizers via block-wise quantization (2022), and QLoRA (2023), section 2.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        check_weight(weight, type(self).__name__)
        codes, scales = kernels.of(weight.array).int8_pack(weight.array)
        self.register_buffer("codes", wrap(codes))
        self.register_buffer("scales", wrap(scales))

    @property
    def weight(self) -> Tensor:
        """The weight as it counts, unpacked each time anew (N, C)."""
        return wrap(kernels.of(self.scales.array).int8_unpack(self.codes.array, self.scales.array))

    def unpacked(self) -> Module:
        """The plain layer that computes the same, its weight frozen."""
        raise NotImplementedError


class Int8Linear(Int8Weight):
    """y = x W^T + b with W in eight bits: a few rows of it are unpacked at a time, forward and backward."""

    def __init__(self, layer: Linear) -> None:
        super().__init__(layer.weight)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        return int8_linear(input, self.codes, self.scales, self.bias)

    def unpacked(self) -> Linear:
        with init.skip_random():
            layer = Linear(self.in_features, self.out_features, bias=False)
        layer.weight, layer.bias = Parameter(self.weight, requires_grad=False), self.bias
        return layer.train(self.training)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8Embedding(Int8Weight):
    """W[ids] with the table W in eight bits: only the rows that are looked up are unpacked."""

    def __init__(self, layer: Embedding) -> None:
        super().__init__(layer.weight)
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.padding_idx = layer.padding_idx
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        return int8_embedding(input, self.codes, self.scales)

    def unpacked(self) -> Embedding:
        return Embedding.from_pretrained(self.weight, padding_idx=self.padding_idx).train(self.training)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


LINEAR, TABLE = (Linear, Int8Linear), (Embedding, Int8Embedding)  # products, and tables to look up in
