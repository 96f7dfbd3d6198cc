"""Examples as a stream of batches: each once an epoch, of about one length, and resumable."""

from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import Example, ExampleBatches, JudgedExamples, instruction_batch

collate = partial(instruction_batch, pad_id=0)
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=40)


def examples_of(lengths):
    """Example i consists of the id i + 1 alone, so that a batch tells which examples it is made of."""
    return [Example([i + 1] * n, [True] * n) for i, n in enumerate(lengths)]


def firsts(batch):
    return batch.inputs[:, 0].tolist()


@given(LENGTHS, st.integers(1, 7), st.integers(1, 4), st.integers(0, 5))
def test_every_example_comes_once_an_epoch(lengths, batch, pool, seed):
    stream = ExampleBatches(examples_of(lengths), batch, collate, seed, pool)
    orders = []
    for _ in range(3):
        drawn = [firsts(next(stream)) for _ in range(len(stream))]
        assert max(map(len, drawn)) <= batch
        orders.append([i for ids in drawn for i in ids])
        assert Counter(orders[-1]) == Counter(range(1, len(lengths) + 1))
    if len(lengths) > 20:
        assert orders[0] != orders[1]


@given(LENGTHS, st.integers(1, 7), st.integers(1, 4), st.integers(0, 20))
def test_a_state_goes_on_with_the_batches_that_would_have_come(lengths, batch, pool, done):
    stream = ExampleBatches(examples_of(lengths), batch, collate, 5, pool)
    for _ in range(done):
        next(stream)
    other = ExampleBatches(examples_of(lengths), batch, collate, 5, pool)
    other.load_state_dict(stream.state_dict())
    for _ in range(2 * len(stream) + 1):
        assert firsts(next(stream)) == firsts(next(other))
    with pytest.raises(ValueError, match="of another stream"):
        ExampleBatches(examples_of(lengths), batch + 1, collate, 5, pool).load_state_dict(stream.state_dict())


def test_examples_of_about_one_length_come_together():
    lengths = [1, 50] * 32
    plain, pooled = (
        sum(next(stream).inputs.size for _ in range(len(stream)))
        for stream in (ExampleBatches(examples_of(lengths), 4, collate, 0, pool) for pool in (1, 16))
    )
    assert pooled == sum(lengths) < plain


@given(LENGTHS, st.integers(1, 60), st.integers(1, 7))
def test_the_judged_are_fixed_and_spread(lengths, count, batch):
    judged = JudgedExamples(examples_of(lengths), collate)
    drawn = [i for given in judged.spread(count, batch) for i in firsts(given)]
    assert drawn == [i for given in judged.spread(count, batch) for i in firsts(given)] == sorted(set(drawn))
    assert len(drawn) == min(count, len(lengths)) and drawn[0] == 1
    gaps = [b - a for a, b in zip(drawn, [*drawn[1:], len(lengths) + 1], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_nothing_to_draw_from_is_refused():
    for examples, batch in (([], 4), (examples_of([3]), 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            ExampleBatches(examples, batch, collate, 0)


def test_a_state_knows_nothing_of_how_batches_are_padded():
    """A run on a GPU, which gets few lengths, goes on on a CPU."""
    examples = [Example([1] * n, [False] + [True] * (n - 1)) for n in range(2, 9)]
    collate = partial(instruction_batch, pad_id=0)
    here, there = (ExampleBatches(examples, 2, collate, 0) for _ in range(2))
    there.collate = partial(collate, multiple=32)
    next(here), next(there)
    here.load_state_dict(there.state_dict())
    ours, theirs = next(here), next(there)
    assert theirs.inputs.shape[1] == 32 and (theirs.inputs[:, : ours.inputs.shape[1]] == ours.inputs).all()
