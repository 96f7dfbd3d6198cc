"""Packing what does not learn of a model into eight bits, and back: QLoRA's memory, with eight bits for its four."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .embedding import Embedding
from .int8 import Int8Embedding, Int8Linear, Int8Weight, check_weight
from .linear import Linear
from .lora import BLOCK_LAYERS, adapted, matches, owners, put
from .module import Module

PACKED_LAYERS = (*BLOCK_LAYERS, "tok_emb", "pos_emb")  # not the head, whose loss reads it whole


class Packed(NamedTuple):
    """How many layers were packed, and the bytes of their weights before and after."""

    layers: int
    before: int
    after: int

    def __str__(self) -> str:
        sizes = f"{self.before / 1e6:,.1f} MB of weights in {self.after / 1e6:,.1f} MB"
        return f"{self.layers} layers in eight bits, {sizes}"


def quantize_frozen(model: Module, targets: Sequence[str] = PACKED_LAYERS) -> Packed:
    """Keep the weights that do not learn in eight bits; returns what that saved. Before or after `apply_lora`.

    targets: names of layers as in `apply_lora`, by default all products of the blocks and the tables. Of those, what
    learns stays as it is, and so does a weight that two layers share, as a tied head's. No number moves by more than
    1/254 of the largest of the 64 in its block. Saving an adapter and training go on as before; `unpack_frozen` gives
    plain layers back, which alone `save_pretrained` writes.

    Raises: ValueError for a pattern that no layer matches, or if there is nothing to pack; the model is then as it was.
    RuntimeError while an adapter is merged.
    """
    _refuse_merged(model, "quantize_frozen")
    layers = {_name(path): path for path, m in model.named_modules() if m.is_plainly(Linear) or m.is_plainly(Embedding)}
    found = {pattern: [path for name, path in layers.items() if matches(name, pattern)] for pattern in targets}
    if idle := [pattern for pattern, paths in found.items() if not paths and pattern not in PACKED_LAYERS]:
        raise ValueError(f"quantize_frozen: no layer matches {', '.join(idle)}; there are {', '.join(layers)}")
    chosen = _that_rest(model, {path for paths in found.values() for path in paths})
    before = after = 0
    for path in chosen:  # one after the other, so that both forms of no more than one stand in memory
        module: Any = model.get_submodule(path)
        packed: Any = Int8Linear(module) if isinstance(module, Linear) else Int8Embedding(module)
        put(model, path, packed)
        before += module.weight.array.nbytes
        after += packed.codes.array.nbytes + packed.scales.array.nbytes
    return Packed(len(chosen), before, after)


def _that_rest(model: Module, paths: set[str]) -> list[str]:
    """Of some layers those whose weight neither learns nor is another's too, and may be packed."""
    counts = owners(model)
    modules: dict[str, Any] = {path: m for path, m in model.named_modules() if path in paths}
    rest = {p: m.weight for p, m in modules.items() if not m.weight.requires_grad and counts[id(m.weight)] == 1}
    if not rest:
        raise ValueError(
            "quantize_frozen: there is nothing to pack: a weight that learns stays as it is, and so does one that two "
            "layers share; freeze the model first with apply_lora or requires_grad_(False)"
        )
    for path, weight in rest.items():
        check_weight(weight, f"quantize_frozen: {path}")
    return list(rest)


def unpack_frozen(model: Module) -> None:
    """Plain layers in the place of those in eight bits, with the weights that these stand for, frozen."""
    _refuse_merged(model, "unpack_frozen")
    for path in [path for path, module in model.named_modules() if isinstance(module, Int8Weight)]:
        packed: Any = model.get_submodule(path)
        put(model, path, packed.unpacked())


def _name(path: str) -> str:
    """A layer's name, of an adapted one that of the whole."""
    return path.removesuffix(".linear")


def _refuse_merged(model: Module, act: str) -> None:
    if any(layer.merged is not None for layer in adapted(model).values()):
        raise RuntimeError(f"{act}: an adapter is merged; call unmerge_lora or remove_lora first")
