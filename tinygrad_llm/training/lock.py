"""One run in a folder at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder that exists; the lock is the system's and ends with the process, however that ends.

    Raises: ValueError when another process holds it, or filelock is not installed; OSError where no file can be made.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise ValueError("filelock is not installed; pip install -e '.[examples]' brings it") from None
    try:
        with FileLock(Path(folder, LOCK), timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{folder}: another run works in this folder; wait for it, or name another folder") from None
