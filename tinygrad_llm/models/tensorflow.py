"""OpenAI's TensorFlow checkpoints of GPT-2, read without TensorFlow: an index of names, and the numbers in data files.

The index is a sorted table as LevelDB has it: blocks of entries, whose keys leave out what they share with the key
before, and a footer that says where the block of blocks is. Each value is a protocol buffer with the tensor's dtype,
shape, file, place and size. Read strictly: whatever is not as it should be is refused by name.
Source: TensorFlow, tensorflow/core/util/tensor_bundle (the format of version 2) and tensorflow/core/lib/io/format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm import dtypes

from .gpt import GPTConfig, GPTModel
from .huggingface import pieces as their_pieces
from .huggingface import read_json
from .stored import Piece, Stored, filled

HPARAMS, STATE = "hparams.json", "checkpoint"
MAGIC = 0xDB4775248B80FB57
FOOTER, TRAILER = 48, 5  # bytes: at the end of the file; after each block, its compression and checksum
LARGEST_INDEX = 2**26  # bytes; GPT-2 XL's has 40,000
KINDS = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    14: np.dtype(dtypes.bfloat16.numpy),
    19: np.dtype(np.float16),
}
SIZES = {
    "n_vocab": "vocab_size", "n_ctx": "context_length", "n_embd": "emb_dim", "n_head": "n_heads", "n_layer": "n_layers"
}  # fmt: skip
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # the wire types of a protocol buffer


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like one of OpenAI's."""
    return (folder / HPARAMS).is_file() or bool(list(folder.glob("*.ckpt.index")))


def read(folder: Path, dtype: dtypes.dtype | None, drop_rate: float | None) -> GPTModel:
    """The model in a folder with hparams.json, model.ckpt.index and model.ckpt.data-00000-of-00001."""
    values = read_json(folder / HPARAMS)
    if missing := [key for key in SIZES if key not in values]:
        raise ValueError(f"{folder / HPARAMS}: the keys {', '.join(missing)} are missing")
    try:
        sizes = {ours: values[key] for key, ours in SIZES.items()}
        config = GPTConfig(**sizes, drop_rate=0.1 if drop_rate is None else drop_rate, qkv_bias=True, tie_weights=True)
    except ValueError as error:
        raise ValueError(f"{folder / HPARAMS}: {error}") from None
    tensors = read_index(index_of(folder))
    if config.n_layers > len(tensors):
        raise ValueError(f"{folder}: {HPARAMS} promises {config.n_layers} layers, but there are {len(tensors)} tensors")
    return filled(folder, config, tensors, pieces(config), dtype)


def pieces(config: GPTConfig) -> dict[str, Piece]:
    """What each tensor is: h.0.attn.c_attn.weight is model/h0/attn/c_attn/w here, a norm's weight and bias g and b."""
    found = {}
    for name, piece in their_pieces(config).items():
        *path, last = name.removeprefix("h.").split(".")
        if len(path) > 1:
            path[0] = f"h{path[0]}"
        if path[-1] not in ("wte", "wpe"):
            path.append("b" if last == "bias" else "g" if path[-1].startswith("ln_") else "w")
        found["/".join(["model", *path])] = piece
    return found


def index_of(folder: Path) -> Path:
    """The index that the file `checkpoint` names, or the only one."""
    indexes = sorted(folder.glob("*.index"))
    if len(indexes) == 1:
        return indexes[0]
    raise FileNotFoundError(
        f"{folder}: has {len(indexes)} files *.index; OpenAI's folders have one, model.ckpt.index, beside its data file"
    )


def read_index(path: Path) -> dict[str, Stored]:
    """Where each tensor lies.

    Raises: FileNotFoundError for a data file that is absent; ValueError for what is damaged, cut short, or not plain.
    """
    size = path.stat().st_size
    if not FOOTER <= size <= LARGEST_INDEX:
        raise ValueError(f"{path}: {size:,} bytes are no index of a TensorFlow checkpoint")
    try:
        entries = dict(_table(path.read_bytes()))
        return _tensors(path, entries)
    except (IndexError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{path}: damaged ({error})") from None
    except _Damaged as error:
        raise ValueError(f"{path}: {error}") from None


class _Damaged(Exception):
    """What is wrong with an index."""


def _tensors(path: Path, entries: dict[bytes, bytes]) -> dict[str, Stored]:
    header = _fields(entries.pop(b"", b""))
    shards = header.get(1, [1])[-1]
    if header.get(2, [0])[-1] != 0:
        raise _Damaged("its numbers are big-endian; only little-endian ones are read")
    if not 1 <= shards <= 1000:
        raise _Damaged(f"it promises {shards} data files")
    files = [path.with_name(f"{path.stem}.data-{i:05}-of-{shards:05}") for i in range(shards)]
    if absent := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{path.parent}: {', '.join(absent)} is not there, but {path.name} names it")
    lengths = [file.stat().st_size for file in files]
    found, ends = {}, []
    for key, value in entries.items():
        name, fields = key.decode("utf-8"), _fields(value)
        kind, shard, offset, size = (fields.get(number, [0])[-1] for number in (1, 3, 4, 5))
        if 7 in fields:
            raise _Damaged(f"{name} was saved in slices, which are not read")
        dtype = KINDS.get(kind, np.dtype("V1"))
        shape = _shape(fields.get(2, [b""])[-1])
        if not 0 <= shard < shards or offset + size > lengths[shard]:
            ends.append(name)
            continue
        if dtype.kind != "V" and int(np.prod(shape, dtype=object)) * dtype.itemsize != size:
            raise _Damaged(f"{name} has shape {shape} and {size} bytes of {dtype}")
        if len(shape) == 3 and shape[0] == 1:  # GPT-2's products were convolutions of width one
            shape = shape[1:]
        found[name] = Stored(files[shard], offset, dtype, shape)
    if ends:
        raise _Damaged(f"the data files end before {', '.join(ends)}; copy or download them again")
    return found


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted table."""
    footer = content[-FOOTER:]
    if struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise _Damaged("not an index of a TensorFlow checkpoint, or cut short: its last bytes are others")
    if list(_block(content, footer)):
        raise _Damaged("has a block about its blocks, which TensorFlow leaves empty")
    at = _varint(footer, _varint(footer, 0)[1])[1]  # behind its handle is that of the block of blocks
    for _, handle in _block(content, footer[at:]):
        yield from _block(content, handle)


def _block(content: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block at a handle: its offset and size."""
    offset, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    if offset + size + TRAILER > len(content) - FOOTER or size < 4:
        raise _Damaged("cut short: a block lies outside of the file")
    kind, checksum = struct.unpack("<BI", content[offset + size : offset + size + TRAILER])
    if kind:
        raise _Damaged("its blocks are compressed, which TensorFlow does not do to checkpoints")
    if checksum != masked(crc32c(content[offset : offset + size + 1])):
        raise _Damaged("damaged: the checksum of a block is not that of its bytes")
    block = content[offset : offset + size]
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]  # entries end where the list of restarts begins
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + rest + length > end:
            raise _Damaged("damaged: an entry reaches beyond its block")
        key = key[:shared] + block[at : at + rest]
        at += rest
        yield key, block[at : at + length]
        at += length


def _shape(message: Any) -> tuple[int, ...]:
    fields = _fields(message)
    if fields.get(3, [0])[-1]:
        raise _Damaged("a tensor has no known rank")
    return tuple(_fields(dim).get(1, [0])[-1] for dim in fields.get(2, []))


def _fields(message: bytes) -> dict[int, list[Any]]:
    """The fields of a protocol buffer by number: numbers, and bytes for what has a length."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == VARINT:
            value, at = _varint(message, at)
        elif wire == BYTES:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif wire in (FIXED32, FIXED64):
            width = 4 if wire == FIXED32 else 8
            value, at = int.from_bytes(message[at : at + width], "little"), at + width
        else:
            raise _Damaged(f"damaged: a field of wire type {wire}")
        if at > len(message):
            raise _Damaged("damaged: a field reaches beyond its message")
        found.setdefault(number, []).append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number in groups of seven bits from data[at] on, and the place behind it."""
    value = 0
    for i in range(10):
        byte = data[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise _Damaged("damaged: a number of more than ten bytes")


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli's polynomial, its bits in reverse
        table.append(byte)
    return table


CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """A checksum as it is stored: turned by 15 bits and moved on, since a checksum of checksums would be a weak one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
