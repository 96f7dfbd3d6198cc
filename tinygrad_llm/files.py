"""Files that are either the old ones or the new ones, whole, never something between."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | os.PathLike[str], durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write, under a temporary name in the same folder; renamed to path when the block ends well.

    durable: the content lies on the disk before the rename, and the rename before the block is left, so that not even a
    power cut brings back something between.

    Raises: OSError when the folder cannot be written, naming path; the file there is then what it was before.
    """
    path = Path(path)
    prefix = f".{path.name}."
    try:
        with _temporary(path, prefix, durable) as file:
            yield file
    except OSError as error:
        if not isinstance(error.filename, str) or not Path(error.filename).name.startswith(prefix):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # what was asked for, not the temporary name


@contextmanager
def _temporary(path: Path, prefix: str, durable: bool) -> Iterator[BinaryIO]:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            if durable:
                sync(file)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes it private; a result is as readable as any new file
        os.replace(name, path)
        if durable:
            sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_atomically(path: str | os.PathLike[str], content: bytes, durable: bool = False) -> None:
    """Write content to path, whole or not at all; durable as in replacing().

    Raises: as replacing().
    """
    with replacing(path, durable) as file:
        file.write(content)


def sync(file: BinaryIO) -> None:
    """Wait until what was written to the file lies on the disk. Raises: OSError, such as for a full disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Wait until the folder's names (files made, renamed, removed) lie on the disk, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
