"""State dicts in PyTorch's files (`.pth`, `.pt`) with the names of the book's GPT, or our own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygrad_llm import dtypes

from .gpt import GPTConfig, GPTModel
from .stored import Piece, filled, parameters, pickled

WITHIN = "model_state_dict"  # where a checkpoint keeps it beside the optimizer's
PARTS = ("W_query", "W_key", "W_value")
MASK = re.compile(r"trf_blocks\.\d+\.att\.mask")
TABLE, HEAD = "tok_emb.weight", "out_head.weight"
PUBLISHED = {(768, 12): 12, (1024, 24): 16, (1280, 36): 20, (1600, 48): 25}  # (channels, layers) of each GPT-2: heads


def read(path: Path, dtype: dtypes.dtype | None, drop_rate: float | None, n_heads: int | None) -> GPTModel:
    """The model in a file, read without running anything that it asks for.

    n_heads: the file does not say it; by default GPT-2's, for a model of its sizes. No other is guessed: every divisor
    of the channels fits the weights, and all but one give wrong logits.
    """
    tensors = {name: tensor for name, tensor in pickled(path, WITHIN).items() if not MASK.fullmatch(name)}
    if HEAD in tensors and tensors[HEAD] == tensors.get(TABLE):  # one place in the file: they were tied
        del tensors[HEAD]
    config = _config(path, tensors, drop_rate, n_heads)
    return filled(path, config, tensors, pieces(config, tensors), dtype)


def _config(path: Path, tensors: Mapping[str, Any], drop_rate: float | None, n_heads: int | None) -> GPTConfig:
    """What the tensors' names and shapes say."""
    tables = [tensors[name].shape for name in (TABLE, "pos_emb.weight") if name in tensors]
    if [len(shape) for shape in tables] != [2, 2]:
        raise ValueError(f"{path}: has no matrices tok_emb.weight and pos_emb.weight; its names are not the book's")
    (vocab_size, emb_dim), context_length = tables[0], tables[1][0]
    layers = {int(m[1]) for name in tensors if (m := re.match(r"trf_blocks\.(\d{1,6})\.", name))}
    n_heads = n_heads if n_heads is not None else PUBLISHED.get((emb_dim, len(layers)))
    if n_heads is None:
        raise ValueError(
            f"{path}: {emb_dim} channels in {len(layers)} layers are no GPT-2's, and the file does not tell how many "
            "heads there are; say n_heads=, and for a command line keep the model in a folder, which tells it: "
            f"GPTModel.from_pretrained({str(path)!r}, n_heads=...).save_pretrained(folder)"
        )
    try:
        return GPTConfig(
            vocab_size=vocab_size,
            context_length=context_length,
            emb_dim=emb_dim,
            n_heads=n_heads,
            n_layers=len(layers),
            drop_rate=0.1 if drop_rate is None else drop_rate,
            qkv_bias=any(name.endswith(("att.W_query.bias", "att.qkv.bias")) for name in tensors),
            tie_weights=HEAD not in tensors,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def pieces(config: GPTConfig, names: Mapping[str, Any]) -> dict[str, Piece]:
    """What each tensor is, by its name in the book; by ours for the layers that have it."""
    found = {}
    for ours, shape in parameters(config).items():
        layer, _, kind = ours.rpartition(".")
        book = f"{layer}.{'scale' if kind == 'weight' else 'shift'}"
        if ours in names:
            found[ours] = Piece(ours, shape)
        elif "norm" in layer and book in names:
            found[book] = Piece(ours, shape)
        elif layer.endswith("att.qkv"):
            for i, part in enumerate(PARTS):
                name, C = f"{layer.removesuffix('qkv')}{part}.{kind}", config.emb_dim
                found[name] = Piece(ours, (C, *shape[1:]), (i * C, (i + 1) * C))
        else:
            found[ours] = Piece(ours, shape)
    return found
