"""LoRA: a layer's weight stays as it is, and beside it learns a product of two small matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.creation import empty, zeros
from tinygrad_llm.autograd.functions import cat

from . import functional as F
from . import init
from .attention import MultiHeadAttention
from .containers import ModuleDict
from .dropout import Dropout
from .embedding import Embedding
from .functional.layers import lora_linear
from .linear import Linear
from .module import Module
from .parameter import Parameter

BLOCK_LAYERS = ("qkv", "out_proj", "ff.layers.0", "ff.layers.2")  # all products of a block
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
    """A layer with adapters by name, of which one or none is at work. merged: the factor that it was merged with."""

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

    @property
    def lora(self) -> Any:
        """The adapter at work, or None."""
        return None if self.active is None else self.adapters[self.active]

    @property
    def weight(self) -> Parameter:
        """The layer's own."""
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
        weight = self.weight.array
        factor = self._factor()
        if shared:
            self.untied = self.weight
            weight = weight.copy()
            self.linear.weight = Parameter(Tensor(weight), requires_grad=False)
        weight += self._delta().astype(weight.dtype, copy=False)
        weight *= factor
        self.merged = factor

    def unmerge(self) -> None:
        """Take it away again."""
        if self.merged is None:
            return
        if self.untied is not None:
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

    def __init__(self, linear: Linear, rank: int | None = None, alpha: float = 1.0, parts: int = 1) -> None:
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
        if drop:
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
        if settings.dora:
            raise ValueError("apply_lora: dora is for products, not for an embedding; leave it out of targets")
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


def replace_linear_with_lora(model: Module, rank: int, alpha: float) -> None:
    """Put LinearWithLoRA in the place of every Linear below `model`; the product counts alpha-fold.

    Queries, keys and values, which are one layer here, get an adapter each, as if they were three.
    """
    for name, module in list(model.named_children()):
        if isinstance(module, Linear):
            parts = QKV_PARTS if isinstance(model, MultiHeadAttention) and name == "qkv" else 1
            setattr(model, name, LinearWithLoRA(module, rank, alpha, parts))
        elif not isinstance(module, Adapted):
            replace_linear_with_lora(module, rank, alpha)


def apply_lora(
    model: Module,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] = BLOCK_LAYERS,
    dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
    split_qkv: bool = False,
    train: Sequence[str] = (),
    name: str = "default",
) -> Trainable:
    """Freeze a model and give its layers an adapter that learns; returns how much of it does.

    targets: names of layers, whole or from a dot on, with * for anything: "qkv", "ff.layers.*", "trf_blocks.0.*",
    "tok_emb", "out_head"; by default all products in the blocks. alpha / rank is the factor of the product, with rslora
    alpha / sqrt(rank). dropout: of what the adapter reads. dora: the length of each row of the weight learns apart.
    split_qkv: queries, keys and values get an adapter each. train: layers, by such names, that learn as a whole. name:
    of the adapter; with another name than before it is one more, and put to work.

    Raises: ValueError for a pattern that no layer matches, a name that is taken, or numbers out of range.
    """
    if rank < 1 or not alpha > 0 or not 0 <= dropout < 1:
        raise ValueError(
            f"apply_lora: rank {rank} must be at least 1, alpha {alpha} positive, dropout {dropout} in [0, 1)"
        )
    if dora and split_qkv:
        raise ValueError("apply_lora: dora and split_qkv do not go together")
    layers = {path: m for path, m in _own_layers(model) if isinstance(m, (Linear, Embedding, Adapted))}
    found = {path: [p for p in targets if matches(path, p)] for path in layers}
    if idle := [p for p in targets if not any(p in patterns for patterns in found.values())]:
        raise ValueError(f"apply_lora: no layer matches {', '.join(idle)}; there are {', '.join(layers)}")
    taken = [path for path, layer in layers.items() if isinstance(layer, Adapted) and name in layer.adapters]
    if taken:
        raise ValueError(f"apply_lora: there is an adapter {name!r} already; give another name=")
    if any(layer.merged is not None for layer in adapted(model).values()):
        raise RuntimeError("apply_lora: an adapter is merged; call unmerge_lora first")
    settings = LoRASettings(rank, alpha, dropout, rslora, dora)
    for path, patterns in found.items():
        if patterns:
            add_adapter(model, path, name, dataclasses.replace(settings, split_qkv=split_qkv and path.endswith("qkv")))
    freeze(model, name, train)
    return trainable(model)


def add_adapter(model: Module, path: str, name: str, settings: LoRASettings) -> Adapted:
    """One more adapter at the layer with this dotted name, which becomes an adapted one if it is none."""
    layer = model.get_submodule(path)
    if not isinstance(layer, Adapted):
        wrapped = LinearWithLoRA(layer) if isinstance(layer, Linear) else EmbeddingWithLoRA(layer)
        _put(model, path, wrapped.train(layer.training))
        layer = wrapped
    layer.add(name, settings)
    return layer


def freeze(model: Module, name: str | None, train: Sequence[str] = ()) -> None:
    """Let only the adapter of this name learn, and the layers that match `train`."""
    model.requires_grad_(False)
    set_adapter(model, name)
    for path, module in model.named_modules():
        if any(matches(path, pattern) for pattern in train):
            module.requires_grad_(True)


def set_adapter(model: Module, name: str | None) -> None:
    """Put the adapter of this name to work in all layers that have it; None: the model as it was before.

    Raises: ValueError if no layer has it.
    """
    layers = adapted(model).values()
    if name is not None and not any(name in layer.adapters for layer in layers):
        known = sorted({key for layer in layers for key in layer.adapters})
        raise ValueError(f"set_adapter: there is no adapter {name!r}; there are {', '.join(known) or 'none'}")
    for layer in layers:
        layer.use(name)


def merge_lora(model: Module) -> None:
    """Add the products of the adapter at work to the weights, so that it costs no time; unmerge_lora undoes it."""
    owners: dict[int, int] = {}
    for _, module in model.named_modules():
        if isinstance(module, (Linear, Embedding)):
            owners[id(module.weight)] = owners.get(id(module.weight), 0) + 1
    with no_grad():
        for layer in adapted(model).values():
            layer.merge(shared=owners[id(layer.weight)] > 1)
    _tell_ties(model)


def unmerge_lora(model: Module) -> None:
    """The weights as before `merge_lora`, up to rounding."""
    with no_grad():
        for layer in adapted(model).values():
            layer.unmerge()
    _tell_ties(model)


def remove_lora(model: Module) -> None:
    """Put the plain layers back; what was merged stays in their weights, what was not is gone."""
    for path, layer in adapted(model).items():
        _put(model, path, layer.linear)


def adapted(model: Module) -> dict[str, Adapted]:
    """The layers with adapters, by their dotted names."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Adapted)}


class Trainable(NamedTuple):
    """How many of a model's numbers learn, and how many there are."""

    trainable: int
    total: int

    def __str__(self) -> str:
        share = 100 * self.trainable / self.total if self.total else 0.0
        return f"{self.trainable:,} of {self.total:,} parameters learn ({share:.2f} %)"


def trainable(model: Module) -> Trainable:
    """How many parameters learn; tied ones count once."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Trainable(sum(n for n, learns in counts if learns), sum(n for n, _ in counts))


def matches(path: str, pattern: str) -> bool:
    """Whether a dotted name, or what it ends in from a dot on, is of a pattern."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")


def _own_layers(module: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """Modules below one, without what is inside of adapted ones."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        yield path, child
        if not isinstance(child, Adapted):
            yield from _own_layers(child, f"{path}.")


def _put(model: Module, path: str, layer: Module) -> None:
    parent, _, name = path.rpartition(".")
    owner: Any = model.get_submodule(parent)
    owner._modules[name] = layer


def _tell_ties(model: Module) -> None:
    """A GPT's configuration says whether its head is tied, which merging may change."""
    config = getattr(model, "config", None)
    untied: Iterable[Adapted] = (layer for layer in adapted(model).values() if layer.untied is not None)
    if config is None or not hasattr(config, "tie_weights"):
        return
    if any(untied) and config.tie_weights:
        model.config = dataclasses.replace(config, tie_weights=False)
    elif not config.tie_weights and model.out_head.weight is model.tok_emb.weight:
        model.config = dataclasses.replace(config, tie_weights=True)
