"""GPT-2 in Hugging Face's layout: `config.json` and safetensors, whose matrices are (in, out) and have other names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from tinygrad_llm import devices, dtypes

from .gpt import GPTConfig, GPTModel
from .stored import Piece, Stored, filled, listed, parameters, pickled

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"  # of older folders
CAUSAL, CLASSIFIER = "GPT2LMHeadModel", "GPT2ForSequenceClassification"
PREFIX = "transformer."

# Ours, theirs, whether its matrix is turned, (in, out) there.
OUTER = {
    "tok_emb": ("wte", False), "pos_emb": ("wpe", False), "final_norm": ("ln_f", False), "out_head": ("lm_head", False)
}  # fmt: skip
IN_BLOCK = {
    "norm1": ("ln_1", False), "att.qkv": ("attn.c_attn", True), "att.out_proj": ("attn.c_proj", True),
    "norm2": ("ln_2", False), "ff.layers.0": ("mlp.c_fc", True), "ff.layers.2": ("mlp.c_proj", True),
}  # fmt: skip
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # masks, which old files hold besides

DTYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(dtypes.bfloat16.numpy), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16), "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8), "BOOL": np.dtype(bool),
}  # fmt: skip

# What our architecture fixes; a configuration may say the same or nothing.
FIXED = {
    "layer_norm_epsilon": (1e-5,), "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
}  # fmt: skip
SIZES = {
    "vocab_size": "vocab_size", "n_positions": "context_length", "n_embd": "emb_dim", "n_head": "n_heads",
    "n_layer": "n_layers",
}  # fmt: skip
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def theirs(ours: str) -> tuple[str, bool]:
    """The name of a parameter or module there, without the prefix, and whether a matrix is turned there.

    >>> theirs("trf_blocks.3.att.qkv.weight")
    ('h.3.attn.c_attn.weight', True)
    """
    if block := re.fullmatch(r"trf_blocks\.(\d+)\.(att\.qkv|att\.out_proj|norm1|norm2|ff\.layers\.[02])(\..*)?", ours):
        name, turned = IN_BLOCK[block[2]]
        return f"h.{block[1]}.{name}{block[3] or ''}", turned
    module, _, rest = ours.partition(".")
    name, turned = OUTER[module]
    return (f"{name}.{rest}" if rest else name), turned


def pieces(config: GPTConfig, classes: int | None = None) -> dict[str, Piece]:
    """What each tensor of a file is, by its name there without the prefix."""
    found = {}
    for ours, shape in parameters(config).items():
        name, turned = theirs(ours)
        turned = turned and len(shape) == 2
        found[name] = Piece(ours, shape[::-1] if turned else shape, turned=turned)
    if classes is not None:
        found.pop("lm_head.weight", None)
        found["score.weight"] = Piece("out_head.weight", (classes, config.emb_dim))
    return found


def read(path: Path, dtype: dtypes.dtype | None, drop_rate: float | None) -> GPTModel:
    """The model in a folder, or in the .safetensors file beside whose config.json it is."""
    folder, file = (path, None) if path.is_dir() else (path.parent, path)
    values = read_json(folder / CONFIG)
    config = gpt_config(folder / CONFIG, values, drop_rate)
    tensors = read_tensors(folder) if file is None else read_safetensors(file)
    tensors = {plain_name(name): tensor for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not BUFFERS.fullmatch(name)}
    classes = len(class_names(folder / CONFIG, values)) or None
    if config.n_layers > max(len(tensors), 1):
        raise ValueError(f"{folder}: {CONFIG} promises {config.n_layers} layers, but there are {len(tensors)} tensors")
    head = tensors.pop("lm_head.weight", None) if config.tie_weights else None
    model = filled(folder, config, tensors, pieces(config, classes), dtype, classes)
    if head is not None and classes is None:
        _check_tied(folder, head, model)
    return model


def plain_name(name: str) -> str:
    """Without the prefix that a model with a head gives to all but the head."""
    return name.removeprefix(PREFIX)


def class_names(path: Path, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of a model that classifies, none for a language model. Raises: ValueError naming the file."""
    if CLASSIFIER not in (values.get("architectures") or []):
        return ()
    labels = values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # those are transformers' defaults
    if not isinstance(labels, dict) or not all(key.isdecimal() for key in labels):
        raise ValueError(f"{path}: id2label must give the name of each number, not {labels!r:.80}")
    return tuple(str(labels[key]) for key in sorted(labels, key=int))


def gpt_config(path: Path, values: Mapping[str, Any], drop_rate: float | None) -> GPTConfig:
    """Our configuration for theirs.

    Raises: ValueError listing all that is of another architecture, or missing.
    """
    wrong = []
    if values.get("model_type") != "gpt2":
        wrong.append(f"model_type is {values.get('model_type')!r}, and only 'gpt2' is known")
    if missing := [key for key in SIZES if key not in values]:
        wrong.append(f"missing are {listed(missing)}")
    for key, allowed in FIXED.items():
        if key in values and values[key] not in allowed:
            wrong.append(f"{key} is {values[key]!r}, not {allowed[0]!r}")
    if not missing and values.get("n_inner") not in (None, 4 * values["n_embd"]):
        wrong.append(f"n_inner is {values['n_inner']!r}, not 4 n_embd")
    rates = {key: values.get(key, 0.1) for key in DROPOUTS}
    if drop_rate is None and len(set(rates.values())) > 1:
        wrong.append(f"its dropouts differ, {rates}, where ours are one; say drop_rate=")
    if wrong:
        raise ValueError(f"{path}: {'; '.join(wrong)}")
    try:
        return GPTConfig(
            **{ours: values[key] for key, ours in SIZES.items()},
            drop_rate=rates["resid_pdrop"] if drop_rate is None else drop_rate,
            qkv_bias=True,
            tie_weights=values.get("tie_word_embeddings", True),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_tensors(folder: Path) -> dict[str, Any]:
    """The tensors of a folder, in one file or in shards, by name."""
    if (folder / WEIGHTS).is_file():
        return read_safetensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    if (folder / PICKLED).is_file():
        return pickled(folder / PICKLED)
    raise FileNotFoundError(f"{folder}: has none of {WEIGHTS}, {INDEX} and {PICKLED}, which hold the weights")


def _read_shards(folder: Path) -> dict[str, Stored]:
    """The tensors of all files that an index names.

    Raises: FileNotFoundError with all files that are absent, ValueError for names that are not where the index says.
    """
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
        raise ValueError(f"{folder / INDEX}: has no weight_map, which says the file of each tensor")
    files = sorted(set(index.values()))
    if outside := [name for name in files if name != Path(name).name or name in ("", ".", "..")]:
        raise ValueError(f"{folder / INDEX}: names files outside of its folder: {listed(outside)}")
    if absent := [name for name in files if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder}: {listed(absent)} are not there, but {INDEX} names them; download them too")
    shards = {name: read_safetensors(folder / name) for name in files}
    if lost := [name for name, file in index.items() if name not in shards[file]]:
        raise ValueError(f"{folder}: {listed(lost)} are not in the files that {INDEX} says; download the folder again")
    return {name: tensor for shard in shards.values() for name, tensor in shard.items()}


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Where each tensor of a file lies; the library checks that they are all there.

    Raises: FileNotFoundError; ValueError for a file that is damaged or cut short.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="numpy"):
            pass  # it has read and judged the header, and compared it with the file's size
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or download it again") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: Stored(
            path, 8 + length + entry["data_offsets"][0], DTYPES.get(entry["dtype"], np.dtype("V1")),
            tuple(entry["shape"]),
        )
        for name, entry in header.items()
    }  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """An object in a file. Raises: FileNotFoundError; ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold an object, not {type(values).__name__}")
    return values


def _check_tied(folder: Path, head: Any, model: GPTModel) -> None:
    """Refuse a file with a head of its own whose configuration says that it has none."""
    table = model.tok_emb.weight.array
    same = head.shape == table.shape and all(
        np.array_equal(block.astype(table.dtype), table[part]) for part, block in head.blocks()
    )
    if not same:
        raise ValueError(
            f"{folder}: lm_head.weight is not wte.weight, but {CONFIG} ties them; set tie_word_embeddings to false"
        )


def converted(model: GPTModel, classes: Sequence[str] | None = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and configuration of a model in this layout, which transformers loads with equal logits.

    A model without biases of queries, keys and values gets some of zero, since GPT-2 has them. classes: the names of
    the outputs of a head that classifies.

    Raises: ValueError for a model whose parameters are not those of its configuration.
    """
    config, state = model.config, dict(model.named_parameters())
    outputs = state["out_head.weight"].shape[0] if "out_head.weight" in state else config.vocab_size
    count = outputs if classes or outputs != config.vocab_size else None
    places = pieces(GPTConfig(**{**config.to_dict(), "qkv_bias": True}), count)
    _check_plain(state, {piece.ours for piece in places.values()}, config)
    arrays = {}
    for name, piece in places.items():
        if piece.ours in state:
            array = devices.move(state[piece.ours].array, devices.CPU)
        else:
            array = np.zeros(piece.shape, state["tok_emb.weight"].array.dtype)
        full = name if name in ("lm_head.weight", "score.weight") else PREFIX + name
        arrays[full] = np.ascontiguousarray(array.T if piece.turned else array)
    return arrays, their_config(config, model.tok_emb.weight.dtype, classes or _numbered(count))


def _numbered(count: int | None) -> Sequence[str] | None:
    return None if count is None else tuple(f"LABEL_{i}" for i in range(count))


def _check_plain(state: Mapping[str, Any], known: set[str], config: GPTConfig) -> None:
    unknown = [name for name in state if name not in known]
    missing = [name for name in known if name not in state and not name.endswith("att.qkv.bias")]
    if "out_head.bias" in unknown:
        raise ValueError("save_pretrained: out_head has a bias, which GPT-2's heads have not; replace_head(bias=False)")
    if unknown or missing:
        raise ValueError(
            f"save_pretrained: the model is no plain GPT: unexpected are {listed(unknown[:5])}, missing "
            f"{listed(missing[:5])}; merge adapters with merge_lora and remove_lora, or save_adapter writes them alone"
        )


def their_config(config: GPTConfig, dtype: dtypes.dtype, classes: Sequence[str] | None) -> dict[str, Any]:
    """Their configuration for ours."""
    end = 50256 if config.vocab_size > 50256 else None  # <|endoftext|>
    values: dict[str, Any] = {
        "architectures": [CAUSAL if classes is None else CLASSIFIER],
        "model_type": "gpt2",
        **{key: getattr(config, ours) for key, ours in SIZES.items()},
        **dict.fromkeys(DROPOUTS, config.drop_rate),
        **{key: allowed[0] for key, allowed in FIXED.items()},
        "n_inner": None,
        "tie_word_embeddings": config.tie_weights,
        "dtype": dtype.name,
        "bos_token_id": end,
        "eos_token_id": end,
    }
    if classes is not None:
        values |= {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
        values["pad_token_id"] = end if end is not None else 0
    return values
