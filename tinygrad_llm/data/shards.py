"""Token ids on disk: a shard is a header, the ids, and where each document ends; many shards read as one row.

Byte by byte in docs/data.md.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_llm.files import replacing
from tinygrad_llm.text import Tokenizer

MAGIC, VERSION = b"tg-llmid", 1
HEADER = struct.Struct("<8sIIQQ32s")  # magic, version, bytes an id, ids, documents, SHA-256 of the tokenizer
DTYPES: dict[int, np.dtype] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
ENDS = np.dtype("<u8")


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """SHA-256 over the tokenizer's name and everything it is made of: the same ids mean the same text."""
    fields = json.dumps({"tokenizer": tokenizer.name, **tokenizer.to_dict()}, sort_keys=True)
    return hashlib.sha256(fields.encode()).hexdigest()


def dtype_for(vocab_size: int) -> np.dtype:
    """uint16 where every id below vocab_size fits, else uint32.

    Raises: ValueError for a vocabulary beyond 2**32.
    """
    if vocab_size > 2**32:
        raise ValueError(f"shards: a vocabulary of {vocab_size:,} does not fit 32-bit ids")
    return DTYPES[2] if vocab_size <= 2**16 else DTYPES[4]


@dataclass(frozen=True)
class Header:
    """What a shard says of itself."""

    dtype: np.dtype
    tokens: int
    documents: int
    tokenizer: str  # tokenizer_hash, in hexadecimal

    def pack(self) -> bytes:
        """The 64 bytes at the beginning of the file."""
        fields = (MAGIC, VERSION, self.dtype.itemsize, self.tokens, self.documents, bytes.fromhex(self.tokenizer))
        return HEADER.pack(*fields)

    @property
    def ends_at(self) -> int:
        """Where the ends of the documents begin: behind the ids, at a multiple of 8 bytes."""
        return HEADER.size + -(-self.tokens * self.dtype.itemsize // 8) * 8

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.ends_at + self.documents * ENDS.itemsize


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a shard, after checking that the file has the size which it promises.

    Raises: ValueError for what is no shard, another version, an unknown dtype, or a file cut short or grown; OSError
    when it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(HEADER.size)
        size = os.fstat(file.fileno()).st_size
    if len(content) < HEADER.size or not content.startswith(MAGIC):
        raise ValueError(f"{path}: not a shard of token ids; it does not begin with {MAGIC.decode()!r} and a header")
    _, version, itemsize, tokens, documents, tokenizer = HEADER.unpack(content)
    if version != VERSION:
        raise ValueError(f"{path}: shard version {version}, this program reads version {VERSION}; prepare it again")
    if itemsize not in DTYPES:
        raise ValueError(f"{path}: ids of {itemsize} bytes; a shard has uint16 or uint32")
    header = Header(DTYPES[itemsize], tokens, documents, tokenizer.hex())
    if size != header.file_size:
        raise ValueError(
            f"{path}: {size:,} bytes, but {tokens:,} ids and {documents:,} documents take {header.file_size:,}; the "
            f"file was cut short or changed, prepare it again"
        )
    return header


def write_shard(path: str | os.PathLike[str], ids: Iterable[np.ndarray], ends: np.ndarray, header: Header) -> str:
    """Write a shard, whole or not at all, from pieces of ids; returns the SHA-256 of the file.

    ends: for each document that ends in this shard, the number of ids up to there.

    Raises: ValueError when the pieces are not what the header says; OSError as `files.replacing`.
    """
    digest, written = hashlib.sha256(), 0
    with replacing(path) as file:

        def put(content: Any) -> None:
            digest.update(content)
            file.write(content)

        put(header.pack())
        for piece in ids:
            put(np.ascontiguousarray(piece, header.dtype).data.cast("B") if len(piece) else b"")
            written += len(piece)
        if written != header.tokens or len(ends) != header.documents:
            raise ValueError(
                f"{path}: {written:,} ids and {len(ends):,} documents came, the header says {header.tokens:,} and "
                f"{header.documents:,}"
            )
        put(bytes(header.ends_at - HEADER.size - written * header.dtype.itemsize))
        put(np.ascontiguousarray(ends, ENDS).tobytes())
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def map_shard(path: str | os.PathLike[str], header: Header) -> tuple[np.ndarray, np.ndarray]:
    """The ids (n,) and the ends of the documents (D,) of a shard, memory-mapped: read when they are used."""
    content = np.memmap(path, np.uint8, "r")
    if len(content) != header.file_size:
        raise ValueError(f"{path}: the file changed while it was opened")
    base = np.asarray(content)  # a plain view of the mapping; indexing a memmap costs several times as much
    ids = base[HEADER.size : HEADER.size + header.tokens * header.dtype.itemsize].view(header.dtype)
    return ids, base[header.ends_at :].view(ENDS)


class Row:
    """Arrays of ids, one behind the other, read as one row (n,): windows cross from one into the next.

    `row[i]`, `row[a:b]` and `row[array]` are NumPy's; what they return is in memory, the row itself may not be.
    `ends` (D,) has the end of each document in it, so that document d is row[ends[d-1] : ends[d]].

    Raises: ValueError for arrays of different dtypes, or none.
    """

    ndim = 1

    def __init__(self, parts: Sequence[np.ndarray], ends: Sequence[np.ndarray] = ()) -> None:
        if not parts or any(part.ndim != 1 or part.dtype != parts[0].dtype for part in parts):
            raise ValueError(f"Row: one dtype is needed, found {[str(part.dtype) for part in parts]}")
        self.parts, self.dtype = list(parts), parts[0].dtype
        self._stops = np.cumsum([len(part) for part in parts])
        self._starts = self._stops - [len(part) for part in parts]
        self._ends = list(ends)

    def __len__(self) -> int:
        return int(self._stops[-1])

    @property
    def shape(self) -> tuple[int]:
        """(n,)."""
        return (len(self),)

    @property
    def ends(self) -> np.ndarray:
        """Where each document ends, (D,) int64, in memory: 8 bytes a document."""
        found = [end.astype(np.int64) + start for end, start in zip(self._ends, self._starts, strict=True)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._slice(*index.indices(len(self)))
        places = np.asarray(index)
        if places.size and (places.min() < -len(self) or places.max() >= len(self)):
            raise IndexError(f"Row: an index is out of range for {len(self)} ids")
        places = np.where(places < 0, places + len(self), places)
        if len(self.parts) == 1:
            return self.parts[0][places]
        which = np.searchsorted(self._stops, places, side="right")
        out = np.empty(places.shape, self.dtype)
        for part in np.unique(which):
            inside = which == part
            out[inside] = self.parts[part][places[inside] - self._starts[part]]
        return out[()]

    def _slice(self, start: int, stop: int, step: int) -> np.ndarray:
        if step != 1:
            return self[np.arange(start, stop, step)]
        pieces = [
            part[max(start - first, 0) : stop - first]
            for part, first, last in zip(self.parts, self._starts, self._stops, strict=True)
            if first < stop and start < last
        ]
        return np.concatenate(pieces) if pieces else np.empty(0, self.dtype)
