"""Activation checkpointing: forget what a part of the model captured for backward, and compute it again when needed.

The part runs as ever and its nodes stay in the graph, so hooks, `grad` of what lies inside and the order in which
gradients are added are those of a plain run. Only the pullbacks go, and the arrays that they captured. When the
sweep asks for the first of them, the part runs once more from its inputs, and each new node's pullbacks stand in for
those of the old one in the same place.

Source: Griewank and Walther, Algorithm 799: revolve (2000); Chen et al., Training deep nets with sublinear memory
cost (2016).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from tinygrad_llm import random
from tinygrad_llm.autograd import Tensor, autocast, enable_grad, graph, is_grad_enabled
from tinygrad_llm.nn import Sequential
from tinygrad_llm.warning import warn

EXPLICIT = (
    "the use_reentrant parameter should be passed explicitly; use_reentrant=False is recommended, and the only "
    "behaviour there is here"
)


class CheckpointError(RuntimeError):
    """The function did not do again what it had done in the forward pass."""


def noop_context_fn() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Nothing around the forward pass, and nothing around the second one."""
    return contextlib.nullcontext(), contextlib.nullcontext()


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]] = noop_context_fn,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """function(*args, **kwargs), whose activations are computed again in backward instead of kept.

    Kept are the arguments. Tensors of the result are found in lists, tuples, dictionaries and data classes. The
    function must do the same both times: the random stream is put back for it (preserve_rng_state), nothing else is.

    use_reentrant: both values mean PyTorch's False, save that True takes no keyword arguments of the function.
    context_fn: gives a context for the forward pass and one for the second. determinism_check: "none" compares only
    how many ops were recorded, "default" which ones and the shapes and dtypes of their results. debug: an error lists
    the ops of both passes. early_stop: PyTorch may skip the end of the second pass; here it always runs whole.

    Raises:
        ValueError: keyword arguments, context_fn or debug without use_reentrant=False; an unknown determinism_check.
        CheckpointError: in backward, the second pass differs. RuntimeError: an argument was written to in between.
    """
    if use_reentrant is None:
        warn(f"checkpoint: {EXPLICIT}")
    if use_reentrant is not False:
        if kwargs:
            raise ValueError(f"Unexpected keyword arguments: {','.join(kwargs)}; they need use_reentrant=False")
        if context_fn is not noop_context_fn or debug:
            raise ValueError("Passing `context_fn` or `debug` is only supported when use_reentrant=False.")
    if determinism_check not in ("default", "none"):
        raise ValueError(f"determinism_check should be one of default, none, but got {determinism_check}")
    if not is_grad_enabled():
        return function(*args, **kwargs)
    first, second = context_fn()
    again = random.snapshot() if preserve_rng_state else contextlib.nullcontext
    part = _Part(function, args, kwargs, second, again, determinism_check == "default", debug)
    with first:
        out = function(*args, **kwargs)
    part.forget(out)
    return out


def checkpoint_sequential(
    functions: Sequential | Iterable[Callable[[Any], Any]],
    segments: int,
    input: Any,
    use_reentrant: bool | None = None,
    *,
    preserve_rng_state: bool = True,
) -> Any:
    """Functions one after the other, in so many segments of equal length, of which all but the last are checkpoints.

    What remains of an uneven division belongs to the last. Kept are the inputs of the segments and the last one's
    activations; sqrt(n) segments of n functions keep least.

    Raises:
        ValueError: segments is not in 1..len(functions).
    """
    if use_reentrant is None:
        warn(f"checkpoint_sequential: {EXPLICIT}")
        use_reentrant = True
    functions = list(functions)
    if not 1 <= segments <= len(functions):
        raise ValueError(f"checkpoint_sequential: segments must lie in 1 to {len(functions)}, not {segments}")
    length = len(functions) // segments
    last = length * (segments - 1)
    for start in range(0, last, length):
        segment = _chain(functions[start : start + length])
        input = checkpoint(segment, input, use_reentrant=use_reentrant, preserve_rng_state=preserve_rng_state)
    return _chain(functions[last:])(input)


def _chain(functions: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        for function in functions:
            x = function(x)
        return x

    return run


class _Part:
    """A call that was made once, and how to make it again. It knows nodes by their place, so that no cycle arises."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: AbstractContextManager[Any],
        same_numbers: Callable[[], AbstractContextManager[Any]],
        compares_all: bool,
        debug: bool,
    ):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.context, self.same_numbers = context, same_numbers
        self.compares_all, self.debug = compares_all, debug
        self.region = autocast.again()
        for tensor in _tensors_in((args, kwargs)):
            _ = tensor.node  # a view may get a new node when it is asked, which is then older than the part
        self.start = next(graph.clock)
        self.trace: list[tuple[Any, ...]] = []  # what each node was
        self.again: dict[int, graph.Node] = {}  # the second pass's nodes that are still to be used, by place

    def forget(self, out: Any) -> None:
        """Put something that runs the part again in the place of the pullbacks that led to a result."""
        nodes = _made_since(self.start, out)
        self.trace = [_describe(node) for node in nodes]
        for place, node in enumerate(nodes):
            if _keeps_arrays(node):
                node.pull = _Again(self, place)

    def take(self, place: int) -> graph.Node:
        """The node that did the same in the second pass; each is handed out once, so that its memory is freed."""
        if place not in self.again:
            self.run()
        return self.again.pop(place)

    def run(self) -> None:
        """The second pass."""
        for tensor in _tensors_in((self.args, self.kwargs)):
            if graph.written_since(tensor.array, self.start):
                raise RuntimeError(
                    "one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"checkpoint must run again from an argument of shape {tuple(tensor.shape)} that was written to. "
                    "Write into a clone(), or call backward first."
                )
        with enable_grad(), self.same_numbers(), self.region(), self.context:
            start = next(graph.clock)
            nodes = _made_since(start, self.function(*self.args, **self.kwargs))
        self.compare([_describe(node) for node in nodes])
        self.again = {place: node for place, node in enumerate(nodes) if _keeps_arrays(node)}

    def compare(self, trace: list[tuple[Any, ...]]) -> None:
        """Raise if the second pass did something else than the first."""
        if len(trace) != len(self.trace):
            problem = f"a different number of ops was recorded: {len(self.trace)}, then {len(trace)}"
        elif self.compares_all and trace != self.trace:
            place = next(i for i, (a, b) in enumerate(zip(self.trace, trace, strict=True)) if a != b)
            problem = f"op {place} was {_text(self.trace[place])}, then {_text(trace[place])}"
        else:
            return
        if self.debug:
            problem += f" (first {', '.join(map(_text, self.trace))}; then {', '.join(map(_text, trace))})"
        raise CheckpointError(
            f"checkpoint: the second pass differs from the first: {problem}. The function must do the same both times; "
            "look for what changed between forward and backward: train() and eval(), globals, random streams of its own"
        )


class _Again:
    """The pullbacks of a node whose captured arrays were forgotten."""

    __slots__ = ("part", "place")

    def __init__(self, part: _Part, place: int):
        self.part, self.place = part, place

    def __call__(self, g: Any, needs: tuple[bool, ...]) -> Iterable[Any]:
        return graph.pull_back(self.part.take(self.place), g, needs)


def _keeps_arrays(node: graph.Node) -> bool:
    return node.pull is not None and node.op is not None and not node.op.bare


def _made_since(date: int, out: Any) -> list[graph.Node]:
    """The nodes younger than a date that a result depends on, oldest first."""
    stack = [tensor.node for tensor in _tensors_in(out)]
    seen: set[graph.Node] = set()
    while stack:
        node = stack.pop()
        if node is not None and node.seq > date and node not in seen:
            seen.add(node)
            stack.extend(node.parents)
    return sorted(seen, key=lambda node: node.seq)


def _describe(node: graph.Node) -> tuple[Any, ...]:
    return (node.op.name if node.op else "leaf", node.shape, node.dtype)


def _text(description: tuple[Any, ...]) -> str:
    name, shape, dtype = description
    return f"{name} {list(shape)} {dtype}"


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a nested structure."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors_in(part)
    elif isinstance(value, Mapping):
        yield from _tensors_in(list(value.values()))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _tensors_in([getattr(value, field.name) for field in dataclasses.fields(value)])
