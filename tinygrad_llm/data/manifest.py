"""A folder of shards: the manifest that names them, and checking that they are what it says."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm import text
from tinygrad_llm.data.shards import Row, map_shard, read_header, tokenizer_hash
from tinygrad_llm.files import write_atomically
from tinygrad_llm.text import Tokenizer

MANIFEST, TOKENIZER, PROGRESS, CHECKED = "manifest.json", "tokenizer.json", "progress.json", ".checked.json"
FORMAT = "tinygrad_llm shards"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Shard:
    """One file of a folder: its name, what is in it, and the SHA-256 of the whole file in hexadecimal."""

    file: str
    tokens: int
    documents: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds. Written last: a folder without one is not finished.

    end_of_text: the id behind each document, None where the tokenizer has no such token. settings: what the
    preparation was told, and the files it read, for whoever wants to repeat it.
    """

    tokenizer: str  # its name
    tokenizer_sha256: str
    vocab_size: int
    dtype: str
    end_of_text: int | None
    splits: Mapping[str, tuple[Shard, ...]]
    settings: Mapping[str, Any]

    def tokens(self, split: str) -> int:
        """The ids of a split."""
        return sum(shard.tokens for shard in self.splits.get(split, ()))

    def documents(self, split: str) -> int:
        """The documents of a split."""
        return sum(shard.documents for shard in self.splits.get(split, ()))

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all."""
        values = {"format": FORMAT, "version": 1, **asdict(self)}
        write_atomically(Path(folder, MANIFEST), (json.dumps(values, indent=1) + "\n").encode())


def is_prepared(folder: str | os.PathLike[str]) -> bool:
    """Whether there is a folder that a preparation has begun or finished; another's manifest.json does not count."""
    for path in (Path(folder, MANIFEST), Path(folder, PROGRESS)):
        if path.is_file() and (Path(folder, "train-00000.ids").is_file() or _read_json(path).get("format") == FORMAT):
            return True
    return False


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a prepared folder.

    Raises: FileNotFoundError where there is none, ValueError where a preparation was interrupted, or for what is no
    manifest or names files outside of the folder.
    """
    path = Path(folder, MANIFEST)
    if not path.is_file():
        if Path(folder, PROGRESS).is_file():
            raise ValueError(f"{folder}: its preparation was interrupted; give the same command again to finish it")
        raise FileNotFoundError(f"{folder}: no {MANIFEST} in it; examples/prepare_data.py makes such a folder")
    try:
        values: Any = json.loads(path.read_bytes())
        return _manifest(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a manifest of shards ({error}); prepare the folder again") from None


def _manifest(values: Any) -> Manifest:
    if values["format"] != FORMAT or values["version"] != 1:
        raise ValueError(f"format {values['format']!r}, version {values['version']!r}")
    splits = {}
    for split, shards in values["splits"].items():
        splits[split] = tuple(Shard(**shard) for shard in shards)
        for shard in splits[split]:
            if Path(shard.file).name != shard.file:
                raise ValueError(f"the file {shard.file!r} lies outside of the folder")
            if not all(isinstance(n, int) and n >= 0 for n in (shard.tokens, shard.documents)):
                raise ValueError(f"the counts of {shard.file!r} are no numbers")
    known = {f.name: values[f.name] for f in fields(Manifest)}
    if not isinstance(known["vocab_size"], int) or known["dtype"] not in ("uint16", "uint32"):
        raise ValueError(f"vocab_size is {known['vocab_size']!r}, dtype {known['dtype']!r}")
    if not isinstance(known["settings"], dict):
        raise ValueError("settings is no object")
    return Manifest(**{**known, "splits": splits})


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: str | os.PathLike[str], again: bool = False) -> Manifest:
    """Check every byte of a prepared folder and return its manifest.

    Sizes, headers and the tokenizer are checked each time. The SHA-256 of a file is taken once and remembered in the
    folder with the file's size and time of change; again=True takes it anew, which also finds a byte that was
    changed behind the clock's back.

    Raises: ValueError or FileNotFoundError naming the first file that is not what the manifest says.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    _check_tokenizer(folder, manifest)
    checked = {} if again else _read_json(folder / CHECKED)
    found = {}
    for shard in (shard for shards in manifest.splits.values() for shard in shards):
        _check_header(folder, manifest, shard)
        path = folder / shard.file
        status = path.stat()
        stamp = [shard.sha256, status.st_size, status.st_mtime_ns]
        if checked.get(shard.file) != stamp and file_sha256(path) != shard.sha256:
            raise ValueError(f"{path}: its SHA-256 is not the manifest's; the file was changed, prepare it again")
        found[shard.file] = stamp
    if found != checked:
        with suppress(OSError):  # a folder that cannot be written is checked in full each time
            write_atomically(folder / CHECKED, json.dumps(found).encode())
    return manifest


def _check_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    tokenizer = text.load(folder / TOKENIZER)
    if tokenizer_hash(tokenizer) != manifest.tokenizer_sha256:
        raise ValueError(
            f"{folder / TOKENIZER}: not the tokenizer that the shards were made with (its hash differs from the "
            f"manifest's)"
        )
    return tokenizer


def _check_header(folder: Path, manifest: Manifest, shard: Shard) -> Any:
    path = folder / shard.file
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the manifest names this file, but it is not there; prepare the folder again")
    header = read_header(path)
    if header.tokenizer != manifest.tokenizer_sha256:
        raise ValueError(f"{path}: made with another tokenizer than the manifest says; prepare the folder again")
    if header.dtype != np.dtype(manifest.dtype):
        raise ValueError(f"{path}: holds {header.dtype.name}, the manifest says {manifest.dtype}")
    if (header.tokens, header.documents) != (shard.tokens, shard.documents):
        raise ValueError(
            f"{path}: {header.tokens:,} ids and {header.documents:,} documents, the manifest says {shard.tokens:,} "
            f"and {shard.documents:,}"
        )
    return header


class Shards:
    """A prepared folder, opened: its manifest, its tokenizer, and a row of ids for each split, memory-mapped.

    Sizes and headers are checked; `verify` checks every byte. vocab_size: that of a model which is to read the ids.

    Raises: as `verify`; ValueError for a vocabulary larger than vocab_size.
    """

    def __init__(self, folder: str | os.PathLike[str], vocab_size: int | None = None) -> None:
        self.folder, self.manifest = Path(folder), read_manifest(folder)
        self.tokenizer = _check_tokenizer(self.folder, self.manifest)
        if vocab_size is not None and self.manifest.vocab_size > vocab_size:
            raise ValueError(
                f"{folder}: ids up to {self.manifest.vocab_size - 1}, the model's vocabulary has {vocab_size}; "
                f"prepare the text with the model's own tokenizer"
            )

    def row(self, split: str = "train") -> Row:
        """The ids of a split as one row, whatever shards it lies in.

        Raises: ValueError for a split that has no ids.
        """
        shards = self.manifest.splits.get(split, ())
        if not shards:
            raise ValueError(f"{self.folder}: it has no {split!r} split; there is {', '.join(self.manifest.splits)}")
        headers = [_check_header(self.folder, self.manifest, shard) for shard in shards]
        mapped = [map_shard(self.folder / s.file, header) for s, header in zip(shards, headers, strict=True)]
        return Row([ids for ids, _ in mapped], [ends for _, ends in mapped])

    def __repr__(self) -> str:
        counts = ", ".join(f"{split} {self.manifest.tokens(split):,}" for split in self.manifest.splits)
        return f"Shards({str(self.folder)!r}: {counts} tokens of {self.manifest.tokenizer})"
