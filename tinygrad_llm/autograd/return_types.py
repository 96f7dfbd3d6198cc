"""What functions that return two tensors return: named tuples that print as PyTorch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tinygrad_llm.autograd.tensor import Tensor


class _Fields(NamedTuple):
    values: Tensor
    indices: Tensor


class _ValuesIndices(_Fields):
    __slots__ = ()

    def __repr__(self) -> str:
        return f"torch.return_types.{type(self).__name__}(\nvalues={self.values!r},\nindices={self.indices!r})"


class max(_ValuesIndices):
    """The largest along a dimension, and where they are."""

    __slots__ = ()


class min(_ValuesIndices):
    """The smallest along a dimension, and where they are."""

    __slots__ = ()


class sort(_ValuesIndices):
    """The elements in order along a dimension, and where they were."""

    __slots__ = ()


class topk(_ValuesIndices):
    """The k largest or smallest along a dimension, and where they were."""

    __slots__ = ()


class kthvalue(_ValuesIndices):
    """The k-th smallest along a dimension, and where it is."""

    __slots__ = ()


class median(_ValuesIndices):
    """The middle element along a dimension, and where it is."""

    __slots__ = ()


class aminmax(NamedTuple):
    """The smallest and the largest."""

    min: Tensor
    max: Tensor

    def __repr__(self) -> str:
        return f"torch.return_types.aminmax(\nmin={self.min!r},\nmax={self.max!r})"
