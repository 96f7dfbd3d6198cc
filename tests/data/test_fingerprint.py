import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import MixedBatches, Mixture, PackedRows, Prefetch, RandomWindows, Row, ShuffledWindows, Windows
from tinygrad_llm.data.fingerprint import fingerprint


@given(st.lists(st.integers(0, 9), min_size=6, max_size=200), st.integers(1, 5), st.integers(1, 5), st.data())
def test_the_same_ids_have_the_same_and_a_changed_id_in_a_short_text_is_seen(ids, context, stride, data):
    one = fingerprint(Windows(np.array(ids, np.uint16), context, stride))
    assert one == fingerprint(Windows(np.array(ids, np.int64), context, stride))
    cut = data.draw(st.integers(1, len(ids) - 1))
    parts = [np.array(part, np.uint16) for part in (ids[:cut], ids[cut:])]
    assert one == fingerprint(Windows(Row(parts), context, stride))
    seen = (len(Windows(ids, context, stride)) - 1) * stride + context + 1 if stride <= context else 1
    ids[data.draw(st.integers(0, seen - 1))] += 1
    assert one != fingerprint(Windows(np.array(ids, np.uint16), context, stride))


def test_another_long_text_of_equal_length_has_another():
    ids = np.arange(100_000) * 7 % 11
    texts = [ids, ids[::-1], np.roll(ids, 1), np.where(np.arange(100_000) < 1000, 3, ids), ids % 10]
    assert len({fingerprint(Windows(text, 16)) for text in texts}) == 5


STREAMS = {
    "random": lambda ids: RandomWindows(Windows(ids, 8), 4, np.random.default_rng(0)),
    "shuffled": lambda ids: ShuffledWindows(Windows(ids, 8), 4, 0),
    "shards": lambda ids: ShuffledWindows(Windows(Row([ids[:150], ids[150:]]), 8), 4, 0),
    "mixed": lambda ids: MixedBatches(
        Mixture({"a": PackedRows([ids[:90], ids[90:]], 8), "b": PackedRows([ids], 8)}), 4
    ),
}


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("kind", STREAMS)
def test_no_stream_goes_on_with_another_text_of_equal_length(kind, ahead):
    ids = np.arange(300) * 7 % 11
    state = STREAMS[kind](ids).state_dict()
    made = STREAMS[kind](ids[::-1].copy())
    stream = Prefetch(made) if ahead else made
    with pytest.raises(ValueError, match="text"):
        stream.load_state_dict(state)
    STREAMS[kind](ids.astype(np.uint16)).load_state_dict(state)
