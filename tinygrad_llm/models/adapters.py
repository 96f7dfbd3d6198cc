"""LoRA adapters on disk, as PEFT writes and reads them for GPT-2: the small matrices, and the head that learned too."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.files import write_atomically
from tinygrad_llm.nn import Parameter
from tinygrad_llm.nn.int8 import Int8Weight
from tinygrad_llm.nn.lora import (
    QKV_PARTS,
    Adapted,
    EmbeddingWithLoRA,
    LoRASettings,
    adapted,
    add_adapter,
    freeze,
    put,
)

from . import hub
from .gpt import GPTModel
from .huggingface import PREFIX, read_json, read_safetensors, theirs
from .huggingface import WEIGHTS as WHOLE
from .stored import Stored

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
ROOT = "base_model.model."
KEY = re.compile(
    r"base_model\.model\.(?:transformer\.)?(.+?)\.(?:(lora_A|lora_B)\.weight|(lora_embedding_[AB])"
    r"|(lora_magnitude_vector)(?:\.weight)?|(?:base_layer\.|modules_to_save\.)?(weight|bias))"
)
LAYER = r"(.*\.)?{}"  # a pattern is of what a name ends in
PLAIN: tuple[Any, ...] = (None, False, [], {}, "", "none")  # values of what is not asked for
KNOWN = {  # keys that are read, or say nothing about what the adapter computes
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
    "modules_to_save", "target_modules", "fan_in_fan_out", "task_type", "base_model_name_or_path", "inference_mode",
    "revision", "auto_mapping", "peft_version", "init_lora_weights", "loftq_config", "megatron_core", "split_qkv",
    "qalora_group_size", "layers_to_transform", "layers_pattern", "exclude_modules", "ensure_weight_tying",
    "runtime_config", "eva_config",
}  # fmt: skip
CHANGE_THE_MODEL = ("pissa", "olora", "corda", "loftq")  # ways to begin that leave another model to adapt


def save_adapter(
    model: GPTModel, folder: str | os.PathLike[str], name: str | None = None, base: str | None = None
) -> None:
    """Write an adapter, by default the one at work, and all layers that learned or were put in beside it.

    The folder, which is made if need be, gets adapter_model.safetensors and adapter_config.json, each replaced whole.
    PEFT opens it on transformers' GPT-2; a head that classifies is `score` there, which has no bias. base: the name or
    path of the model that it adapts, which the configuration then tells.

    Raises: ValueError without such an adapter, or while it is merged.
    """
    found = adapted(model)
    name = name or next((layer.active for layer in found.values() if layer.active is not None), None)
    layers = {path: layer for path, layer in found.items() if name is not None and name in layer.adapters}
    if name is None or not layers:
        raise ValueError(f"save_adapter: the model has no adapter {name or 'at work'}; apply_lora gives it one")
    if any(layer.merged is not None for layer in layers.values()):
        raise ValueError("save_adapter: the adapter is merged into the weights; call unmerge_lora first")
    tensors: dict[str, Any] = {}
    beside = _beside(model, layers)
    for path, layer in layers.items():
        tensors |= {_key(model, path, kind): array for kind, array in _arrays(layer, name).items()}
    for path in beside:
        module: Any = model.get_submodule(path)
        inner = isinstance(module, Adapted)
        for kind, parameter in (module.linear if inner else module).named_parameters():
            tensors[_key(model, path, f"base_layer.{kind}" if inner else kind)] = parameter.array
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values = _config(model, layers, name, [path for path in beside if path not in layers])
    values["base_model_name_or_path"] = base
    arrays = {key: np.ascontiguousarray(devices.move(array, devices.CPU)) for key, array in tensors.items()}
    write_atomically(folder / WEIGHTS, safetensors.numpy.save(arrays, metadata={"format": "pt"}))
    write_atomically(folder / CONFIG, (json.dumps(values, indent=2) + "\n").encode())


def _beside(model: GPTModel, layers: Mapping[str, Adapted]) -> list[str]:
    """Layers that must travel along: those that learn as a whole, and a head that is not the language model's."""
    found = []
    for path, module in model.named_modules():
        inner = [parameter for parameter in module._parameters.values() if parameter is not None]
        if inner and any(p.requires_grad for p in inner) and ".adapters." not in f".{path}.":
            found.append(path.removesuffix(".linear"))
    if classifies(model) and "out_head" not in found:
        found.append("out_head")
    return found


def is_adapter(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    return Path(folder, CONFIG).is_file() and not Path(folder, WHOLE).exists()


def base_of(folder: str | os.PathLike[str]) -> str:
    """The model that the adapter in a folder adapts: a path, from the folder on if it leads to one, or a name.

    Raises: FileNotFoundError where it is not there; ValueError where the configuration does not tell it.
    """
    base = read_json(Path(folder, CONFIG)).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{Path(folder, CONFIG)}: base_model_name_or_path is {base!r}; name there what it adapts")
    inside = Path(folder, base)
    if inside.exists():
        return str(inside)
    if not Path(base).exists() and not hub.is_name(base):
        raise FileNotFoundError(
            f"{folder}: an adapter of {base}, and there is no such folder, file or known name; put it back, or write "
            f"its place into {CONFIG} as base_model_name_or_path"
        )
    return base


def classifies(model: GPTModel) -> bool:
    """Whether the head was replaced."""
    return model.out_head.weight.shape[0] != model.config.vocab_size


def _their_path(model: GPTModel, path: str) -> str:
    """A layer's name in transformers' model."""
    if path == "out_head":
        return "score" if classifies(model) else "lm_head"
    return PREFIX + theirs(path)[0]


def _key(model: GPTModel, path: str, kind: str) -> str:
    return f"{ROOT}{_their_path(model, path)}.{kind}"


def _arrays(layer: Adapted, name: str) -> dict[str, np.ndarray]:
    """An adapter's matrices as PEFT has them, (rank, in) and (out, rank); in parts, B has blocks on its diagonal."""
    adapter: Any = layer.adapters[name]
    A, B = adapter.A.array.T, adapter.B.array.T
    if isinstance(layer, EmbeddingWithLoRA):
        return {"lora_embedding_A": A, "lora_embedding_B": B}
    if adapter.parts > 1:
        rank, size = adapter.rank, len(B) // adapter.parts
        dense = np.zeros_like(B, shape=(len(B), rank * adapter.parts))
        for i in range(adapter.parts):
            rows = slice(i * size, (i + 1) * size)
            dense[rows, i * rank : (i + 1) * rank] = B[rows]
        B = dense
    found = {"lora_A.weight": A, "lora_B.weight": B}
    if "magnitude" in adapter._parameters:
        found["lora_magnitude_vector"] = adapter.magnitude.array
    return found


def _config(model: GPTModel, layers: Mapping[str, Adapted], name: str, whole: list[str]) -> dict[str, Any]:
    """What PEFT must know to build the same adapter."""
    numbers = {}
    for path, layer in layers.items():
        settings, parts = layer.settings[name], layer.adapters[name].parts
        rank = settings.rank * parts
        root = math.sqrt(parts) if settings.rslora else parts
        numbers[path] = (rank, settings.alpha * root)
    usual = Counter(numbers.values()).most_common(1)[0][0]
    odd = {_their_path(model, path): both for path, both in numbers.items() if both != usual}
    first = next(iter(layers.values())).settings[name]
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if classifies(model) else "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": usual[0],
        "lora_alpha": usual[1],
        "lora_dropout": first.dropout,
        "use_rslora": first.rslora,
        "use_dora": any(layer.settings[name].dora for layer in layers.values()),
        "target_modules": [_their_path(model, path) for path in layers],
        "rank_pattern": {path: rank for path, (rank, _) in odd.items()},
        "alpha_pattern": {path: alpha for path, (_, alpha) in odd.items()},
        "modules_to_save": [_their_path(model, path).rpartition(".")[2] for path in whole] or None,
        "fan_in_fan_out": True,
        "bias": "none",
        **({"split_qkv": True} if any(layer.settings[name].split_qkv for layer in layers.values()) else {}),
    }


@dataclass
class Found:
    """What a file holds for one layer: matrices by their kind."""

    path: str
    tensors: dict[str, Stored]


def load_adapter(model: GPTModel, folder: str | os.PathLike[str], name: str = "default") -> None:
    """Put an adapter from a folder to work; it and the layers saved beside it may learn on, all others are frozen.

    Raises: FileNotFoundError; ValueError that lists all that does not fit the model, which then stays as it was.
    """
    folder = Path(folder)
    values = read_json(folder / CONFIG)
    stored = read_safetensors(folder / WEIGHTS)
    layers, wrong = _by_layer(model, stored)
    wrong += _strange(values)
    if any(name in layer.adapters for layer in adapted(model).values()):
        wrong.append(f"the model has an adapter {name!r} already; say another name=")
    if not wrong:
        wrong = [problem for found in layers.values() for problem in _misfits(model, found, values)]
    if wrong:
        raise ValueError(f"{folder}: not an adapter for this model: {'; '.join(wrong)}")
    arrays = {path: {kind: _read(folder, t) for kind, t in found.tensors.items()} for path, found in layers.items()}
    for path, kinds in arrays.items():
        _put(model, path, kinds, values, name)
    whole = [path for path, kinds in arrays.items() if not any(kind.startswith("lora_") for kind in kinds)]
    freeze(model, name, whole)


def _by_layer(model: GPTModel, stored: Mapping[str, Stored]) -> tuple[dict[str, Found], list[str]]:
    paths = {}
    for path, module in model.named_modules():
        own = isinstance(module, (Adapted, Int8Weight)) or (module._parameters and "linear" not in path.split("."))
        if path and own and ".adapters." not in f".{path}.":
            paths[theirs(path)[0]] = path
    paths |= {"score": "out_head", "lm_head": "out_head"}
    found: dict[str, Found] = {}
    unknown = []
    for key, tensor in stored.items():
        match = KEY.fullmatch(key)
        if match is None or match[1] not in paths:
            unknown.append(key)
            continue
        path = paths[match[1]]
        found.setdefault(path, Found(path, {})).tensors[next(filter(None, match.groups()[1:]))] = tensor
    wrong = [f"{', '.join(unknown[:8])} name no layer of it"] if unknown else []
    return found, wrong if found else [*wrong, "it holds no tensors"]


def _strange(values: Mapping[str, Any]) -> list[str]:
    """What a configuration asks for and is not there."""
    wrong = []
    if values.get("peft_type") != "LORA":
        wrong.append(f"peft_type is {values.get('peft_type')!r}, and only 'LORA' is known")
    numbers = (values.get("r"), values.get("lora_alpha"))
    if not (_positive(numbers[0], int) and _positive(numbers[1])):
        wrong.append(f"r and lora_alpha must be positive numbers, r a whole one, not {numbers}")
    wrong += [problem for name in ("rank_pattern", "alpha_pattern") for problem in _no_pattern(name, values.get(name))]
    dropout = values.get("lora_dropout") or 0.0
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        wrong.append(f"lora_dropout must lie in [0, 1), not {dropout!r}")
    asked = [key for key, value in values.items() if key not in KNOWN and value not in PLAIN]
    if asked:
        wrong.append(f"it asks for {', '.join(f'{key}={values[key]!r}' for key in asked)}, which is not known here")
    start = values.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGE_THE_MODEL):
        wrong.append(
            f"init_lora_weights={start!r} changed the model it was trained on; save it with PEFT as plain LoRA"
        )
    return wrong


def _positive(value: Any, kind: Any = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and 0 < value < math.inf


def _no_pattern(name: str, patterns: Any) -> list[str]:
    """What stands against numbers by patterns of names; a pattern that is none matches nothing and is told too."""
    if not patterns:
        return []
    if not isinstance(patterns, dict):
        return [f"{name} must be an object, not {type(patterns).__name__}"]
    kind: Any = int if name == "rank_pattern" else (int, float)
    wrong = [f"{name} must hold positive numbers, not {n!r}" for n in patterns.values() if not _positive(n, kind)]
    for key in patterns:
        try:
            re.compile(LAYER.format(key))
        except (re.error, OverflowError, RecursionError) as error:
            wrong.append(f"{name} has {key!r}, which is no pattern ({error})")
    return wrong


def _pattern(values: Mapping[str, Any], patterns: str, usual: str, path: str) -> Any:
    """A number of a layer: that of the pattern which its name ends in, else the usual one."""
    names = ["score", "lm_head"] if path == "out_head" else [PREFIX + theirs(path)[0]]
    for key, number in (values.get(patterns) or {}).items():
        if any(re.fullmatch(LAYER.format(key), name) for name in names):
            return number
    return values[usual]


def _misfits(model: GPTModel, found: Found, values: Mapping[str, Any]) -> list[str]:
    """What stands against the tensors of one layer."""
    layer: Any = model.get_submodule(found.path)
    base = layer.linear if isinstance(layer, Adapted) else layer
    kinds, wrong = found.tensors, []
    replaced = found.path == "out_head" and "weight" in kinds and kinds["weight"].shape[0] != model.config.vocab_size
    outputs = kinds["weight"].shape[0] if replaced else base.weight.shape[0]
    inputs = base.weight.shape[-1]
    expected: dict[str, tuple[int, ...]] = {"bias": (outputs,), "weight": (outputs, *base.weight.shape[1:])}
    if any(kind.startswith("lora_embedding") for kind in kinds):
        rank = _pattern(values, "rank_pattern", "r", found.path)
        expected = {"lora_embedding_A": (rank, outputs), "lora_embedding_B": (inputs, rank)}
        pair: set[str] = set(expected)
    elif any(kind.startswith("lora_") for kind in kinds):
        rank = _pattern(values, "rank_pattern", "r", found.path)
        expected |= {"lora_A": (rank, inputs), "lora_B": (outputs, rank), "lora_magnitude_vector": (outputs,)}
        pair = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if values.get("use_dora") else set())
    else:
        pair = set()
    wrong += [f"{found.path} lacks {kind}" for kind in sorted(pair - set(kinds))]
    for kind, tensor in kinds.items():
        if kind not in expected:
            wrong.append(f"{found.path} has an unexpected {kind}")
        elif tensor.shape != expected[kind]:
            wrong.append(f"{found.path}: {kind} has shape {tensor.shape}, not {expected[kind]}")
        elif tensor.dtype.kind not in "fV" or tensor.dtype == np.dtype("V1"):
            wrong.append(f"{found.path}: {kind} holds {tensor.dtype}, no floating-point numbers")
    return wrong


def _read(folder: Path, tensor: Stored) -> np.ndarray:
    array = np.concatenate([block for _, block in tensor.blocks()]).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{folder / WEIGHTS}: holds nan or infinity; the run that wrote it had failed")
    return array


def _put(model: GPTModel, path: str, kinds: dict[str, np.ndarray], values: Mapping[str, Any], name: str) -> None:
    """One layer's share of an adapter."""
    if path == "out_head" and "weight" in kinds and len(kinds["weight"]) != len(model.out_head.weight.array):
        model.replace_head(len(kinds["weight"]), bias="bias" in kinds)
    module: Any = model.get_submodule(path)
    base = module.linear if isinstance(module, Adapted) else module
    if isinstance(base, Int8Weight) and "weight" in kinds:  # it will learn
        base = base.unpacked()
        put(model, f"{path}.linear" if isinstance(module, Adapted) else path, base)
    for kind in ("weight", "bias"):
        if kind in kinds:
            setattr(base, kind, Parameter(Tensor(kinds[kind]).to(base.weight)))
    letters = {kind[-1]: array for kind, array in kinds.items() if re.fullmatch(r"lora_(embedding_)?[AB]", kind)}
    if not letters:
        return
    split = bool(values.get("split_qkv")) and path.endswith("att.qkv")
    settings = LoRASettings(
        _pattern(values, "rank_pattern", "r", path), _pattern(values, "alpha_pattern", "lora_alpha", path),
        values.get("lora_dropout") or 0.0, bool(values.get("use_rslora")), "lora_magnitude_vector" in kinds,
    )  # fmt: skip
    B = letters["B"]
    if split:
        rank, size = settings.rank // QKV_PARTS, len(B) // QKV_PARTS
        root = math.sqrt(QKV_PARTS) if settings.rslora else QKV_PARTS
        settings = replace(settings, rank=rank, alpha=settings.alpha / root, split_qkv=True)
        B = np.concatenate([B[i * size : (i + 1) * size, i * rank : (i + 1) * rank] for i in range(QKV_PARTS)])
    adapter: Any = add_adapter(model, path, name, settings).adapters[name]
    adapter.A.data = Tensor(np.ascontiguousarray(letters["A"].T)).to(base.weight)
    adapter.B.data = Tensor(np.ascontiguousarray(B.T)).to(base.weight)
    if settings.dora:
        adapter.magnitude.data = Tensor(kinds["lora_magnitude_vector"]).to(base.weight)
