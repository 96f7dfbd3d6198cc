"""The graph of what was computed, and the sweep back through it.

The graph is made of nodes, never of tensors: an output lives as long as somebody uses it, not as long as the graph.
A node holds its op's pullbacks, and through them the arrays they captured, until the sweep has passed.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import registry
from tinygrad_llm.autograd.registry import Later, Op, Partial
from tinygrad_llm.kernels import sums
from tinygrad_llm.kernels.memory import is_a_view

clock = itertools.count(1)  # a parent is always older than its child; writes in place are dated by the same clock

FREED = (
    "Trying to backward through the graph a second time (or directly access saved tensors after they have already "
    "been freed). Saved intermediate values of the graph are freed when you call .backward() or autograd.grad(). "
    "Specify retain_graph=True if you need to backward through the graph a second time or if you need to access saved "
    "tensors after calling backward."
)


class Node:
    """One result: its op, the nodes of the op's arguments (None where no gradient flows) and the pullbacks.

    A leaf has no op. `sink(gradient, owned)` takes what a leaf, or a result whose gradient is retained, has received;
    `owned` says whether it may keep the array or must copy it. Of a gradient that is computed later it says whether it
    took it: where it has one already, to which the other is added.
    """

    __slots__ = ("__weakref__", "dtype", "hooks", "op", "parents", "pull", "seq", "shape", "sink")

    def __init__(self, op: Op | None, parents: tuple[Node | None, ...], pull: Any, array: Any):
        self.op, self.parents, self.pull = op, parents, pull
        self.shape, self.dtype = array.shape, array.dtype
        self.seq = next(clock)
        self.hooks: dict[int, Callable[[Any], Any]] | None = None
        self.sink: Callable[[Any, bool], Any] | None = None

    def name(self) -> str:
        """The name PyTorch would print: AddBackward0, AccumulateGrad for a leaf."""
        if self.op is None:
            return "AccumulateGrad"
        return self.op.prints or "".join(word.capitalize() for word in self.op.name.split("_")) + "Backward0"

    @property
    def next_functions(self) -> tuple[tuple[Node | None, int], ...]:
        """The parents, in the order of the op's arguments, as PyTorch lists them."""
        return tuple((parent, 0) for parent in self.parents)

    def __repr__(self) -> str:
        return f"<{self.name()}>"


def newest_first(root: Node) -> list[Node]:
    """Every node that root depends on, each before its parents: no recursion, so depth has no limit."""
    seen, stack = {root}, [root]
    while stack:
        new = [p for p in stack.pop().parents if p is not None and p not in seen]
        seen.update(new)
        stack.extend(new)
    return sorted(seen, key=lambda n: n.seq, reverse=True)


class _Sweeping(threading.local):
    """What the sweep at work in this thread was asked for: pullbacks that sweep a graph of their own do the same."""

    retains = False  # the graph, for another sweep

    @contextmanager
    def asked(self, retain_graph: bool) -> Iterator[None]:
        outer, self.retains = self.retains, retain_graph
        try:
            yield
        finally:
            self.retains = outer


sweeping = _Sweeping()


def sweep(
    roots: Iterable[tuple[Node, Any]], *, retain_graph: bool = False, wanted: set[Node] | None = None
) -> dict[Node, Any]:
    """Carry gradients from the roots, newest node first, to the leaves' sinks, or only to the nodes that are wanted.

    roots: pairs of a node and its gradient. Returns the wanted nodes' gradients.

    Source: Linnainmaa, Taylor expansion of the accumulated rounding error (1976); Griewank and Walther, Evaluating
    Derivatives (2008), chapter 3.
    """
    sums: dict[Node, tuple[Any, bool]] = {}  # node -> (gradient so far, is that buffer ours to write into?)
    order: set[Node] = set()
    for root, gradient in roots:
        sums[root] = accumulate(sums.get(root), gradient, gradient)
        order.update(newest_first(root))
    nodes = sorted(order, key=lambda n: n.seq, reverse=True)
    useful = order if wanted is None else _leading_to(wanted, nodes)
    found: dict[Node, Any] = {}
    with sweeping.asked(retain_graph):
        for node in nodes:
            if node not in sums or node not in useful:
                continue
            g, owned = sums.pop(node)
            if node.hooks:
                g, owned = _through_hooks(node, g), False
            if wanted is not None and node in wanted:
                found[node] = g if owned else g.copy()
            if node.sink is not None and wanted is None:
                devices.run(node.sink, [g], g, owned)
            if node.op is None:
                continue
            needs = tuple(parent is not None and parent in useful for parent in node.parents)
            if any(needs):
                run = partial(devices.run, pull_back, [g]) if devices.in_use else pull_back
                watch = registry.watch
                if watch is None:
                    gradients = run(node, g, needs)
                else:
                    gradients = watch(node.op.name, "backward", partial(run, node, g, needs))
                for parent, needed, d in zip(node.parents, needs, gradients, strict=True):
                    if not needed:
                        continue
                    if isinstance(d, Later) and wanted is None and _added_at_once(d, parent, sums):  # type: ignore[arg-type]
                        continue
                    fitting = sums.get(parent), d, parent, node, g  # type: ignore[arg-type]
                    sums[parent] = devices.run(_added, [d, g], *fitting) if devices.in_use else _added(*fitting)  # type: ignore[index, arg-type]
            if not retain_graph and not node.op.bare:
                node.pull = None  # frees what the pullbacks captured as the sweep goes
    return found


def _added_at_once(d: Later, leaf: Node, sums: dict[Node, Any]) -> bool:
    """Let a leaf that has a gradient from a sweep before add another, which is then never an array of its own."""
    if leaf.op is not None or leaf.hooks or leaf.sink is None or leaf in sums or d.dtype != leaf.dtype:
        return False
    return bool(leaf.sink(d, False))


def _leading_to(wanted: set[Node], nodes: list[Node]) -> set[Node]:
    """The nodes from which a wanted one can be reached."""
    useful = set(wanted)
    for node in reversed(nodes):
        if not useful.isdisjoint(node.parents):  # None is never among them
            useful.add(node)
    return useful


def pull_back(node: Node, g: Any, needs: tuple[bool, ...]) -> Iterable[Any]:
    """The gradients of a node's arguments; None where not needed."""
    pull, op = node.pull, node.op
    if pull is None:
        raise RuntimeError(FREED)
    if last_write > node.seq:
        _check_untouched(node)
    if g.dtype.itemsize == 2 and not (op.moves or op.half):  # type: ignore[union-attr]
        g = g.astype(np.float32)  # 16-bit floats are storage to other ops: `_fit` rounds what comes back
    try:
        if callable(pull):
            return pull(g, needs)
        return [d(g) if needed and d is not None else None for d, needed in zip(pull, needs, strict=True)]
    except Exception as error:
        error.add_note(f"while computing the gradient of {op.name} for a result of shape {node.shape}")  # type: ignore[union-attr]
        raise


def _fit(d: Any, parent: Node, node: Node) -> Any:
    """An argument's gradient in the argument's own shape and dtype."""
    if isinstance(d, Later) and d.dtype != parent.dtype:
        d = d.dense(None)
    if isinstance(d, Partial):
        return d
    if d is None:
        raise RuntimeError(f"{node.op.name}: no pullback for an argument of shape {parent.shape} that needs one")  # type: ignore[union-attr]
    if isinstance(d, (float, np.generic)):
        d = np.asarray(d)
    if d.shape != parent.shape:
        if not node.op.broadcasts:  # type: ignore[union-attr]
            raise RuntimeError(
                f"{node.op.name}: a gradient of shape {d.shape} for an argument of shape {parent.shape}; "  # type: ignore[union-attr]
                "a pullback must return its argument's shape"
            )
        d = sum_to_shape(d, parent.shape)
    return d if d.dtype == parent.dtype else d.astype(parent.dtype)


def sum_to_shape(g: Any, shape: tuple[int, ...]) -> Any:
    """Undo broadcasting: sum g over the axes that broadcasting from `shape` added or stretched."""
    added = g.ndim - len(shape)
    stretched = tuple(i + added for i, n in enumerate(shape) if n == 1 and g.shape[i + added] != 1)
    return sums(g, tuple(range(added)) + stretched).reshape(shape)


def _added(have: tuple[Any, bool] | None, d: Any, parent: Node, node: Node, g: Any) -> tuple[Any, bool]:
    """An argument's gradient so far, with one more part of it."""
    return accumulate(have, _fit(d, parent, node), g)


def accumulate(have: tuple[Any, bool] | None, d: Any, g: Any) -> tuple[Any, bool]:
    """Add d to a gradient so far: the first is taken as it is, the second allocates, the third adds in place.

    The flag says whether the sum may be written into: a fresh array may, but not g itself (which other arguments
    may share), a view of it, or a view of anything.
    """
    if isinstance(d, Partial):
        if have is None:
            return d.dense(g), True
        total = have[0] if have[1] else have[0].copy()
        d.add_into(total)
        return total, True
    if have is None:
        return d, d is not g and not is_a_view(d)
    total, owned = have
    if owned:
        total += d
        return total, True
    return total + d, True


def _through_hooks(node: Node, g: Any) -> Any:
    """The gradient after a node's hooks. A hook may keep what it was given, so the buffer is no longer ours alone."""
    for hook in list(node.hooks.values()):  # type: ignore[union-attr]
        changed = hook(g)
        if changed is not None:
            g = changed
    return g


# --- writes in place ----------------------------------------------------------------------------------------------
# In-place methods write into memory that a recorded op may have captured. Each write is dated by the nodes' clock;
# a pullback older than a write looks, before it runs, whether the memory it captured was written to since.

MOST_WRITES = 65_536  # dates kept; with more buffers than this written to, the oldest are forgotten
writes: dict[int, int] = {}  # address of a buffer -> date of the last write
last_write = 0


def note_write(array: Any) -> None:
    """Date a write in place into an array's memory."""
    global last_write
    last_write = next(clock)
    address = _address(array)
    writes.pop(address, None)  # so that the newest stand last
    writes[address] = last_write
    if len(writes) > MOST_WRITES:
        del writes[next(iter(writes))]


def written_since(array: Any, date: int) -> bool:
    """Whether an array's memory was written to in place after a date."""
    return array.size > 0 and writes.get(_address(array), 0) > date


def owner_of(array: Any) -> tuple[Any, int]:
    """The array that an array is a view of, or itself, and where its memory starts."""
    while isinstance(array.base, type(array)):
        array = array.base
    return array, array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def _address(array: Any) -> int:
    return owner_of(array)[1]


def captured(pull: Any, depth: int = 4) -> Iterable[Any]:
    """The arrays that pullbacks hold on to."""
    if isinstance(pull, FunctionType) and depth:
        for cell in pull.__closure__ or ():
            try:
                held = cell.cell_contents
            except ValueError:  # a name that was not assigned on the way the op took
                continue
            yield from captured(held, depth - 1)
    elif isinstance(pull, (tuple, list)) and depth:
        for part in pull:
            yield from captured(part, depth - 1)
    elif hasattr(pull, "dtype") and hasattr(pull, "base") and not isinstance(pull, np.generic):
        yield pull


def captures(node: Node | None, array: Any, since: int) -> bool:
    """Whether pullbacks of a node, or of those above it that are newer than a date, hold on to memory of an array."""
    stack = [node]
    while stack:
        node = stack.pop()
        if node is None or node.seq < since:
            continue
        if any(devices.may_share_memory(held, array) for held in captured(node.pull)):
            return True
        stack.extend(node.parents)
    return False


def _check_untouched(node: Node) -> None:
    """Raise if memory that a node's pullbacks captured was written to after the node was made."""
    for array in captured(node.pull):
        if written_since(array, node.seq):
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: "
                f"{node.op.name} needs an array of shape {tuple(array.shape)} that was written to after it was used. "  # type: ignore[union-attr]
                "Write into a clone(), or call backward first."
            )
