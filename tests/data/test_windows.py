import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import PackedRows, Windows, ids_array, split


@st.composite
def windows(draw):
    context = draw(st.integers(1, 9))
    n = draw(st.integers(context + 1, 60))
    return Windows(np.arange(n, dtype=np.uint16) * 3, context, draw(st.integers(1, 12)))


@given(windows())
def test_the_windows_are_those_of_a_plain_loop(w):
    ids, expected = w.ids.tolist(), []
    for start in range(0, len(ids) - w.context, w.stride):
        expected.append((ids[start : start + w.context], ids[start + 1 : start + w.context + 1]))
    assert len(w) == len(expected)
    assert [(x.tolist(), y.tolist()) for x, y in (w[i] for i in range(len(w)))] == expected


@given(windows(), st.integers(1, 7), st.integers(0, 2**32))
def test_targets_are_the_inputs_one_step_ahead(w, batch, seed):
    x, y = w.random(batch, np.random.default_rng(seed))
    assert x.shape == y.shape == (batch, w.context) and x.dtype == y.dtype == np.int64
    assert (x[:, 1:] == y[:, :-1]).all() and (y - x == 3).all()  # the ids grow by 3
    assert (x[:, 0] % (3 * w.stride) == 0).all()


@given(windows(), st.integers(1, 7), st.integers(0, 2**32))
def test_random_windows_are_decided_by_the_seed(w, batch, seed):
    draws = [w.random(batch, np.random.default_rng(seed))[0] for _ in range(2)]
    assert (draws[0] == draws[1]).all()


def test_random_reaches_every_window():
    w = Windows(np.arange(12), 4)
    x, _ = w.random(1000, np.random.default_rng(0))
    assert sorted(set(x[:, 0])) == list(range(8))


@given(windows(), st.integers(1, 7), st.booleans(), st.booleans())
def test_batches_have_every_window_once(w, batch, shuffled, drop_last):
    rng = np.random.default_rng(0) if shuffled else None
    parts = list(w.batches(batch, rng, drop_last))
    starts = [int(start) for x, _ in parts for start in x[:, 0]]
    assert len(starts) == len(w) - (len(w) % batch if drop_last else 0)
    assert len(set(starts)) == len(starts)
    if not shuffled:
        assert starts == sorted(starts)
    assert all(len(x) == batch for x, _ in (parts if drop_last else parts[:-1]))


def test_shuffled_batches_are_in_another_order():
    w = Windows(np.arange(100), 4)
    in_order = np.concatenate([x for x, _ in w.batches(8)])
    shuffled = np.concatenate([x for x, _ in w.batches(8, np.random.default_rng(0))])
    assert not (in_order == shuffled).all()


@given(windows(), st.integers(1, 80), st.integers(1, 7))
def test_spread_windows_are_fixed_distinct_and_even(w, count, batch):
    first, again = ([x for x, _ in w.spread(count, batch)] for _ in range(2))
    starts = np.concatenate(first)[:, 0] // 3 // w.stride
    assert (np.concatenate(first) == np.concatenate(again)).all()
    assert len(starts) == min(count, len(w))
    gaps = np.diff(starts)
    assert (gaps > 0).all() and (len(gaps) == 0 or gaps.max() - gaps.min() <= 1)
    assert starts[0] == 0 and starts[-1] >= len(w) - len(w) / len(starts) - 1  # and they reach to the end


def test_windows_one_context_apart_judge_no_token_twice():
    _, targets = zip(*Windows(np.arange(50), 7, stride=7).batches(3), strict=True)
    judged = np.concatenate([y.ravel() for y in targets])
    assert judged.tolist() == list(range(1, 50))


def test_negative_indices_count_from_the_end_and_others_are_refused():
    w = Windows(np.arange(10), 4)
    assert w[-1][1].tolist() == [6, 7, 8, 9]
    for index in (6, -7):
        with pytest.raises(IndexError, match=rf"index {index} is out of range for 6 windows"):
            w[index]


@pytest.mark.parametrize("n", [0, 1, 8])
def test_a_text_shorter_than_one_window_is_refused(n):
    with pytest.raises(ValueError, match=rf"{n} tokens do not fill one window, which needs 8 \+ 1"):
        Windows(np.arange(n), 8)


@pytest.mark.parametrize(("context", "stride"), [(0, 1), (4, 0), (-1, 1)])
def test_context_and_stride_must_be_positive(context, stride):
    with pytest.raises(ValueError, match="must be at least 1"):
        Windows(np.arange(10), context, stride)


@pytest.mark.parametrize("ids", [np.zeros((4, 4), int), np.zeros(16)])
def test_ids_must_be_one_row_of_integers(ids):
    with pytest.raises(ValueError, match="one row of integers"):
        Windows(ids, 2)


@given(st.text(), st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_split_is_a_partition_in_the_right_proportions(sequence, weights):
    fractions = [w / sum(weights) for w in weights]
    parts = split(sequence, fractions)
    assert "".join(parts) == sequence and len(parts) == len(weights)
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - fraction * len(sequence)) <= 1


@pytest.mark.parametrize("fractions", [(0.9, 0.2), (1.0, 0.0), (1.5, -0.5), (), (float("nan"), 1.0)])
def test_fractions_that_are_no_partition_are_refused(fractions):
    with pytest.raises(ValueError, match="positive and sum to 1"):
        split("abc", fractions)


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(65, np.uint16), (65536, np.uint16), (65537, np.uint32), (2**33, np.int64)]
)
def test_ids_are_kept_in_the_narrowest_type(vocab_size, dtype):
    ids = ids_array([0, vocab_size - 1], vocab_size)
    assert ids.dtype == dtype and ids.tolist() == [0, vocab_size - 1]


@pytest.mark.parametrize("bad", [-1, 65])
def test_an_id_out_of_range_is_named(bad):
    with pytest.raises(ValueError, match=rf"id {bad} at position 2 is outside \[0, 65\)"):
        ids_array([1, 2, bad, 70], 65)


@pytest.mark.parametrize("index", [-1, 5])
def test_a_window_that_is_none_is_not_taken(index):
    with pytest.raises(IndexError, match=rf"index {index} is outside \[0, 5\)"):
        Windows(np.arange(9), 4).take([0, index])
    with pytest.raises(IndexError, match=rf"index {index} is outside \[0, 2\)"):
        PackedRows([[1, 2, 3, 4]], 2).take([0, index])
