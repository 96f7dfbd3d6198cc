"""Memory is freed by reference counting, as soon as nothing needs it: no cycles, no growth, no recursion."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_llm as ours
from tinygrad_llm import nn
from tinygrad_llm.nn import functional as F


@pytest.fixture(autouse=True)
def without_the_cycle_collector() -> Iterator[None]:
    """What dies in these tests dies at once."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Watch:
    """How much of some tensors' memory is alive, be it through a view."""

    def __init__(self) -> None:
        self.references: list[weakref.ref[Any]] = []

    def __call__(self, tensor: Any) -> Any:
        memory = tensor.array
        while isinstance(memory.base, np.ndarray):
            memory = memory.base
        self.references.append(weakref.ref(memory))
        return tensor

    def alive(self) -> int:
        return sum(r() is not None for r in self.references)


def test_arrays_die_as_the_sweep_proceeds() -> None:
    watch, seen = Watch(), []
    x = ours.ones(100, requires_grad=True)
    y = x
    for _ in range(10):
        y = watch(y.exp() * 0.1)
        y.register_hook(lambda g: seen.append(watch.alive()))
        y = watch(y.tanh())
    loss = y.sum()
    del y
    assert watch.alive() == 10  # the results of tanh; its arguments, products with a number, nobody captured
    loss.backward()
    assert seen == list(range(9, -1, -1))  # when a gradient arrives, everything behind it is gone
    assert watch.alive() == 0  # though loss and its graph still live
    assert loss.grad_fn is not None and x.grad is not None


def test_a_result_that_nothing_captured_dies_with_its_tensor() -> None:
    watch = Watch()
    x = ours.ones(100, requires_grad=True)
    y = watch(x + 1)
    z = y * 2
    del y
    assert watch.alive() == 0
    z.sum().backward()
    assert x.grad.tolist() == [2.0] * 100


def test_a_graph_that_is_dropped_frees_its_arrays() -> None:
    watch = Watch()
    x = ours.ones(100, requires_grad=True)
    y = watch(watch(x.exp()).sin()).sum()
    assert watch.alive() > 0
    del y
    assert watch.alive() == 0


@pytest.mark.parametrize("mode", [ours.no_grad, ours.inference_mode])
def test_no_grad_keeps_nothing(mode: Any) -> None:
    watch = Watch()
    layer = nn.Linear(10, 10)
    with mode():
        y = ours.ones(4, 10)
        for _ in range(5):
            y = watch(F.gelu(watch(layer(y))))
    assert watch.alive() == 1 and y.grad_fn is None


def test_a_frozen_weight_keeps_no_activation() -> None:
    watch = Watch()
    first, frozen = nn.Linear(8, 8), nn.Linear(8, 8).requires_grad_(False)
    y = frozen(watch(first(ours.ones(4, 8))))
    assert watch.alive() == 0
    y.sum().backward()
    assert first.weight.grad is not None and frozen.weight.grad is None


def test_a_trained_weight_keeps_its_activation() -> None:
    watch = Watch()
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    y = second(watch(first(ours.ones(4, 8))))
    assert watch.alive() == 1
    y.sum().backward()
    assert watch.alive() == 0


def test_constants_need_no_pullback_of_the_other_side() -> None:
    """x * w with x constant needs x for dw; w, for dx, it does not."""
    watch = Watch()
    x = ours.ones(100)
    w = ours.ones(100, requires_grad=True)
    y = x * watch(w * 1)
    assert watch.alive() == 0
    y.sum().backward()


def test_gradients_that_nobody_wants_are_not_kept() -> None:
    x, w = ours.ones(100, requires_grad=True), ours.ones(100, requires_grad=True)
    y = (x * w).sum()
    (dw,) = ours.autograd.grad(y, w)
    assert x.grad is None and w.grad is None and dw is not None


def train(steps: int) -> Iterator[None]:
    """A small network, trained as anyone would."""
    ours.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 128), nn.GELU(), nn.LayerNorm(128), nn.Dropout(0.1), nn.Linear(128, 10))
    optimizer = ours.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        x, targets = ours.randn(512, 16), ours.randint(0, 10, (512,))
        loss = F.cross_entropy(model(x), targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield


def test_the_peak_does_not_grow_from_step_to_step() -> None:
    peaks = []
    threads = ours.get_num_threads()
    ours.set_num_threads(1)  # the scratch memory of two threads may or may not coincide
    tracemalloc.start()
    try:
        for _ in train(20):
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
        ours.set_num_threads(threads)
    early, late = max(peaks[3:8]), max(peaks[-5:])  # the first steps make the optimizer's state
    assert late <= 1.02 * early  # Python keeps a few small objects for reuse; an activation would be a tenth


def test_training_leaves_nothing_to_the_cycle_collector() -> None:
    steps = train(6)
    next(steps)
    gc.collect()
    for _ in range(4):
        next(steps)
    arrays = [o for o in gc.get_objects() if isinstance(o, ours.Tensor)]
    before = len(arrays)
    del arrays
    found = gc.collect()
    assert found == 0 and before == len([o for o in gc.get_objects() if isinstance(o, ours.Tensor)])


DEEP = 50_000


def test_a_deep_chain_goes_forward_backward_and_away() -> None:
    assert sys.getrecursionlimit() < DEEP
    x = ours.ones(2, requires_grad=True)
    y = x
    for _ in range(DEEP):
        y = y + 1e-5
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]
    del y


def test_a_deep_chain_is_destroyed_without_a_sweep() -> None:
    watch = Watch()
    x = ours.ones(2, requires_grad=True)
    y = watch(x.exp())
    for _ in range(DEEP):
        y = y * 1.0
    assert y.requires_grad
    del y
    assert watch.alive() == 0


def test_a_deep_chain_for_grad() -> None:
    x = ours.ones(1, requires_grad=True)
    y = x
    for _ in range(DEEP):
        y = -y
    assert ours.autograd.grad(y, x)[0].tolist() == [1.0]


def test_a_wide_graph() -> None:
    x = ours.ones(2, requires_grad=True)
    ours.stack([x * i for i in range(5000)]).sum().backward()
    assert x.grad.tolist() == [5000 * 4999 / 2] * 2


def test_many_ways_to_one_node_are_not_many_sweeps() -> None:
    """2^60 paths, 60 nodes."""
    x = ours.ones(1, dtype=ours.float64, requires_grad=True)
    y = x
    for _ in range(60):
        y = y + y
    y.backward()
    assert x.grad.item() == 2.0**60


def test_the_gradient_of_an_embedding_is_not_dense_twice() -> None:
    """Two uses of a large table add into one buffer."""
    table = ours.zeros(20_000, 16, requires_grad=True)
    ids = ours.tensor([1, 2, 3])
    loss = (F.embedding(ids, table) * 2 + F.embedding(ids + 1, table)).sum()
    tracemalloc.start()
    loss.backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * table.nbytes
