"""backward and grad: the sweep, asked for with tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd.graph import Node, sweep
from tinygrad_llm.autograd.size import Size
from tinygrad_llm.autograd.tensor import Tensor, wrap


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Add the gradients of the tensors' sum, weighted by grad_tensors, to the `grad` of every leaf or of the inputs.

    Raises:
        RuntimeError: a tensor requires no gradient, a gradient's shape does not fit, or the graph was freed already.
    """
    tensors = _sequence(tensors)
    roots = devices.run(_roots, [t.array for t in tensors], tensors, grad_tensors, create_graph)
    if inputs is None:
        sweep(roots, retain_graph=bool(retain_graph))
        return
    inputs = _sequence(inputs)
    if not inputs:
        raise RuntimeError("backward: inputs is empty; leave it out to reach every leaf")
    found = sweep(roots, retain_graph=bool(retain_graph), wanted=_nodes(inputs))
    for tensor in inputs:
        if tensor.node in found:
            tensor._sink()(found[tensor.node], False)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the outputs' sum with respect to each input, returned instead of added to `grad`.

    allow_unused: None for an input that the outputs do not depend on, instead of an error; materialize_grads: zeros for
    it.

    Raises:
        RuntimeError: as backward, or an input is unused and that was not allowed. ValueError: materialize_grads with
            allow_unused=False.
    """
    if materialize_grads and allow_unused is False:
        raise ValueError("grad: materialize_grads=True needs allow_unused to be True or left out")
    inputs, outputs = _sequence(inputs), _sequence(outputs)
    roots = devices.run(_roots, [t.array for t in outputs], outputs, grad_outputs, create_graph)
    found = sweep(roots, retain_graph=bool(retain_graph), wanted=_nodes(inputs))
    result: list[Tensor | None] = []
    for tensor in inputs:
        if tensor.node in found:
            result.append(wrap(found[tensor.node]))
        elif materialize_grads:
            result.append(wrap(np.zeros_like(tensor.array)))
        elif allow_unused:
            result.append(None)
        else:
            raise RuntimeError(
                "One of the differentiated Tensors appears to not have been used in the graph. "
                "Set allow_unused=True if this is the desired behavior."
            )
    return tuple(result)


def _sequence(tensors: Any) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _nodes(inputs: list[Tensor]) -> set[Node]:
    for tensor in inputs:
        if tensor.node is None:
            raise RuntimeError("One of the differentiated Tensors does not require grad")
    return {tensor.node for tensor in inputs}  # type: ignore[misc]


def _roots(tensors: list[Tensor], gradients: Any, create_graph: bool) -> list[tuple[Node, Any]]:
    """Each tensor's node with its gradient, after the checks at the border."""
    if create_graph:
        raise NotImplementedError(
            "create_graph=True: gradients here are arrays, not recorded tensors, so they cannot be differentiated "
            "again; leave it out, or take finite differences of first gradients"
        )
    given = [gradients] * len(tensors) if gradients is None else _sequence(gradients)
    if len(given) != len(tensors):
        raise RuntimeError(f"got {len(tensors)} tensors and {len(given)} gradients")
    roots = []
    for i, (tensor, gradient) in enumerate(zip(tensors, given, strict=True)):
        if tensor.node is None:
            raise RuntimeError(f"element {i} of tensors does not require grad and does not have a grad_fn")
        if gradient is None:
            if tensor.array.size != 1:
                raise RuntimeError("grad can be implicitly created only for scalar outputs")
            g = np.ones_like(tensor.array)
        else:
            if gradient.shape != tensor.shape:
                raise RuntimeError(
                    f"Mismatch in shape: grad_output[{i}] has a shape of {Size(gradient.shape)} and output[{i}] has a "
                    f"shape of {tensor.shape}."
                )
            g = gradient.array.astype(tensor.array.dtype, copy=False)
        roots.append((tensor.node, g))
    return roots
