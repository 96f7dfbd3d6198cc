"""save and load: PyTorch's own file format in both directions, without running anything that a file asks for."""

from __future__ import annotations

import os
from typing import Any

from tinygrad_llm.files import replacing
from tinygrad_llm.serialization.archive import Archive, place_in_file, write_archive
from tinygrad_llm.serialization.errors import LoadError
from tinygrad_llm.serialization.pickled import pickled, unpickled
from tinygrad_llm.serialization.storages import Loaded, Saved

__all__ = ["LoadError", "load", "place_in_file", "save"]


def save(
    obj: Any,
    f: Any,
    pickle_module: Any = None,
    pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
) -> None:
    """Write tensors, and dicts, lists, tuples, sets, strings and numbers around them, to a path or a binary file.

    `torch.load(f, weights_only=True)` opens the file. Tensors that share memory share it in the file too; a view takes
    along all the memory that it is a part of (save its clone() where that is much). A file at the path is replaced as a
    whole or, when writing fails, left as it was.

    Raises:
        TypeError: obj holds something else; the message says what and where. OSError: the file cannot be written.
        ValueError: another pickle module, protocol or format is asked for.
    """
    if pickle_module is not None or pickle_protocol != 2 or not _use_new_zipfile_serialization:
        raise ValueError("save(): pickle_module, pickle_protocol and the format before PyTorch 1.6 are not supported")
    saved = Saved()
    program = pickled(obj, saved)
    if hasattr(f, "write"):
        write_archive(f, program, saved.storages)
        return
    with replacing(f) as file:
        write_archive(file, program, saved.storages)


def load(
    f: Any,
    map_location: Any = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
) -> Any:
    """What save, or PyTorch's, has written to a path or a binary file.

    The file is untrusted: only tensors, plain containers and numbers are read, everything else is refused by name,
    whatever weights_only says. map_location: the device for all tensors, or a dict from the device that the file
    names to another. mmap: map the file instead of reading it; by default that is done from 64 MiB on. Tensors of a
    mapped file may be written to; the file does not change. It must not be shortened or written into meanwhile: save
    puts a new file in its place, which leaves the mapped one whole.

    Raises:
        LoadError: the file is damaged or holds something else, or tensors of a device that is not here while
            map_location names no other. OSError: it cannot be read.
    """
    if pickle_module is not None:
        raise ValueError("load(): pickle_module is not supported; files are read without unpickling")
    name = os.fspath(f) if isinstance(f, (str, os.PathLike)) else getattr(f, "name", "the file")
    try:
        with Archive.opened(f, mmap) as archive:
            return unpickled(archive.program(), Loaded(archive, map_location))
    except LoadError as error:
        raise LoadError(f"{name}: {error}") from None
