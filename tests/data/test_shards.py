import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data.shards import HEADER, Header, Row, dtype_for, map_shard, read_header, write_shard
from tinygrad_llm.data.windows import Windows

HASH = "ab" * 32


def write(path, ids, ends=(), dtype="<u2"):
    header = Header(np.dtype(dtype), len(ids), len(ends), HASH)
    write_shard(path, np.array_split(np.array(ids), 3), np.array(ends, np.int64), header)
    return header


@given(ids=st.lists(st.integers(0, 2**16 - 1), max_size=40), wide=st.booleans(), data=st.data())
def test_a_shard_is_read_as_it_was_written(tmp_path_factory, ids, wide, data):
    path = tmp_path_factory.getbasetemp() / "round.ids"
    ends = sorted(data.draw(st.sets(st.integers(1, max(len(ids), 1)))))
    header = write(path, ids, ends, "<u4" if wide else "<u2")
    assert read_header(path) == header and path.stat().st_size == header.file_size
    row, stops = map_shard(path, header)
    assert row.tolist() == ids and stops.tolist() == ends and row.dtype == header.dtype


def test_the_bytes_are_those_of_the_document(tmp_path):
    write(tmp_path / "a.ids", [1, 258, 3], [2, 3])
    assert (tmp_path / "a.ids").read_bytes() == (
        b"tg-llmid" + bytes([1, 0, 0, 0, 2, 0, 0, 0]) + bytes([3, *[0] * 7]) + bytes([2, *[0] * 7]) + b"\xab" * 32
        + bytes([1, 0, 2, 1, 3, 0, 0, 0]) + bytes([2, *[0] * 7]) + bytes([3, *[0] * 7])
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:30], "not a shard of token ids"),
        (lambda b: b"PK" + b[2:], "not a shard of token ids"),
        (lambda b: b[:8] + b"\x02" + b[9:], "shard version 2, this program reads version 1"),
        (lambda b: b[:12] + b"\x03" + b[13:], "ids of 3 bytes"),
        (lambda b: b[:-1], "the file was cut short or changed"),
        (lambda b: b + b"\0", "the file was cut short or changed"),
        (lambda b: b[:12] + b"\x04" + b[13:], "bytes, but 10 ids and 1 documents take"),
        (lambda b: b[:16] + b"\xff" * 8 + b[24:], "the file was cut short or changed"),
    ],
)
def test_a_damaged_shard_is_refused_before_anything_is_read(tmp_path, change, message):
    path = tmp_path / "a.ids"
    write(path, range(10), [10])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        read_header(path)


def test_a_shard_must_be_what_its_header_says_or_is_not_written(tmp_path):
    header = Header(np.dtype("<u2"), 4, 0, HASH)
    with pytest.raises(ValueError, match="3 ids and 0 documents came, the header says 4 and 0"):
        write_shard(tmp_path / "a.ids", [np.arange(3)], np.array([]), header)
    assert not list(tmp_path.iterdir())


def test_the_narrowest_dtype_is_taken():
    assert [dtype_for(n).name for n in (2, 2**16, 2**16 + 1, 2**32)] == ["uint16", "uint16", "uint32", "uint32"]
    with pytest.raises(ValueError, match="does not fit 32-bit ids"):
        dtype_for(2**32 + 1)
    assert HEADER.size == 64


@st.composite
def rows(draw):
    lengths = draw(st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any))
    whole = np.arange(sum(lengths), dtype=np.uint16) * 3
    return Row(np.split(whole, np.cumsum(lengths)[:-1])), whole


@given(rows(), st.data())
def test_a_row_is_indexed_like_the_array_it_stands_for(both, data):
    row, whole = both
    n = len(whole)
    assert len(row) == n and row.shape == whole.shape and row.dtype == whole.dtype
    places = np.array(data.draw(st.lists(st.integers(-n, n - 1), max_size=9)), int)
    np.testing.assert_array_equal(row[places], whole[places])
    np.testing.assert_array_equal(row[places.reshape(-1, 1)], whole[places.reshape(-1, 1)])
    piece = data.draw(st.slices(n))
    np.testing.assert_array_equal(row[piece], whole[piece])
    assert row[n - 1] == whole[n - 1] and isinstance(row[0], np.uint16)
    for outside in (n, -n - 1):
        with pytest.raises(IndexError, match=f"out of range for {n} ids"):
            row[outside]


@given(rows(), st.integers(1, 5), st.integers(1, 4))
def test_windows_over_several_shards_are_those_over_one(both, context, stride):
    row, whole = both
    if len(whole) <= context:
        return
    over_row, over_whole = Windows(row, context, stride), Windows(whole, context, stride)
    assert len(over_row) == len(over_whole)
    for (x, y), (a, b) in zip(over_row.batches(3), over_whole.batches(3), strict=True):
        np.testing.assert_array_equal(x, a)
        np.testing.assert_array_equal(y, b)


def test_a_row_knows_where_its_documents_end():
    row = Row([np.arange(5), np.arange(3), np.arange(4)], [np.array([2]), np.array([], int), np.array([1, 4])])
    assert row.ends.tolist() == [2, 9, 12]


def test_a_row_has_one_dtype():
    for parts in ([], [np.arange(2, dtype=np.uint16), np.arange(2, dtype=np.uint32)], [np.zeros((2, 2), np.uint16)]):
        with pytest.raises(ValueError, match="one dtype is needed"):
            Row(parts)
