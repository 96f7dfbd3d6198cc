"""Models on disk: a folder with `model.safetensors` (the weights) and `config.json` (the architecture's numbers)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.nn import Module, init
from tinygrad_llm.nn.int8 import Int8Weight
from tinygrad_llm.serialization.tensors import write_tensors

from . import huggingface
from .gpt import GPTConfig, GPTModel

WEIGHTS, CONFIG = "model.safetensors", "config.json"
SHAPE = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers")  # keys that a configuration must have


def save_pretrained(
    model: GPTModel, folder: str | os.PathLike[str], *, layout: str = "own", classes: Sequence[str] | None = None
) -> None:
    """Write both files into the folder, which is made if need be; tied weights once, under their first name.

    Each file replaces an older one whole, after both have been written; arrays go to the file one at a time. layout:
    "own", or "huggingface" for what transformers loads as GPT-2. classes: only there, the names of a classifier's
    outputs.

    Raises: ValueError for another layout, or a model that the layout cannot hold. OSError, such as for a full disk;
    older files are then what they were.
    """
    folder = Path(folder)
    if any(isinstance(module, Int8Weight) for module in model.modules()):
        raise ValueError(
            "save_pretrained: weights are packed in eight bits, which no layout has; unpack_frozen(model) gives plain "
            "ones back, or save_adapter writes an adapter alone"
        )
    if layout == "huggingface":
        arrays, values = huggingface.converted(model, classes)
    elif layout == "own" and classes is None:
        arrays, values = _own_arrays(model), model.config.to_dict()
    else:
        raise ValueError(
            f"save_pretrained: layout must be 'own' or 'huggingface', which alone takes classes, not {layout!r}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        write_tensors(Path(temporary, WEIGHTS), arrays, form="pt" if layout == "huggingface" else "np")
        Path(temporary, CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        for name in (WEIGHTS, CONFIG):
            os.replace(Path(temporary, name), folder / name)


def _own_arrays(model: GPTModel) -> dict[str, Any]:
    """What the own layout holds; tied weights once, under their first name."""
    shared = aliases(model)
    return {name: tensor.array for name, tensor in model.state_dict().items() if name not in shared}


def load(folder: str | os.PathLike[str]) -> GPTModel:
    """The model that `save_pretrained` wrote, in evaluation mode and in the dtype of its file.

    Raises: FileNotFoundError for a file that is missing; ValueError naming the file for one that is damaged or has a
    configuration out of range; RuntimeError listing every tensor that is missing, unexpected or of another shape.
    """
    config = _read_config(Path(folder, CONFIG))
    tensors = _read_tensors(Path(folder, WEIGHTS))
    _check_size(config, Path(folder, WEIGHTS))
    _check_weights(tensors, Path(folder, WEIGHTS))
    with init.skip_random():
        model = GPTModel(config)
    for alias, first in aliases(model).items():
        if first in tensors:
            tensors.setdefault(alias, tensors[first])
    kinds = {tensor.dtype for tensor in tensors.values()}
    if len(kinds) == 1:
        model.to(kinds.pop())
    model.load_state_dict(tensors)
    return model.eval()


def aliases(model: Module) -> dict[str, str]:
    """Names in the state dict of a tensor that has an earlier name already, each with that name."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if first.setdefault(id(tensor), name) != name:
            found[name] = first[id(tensor)]
    return found


def _check_size(config: GPTConfig, path: Path) -> None:
    """Refuse a configuration that promises more weights than the file can hold, before the model takes memory."""
    c = config
    least = (c.vocab_size + c.context_length + 12 * c.n_layers * c.emb_dim) * c.emb_dim  # the matrices alone
    if 2 * least > path.stat().st_size:
        raise ValueError(
            f"{path}: {path.stat().st_size:,} bytes cannot hold the {least:,} weights that {CONFIG} beside it promises"
        )


def _check_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse weights that are no floating numbers, or are nan or infinite."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{path}: {name} holds {tensor.dtype}; weights must be floating-point numbers")
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} holds nan or infinity; the run that wrote it had failed")


def _read_config(path: Path) -> GPTConfig:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; save_pretrained writes {WEIGHTS} and {CONFIG}")
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("expected an object with the configuration's keys")
        missing = [key for key in SHAPE if key not in values]
        if missing:
            raise ValueError(f"the keys {', '.join(missing)} are missing; without them the model's shape is not known")
        return GPTConfig.from_dict(values)
    except ValueError as error:  # JSON's and Unicode's errors are ValueErrors too
        raise ValueError(f"{path}: {error}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; save_pretrained writes {WEIGHTS} and {CONFIG}")
    try:
        return {name: Tensor(array) for name, array in safetensors.numpy.load_file(path).items()}
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
