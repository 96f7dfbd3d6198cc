"""Work recorded as a CUDA graph and repeated: the numbers of an ordinary step, to the last bit, step after step."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.cuda import emulated, recorded
from tests.cuda.kinds import back, moved
from tinygrad_llm.kernels.cuda import capture, launch, products
from tinygrad_llm.kernels.cuda.sort import in_order_of
from tinygrad_llm.models import GPTModel
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn.utils import clip_grad_norm_
from tinygrad_llm.optim.lr_scheduler import LambdaLR

CONFIG = {"vocab_size": 23, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "qkv_bias": True}


@pytest.fixture
def gpu() -> Iterator[None]:
    """A pretended GPU with the real kernels, and a library of products that can be captured."""
    with emulated.gpu():
        yield


def train(captured: bool, steps: int = 5, drop_rate: float = 0.2, checkpoint: bool = False, **sizes: int) -> Any:
    """What a few steps of training leave: losses and norms, weights, moments' count, the state of the random stream.

    With dropout, a learning rate that changes and clipping; the first two steps are never captured.
    """
    tg.manual_seed(0)
    model = GPTModel(CONFIG | {"drop_rate": drop_rate} | sizes, checkpoint=checkpoint).cuda()
    optimizer = tg.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    schedule = LambdaLR(optimizer, lambda t: 1 / (1 + t))
    ids, rng = tg.zeros(2, 6, dtype=tg.int64, device="cuda"), np.random.default_rng(0)

    def step() -> tuple[tg.Tensor, tg.Tensor]:
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        norm = clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        return loss, norm

    found, graph = [], tg.cuda.CUDAGraph()
    for i in range(steps):
        ids.copy_(tg.from_numpy(rng.integers(0, CONFIG["vocab_size"], ids.shape)))
        if captured and i == 2:
            with tg.cuda.graph(graph):
                assert tg.cuda.is_current_stream_capturing()
                loss, norm = step()
        if captured and i >= 2:
            graph.replay()
        else:
            loss, norm = step()
        schedule.step()
        found.append((loss.item(), norm.item()))
    weights = [p.detach().cpu().numpy() for p in model.parameters()]
    return found, weights, [state["step"] for state in optimizer.state.values()], tg.get_rng_state().tolist()


def same(a: Any, b: Any) -> bool:
    equal = all(np.array_equal(p, q) for p, q in zip(a[1], b[1], strict=True))
    return equal and a[0] == b[0] and a[2:] == b[2:]


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"drop_rate": 0.0, "n_layers": 2}])
def test_a_training_step_is_repeated_to_the_last_bit(gpu, options):
    before = recorded.launched
    assert same(train(True, **options), train(False, **options))
    assert recorded.launched == before + 3


def test_a_number_that_is_not_drawn_anew_is_seen(gpu, monkeypatch):
    """The check above can fail: were the keys, or the rates and counts, those of the capture, it would see it."""
    ordinary = train(False)
    numbers = capture.Capture.numbers

    for kind in (np.int64, np.float64):  # the keys of masks; the rates and counts of AdamW

        def drawn_once(self: Any, draw: Any, count: int, dtype: Any, kind: Any = kind) -> Any:
            return numbers(self, cache(draw) if dtype == kind else draw, count, dtype)

        monkeypatch.setattr(capture.Capture, "numbers", drawn_once)
        assert not same(train(True), ordinary)


def test_masks_are_new_in_each_replay_and_those_of_the_seed(gpu):
    x, graph = tg.ones(50, device="cuda"), tg.cuda.CUDAGraph()
    tg.manual_seed(1)
    with tg.cuda.graph(graph):
        y = F.dropout(x, 0.5) + 10 * F.dropout(x, 0.5)
    found = []
    for _ in range(3):
        graph.replay()
        found.append(y.tolist())
    tg.manual_seed(1)
    assert found == [(F.dropout(x, 0.5) + 10 * F.dropout(x, 0.5)).tolist() for _ in range(3)]
    assert found[0] != found[1] != found[2]


def test_two_graphs_share_memory(gpu):
    """What is held of the first one's stays; what is not is the second one's to write to."""
    x, first, second = tg.ones(4, device="cuda"), tg.cuda.CUDAGraph(), tg.cuda.CUDAGraph()
    with tg.cuda.graph(first):
        z = (x + 1) * 2
    with tg.cuda.graph(second, pool=first.pool()):
        w = z * 3
    for value in (1.0, 5.0):
        x.fill_(value)
        first.replay()
        second.replay()
        assert z.tolist() == [2 * (value + 1)] * 4 and w.tolist() == [6 * (value + 1)] * 4
    assert tg.cuda.memory_reserved() > 0
    second.reset()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        second.replay()


def test_memory_that_was_freed_is_not_read(gpu):
    """The check can fail: an array that was made before, and is gone, may be somebody else's by now."""
    x, graph = tg.ones(4, device="cuda"), tg.cuda.CUDAGraph()
    with tg.cuda.graph(graph):
        y = x * 2
    del x
    with pytest.raises(AssertionError, match="memory that was freed"):
        graph.replay()
    del y


def test_a_full_gpu_takes_no_memory_that_a_graph_writes_to(gpu, monkeypatch):
    """CuPy's pool gives what no array holds back, and asks again: to it that is what recorded launches write to."""

    def full(pool: recorded.MemoryPool, size: int) -> recorded.Memory:
        pool.free_all_blocks()
        return pool.take(size).mem

    monkeypatch.setattr(recorded.MemoryPool, "_free", full)
    assert same(train(True), train(False))


def test_the_memory_of_a_dropped_graph_goes_back(gpu):
    x, graph = tg.ones(4, device="cuda"), tg.cuda.CUDAGraph()
    with tg.cuda.graph(graph):
        y = x * 2 + 1
    held = [weakref.ref(raw) for raw, _ in graph.pool().pool.blocks]
    assert len(held) > 1 and tg.cuda.memory_reserved() > 0
    graph.reset()
    tg.cuda.empty_cache()
    assert sum(raw() is not None for raw in held) == 1 and y.shape == (4,)
    del y
    tg.cuda.empty_cache()
    assert not any(raw() for raw in held) and tg.cuda.memory_reserved() == 0


def test_a_number_of_numpys_is_no_array_of_another_gpu(gpu):
    x, graph = tg.arange(8.0, device="cuda").reshape(2, 4), tg.cuda.CUDAGraph()
    with tg.cuda.graph(graph):
        y = F.layer_norm(x, (4,), eps=np.float64(1e-5))
    graph.replay()
    np.testing.assert_allclose(y.tolist(), F.layer_norm(x.cpu(), (4,)).tolist(), atol=1e-6)


def test_what_python_must_know_is_refused_and_the_graph_can_be_captured_again(gpu):
    x, graph = tg.ones(4, device="cuda"), tg.cuda.CUDAGraph()
    model = tg.nn.Linear(4, 4).cuda()
    here = tg.ones(4)
    adam, sgd = (kind(model.parameters(), lr=0.1) for kind in (tg.optim.Adam, tg.optim.SGD))

    def step(optimizer: Any) -> None:
        model(x).sum().backward()
        optimizer.step()

    for refused, reason in (
        (lambda: x.sum().item(), "capturing"), (lambda: x[x > 0], "capturing"), (lambda: x.cpu(), "capturing"),
        (lambda: here.cuda(), "capturing"), (lambda: tg.rand(2, device="cuda"), "the same in each replay"),
        (lambda: step(sgd), "SGD.step: .* repeat the learning rate"), (lambda: step(adam), "take one before"),
        (lambda: tg.cuda.graph(tg.cuda.CUDAGraph()).__enter__(), "another graph is being captured"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=reason) as caught, tg.cuda.graph(graph):
            refused()
        assert "nothing of it has run" in caught.value.__notes__[0]
        assert not tg.cuda.is_current_stream_capturing() and capture.at_work() is None and recorded.allocator is None
        x.fill_(2.0)
    with tg.cuda.graph(graph):
        y = x + 1
    graph.replay()
    assert y.tolist() == [3.0] * 4 and tg.rand(2, device="cuda").is_cuda
    with pytest.raises(RuntimeError, match="already owns a captured graph"):
        graph.capture_begin()
    with pytest.raises(RuntimeError, match="non-default stream"):
        tg.cuda.CUDAGraph().capture_begin()
    with pytest.raises(RuntimeError, match="capture_begin was not called"):
        tg.cuda.CUDAGraph().capture_end()


def test_products_of_cupy_cannot_be_captured(monkeypatch):
    with emulated.gpu(), monkeypatch.context() as patch:
        patch.setattr(products, "works", lambda number: False)
        x = tg.ones(3, 3, device="cuda")
        with pytest.raises(RuntimeError, match="cuBLAS"), tg.cuda.graph(tg.cuda.CUDAGraph()):
            x @ x


def test_streams_and_events(gpu):
    side, x = tg.cuda.Stream(), tg.ones(3, device="cuda")
    assert tg.cuda.current_stream() == tg.cuda.default_stream() != side
    side.wait_stream(tg.cuda.current_stream())
    with tg.cuda.stream(side):
        assert tg.cuda.current_stream() == side
        y = x * 2
        done = side.record_event()
    done.wait()
    with tg.cuda.stream(None):
        assert tg.cuda.current_stream() == tg.cuda.default_stream()
    side.synchronize()
    assert y.tolist() == [2.0] * 3 and side.query() and done.query() and len({side, tg.cuda.current_stream()}) == 2


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_sorting(data):
    """As a stable sort; places at the edges of a tile, and more than one."""
    rows = data.draw(st.sampled_from([1, 3, 50, 10**9]))
    n = data.draw(st.sampled_from([1, 2, 255, 256, 257, 4096, 4097, 9000]) | st.integers(1, 600))
    ids = np.random.default_rng(data.draw(st.integers(0, 99))).integers(-rows, rows, n)
    with emulated.gpu():
        ascending, order = map(back, in_order_of(moved(ids), rows))
    positive = np.where(ids < 0, ids + rows, ids)
    np.testing.assert_array_equal(order, np.argsort(positive, kind="stable"))
    np.testing.assert_array_equal(ascending, np.sort(positive))


def test_many_numbers_and_none(gpu, monkeypatch):
    monkeypatch.setattr(capture, "PLACES", 2)
    x, graph = tg.ones(9, device="cuda"), tg.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="at most 2 numbers"), tg.cuda.graph(graph):
        for _ in range(3):
            F.dropout(x, 0.5)
    with tg.cuda.graph(graph), launch.counted() as launches:
        pass
    graph.replay()
    assert not launches


@pytest.mark.cuda
def test_a_training_step_is_repeated_on_a_gpu():
    if not products.can_be_captured():
        pytest.skip("no library of products that can be captured: pip install nvmath-python")
    sizes = {"emb_dim": 64, "n_layers": 2}
    assert same(train(True, 8, **sizes), train(False, 8, **sizes))


@pytest.mark.cuda
def test_sorting_on_a_gpu():
    for n in (1, 257, 4097, 100_000):
        ids = np.random.default_rng(0).integers(0, 50_000, n)
        ascending, order = map(back, in_order_of(moved(ids), 50_000))
        np.testing.assert_array_equal(order, np.argsort(ids, kind="stable"))
        np.testing.assert_array_equal(ascending, np.sort(ids))
