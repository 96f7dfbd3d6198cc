"""Tokenizers from files, each format recognised by what is in it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinygrad_llm.text.base import VERSION, Tokenizer, kind
from tinygrad_llm.text.huggingface import Fields, model_type

MOST_BYTES = 128 << 20  # four times the largest vocabulary in use; a larger file is none, and is not read

# Who reads a tokenizer.json of Hugging Face, by the type of its model: "BPE", "WordPiece", "Unigram".
_MODELS: dict[str, Callable[[Fields], Tokenizer]] = {}
# Who reads a folder, by the names of the files that must be there; the first that fits reads.
_FOLDERS: dict[tuple[str, ...], Callable[[Path], Tokenizer]] = {}
# Who reads a file that is no JSON object: each returns None for a content that is not its own.
_CONTENTS: list[Callable[[bytes], Tokenizer | None]] = []


def reads_model(model: str, read: Callable[[Fields], Tokenizer]) -> None:
    """Let `load` give a tokenizer.json whose model has this type, as parsed, to `read`."""
    _MODELS[model] = read


def reads_folder(names: tuple[str, ...], read: Callable[[Path], Tokenizer]) -> None:
    """Let `load` give a folder that holds these files to `read`."""
    _FOLDERS[names] = read


def reads_content(read: Callable[[bytes], Tokenizer | None]) -> None:
    """Let `load` offer the content of a file that is no JSON to `read`, which returns None if it is not its own."""
    _CONTENTS.append(read)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a tokenizer file. Raises: ValueError when it is too large to be one; OSError."""
    with Path(path).open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path}: not a tokenizer file: larger than {MOST_BYTES >> 20} MiB")
    return content


def parse_json(content: bytes) -> Any:
    """A JSON value. Raises: ValueError when it is none, or nested too deep."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deep") from None


def load(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer at a path: a file or a folder that

    - `Tokenizer.save` wrote;
    - holds GPT-2's vocab.bpe and encoder.json (or the same as merges.txt and vocab.json);
    - is or holds a tokenizer.json of Hugging Face;
    - is one of tiktoken's published rank files, known by its hash. (Another rank file says neither how text is split
      nor which special tokens there are: `BPETokenizer.from_tiktoken` is told.)

    Raises: ValueError naming the path and the rule it breaks; OSError when it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        for needed, read in _FOLDERS.items():
            if all((path / name).is_file() for name in needed):
                return read(path)
        raise ValueError(f"{path}: no tokenizer in this folder; {_expected_files()} is expected")
    content = read_bytes(path)
    try:
        return _from_content(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _expected_files() -> str:
    return " or ".join(" and ".join(names) for names in _FOLDERS)


def _from_content(content: bytes) -> Tokenizer:
    if content.lstrip()[:1] not in (b"{", b"["):
        for read in _CONTENTS:
            if tokenizer := read(content):
                return tokenizer
    try:
        fields = parse_json(content)
    except ValueError as error:  # neither UTF-8 nor JSON
        raise ValueError(f"not a tokenizer file: {error}") from None
    if isinstance(fields, dict) and "tokenizer" in fields:
        version = fields.pop("version", VERSION)  # the first files had none
        if version != VERSION:
            raise ValueError(f"written in version {version!r} of the format; this program reads version {VERSION}")
        return kind(fields.pop("tokenizer"), "not a tokenizer file").from_dict(fields)
    if isinstance(fields, dict) and isinstance(fields.get("model"), dict):
        return from_huggingface(fields)
    raise ValueError(
        'not a tokenizer file: a JSON object with the key "tokenizer", or Hugging Face\'s with "model", is expected'
    )


def from_huggingface(fields: Fields) -> Tokenizer:
    """The tokenizer of a parsed tokenizer.json. Raises: ValueError for a version or a type of model that is unknown."""
    model = model_type(fields)
    if model not in _MODELS:
        known = ", ".join(sorted(_MODELS))
        raise ValueError(f"tokenizer.json: a model of type {model!r:.80} is not supported; {known} is")
    return _MODELS[model](fields)


reads_folder(("tokenizer.json",), lambda folder: load(folder / "tokenizer.json"))
