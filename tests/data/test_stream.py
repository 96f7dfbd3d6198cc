import json
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import Permutation, Prefetch, RandomWindows, Row, ShuffledWindows, Windows

IDS = np.arange(60, dtype=np.uint16)


def windows(context=4, stride=1):
    return Windows(Row([IDS[:25], IDS[25:]]), context, stride)


KINDS = {
    "random": lambda w, batch: RandomWindows(w, batch, np.random.default_rng(5)),
    "shuffled": lambda w, batch: ShuffledWindows(w, batch, 5),
}
kinds = st.sampled_from(sorted(KINDS))


def same(batches, others):
    assert len(batches) == len(others)
    for (x, y), (a, b) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(x, a)
        np.testing.assert_array_equal(y, b)


@given(n=st.integers(1, 3000), key=st.lists(st.integers(0, 2**63), min_size=1, max_size=2))
def test_a_permutation_reaches_every_index_once(n, key):
    order = Permutation(n, *key)(np.arange(n))
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, [Permutation(n, *key)(i) for i in range(min(n, 20))] + order[20:].tolist())


@given(n=st.integers(2**40, 2**62 - 1), index=st.lists(st.integers(0, 2**40 - 1), unique=True, min_size=1))
def test_a_range_larger_than_any_memory_is_no_other(n, index):
    places = Permutation(n, 0)(np.array(index))
    assert ((places >= 0) & (places < n)).all() and len(set(places.tolist())) == len(index)


@pytest.mark.parametrize("n", [10, 64, 100, 4097])
def test_every_place_is_as_likely_as_every_other(n):
    keys = 3000
    firsts = np.array([Permutation(n, 1, key)(np.array([0, n // 2, n - 1])) for key in range(keys)])
    bins = min(n, 10)
    for column in firsts.T:
        counts = np.bincount(column * bins // n, minlength=bins)
        expected = np.bincount(np.arange(n) * bins // n, minlength=bins) * keys / n
        assert ((counts - expected) ** 2 / expected).sum() < 40  # chi squared, 9 degrees of freedom: p < 1e-5


def test_pairs_of_index_and_place_are_even():
    n = 64
    landed = np.zeros((n, n))
    for key in range(2000):
        landed[np.arange(n), Permutation(n, key)(np.arange(n))] += 1
    chi2 = ((landed - 2000 / n) ** 2 / (2000 / n)).sum()
    assert abs(chi2 - (n - 1) ** 2) < 6 * (2 * (n - 1) ** 2) ** 0.5  # what fair dice give, within 6 sigma


def test_neighbours_do_not_stay_neighbours():
    order = Permutation(10_000, 3)(np.arange(10_000))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.04
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.04
    assert (np.abs(np.diff(order)) == 1).sum() < 15
    assert (Permutation(10_000, 4)(np.arange(10_000)) != order).mean() > 0.99


@pytest.mark.parametrize("n", [0, -1, 2**62])
def test_a_range_must_fit(n):
    with pytest.raises(ValueError, match=r"must lie in \[1, 2\*\*62\)"):
        Permutation(n, 0)
    for outside in (-1, 5):
        with pytest.raises(IndexError, match=r"outside \[0, 5\)"):
            Permutation(5, 0)(np.array([0, outside]))


@given(
    kind=kinds,
    batch=st.integers(1, 70),
    before=st.integers(0, 9),
    after=st.integers(1, 9),
    stride=st.integers(1, 4),
    ahead=st.integers(0, 3),
)
def test_resumed_from_any_batch_is_as_never_interrupted(kind, batch, before, after, stride, ahead):
    def stream():
        plain = KINDS[kind](windows(stride=stride), batch)
        return Prefetch(plain, ahead) if ahead else plain

    whole, first, second = KINDS[kind](windows(stride=stride), batch), stream(), stream()
    expected = [next(whole) for _ in range(before + after)]
    same([next(first) for _ in range(before)], expected[:before])
    state = json.loads(json.dumps(first.state_dict()))  # as a checkpoint keeps it
    if after % 2:
        next(first)  # what is drawn after the state was taken changes nothing
    second.load_state_dict(state)
    same([next(second) for _ in range(after)], expected[before:])
    first.load_state_dict(state)
    same([next(first) for _ in range(after)], expected[before:])
    for made in (first, second):
        if ahead:
            made.close()


@given(batch=st.integers(1, 100), stride=st.integers(1, 5), epochs=st.integers(1, 4))
def test_shuffled_every_window_comes_once_an_epoch(batch, stride, epochs):
    w = windows(stride=stride)
    stream = ShuffledWindows(w, batch, 0)
    starts = np.empty(0, int)
    while len(starts) < epochs * len(w):
        x, _ = next(stream)
        assert x.shape == (batch, 4)
        starts = np.concatenate([starts, x[:, 0]])
    orders = starts[: epochs * len(w)].reshape(epochs, len(w))
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(len(w)) * stride)
    assert len({tuple(order) for order in orders}) == epochs
    assert stream.epoch == len(starts) / len(w)


def test_random_windows_are_those_that_windows_draw():
    stream, rng = KINDS["random"](windows(), 7), np.random.default_rng(5)
    same([next(stream) for _ in range(3)], [windows().random(7, rng) for _ in range(3)])


@pytest.mark.parametrize(
    ("kind", "change"),
    [("random", {"batch": 3}), ("shuffled", {"windows": 9}), ("shuffled", {"seed": 1}), ("random", {"text": "0"})],
)
def test_a_state_of_another_stream_is_refused(kind, change):
    stream = KINDS[kind](windows(), 2)
    (name,) = change
    with pytest.raises(ValueError, match=rf"the state is of a stream with {name} "):
        stream.load_state_dict({**stream.state_dict(), **change})
    with pytest.raises(ValueError, match=r"position of the state|generator of the state|with kind"):
        stream.load_state_dict({**stream.state_dict(), "position": "x", "rng": {}})
    with pytest.raises(ValueError, match="must have at least 1"):
        KINDS[kind](windows(), 0)


class Failing:
    def __init__(self):
        self.count = 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.count == 3:
            raise OSError("the disk is gone")
        self.count += 1
        return self.count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_an_error_comes_when_its_batch_would():
    with Prefetch(Failing(), 5) as stream:
        assert [next(stream) for _ in range(3)] == [1, 2, 3] and stream.state_dict() == {"count": 3}
        with pytest.raises(OSError, match="the disk is gone"):
            next(stream)


def test_closing_ends_the_thread_and_leaves_the_stream_where_it_stands():
    before, inner = threading.active_count(), KINDS["shuffled"](windows(), 3)
    with Prefetch(inner, 4) as stream:
        drawn = [next(stream) for _ in range(2)]
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    other = KINDS["shuffled"](windows(), 3)
    same([*drawn, next(inner), next(stream)], [next(other) for _ in range(4)])
    stream.close()
    with pytest.raises(ValueError, match="at least 1"):
        Prefetch(inner, 0)


def test_a_stream_that_is_forgotten_ends_its_thread():
    before = threading.active_count()
    stream = Prefetch(KINDS["random"](windows(), 3), 1, finish=lambda batch: batch[0] * 2)
    np.testing.assert_array_equal(next(stream), next(KINDS["random"](windows(), 3))[0] * 2)
    thread = stream._thread
    del stream
    thread.join(timeout=20)
    assert threading.active_count() == before
