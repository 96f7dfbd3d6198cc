"""A sum whose terms are computed on threads of their own, forward and backward.

Sharing out op after op costs two threads a meeting at each, some 50 us; in a small model that is as much as is gained.
Terms that share nothing but the leaves, as the losses of the sequences of a batch do, meet once forward and once
backward, and each finds what it computed in its own core's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinygrad_llm.autograd import autocast
from tinygrad_llm.autograd.grad_mode import is_grad_enabled, set_grad_enabled
from tinygrad_llm.autograd.graph import Node, sweep, sweeping
from tinygrad_llm.autograd.registry import Op
from tinygrad_llm.autograd.tensor import Tensor, wrap
from tinygrad_llm.kernels.threads import for_each


def sum_side_by_side(terms: Sequence[Callable[[], Tensor]], leaves: Sequence[Tensor]) -> Tensor:
    """terms[0]() + terms[1]() + ..., of one shape; only the leaves receive gradients.

    A term must not draw random numbers, write into what another reads, or rely on hooks of the leaves. Its graph stays
    its own: in backward each term's is swept on a thread, and the leaves' gradients are added up in the terms' order,
    so that the result has the same bits whatever the number of threads.
    """
    recording, region = is_grad_enabled(), autocast.again()
    results: list[Any] = [None] * len(terms)

    def compute(i: int) -> None:
        with set_grad_enabled(recording), region():
            results[i] = terms[i]()

    for_each(compute, range(len(terms)), each=1)
    y = results[0].array
    for result in results[1:]:
        y = y + result.array
    total = wrap(y)
    if not recording or not leaves:
        return total
    roots = [result.node for result in results]
    parents = tuple(leaf.node for leaf in leaves)

    def pull(g: Any, needs: tuple[bool, ...]) -> list[Any]:
        wanted = {node for node, needed in zip(parents, needs, strict=True) if node is not None and needed}
        found: list[dict[Node, Any]] = [{}] * len(roots)
        retains = sweeping.retains

        def sweep_back(i: int) -> None:
            found[i] = sweep([(roots[i], g)], retain_graph=retains, wanted=wanted)

        for_each(sweep_back, range(len(roots)), each=1)
        return [_added([part.pop(node) for part in found if node in part], node) if node in wanted else None
                for node in parents]  # fmt: skip

    total._node = Node(SUM, parents, pull, y)
    return total


SUM = Op("sum_side_by_side", sum_side_by_side, broadcasts=False, moves=False, prints="AddBackward0")


def _added(gradients: list[Any], leaf: Any) -> Any:
    """The sum of a leaf's gradients, in the memory of the first."""
    if not gradients:  # no term depends on it
        return np.zeros(leaf.shape, leaf.dtype)
    total = gradients[0]
    for gradient in gradients[1:]:
        total += gradient
    return total
