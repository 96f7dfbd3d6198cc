"""Numbers on a GPU that point outside: nobody waits to learn of it, nothing outside is touched, and Python is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.cuda import emulated, pretend
from tests.cuda.kinds import back, moved
from tinygrad_llm.kernels import CUDA, REFERENCE, check_index
from tinygrad_llm.nn import functional as F

each_gpu = pytest.mark.parametrize("kind", ["emulated", pytest.param("real", marks=pytest.mark.cuda)])


@contextmanager
def gpu(kind: str) -> Iterator[None]:
    """A real GPU, or a pretended one with the real kernels."""
    if kind == "real":
        yield
    else:
        with emulated.gpu():
            yield


def wrong(name: str) -> None:
    """Give an op an index that is not there."""
    x, targets = tg.ones(3, 4, device="cuda", requires_grad=True), tg.tensor([0, 1, 4], device="cuda")
    high, low = tg.tensor([0, 3], device="cuda"), tg.tensor([-4, 2], device="cuda")
    y = x.detach().clone()
    {
        "embedding": lambda: F.embedding(high, x).sum().backward(),
        "cross_entropy": lambda: F.cross_entropy(x, targets),
        "linear_cross_entropy": lambda: F.linear_cross_entropy(x, tg.ones(4, 4, device="cuda"), targets),
        "nll_loss": lambda: F.nll_loss(x, targets),
        "index": lambda: x[low].sum().backward(),
        "gather": lambda: x.gather(0, high[:, None]).sum().backward(),
        "index_select": lambda: x.index_select(0, high).sum().backward(),
        "index_add": lambda: y.index_add(0, high, x[:2]),
        "scatter_add": lambda: y.scatter_add(0, high[:, None], x[:2]),
    }[name]()


NAMES = [
    "cross_entropy", "embedding", "gather", "index", "index_add", "index_select", "linear_cross_entropy", "nll_loss",
    "scatter_add",
]  # fmt: skip


@each_gpu
@pytest.mark.parametrize("name", NAMES)
def test_an_index_that_is_not_there_is_told_of_at_the_next_wait(kind, name):
    bound = {"cross_entropy": 4, "linear_cross_entropy": 4, "nll_loss": 4}.get(name, 3)
    number = {"index": -4}.get(name, bound)
    message = rf"{name}: index {number} is out of range for {bound} places"
    with gpu(kind):
        one = tg.ones(1, device="cuda")
        for ask in (one.item, one.cpu, one.tolist, tg.cuda.synchronize, tg.cuda.current_stream().synchronize):
            pretend.waits.clear()
            wrong(name)
            assert pretend.waits == []
            with pytest.raises(IndexError, match=message):
                ask()
            assert tg.ones(1, device="cuda").item() == 1.0  # it is told once


@each_gpu
def test_what_is_in_range_is_not_spoken_of(kind):
    with gpu(kind):
        x, ids = tg.ones(3, 4, device="cuda"), tg.tensor([0, 2, -3], device="cuda")
        x[ids], x.gather(0, ids[:2, None]), F.embedding(ids[:2], x), x[ids[:0]]
        F.cross_entropy(x, tg.tensor([-100, 3, 0], device="cuda"))
        F.cross_entropy(x, tg.tensor([9, 3, 0], device="cuda"), ignore_index=9)
        assert tg.ones(1, device="cuda").item() == 1.0


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-12, 12), max_size=300), st.integers(-10, 0),
    st.integers(1, 10), st.none() | st.integers(-12, 12),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_what_is_found_is_wrong_and_what_is_wrong_is_found(ids, low, high, allowed):
    numbers = np.array(ids, np.int64)
    bad = {i for i in ids if not low <= i < high and i != allowed}
    for array, raised in ((numbers, check_index), (None, None)):
        with emulated.gpu():
            where = moved(numbers) if array is None else array
            try:
                check_index(where, low, high, "f", allowed)
                if raised is None:
                    tg.cuda.synchronize()
            except IndexError as error:
                assert bad and int(str(error).split("index ")[1].split(" ")[0]) in bad
            else:
                assert not bad


@each_gpu
def test_sums_by_index_touch_nothing_outside(kind):
    rng = np.random.default_rng(0)
    ids = rng.integers(-9, 9, 300)
    with gpu(kind):
        room = moved(np.zeros((5, 4), np.float32))
        values = rng.standard_normal((300, 4)).astype(np.float32)
        CUDA.add_at(room[1:4], moved(ids), moved(values))
        found = back(room)
    expected = np.zeros((3, 4))
    REFERENCE.add_at(expected, np.clip(np.where(ids < 0, ids + 3, ids), 0, 2), values.astype(np.float64))
    np.testing.assert_allclose(found[1:4], expected, rtol=1e-4, atol=1e-4)
    assert not found[[0, 4]].any()


@each_gpu
def test_a_graph_tells_of_it_in_each_replay(kind):
    with gpu(kind):
        table, ids, graph = tg.ones(5, 4, device="cuda"), tg.tensor([0, 4], device="cuda"), tg.cuda.CUDAGraph()
        F.embedding(ids, table)
        with tg.cuda.graph(graph):
            F.embedding(ids, table)
        for last, fine in ((3, True), (5, False), (4, True), (-1, False)):
            ids.copy_(tg.tensor([0, last]))
            graph.replay()
            with nullcontext() if fine else pytest.raises(IndexError, match=f"embedding: index {last} is out"):
                tg.cuda.synchronize()
