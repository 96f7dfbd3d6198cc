"""How examples become a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinygrad_llm import dtypes
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import as_tensor, tensor
from tinygrad_llm.autograd.functions import stack


def default_collate(batch: Sequence[Any]) -> Any:
    """A list of examples as one batch: tensors and arrays stacked, numbers as a tensor, strings as they are.

    Dicts, tuples and lists are collated entry by entry; a tuple becomes a list, a named tuple stays one.

    Raises:
        RuntimeError: shapes or lengths differ among the examples. TypeError: an example is of an unknown type.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch))
    if isinstance(first, np.ndarray):
        if first.dtype.kind in "SUO":
            raise TypeError(_unknown(first.dtype))
        return stack([as_tensor(x) for x in batch])
    if isinstance(first, np.generic):
        return as_tensor(np.array(batch))
    if isinstance(first, float):
        return tensor(batch, dtype=dtypes.float64)
    if isinstance(first, int):
        return tensor(batch)
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        return _like(first, {key: default_collate([x[key] for x in batch]) for key in first})
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(part) for part in zip(*batch, strict=True)))
    if isinstance(first, Sequence):
        if any(len(x) != len(first) for x in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        parts = [default_collate(part) for part in zip(*batch, strict=True)]
        return parts if isinstance(first, tuple) else _like(first, parts)
    raise TypeError(_unknown(type(first)))


def _unknown(found: Any) -> str:
    return f"default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {found}"


def _like(example: Any, content: Any) -> Any:
    """The content in the example's own type of dict or list, where that can be made so."""
    try:
        return type(example)(content)
    except TypeError:
        return content


def default_convert(data: Any) -> Any:
    """NumPy arrays inside an example as tensors, all else as it is: what a loader without batches does."""
    if isinstance(data, (np.ndarray, np.generic)) and data.dtype.kind not in "SUO":
        return as_tensor(data)
    if isinstance(data, Mapping):
        return _like(data, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(default_convert, data))
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        parts = [default_convert(x) for x in data]
        return parts if isinstance(data, tuple) else _like(data, parts)
    return data
