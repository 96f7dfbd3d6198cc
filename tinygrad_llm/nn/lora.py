"""LoRA in a model: which layers get an adapter, what learns, switching between several, merging."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from tinygrad_llm.autograd import no_grad

from .attention import MultiHeadAttention
from .int8 import LINEAR, TABLE, Int8Weight
from .lora_layers import QKV_PARTS, Adapted, EmbeddingWithLoRA, LinearWithLoRA, LoRALayer, LoRASettings
from .module import Module

__all__ = [
    "BLOCK_LAYERS", "QKV_PARTS", "Adapted", "EmbeddingWithLoRA", "LinearWithLoRA", "LoRALayer", "LoRASettings",
    "Trainable", "adapted", "add_adapter", "apply_lora", "freeze", "matches", "merge_lora", "owners", "put",
    "remove_lora", "replace_linear_with_lora", "set_adapter", "trainable", "unmerge_lora",
]  # fmt: skip

BLOCK_LAYERS = ("qkv", "out_proj", "ff.layers.0", "ff.layers.2")  # all products of a block


def replace_linear_with_lora(model: Module, rank: int, alpha: float) -> None:
    """Put LinearWithLoRA in the place of every Linear below `model`; the product counts alpha-fold.

    Queries, keys and values, which are one layer here, get an adapter each, as if they were three.
    """
    for name, module in list(model.named_children()):
        if isinstance(module, LINEAR):
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
    layers = {path: m for path, m in _own_layers(model) if isinstance(m, (*LINEAR, *TABLE, Adapted))}
    found = {path: [p for p in targets if matches(path, p)] for path in layers}
    if idle := [p for p in targets if not any(p in patterns for patterns in found.values())]:
        raise ValueError(f"apply_lora: no layer matches {', '.join(idle)}; there are {', '.join(layers)}")
    if dora and (tables := [path for path, patterns in found.items() if patterns and _is_table(layers[path])]):
        raise ValueError(f"apply_lora: dora is for products, not for an embedding; leave out {', '.join(tables)}")
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


def _is_table(layer: Module) -> bool:
    return isinstance(layer, (*TABLE, EmbeddingWithLoRA))


def add_adapter(model: Module, path: str, name: str, settings: LoRASettings) -> Adapted:
    """One more adapter at the layer with this dotted name, which becomes an adapted one if it is none."""
    layer = model.get_submodule(path)
    if not isinstance(layer, Adapted):
        wrapped = LinearWithLoRA(layer) if isinstance(layer, LINEAR) else EmbeddingWithLoRA(layer)
        put(model, path, wrapped.train(layer.training))
        layer = wrapped
    layer.add(name, settings)
    return layer


def freeze(model: Module, name: str | None, train: Sequence[str] = ()) -> None:
    """Let only the adapter of this name learn, and the layers that match `train`; those in eight bits are unpacked."""
    model.requires_grad_(False)
    set_adapter(model, name)
    for path in [path for path, _ in model.named_modules() if any(matches(path, pattern) for pattern in train)]:
        for below, packed in list(model.get_submodule(path).named_modules(prefix=path)):
            if isinstance(packed, Int8Weight):
                put(model, below, packed.unpacked())
        model.get_submodule(path).requires_grad_(True)


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
    """Add the products of the adapter at work to the weights, so that it costs no time; unmerge_lora undoes it.

    Weights in eight bits are unpacked, since the sum would not fit into their steps.
    """
    counts = owners(model)
    with no_grad():
        for layer in adapted(model).values():
            layer.merge(shared=counts[id(layer.weight)] > 1)
    _tell_ties(model)


def unmerge_lora(model: Module) -> None:
    """The weights as before `merge_lora`, up to rounding; those in eight bits to the last bit."""
    with no_grad():
        for layer in adapted(model).values():
            layer.unmerge()
    _tell_ties(model)


def remove_lora(model: Module) -> None:
    """Put the plain layers back; what was merged stays in their weights, what was not is gone."""
    for path, layer in adapted(model).items():
        put(model, path, layer.linear)


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
    """How many parameters learn; tied ones count once, those in eight bits as the numbers that they are."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    packed = sum(module.codes.numel() for module in model.modules() if isinstance(module, Int8Weight))
    return Trainable(sum(n for n, learns in counts if learns), sum(n for n, _ in counts) + packed)


def owners(model: Module) -> Counter[int]:
    """How many layers have a weight, by the weight's id: two have that of a tied head."""
    return Counter(id(m._parameters.get("weight")) for m in model.modules() if isinstance(m, (*LINEAR, *TABLE)))


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


def put(model: Module, path: str, layer: Module) -> None:
    """A layer in the place with this dotted name."""
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
