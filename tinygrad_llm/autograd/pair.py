"""Ops with two results: what one pass over the memory computes together, as two tensors.

A node stands for one result and receives one gradient. So each result has a node of its own, and both have one parent,
the node of the op, whose gradient is a pair: each result's node puts its own half there. Nodes are swept newest first,
so that both halves have come when the op's pullback runs, with None for a result that nobody used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tinygrad_llm import devices
from tinygrad_llm.autograd import graph, registry
from tinygrad_llm.autograd.grad_mode import state as grad_state
from tinygrad_llm.autograd.registry import Op, Partial
from tinygrad_llm.autograd.tensor import Tensor, on_one_device, refuse_inference, wrap


class Pair:
    """The gradients of two results, each None until it has come."""

    __slots__ = ("halves",)

    def __init__(self) -> None:
        self.halves: list[Any] = [None, None]

    @property
    def dtype(self) -> Any:
        """The dtype of a half."""
        return next(g.dtype for g in self.halves if g is not None)


class Half(Partial):
    """The gradient of result 0 or 1, for the pair that is its node's parent's."""

    def add_into(self, buffer: Any) -> None:
        """Take one's place in the pair."""
        buffer.halves[self.index] = self.values

    def dense(self, like: Any) -> Pair:
        """The pair so far."""
        pair = Pair()
        self.add_into(pair)
        return pair


class PairOp:
    """An op of two results: a function (arrays) -> (first, second), pull, with pull((g_first, g_second), needs).

    It takes 16-bit floats as they are. prints: what the grad_fn of each result prints.
    """

    def __init__(self, function: Callable[..., Any], *prints: str):
        self.op = Op(function.__name__, function, broadcasts=False, moves=False, half=True)
        self.halves = [Op(f"half_{i}", function, False, moves=True, bare=True, prints=p) for i, p in enumerate(prints)]

    def __call__(self, *args: Any, **static: Any) -> tuple[Tensor, Tensor]:
        """Run the op on tensors, scalars and None, and record it if a gradient is wanted, as `apply` does."""
        op = self.op
        function = op.function
        if devices.in_use:
            args, arrays = on_one_device(op.name, args, lend=False)
            function = partial(devices.run, function, arrays)
        else:
            arrays = [a.array if isinstance(a, Tensor) else a for a in args]
        watch, run = registry.watch, partial(function, *arrays, **static)
        found, pull = run() if watch is None else watch(op.name, "forward", run)
        results = wrap(found[0]), wrap(found[1])
        parents = tuple([a.node if isinstance(a, Tensor) else None for a in args])
        if grad_state.enabled and any(parents):
            if grad_state.inference_seen:
                refuse_inference(op, args, pull)
            back = lambda pair, needs: devices.run(pull, pair.halves, pair.halves, needs)  # noqa: E731
            node = graph.Node(op, parents, back, found[0])
            for i, (half, result) in enumerate(zip(self.halves, results, strict=True)):
                result._node = graph.Node(half, (node,), (partial(Half, (), i),), result.array)
        return results
