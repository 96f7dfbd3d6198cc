"""Writing into tensors: the memory changes, the graph follows, and pullbacks that captured the memory notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import graph, views
from tinygrad_llm.autograd.grad_mode import state as grad_state
from tinygrad_llm.autograd.methods import public_name
from tinygrad_llm.autograd.tensor import UNDATED, VIEW, Tensor, wrap


def update(x: Tensor, function: Callable[..., Tensor], name: str, /, *args: Any, **kwargs: Any) -> Tensor:
    """Write function(x, ...) into x; returns x.

    Where a pullback captured the very memory that is to be overwritten, it gets a copy instead.
    """
    check_writable(x, name)
    start = next(graph.clock)
    result = function(x, *args, **kwargs)
    if graph.captures(result.node, x.array, start):
        before = wrap(devices.run(x.array.copy, [x.array]))
        before._node = x.node
        result = function(before, *args, **kwargs)
    return write(x, result, name)


def write(x: Tensor, result: Tensor, name: str) -> Tensor:
    """Write the values of result into x's memory, so that all that share it see them; returns x.

    A recorded result's node becomes x's, and its base and the other views of that follow (views.py).

    Raises:
        RuntimeError: x is a leaf that requires a gradient or a view of one, or of another shape or lesser dtype.
    """
    check_writable(x, name)
    if result.array.shape != x.array.shape:
        raise RuntimeError(
            f"{name}: output with shape {list(x.shape)} doesn't match the broadcast shape {list(result.shape)}"
        )
    if result.dtype.category > x.dtype.category:
        raise RuntimeError(f"{name}: result type {result.dtype} can't be cast to the desired output type {x.dtype}")
    if result.node is not None and x.flags & VIEW and x.source is None:
        raise RuntimeError(
            f"{name}: a view that was taken under no_grad() cannot take a recorded value, for its base would not "
            "know; take the view with gradients enabled, or write under no_grad()"
        )
    devices.run(x.array.__setitem__, [x.array], ..., result.array)
    date_write(x)
    if result.node is not None:
        views.rebase(x, result.to(x.dtype).node)
    return x


def date_write(x: Tensor) -> None:
    """Date a write into x's memory, so that pullbacks that captured it notice; `.data` is exempt."""
    if not x.flags & UNDATED:
        graph.note_write(x.array)


def check_writable(x: Tensor, name: str) -> None:
    """Refuse to write into a leaf whose gradient is wanted, or into memory that elements share."""
    if grad_state.enabled:
        base = views.base_of(x)
        if base._node is not None and base._node.op is None:
            raise RuntimeError(
                f"{name}: a {'' if base is x else 'view of a '}leaf Variable that requires grad is being used "
                "in an in-place operation; do it under no_grad()"
            )
    if not _writeable(x.array):
        raise RuntimeError(
            f"{name}: more than one element of the written-to tensor refers to a single memory location, or the "
            "memory is read-only; clone() the tensor first"
        )


def _writeable(array: Any) -> bool:
    """Whether an array may be written to. CuPy's know no lock; those that repeat elements have a stride of 0."""
    if isinstance(array, np.ndarray):
        return array.flags.writeable
    return all(stride or n < 2 for stride, n in zip(array.strides, array.shape, strict=True))


def in_place(function: Callable[..., Tensor]) -> None:
    """Give Tensor the in-place method `name_` of a function `name`."""
    name = public_name(function) + "_"

    def write_in_place(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return update(self, function, name, *args, **kwargs)

    write_in_place.__name__ = name
    write_in_place.__doc__ = f"`{name[:-1]}`, written into the tensor; returns it."
    setattr(Tensor, name, write_in_place)


def shape_in_place(function: Callable[..., Tensor]) -> None:
    """Give Tensor the method `name_` of a function that takes a view: the tensor itself then has the other shape."""
    name = public_name(function) + "_"

    def take_shape(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        check_writable(self, name)
        before = wrap(self.array)  # what the tensor was, for the graph
        before._node, before.source, before.flags = self._node, self.source, self.flags
        view = function(before, *args, **kwargs)
        self.array = view.array
        if before._node is not None or before.source is not None:
            self._node, self.source, self.flags = view.node, view.source, view.flags
        return self

    take_shape.__name__ = name
    take_shape.__doc__ = f"The tensor itself in the shape of `{name[:-1]}`; returns it."
    setattr(Tensor, name, take_shape)
