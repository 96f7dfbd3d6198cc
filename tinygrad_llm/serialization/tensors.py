"""Safetensors files, written and read one tensor at a time: neither takes memory beside the tensors themselves.

A file is 8 bytes with the length of the header; the header, in JSON for each name its dtype, shape and place; numbers.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.files import sync

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
AT_ONCE = 2**24  # bytes that are hashed and written at a time


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its numbers are the bytes [start, end) of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def write_tensors(path: str | os.PathLike[str], arrays: Mapping[str, Any], form: str = "np") -> str:
    """Write arrays, from any device, to a new file that lies on the disk on return. Returns the file's SHA-256.

    form: the word for whose tensors they are; transformers opens none but "pt".

    Raises: OSError, such as for a full disk; ValueError for a dtype that the format does not have.
    """
    header: dict[str, Any] = {"__metadata__": {"format": form}}
    place = 0
    for name, array in arrays.items():
        if np.dtype(array.dtype) not in NAMES:
            raise ValueError(f"{path}: {name} has dtype {array.dtype}, which a safetensors file cannot hold")
        end = place + array.nbytes
        kind = NAMES[np.dtype(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with Path(path).open("xb") as file:
        for part in _parts(text, arrays):
            digest.update(part)
            file.write(part)
        sync(file)
    return digest.hexdigest()


def _parts(header: bytes, arrays: Mapping[str, Any]) -> Iterator[Any]:
    yield len(header).to_bytes(8, "little")
    yield header
    for array in arrays.values():
        content = _bytes(np.ascontiguousarray(devices.move(array, devices.CPU)))
        for start in range(0, len(content), AT_ONCE):
            yield content[start : start + AT_ONCE]


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of a contiguous array, as a view."""
    return array.reshape(-1).view(np.uint8)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits. Raises: OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """What a file holds, by name; no numbers are read.

    Raises: OSError; ValueError naming what is wrong with a header that is damaged or promises more than the file has.
    """
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"{path}: not a safetensors file, or cut off: {size:,} bytes, a header of {length:,}")
        text = file.read(length)
    try:
        header = json.loads(text)
        found = {name: _entry(header[name], 8 + length, size) for name in header if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: the header of this safetensors file is damaged ({error})") from None
    return found


def _entry(value: Any, origin: int, size: int) -> Entry:
    dtype, shape, (start, end) = np.dtype(DTYPES[value["dtype"]]), value["shape"], value["data_offsets"]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, start, end)):
        raise ValueError("a shape or a place is not made of whole numbers")
    if end - start != math.prod(shape) * dtype.itemsize or origin + end > size:
        raise ValueError(f"a tensor of shape {shape} at {start}..{end} in a file of {size:,} bytes")
    return Entry(dtype, tuple(shape), origin + start, origin + end)


def read_tensors(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Fill each array, on any device, with the tensor of its name; straight from the file where the array allows it.

    Raises: OSError; ValueError naming a tensor that is missing, or of another shape or dtype; no array is changed then.
    """
    header = read_header(path)
    for name, array in arrays.items():
        if name not in header:
            raise ValueError(f"{path}: there is no tensor {name}")
        entry, here = header[name], (tuple(array.shape), np.dtype(array.dtype))
        if (entry.shape, entry.dtype) != here:
            raise ValueError(
                f"{path}: {name} is {entry.dtype} of shape {list(entry.shape)}, expected {here[1]} of {list(here[0])}"
            )
    with Path(path).open("rb", buffering=0) as file:
        for name, array in arrays.items():
            file.seek(header[name].start)
            if isinstance(array, np.ndarray) and array.flags.c_contiguous:
                _fill(file, array, name)
            else:
                numbers = np.empty(array.shape, array.dtype)
                _fill(file, numbers, name)
                array[...] = devices.move(numbers, devices.of(array))


def _fill(file: FileIO, array: np.ndarray, name: str) -> None:
    """Read the bytes of a contiguous array, in pieces where the system reads less than was asked for."""
    rest = memoryview(_bytes(array))  # type: ignore[arg-type]
    while len(rest):
        count = file.readinto(rest)
        if not count:
            raise ValueError(f"{file.name}: the file ends inside {name}")
        rest = rest[count:]
