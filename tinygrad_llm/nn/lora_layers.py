"""LoRA's layers: a layer's weight stays as it is, and beside it learns a product of two small matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import empty, zeros
from tinygrad_llm.autograd.functions import cat

from . import functional as F
from . import init
from .containers import ModuleDict
from .dropout import Dropout
from .functional.layers import int8_linear, lora_linear
from .int8 import Int8Linear, Int8Weight
from .linear import Linear
from .module import Module
from .parameter import Parameter

QKV_PARTS = 3


class LoRALayer(Module):
    """alpha x A B: x (..., in_dim) -> (..., out_dim), A (in_dim, rank) and B (rank, out_dim).

    A is drawn as a Linear's weight is, B is zero, so that at first nothing is added. parts: the outputs are so many
    blocks side by side, as queries, keys and values are, each with an A of its own: A (in_dim, parts rank).
    Source: Hu et al., LoRA: low-rank adaptation of large language models (2021), section 4.1.
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int, alpha: float, parts: int = 1) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRALayer: rank must be at least 1, not {rank}")
        self.rank, self.alpha, self.parts = rank, alpha, parts
        self.A = Parameter(empty(in_dim, parts * rank))
        for part in np.split(self.A.array, parts, axis=1):
            drawn = Tensor(np.empty((rank, in_dim), part.dtype))  # as (out, in), whose fan-in is in_dim
            init.kaiming_uniform_(drawn, a=math.sqrt(5))
            part[...] = drawn.array.T
        self.B = Parameter(zeros(rank, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        if self.parts == 1:
            return self.alpha * (x @ self.A @ self.B)
        pairs = zip(self.A.chunk(self.parts, 1), self.B.chunk(self.parts, 1), strict=True)
        return self.alpha * cat([x @ a @ b for a, b in pairs], -1)

    def delta(self) -> np.ndarray:
        """What it adds to a weight (out_dim, in_dim)."""
        a, b = np.split(self.A.array, self.parts, axis=1), np.split(self.B.array, self.parts, axis=1)
        return np.concatenate([self.alpha * (x @ y).T for x, y in zip(a, b, strict=True)])

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha:g}" + (f", parts={self.parts}" if self.parts > 1 else "")


@dataclass(frozen=True)
class LoRASettings:
    """What `apply_lora` was told: alpha / rank, or with rslora alpha / sqrt(rank), is the factor of A B."""

    rank: int
    alpha: float
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    split_qkv: bool = False

    def factor(self) -> float:
        """Kalajdzievski, A rank stabilization scaling factor for fine-tuning with LoRA (2023), for rslora."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class Adapted(Module):
    """A layer with adapters by name, of which one or none is at work. merged: the factor that it was merged with.

    A weight in eight bits is unpacked to be merged into; `packed` then keeps it, for unmerging.
    """

    linear: Any
    settings: dict[str, LoRASettings]

    def __init__(self, layer: Module) -> None:
        super().__init__()
        self.linear = layer
        self.adapters = ModuleDict()
        self.settings = {}
        self.active: str | None = None
        self.merged: np.ndarray | float | None = None
        self.untied: Parameter | None = None  # the weight that was shared before merging
        self.packed: Int8Weight | None = None

    @property
    def lora(self) -> Any:
        """The adapter at work, or None."""
        return None if self.active is None else self.adapters[self.active]

    @property
    def weight(self) -> Any:
        """The layer's own; of one in eight bits what they stand for."""
        return self.linear.weight

    def use(self, name: str | None) -> None:
        """Put the adapter of this name to work and let it learn; the others rest."""
        if self.merged is not None:
            raise RuntimeError("the adapter is merged into the weight; call unmerge_lora first")
        self.active = name if name is not None and name in self.adapters else None
        for other, adapter in self.adapters.items():
            adapter.requires_grad_(other == self.active)

    def merge(self, shared: bool = False) -> None:
        """Add the adapter's product to the weight; shared: to a copy, since another layer has the same weight."""
        if self.lora is None or self.merged is not None:
            return
        factor = self._factor()
        if isinstance(self.linear, Int8Weight):
            self.packed, self.linear = self.linear, self.linear.unpacked()
        elif shared:
            self.untied = self.weight
            self.linear.weight = Parameter(Tensor(self.weight.array.copy()), requires_grad=False)
        weight = self.weight.array
        weight += self._delta().astype(weight.dtype, copy=False)
        weight *= factor
        self.merged = factor

    def unmerge(self) -> None:
        """Take it away again."""
        if self.merged is None:
            return
        if self.packed is not None:
            self.linear, self.packed = self.packed, None
        elif self.untied is not None:
            self.linear.weight, self.untied = self.untied, None
        else:
            weight = self.weight.array
            weight /= self.merged
            weight -= self._delta().astype(weight.dtype, copy=False)
        self.merged = None

    def _delta(self) -> Any:
        return self.lora.delta()

    def _factor(self) -> Any:
        return 1.0


class LinearWithLoRA(Adapted):
    """linear(x) + lora(x). Here the weight of `linear` counts alone; whether it learns is for its owner to say."""

    def __init__(
        self, linear: Linear | Int8Linear, rank: int | None = None, alpha: float = 1.0, parts: int = 1
    ) -> None:
        super().__init__(linear)
        if rank is not None:
            self.adapters["default"] = LoRALayer(linear.in_features, linear.out_features, rank, alpha, parts)
            self.settings["default"] = LoRASettings(rank, alpha * rank, split_qkv=parts > 1)
            self.active = "default"

    def add(self, name: str, settings: LoRASettings) -> None:
        """A new adapter; DoRA's magnitudes begin as the norms of the weight's rows."""
        layer = self.linear
        parts = QKV_PARTS if settings.split_qkv else 1
        adapter = LoRALayer(layer.in_features, layer.out_features, settings.rank, settings.factor(), parts)
        adapter.to(layer.weight)
        adapter.drop = Dropout(settings.dropout)
        if settings.dora:
            adapter.magnitude = Parameter(Tensor(np.linalg.norm(layer.weight.array, axis=1)))
        self.adapters[name], self.settings[name] = adapter, settings

    def forward(self, x: Tensor) -> Tensor:
        lora, linear = self.lora, self.linear
        if lora is None or self.merged is not None:
            return linear(x)
        dora = "magnitude" in lora._parameters
        drop = self.training and "drop" in lora._modules and lora.drop.p > 0
        bias = None if dora else linear.bias
        if isinstance(linear, Int8Linear):
            y = int8_linear(x, linear.codes, linear.scales, bias) + lora(lora.drop(x) if drop else x)
        elif drop:
            y = F.linear(x, linear.weight, bias) + lora(lora.drop(x))
        else:
            y = lora_linear(x, linear.weight, bias, lora.A, lora.B, lora.alpha, lora.parts)
        if dora:
            y = y * (lora.magnitude / Tensor(self._norms()))
            y = y if linear.bias is None else y + linear.bias
        return y

    def _norms(self) -> np.ndarray:
        """|W + delta| of each row, without making it: |w|^2 + 2 w.d + |d|^2. It is taken as constant in backward.

        Source: Liu et al., DoRA: weight-decomposed low-rank adaptation (2024), equation 11.
        """
        lora, w = self.lora, self.weight.array
        a, b, s = lora.A.array, lora.B.array.T, lora.alpha
        squares = np.einsum("nk,nk->n", w, w) + 2 * s * ((w @ a) * b).sum(1) + s * s * ((b @ (a.T @ a)) * b).sum(1)
        return np.sqrt(np.maximum(squares, np.finfo(w.dtype).tiny))

    def _factor(self) -> Any:
        if "magnitude" not in self.lora._parameters:
            return 1.0
        return (self.lora.magnitude.array / self._norms())[:, None]


class EmbeddingWithLoRA(Adapted):
    """table[ids] + alpha A[ids] B: A (V, rank) begins as zero, B (rank, C) is drawn from N(0, 1)."""

    def add(self, name: str, settings: LoRASettings) -> None:
        """A new adapter."""
        layer = self.linear
        adapter = LoRALayer(layer.num_embeddings, layer.embedding_dim, settings.rank, settings.factor())
        init.zeros_(adapter.A)
        init.normal_(adapter.B)
        self.adapters[name], self.settings[name] = adapter.to(layer.weight), settings

    def forward(self, ids: Tensor) -> Tensor:
        lora = self.lora
        if lora is None or self.merged is not None:
            return self.linear(ids)
        return self.linear(ids) + lora.alpha * (F.embedding(ids, lora.A) @ lora.B)

    def _delta(self) -> Any:
        return self.lora.delta().T
