"""Files that are either the old ones or the new ones, whole, never something between."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write content to path: first under a temporary name in the same folder, then renamed.

    Raises: OSError when the folder cannot be written; the file at path is then what it was before.
    """
    path = Path(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes it private; a result is as readable as any new file
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
