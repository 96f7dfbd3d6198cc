"""The zip archive around a saved object: `data.pkl`, and the bytes of each storage in `data/0`, `data/1`, ...

Members are stored uncompressed, storages at multiples of 64 bytes, so that a file can be mapped into memory.
The directory is the standard library's to read; before a byte of a member is used, its place is checked here.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from tinygrad_llm.serialization.errors import LoadError

ALIGNMENT = 64
MAPPED_FROM = 64 * 2**20  # bytes of a file
CHUNK = 2**24
LOCAL_HEADER, SIGNATURE = 30, b"PK\x03\x04"  # bytes before a member's name, and how they begin
BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80"  # how files of PyTorch before 1.6 begin


class Archive:
    """The members of a file, each checked against its checksum when it is taken."""

    def __init__(self, content: Any):
        self._content = memoryview(content)
        self._places = _members(self._content)
        programs = [name for name in self._places if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise LoadError(
                f"no file of torch.save: expected one archive/data.pkl in it, found {len(programs)} among "
                f"{sorted(self._places)[:5]}"
            )
        self._root = programs[0].removesuffix("data.pkl")
        if (order := self._optional("byteorder")) not in (None, b"little"):
            raise LoadError(f"its byte order is {order!r}; only little-endian files are read")

    @classmethod
    @contextmanager
    def opened(cls, f: Any, mapped: bool | None) -> Iterator[Archive]:
        """The archive in a path or binary file. What has been taken of it outlives the block."""
        if not isinstance(f, (str, os.PathLike)):
            if mapped:
                raise ValueError("load(): mmap=True needs a path, not an open file")
            yield cls(bytearray(f.read()))
            return
        with open(f, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size and (size >= MAPPED_FROM if mapped is None else mapped):
                yield cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            else:
                content = bytearray(size)
                file.readinto(content)
                yield cls(content)

    def program(self) -> bytes:
        """The pickle that describes the saved object."""
        return bytes(self._taken(f"{self._root}data.pkl"))

    def storage(self, key: str) -> np.ndarray:
        """The bytes of a storage, in the file's own memory: uint8, writable."""
        name = f"{self._root}data/{key}"
        if name not in self._places:
            raise LoadError(f"storage {key!r} is missing")
        return np.frombuffer(self._taken(name), np.uint8)

    def _optional(self, name: str) -> bytes | None:
        full = self._root + name
        return bytes(self._taken(full)) if full in self._places else None

    def _taken(self, name: str) -> memoryview:
        start, size, checksum = self._places[name]
        part, found = self._content[start : start + size], 0
        for i in range(0, size, CHUNK):
            found = zlib.crc32(part[i : i + CHUNK], found)
        if found != checksum:
            raise LoadError(f"{name} is damaged: its checksum is {found:08x} and should be {checksum:08x}")
        return part


def _members(content: memoryview) -> dict[str, tuple[int, int, int]]:
    """name -> (offset, size, checksum) of every member, none of which reaches beyond the file or into another.

    Raises:
        LoadError: the bytes are no zip archive, or one that should not be trusted.
    """
    if bytes(content[: len(BEFORE_ZIP)]) == BEFORE_ZIP:
        raise LoadError("it was written by PyTorch before 1.6, or in that format; load it there and save it again")
    try:
        with zipfile.ZipFile(_Bytes(content)) as archive:
            infos = archive.infolist()
    except Exception as error:  # zipfile meets damaged input with many types of exception
        raise LoadError(f"no zip archive, which torch.save writes, or a damaged one ({error})") from None
    if any(info.filename.count("/") == 1 and info.filename.endswith("/constants.pkl") for info in infos):
        raise LoadError("a TorchScript archive holds programs, which are not run; save the module's state_dict()")
    places: dict[str, tuple[int, int, int]] = {}
    for info in infos:
        name = info.filename
        if name in places:
            raise LoadError(f"two members are called {name!r}")
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in info.orig_filename:
            raise LoadError(f"the member name {name!r} is unsafe")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise LoadError(f"{name} is compressed or encrypted, which torch.save does not do")
        places[name] = (_start(content, info), info.file_size, info.CRC)
    _check_apart(places, len(content))
    return places


def _start(content: memoryview, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, whose length only that itself tells."""
    header = bytes(content[info.header_offset : info.header_offset + LOCAL_HEADER])
    if info.header_offset < 0 or len(header) < LOCAL_HEADER or header[:4] != SIGNATURE:
        raise LoadError(f"{info.filename}: its header is damaged")
    name, extra = struct.unpack("<26xHH", header)
    return info.header_offset + LOCAL_HEADER + name + extra


def _check_apart(places: dict[str, tuple[int, int, int]], length: int) -> None:
    end, before = 0, ""
    for name, (start, size, _) in sorted(places.items(), key=lambda item: item[1]):
        if start + size > length:
            raise LoadError(f"{name} promises {size} bytes from {start} on, but the file has {length}")
        if size and start < end:
            raise LoadError(f"{name} and {before} lie on top of each other")
        end, before = max(end, start + size), name


def place_in_file(array: np.ndarray) -> int | None:
    """Where in its file the first byte lies of an array that was loaded with mmap=True; None for any other array."""
    owner: Any = array
    while getattr(owner, "base", None) is not None:
        owner = owner.base
    if not isinstance(owner, memoryview) or not isinstance(owner.obj, mmap.mmap):
        return None
    return array.ctypes.data - np.frombuffer(owner.obj, np.uint8).ctypes.data


class _Bytes(io.RawIOBase):
    """A memoryview as a file to read, without a copy of it."""

    def __init__(self, content: memoryview):
        self._content, self._at = content, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, len(self._content))[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._content[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def write_archive(file: BinaryIO, program: bytes, storages: Sequence[np.ndarray]) -> None:
    """Write a pickle and its storages, each an array of uint8, member by member, without another copy of them."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "data.pkl", program)
        _write(archive, ".format_version", b"1")
        _write(archive, ".storage_alignment", str(ALIGNMENT).encode())
        _write(archive, "byteorder", b"little")
        for i, storage in enumerate(storages):
            _write(archive, f"data/{i}", storage.data)
        _write(archive, "version", b"3\n")


def _write(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    """A member whose bytes begin at a multiple of ALIGNMENT: an extra field of zeros pads its header."""
    info = zipfile.ZipInfo(f"archive/{name}")
    info.file_size = len(content)
    large = len(content) >= 2**31 - 1  # zipfile then writes its own extra field of 20 bytes first
    start = archive.fp.tell() + LOCAL_HEADER + len(info.filename) + 20 * large + 4  # type: ignore[union-attr]
    padding = -start % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as member:
        for i in range(0, len(content), CHUNK):
            member.write(content[i : i + CHUNK])
