"""Weights cast for a region of autocast: all in one launch, with the numbers and the lifetimes of casts one by one."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.cuda import emulated, pretend, recorded
from tests.cuda.kinds import back, moved
from tests.cuda.narrow import DTYPES
from tinygrad_llm import kernels, nn
from tinygrad_llm.autograd import autocast
from tinygrad_llm.kernels import CUDA
from tinygrad_llm.kernels.cuda import launch
from tinygrad_llm.models import GPTModel

SIZES = {"vocab_size": 61, "context_length": 8, "emb_dim": 16, "n_heads": 2, "n_layers": 2, "qkv_bias": True}
SIZES |= {"drop_rate": 0.0}
each_way = pytest.mark.parametrize("where", ["emulated", pytest.param("gpu", marks=pytest.mark.cuda)])


@pytest.fixture
def gpu() -> Iterator[None]:
    with emulated.gpu():
        yield


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_many_arrays_are_rounded_as_one(data):
    """As NumPy rounds each: of any sizes and layouts, at addresses that are multiples of 16 or not."""
    dtype = data.draw(st.sampled_from(list(DTYPES.values())))
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 7, 8, 300, 32_768, 32_775, 70_000]), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    xs = [(rng.standard_normal(n) * 10.0 ** rng.integers(-9, 9, n)).astype(np.float32) for n in sizes]
    start, step = data.draw(st.sampled_from([0, 1, 4])), data.draw(st.sampled_from([1, 1, 2]))
    with emulated.gpu(), np.errstate(over="ignore"), launch.counted() as launches:
        there = [moved(x)[start::step] for x in xs]
        found = CUDA.cast([*there, moved(np.ones(3))], dtype)
    views = [x[start::step] for x in xs]
    for y, x in zip(found, [*views, np.ones(3)], strict=True):
        assert y.dtype == dtype
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(back(y).view(np.int16), x.astype(dtype).view(np.int16))
    assert launches["cast"] == any(x.size and x.flags.c_contiguous for x in views)


@each_way
def test_many_arrays_are_rounded_as_one_where_there_is_a_gpu(where):
    xs = [np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in (1, 4097, 100_003)]
    with emulated.gpu() if where == "emulated" else tg.enable_grad():
        for dtype in DTYPES.values():
            for y, x in zip(CUDA.cast(moved(xs), dtype), xs, strict=True):
                np.testing.assert_array_equal(back(y).view(np.int16), x.astype(dtype).view(np.int16))


def step(model: GPTModel, dtype: Any = tg.bfloat16) -> tuple[float, list[Any], int]:
    """A loss under autocast and its gradients, and the number of launches that cast weights."""
    ids = tg.arange(12, device="cuda").reshape(2, 6)
    model.zero_grad()
    with launch.counted() as launches:
        with tg.autocast("cuda", dtype):
            loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
    return loss.item(), [p.grad.tolist() for p in model.parameters()], launches["cast"]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_from_the_second_region_on_there_is_one_launch(gpu, checkpoint):
    """And one for each part that is computed again; the numbers are those of casts one by one."""
    tg.manual_seed(0)
    model = GPTModel(SIZES, checkpoint=checkpoint).cuda()
    loss, gradients, first = step(model)
    weights = 8 * SIZES["n_layers"] + 1  # of each block four layers with their biases; the head
    assert first == weights + checkpoint * 8 * SIZES["n_layers"]
    for _ in range(2):
        assert step(model) == (loss, gradients, 1 + checkpoint * SIZES["n_layers"])
    with tg.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    changed = step(model)
    autocast.state.together[0].clear(), autocast.state.together[1].clear()
    assert changed[:2] == step(model)[:2] and changed[0] != loss
    assert not autocast.state.kept and not autocast.state.ahead and not autocast.state.asked


def test_what_is_written_to_inside_a_region_is_cast_again(gpu):
    first, second = nn.Linear(3, 3, bias=False).cuda(), nn.Linear(3, 3, bias=False).cuda()
    x = tg.ones(1, 3, device="cuda")

    def through() -> list[float]:
        return [layer(x).float().tolist()[0][0] for layer in (first, second)]

    for layer in (first, second):
        layer.weight.data.fill_(1.0)
    for _ in range(2):
        with tg.autocast("cuda"), launch.counted() as launches:
            assert through() == [3.0, 3.0] == through()
    assert launches["cast"] == 1
    with tg.autocast("cuda"), launch.counted() as launches:
        assert first(x).float().tolist()[0][0] == 3.0
        with tg.no_grad():
            second.weight.fill_(2.0)  # was cast already, and not yet asked for
        assert through() == [3.0, 6.0]
        second.weight.data = tg.zeros(3, 3, device="cuda")
        assert through() == [3.0, 0.0]
        assert launches["cast"] == 3
    first.weight.requires_grad = False
    with tg.autocast("cuda"), launch.counted() as launches:
        assert through() == [3.0, 0.0] and launches["cast"] == 1  # of the second; a frozen one is no leaf


def test_a_region_that_asks_for_fewer_is_followed_by_those_alone(gpu):
    layers, x = [nn.Linear(3, 3, bias=False).cuda() for _ in range(3)], tg.ones(1, 3, device="cuda")
    asked: list[int] = []

    def cast_of(*which: int) -> int:
        asked.clear()
        with tg.autocast("cuda"):
            with launch.counted() as launches:
                for i in which:
                    layers[i](x)
            asked.append(len(autocast.state.ahead))
        return launches["cast"]

    assert cast_of(0, 1, 2) == 3 and cast_of(0, 1, 2) == 1 and asked == [0]
    assert cast_of(0, 1) == 1 and asked == [1]
    assert cast_of(0, 1) == 1 and asked == [0]
    assert cast_of(1, 0) == 2  # begins with another
    kept = weakref.ref(layers.pop(1))
    gc.collect()
    assert kept() is None and cast_of(0) == 1 and asked == [0]


def test_a_graph_holds_what_it_casts_beside_its_own(gpu):
    mine, other, x = nn.Linear(3, 3).cuda(), nn.Linear(3, 3).cuda(), tg.ones(1, 3, device="cuda")
    for _ in range(2):
        with tg.autocast("cuda"):
            mine(x), other(x)
    graph = tg.cuda.CUDAGraph()
    with launch.counted() as launches, tg.cuda.graph(graph), tg.autocast("cuda"):
        y = mine(x).float()
    assert launches["cast"] == 1
    array = weakref.ref(recorded.owner_of(pretend.inside(other.weight.array)))
    del other
    gc.collect()
    graph.replay()
    with tg.autocast("cuda"):
        assert y.tolist() == mine(x).float().tolist()
    assert array() is not None
    graph.reset()
    gc.collect()
    assert array() is None


@pytest.mark.parametrize("way", ["auto", "reference"])
def test_each_of_two_gpus_casts_its_own(way):
    with emulated.gpu(2), kernels.use(way), tg.no_grad():
        layers = [nn.Linear(3, 3).to(f"cuda:{i}") for i in (0, 1, 0)]
        for _ in range(2):
            with tg.autocast("cuda"), launch.counted() as launches:
                for i, layer in zip((0, 1, 0), layers, strict=True):
                    assert layer(tg.ones(1, 3, device=f"cuda:{i}")).device.index == i
        assert launches["cast"] == (3 if way == "auto" else 0)  # one of the first GPU, two of the second
