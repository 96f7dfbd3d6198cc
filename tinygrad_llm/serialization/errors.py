"""What load raises for a file that it does not read."""

import pickle


class LoadError(pickle.UnpicklingError, RuntimeError):
    """A file is damaged or holds what is not read. PyTorch raises the one or the other of its bases."""
