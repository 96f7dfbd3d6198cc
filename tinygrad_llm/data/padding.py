"""The length of a batch's rows: few different ones, so that a GPU's steps can be repeated as CUDA graphs."""

import numpy as np

LENGTHS = 32  # tokens; what a few more cost a GPU is less than giving it a step launch by launch


def padded_length(longest: int, multiple: int, most: int | None = None) -> int:
    """The multiple of a number that rows up to `longest` are padded to; `most` where that is less, but never too short.

    Rows longer than most stay as long as they are: the caller cuts them, or the model refuses them and says why.
    """
    even = -(-longest // multiple) * multiple
    return even if most is None else max(longest, min(even, most))


def widened(batch: np.ndarray, length: int, padding: int) -> np.ndarray:
    """(B, T) -> (B, length): rows that end with padding."""
    return np.pad(batch, ((0, 0), (0, length - batch.shape[1])), constant_values=padding)
