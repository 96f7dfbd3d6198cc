import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_llm.data import Mixture, PackedRows, Windows

NAMES = "abcdefg"


def windows(n, first=0, context=4):
    """n windows, whose first ids count up from `first`."""
    return Windows(np.arange(first, first + n + context), context)


@st.composite
def mixtures(draw):
    sizes = draw(st.lists(st.integers(1, 400), min_size=1, max_size=7))
    sources = {NAMES[i]: windows(n, 1000 * i) for i, n in enumerate(sizes)}
    return Mixture(sources, alpha=draw(st.sampled_from([0, 0.3, 0.7, 1])), seed=draw(st.integers(0, 99)))


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=7), st.floats(0, 2))
def test_shares_are_weights_to_the_alpha(weights, alpha):
    named = dict(zip(NAMES, weights, strict=False))
    shares = Mixture({name: windows(3) for name in named}, named, alpha).shares
    assert sum(shares.values()) == pytest.approx(1)
    for name in named:
        assert shares[name] / shares["a"] == pytest.approx((named[name] / named["a"]) ** alpha, rel=1e-9)


def test_the_small_corpus_is_raised_and_sizes_are_the_weights():
    shares = Mixture({"large": windows(10_000), "small": windows(100)}).shares
    assert shares["small"] == pytest.approx(100**0.7 / (100**0.7 + 10_000**0.7))


@given(mixtures(), st.integers(1, 300))
def test_each_source_stays_near_its_share_and_neighbours_differ(mixture, count):
    sources, _ = mixture.places(count)
    p = np.array(list(mixture.shares.values()))
    counts = (sources[:, None] == np.arange(len(p))).cumsum(axis=0)
    assert abs(counts - np.arange(1, count + 1)[:, None] * p).max() < 2
    same = sources[1:] == sources[:-1]
    assert (p[sources[1:][same]] > 0.5).all()


@given(mixtures(), st.integers(1, 40), st.integers(1, 40))
def test_examples_come_once_an_epoch_and_from_their_own_source(mixture, steps, size):
    given_out = {name: [] for name in mixture.names}
    for _ in range(steps):
        sources, indices = mixture.places(size)
        x, y = mixture.take(sources, indices)
        assert (x[:, 0] == 1000 * sources + indices).all() and (y == x + 1).all()
        for source, index in zip(sources, indices, strict=True):
            given_out[mixture.names[source]].append(int(index))
    for name, source in zip(mixture.names, mixture.sources, strict=True):
        seen, n = given_out[name], len(source)
        assert mixture.epochs[name] == len(seen) / n and mixture.drawn[name] == len(seen)
        for start in range(0, len(seen), n):
            part = seen[start : start + n]
            assert len(set(part)) == len(part)
            if len(part) == n:
                assert sorted(part) == list(range(n))


@settings(max_examples=20)
@given(mixtures(), st.integers(0, 60), st.lists(st.integers(1, 9), max_size=5))
def test_a_stream_goes_on_from_its_state_whatever_the_batches(mixture, before, batches):
    mixture.places(before)
    state = json.loads(json.dumps(mixture.state_dict()))
    again = Mixture(dict(zip(mixture.names, mixture.sources, strict=True)), alpha=mixture.alpha, seed=mixture.seed)
    again.load_state_dict(state)
    expected = np.stack(mixture.places(sum(batches)))
    parts = [np.stack(again.places(size)) for size in batches]
    assert (np.concatenate([np.empty((2, 0)), *parts], axis=1) == expected).all()


def test_another_seed_and_another_epoch_are_other_orders():
    def epochs(seed):
        return Mixture({"a": windows(50)}, seed=seed).places(100)[1].reshape(2, 50)

    first, second = epochs(0)
    assert (first != second).any() and (first != np.arange(50)).any() and (epochs(1)[0] != first).any()
    assert (epochs(0) == np.stack([first, second])).all()


def test_packed_rows_stay_packed_batches():
    rows = {name: PackedRows([[i, i + 1], [i + 2]], 4) for i, name in ((1, "a"), (5, "b"))}
    batch = Mixture(rows).batch(4)
    assert batch.ids.tolist() == [[1, 2, 3, 0], [5, 6, 7, 0]] * 2
    assert batch.documents.tolist() == [[0, 0, 1, -1]] * 4


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ({}, {}, "there are no sources"),
        ({"a": windows(1), "b": windows(1, context=5)}, {}, "found {'a': [(4,), (4,)], 'b': [(5,), (5,)]}"),
        ({"a": windows(1), "b": PackedRows([[1]], 4)}, {}, "'b': [(4,), (4,), (4,), (4,)]}"),
        ({"a": windows(1)}, {"weights": {"b": 1.0}}, "weights are for ['b'], the sources are ['a']"),
        ({"a": windows(1)}, {"weights": {"a": 0.0}}, "weights must be positive, found a: 0.0"),
        ({"a": windows(1)}, {"weights": {"a": float("nan")}}, "weights must be positive"),
        ({"a": windows(1)}, {"alpha": -1}, "alpha -1 and seed 0 must be at least 0"),
    ],
)
def test_what_cannot_be_mixed_is_refused(sources, options, message):
    with pytest.raises(ValueError) as error:
        Mixture(sources, **options)
    assert message in str(error.value)


def test_an_empty_source_is_named():
    class Nothing:
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match="source 'b' is empty"):
        Mixture({"a": windows(1), "b": Nothing()})


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5}, {"examples": {"a": 11, "b": 7}}, {"shares": {"a": 0.5, "b": 0.5}}, {"drawn": {"a": 1}},
        {"drawn": {"a": -1, "b": 0}}, {"last": "c"}, {"more": 1}, {"texts": {"a": "0", "b": "0"}},
    ],
)  # fmt: skip
def test_the_state_of_another_mixture_is_refused(change):
    mixture = Mixture({"a": windows(10), "b": windows(7)})
    with pytest.raises(ValueError, match="state"):
        mixture.load_state_dict({**mixture.state_dict(), **change})
    assert mixture.drawn == {"a": 0, "b": 0}
