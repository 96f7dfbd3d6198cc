"""Who holds a device's memory: looked up when somebody asks, or when it is full; until then it costs nothing."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tinygrad_llm import devices
from tinygrad_llm.autograd.graph import Node, captured, owner_of
from tinygrad_llm.autograd.tensor import Tensor

KEPT = "kept for backward"
MOST_OPS = 4  # named with what they hold
ORDER = ("weights", "gradients", "moments", "keys and values", "tensors")  # whose a memory is that several hold


def held(device: devices.device) -> tuple[Counter[str], Counter[str]]:
    """Bytes on a device by kind (see ORDER), and what backward keeps besides, by op and shape of its result.

    Memory that several hold counts once. What only local variables hold, such as an array that is just being computed,
    is not found. An object may tell of more arrays by a method `held_arrays()`, pairs of a kind and an array.
    """
    found: list[tuple[str, Any]] = []
    nodes = []
    for thing in gc.get_objects():
        kind = type(thing)  # to ask the thing itself may run code of whoever made it
        if issubclass(kind, Tensor):
            found += _of_tensor(thing)
        elif kind is Node:
            nodes.append(thing)
        elif str(kind.__module__).startswith("tinygrad_llm.") and hasattr(kind, "held_arrays"):
            found += thing.held_arrays()
    seen: set[int] = set()
    kinds: Counter[str] = Counter()
    activations: Counter[str] = Counter()
    for name, array in sorted(found, key=lambda pair: ORDER.index(pair[0])):
        kinds[name] += _new_bytes(array, device, seen)
    for node in nodes:
        if node.op is not None:
            name = f"{node.op.name} {tuple(node.shape)}"
            activations[name] += sum(_new_bytes(array, device, seen) for array in captured(node.pull))
    return +kinds, +activations


def _of_tensor(tensor: Tensor) -> Iterator[tuple[str, Any]]:
    array, gradient = getattr(tensor, "array", None), getattr(tensor, "_grad", None)  # one may be half made
    if array is not None:
        yield tensor.holds, array
    if gradient is not None:
        yield "gradients", gradient.array


def _new_bytes(array: Any, device: devices.device, seen: set[int]) -> int:
    """The bytes of the memory that an array lies in, if it is on the device and was not counted yet."""
    place = devices.of(array)
    if (place.type, place.index) != (device.type, device.index if device.index is not None else place.index):
        return 0
    owner, address = owner_of(array)
    if address in seen:
        return 0
    seen.add(address)
    return owner.nbytes


def describe(device: devices.device) -> str:
    """A sentence of who holds a device's memory, the largest first."""
    kinds, activations = held(device)
    kinds[KEPT] = activations.total()
    most = ", ".join(f"{name} {_size(count)}" for name, count in activations.most_common(MOST_OPS))
    parts = [
        f"{kind} {_size(count)}" + (f" (most by {most})" if kind == KEPT else "")
        for kind, count in kinds.most_common()
        if count
    ]
    return f"It is held by {', '.join(parts)}. " if parts else ""


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


devices.describe_held = describe  # which knows nothing of tensors
