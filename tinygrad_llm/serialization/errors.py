"""What load raises for a file that it does not read."""

import pickle
from typing import Any


class LoadError(pickle.UnpicklingError, RuntimeError):
    """A file is damaged or holds what is not read. PyTorch raises the one or the other of its bases."""


def shown(value: Any) -> str:
    """A value out of a file, for a message: at most one container deep.

    Containers that hold each other twice, thirty levels deep, have a repr of a billion items.
    """
    if type(value) is tuple:
        return f"({', '.join(map(_word, value[:8]))})"
    return _word(value)


def _word(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:40])
    if value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and value.bit_length() <= 128):
        return repr(value)
    return f"a {type(value).__name__}"
