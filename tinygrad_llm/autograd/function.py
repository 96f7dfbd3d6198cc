"""Functions whose gradient the user writes: `class Square(Function)` with forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.autograd import graph
from tinygrad_llm.autograd.grad_mode import no_grad
from tinygrad_llm.autograd.grad_mode import state as grad_state
from tinygrad_llm.autograd.registry import Op
from tinygrad_llm.autograd.tensor import Tensor, wrap


class Context:
    """What forward leaves for backward: tensors through save_for_backward, all else as attributes.

    needs_input_grad: for each argument of forward, whether its gradient is wanted.
    """

    needs_input_grad: tuple[bool, ...] = ()

    def __init__(self) -> None:
        self._saved: tuple[Tensor | None, ...] = ()
        self._without: tuple[Tensor, ...] = ()
        self._materialize = True

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors; a write into one before backward is noticed."""
        self._saved = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """What was kept."""
        return self._saved

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """Say that no gradient flows through these results."""
        self._without = outputs

    def set_materialize_grads(self, value: bool) -> None:
        """Whether a result that nobody used has zeros for its gradient in backward (the default), or None."""
        self._materialize = value


class Function:
    """Base class of an operation with a gradient of its own: subclass it, and call `apply`.

    forward(ctx, *args) computes from tensors and other values a tensor or a tuple of them, without recording;
    backward(ctx, *gradients) turns the results' gradients into one for each argument of forward, None where there is
    none. In the newer form forward(*args) has no ctx, and setup_context(ctx, inputs, output) follows it.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the results."""
        raise NotImplementedError("You must implement the forward function for custom autograd.Function.")

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep what backward needs, in the form whose forward takes no ctx."""
        raise NotImplementedError("setup_context is not implemented.")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Turn the results' gradients into the arguments'."""
        raise NotImplementedError("You must implement the backward function for custom autograd.Function.")

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """forward of the arguments, recorded with backward for its gradient.

        Raises:
            TypeError: forward returns something else than tensors. RuntimeError, on the way back: backward returns
                another number of gradients than forward has arguments, or one of another shape.
        """
        ctx = Context()
        parents = tuple(a.node if isinstance(a, Tensor) and grad_state.enabled else None for a in args)
        ctx.needs_input_grad = tuple(p is not None for p in parents)
        with no_grad():
            if cls.setup_context is Function.setup_context:
                returned = cls.forward(ctx, *args)
            else:
                returned = cls.forward(*args)
                cls.setup_context(ctx, args, returned)
        outputs = returned if isinstance(returned, tuple) else (returned,)
        if not all(isinstance(y, Tensor) for y in outputs):
            raise TypeError(f"{cls.__name__}.forward: expected to return Tensors, not {type(returned).__name__}")
        if not any(ctx.needs_input_grad):
            return returned
        recorded = _recorded(cls, ctx, parents, outputs)
        return recorded if isinstance(returned, tuple) else recorded[0]


def _recorded(
    cls: type[Function], ctx: Context, parents: tuple[Any, ...], outputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The outputs with nodes. A node has one result: several are parts of a hidden one, a vector of them all."""
    saved = [None if t is None else t.array for t in ctx._saved]
    ctx._saved = ()  # arrays instead: a saved result would hold its node, and the node the context
    plain = {id(t) for t in ctx._without}
    flowing = [i for i, y in enumerate(outputs) if id(y) not in plain and y.is_floating_point()]
    received: dict[int, Any] = {}

    def pull(g: Any, needs: Any) -> list[Any]:
        ctx._saved = tuple(None if array is None else wrap(array) for array in saved)
        grads: list[Any] = [None] * len(outputs)
        for i, y in enumerate(outputs):
            if i in received:
                grads[i] = wrap(received.pop(i))
            elif ctx._materialize:
                grads[i] = wrap(np.zeros_like(y.array))
        with no_grad():
            back = cls.backward(ctx, *grads)
        back = back if isinstance(back, tuple) else (back,)
        if len(back) != len(parents):
            raise RuntimeError(
                f"function {cls.__name__}Backward returned an incorrect number of gradients (expected {len(parents)}, "
                f"got {len(back)})"
            )
        return [_gradient(d, p) if needed else None for d, p, needed in zip(back, parents, needs, strict=True)]

    def receive(i: int) -> Any:
        def keep(g: Any, needs: Any) -> tuple[Any]:
            received[i] = g
            return (np.zeros((), g.dtype),)  # tells the hidden node that something arrived

        return keep

    op = Op(cls.__name__, cls.forward, broadcasts=False, moves=True, prints=f"{cls.__name__}Backward")
    hidden = graph.Node(op, parents, pull, np.zeros((), outputs[0].array.dtype))
    results = []
    for i, y in enumerate(outputs):
        result = wrap(y.array)
        if i in flowing:
            result._node = graph.Node(op, (hidden,), receive(i), y.array)
        results.append(result)
    return tuple(results)


def _gradient(d: Any, parent: Any) -> Any:
    """An argument's gradient as an array of the argument's shape; zeros for None."""
    if d is None:
        return np.zeros(parent.shape, parent.dtype)
    if not isinstance(d, Tensor):
        raise TypeError(f"expected a Tensor or None as gradient, not {type(d).__name__}")
    return d.array
