"""Tensors that share memory: a view follows what is written through its base, and its base what is written through it.

A view remembers how it was taken: `source = (the tensor it was taken from, op, static arguments)`. Values are shared
because the memory is. The graph is kept in step from both ends:

* a recorded write into a view gives the tensor at the end of its sources, the base, a new node (`rebase`);
* a view whose base has a new node since is taken anew, when somebody asks for its node (`node_of`).
"""

from __future__ import annotations

from typing import Any

from tinygrad_llm import devices
from tinygrad_llm.autograd.graph import Node
from tinygrad_llm.autograd.ops.shape import set_view


def node_of(view: Any) -> Node | None:
    """The node of a view, made anew if a recorded write has given the tensor it was taken from another one.

    A view that became a leaf of its own stays one.
    """
    parent, op, static = view.source
    above = parent._node if parent.source is None else node_of(parent)
    node = view._node
    if above is None or (node is not None and (node.op is None or node.parents[0] is above)):
        return node
    _, pull = op.function(parent.array, **static)
    view._node = _successor(node, Node(op.printing("AsStridedBackward0"), (above,), pull, view.array))
    return view._node


def base_of(tensor: Any) -> Any:
    """The tensor at the end of a view's sources; the tensor itself if it is no view."""
    while tensor.source is not None:
        tensor = tensor.source[0]
    return tensor


def rebase(tensor: Any, node: Node) -> None:
    """Make a tensor whose memory was written to the result of a node; its base becomes the result of that write."""
    base, path = tensor, []
    while base.source is not None:
        base, op, static = base.source
        path.append((op, static))
    shared = devices.may_share_memory(base.array, tensor.array) or not tensor.array.size
    if not path or not shared:  # not shared: the base was given other memory, `data = ...`
        tensor.source, tensor._node = None, _successor(tensor._node, node)
        return
    _, pull = set_view.function(base.array, tensor.array, path=tuple(reversed(path)))
    base._node = _successor(base._node, Node(set_view, (base._node, node), pull, base.array))
    tensor._node = node_of(tensor)


def _successor(old: Node | None, new: Node) -> Node:
    """The new node of a tensor; a gradient that was to be retained is now the new one's."""
    if old is not None and old.op is not None:
        new.sink, old.sink = old.sink, None
    return new
