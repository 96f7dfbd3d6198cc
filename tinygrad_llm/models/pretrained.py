"""Weights from elsewhere: the formats that are known, and which one a name, a folder or a file is."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from tinygrad_llm import dtypes

from . import adapters, book, hub, huggingface, tensorflow
from .gpt import GPTConfig, GPTModel
from .huggingface import CONFIG, WEIGHTS, read_json, read_safetensors
from .stored import Piece, filled, parameters

PICKLED = (".pth", ".pt")


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    dtype: dtypes.dtype | None = dtypes.float32,
    drop_rate: float | None = None,
    n_heads: int | None = None,
) -> GPTModel:
    """A GPT with weights that were trained before, in evaluation mode.

    source: one of the names gpt2, gpt2-medium, gpt2-large and gpt2-xl; a folder in Hugging Face's layout (config.json
    and model.safetensors, perhaps in shards), or its .safetensors file; a folder of this project's runs; OpenAI's
    folder for TensorFlow; or a .pth file with the names of the book's model. dtype: of the model, None for that of the
    file. drop_rate: the probability of dropout in further training, by default what the source says, else 0.1. n_heads:
    only for a .pth file, which does not say it; needed where the model has other sizes than GPT-2's.

    The weights are read piece by piece, so that loading takes the model's memory and little more.

    Raises: FileNotFoundError, ConnectionError, or ValueError that lists every tensor that is missing, unexpected or of
    another shape; never a model that is half loaded.
    """
    path = Path(source)
    if not path.exists() and hub.is_name(str(source)):
        path = hub.download(str(source))
    if path.suffix in PICKLED and path.is_file():
        return book.read(path, dtype, drop_rate, n_heads)
    if n_heads is not None:
        raise ValueError(f"{path}: n_heads is for .pth files; this format says it itself")
    if path.is_dir() and not (path / CONFIG).is_file() and tensorflow.is_checkpoint(path):
        return tensorflow.read(path, dtype, drop_rate)
    if adapters.is_adapter(path) and not (path / CONFIG).is_file():
        raise ValueError(f"{path}: holds an adapter, not a model; load_adapter(model, folder) puts it on its base")
    if path.is_dir() and "emb_dim" in read_json(path / CONFIG):
        return _own(path, dtype, drop_rate)
    if path.is_dir() or (path.suffix == ".safetensors" and path.is_file()):
        return huggingface.read(path, dtype, drop_rate)
    if path.exists():
        raise ValueError(f"{path}: neither a folder nor a .safetensors, .pth or .pt file; the format is not known")
    raise FileNotFoundError(f"{path}: there is no such folder or file, and known names are {', '.join(hub.NAMES)}")


def _own(folder: Path, dtype: dtypes.dtype | None, drop_rate: float | None) -> GPTModel:
    """A model that a run of this project wrote."""
    try:
        config = GPTConfig.from_dict(read_json(folder / CONFIG))
        if drop_rate is not None:
            config = dataclasses.replace(config, drop_rate=drop_rate)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from None
    tensors = read_safetensors(folder / WEIGHTS)
    if config.n_layers > len(tensors):
        raise ValueError(f"{folder}: {CONFIG} promises {config.n_layers} layers, but there are {len(tensors)} tensors")
    return filled(
        folder, config, tensors, {name: Piece(name, shape) for name, shape in parameters(config).items()}, dtype
    )
