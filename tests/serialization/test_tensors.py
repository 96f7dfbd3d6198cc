import json
from contextlib import suppress

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tinygrad_llm.serialization.tensors import read_header, read_tensors, sha256, write_tensors

ARRAYS = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name != "__metadata__"),
    st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))
    ),
    max_size=4,
)


@given(ARRAYS)
def test_what_is_written_is_read_back_here_and_by_safetensors(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("t") / "t.safetensors"
    assert write_tensors(path, values) == sha256(path)
    found = {name: np.zeros_like(array) for name, array in values.items()}
    read_tensors(path, found)
    theirs = safetensors.numpy.load_file(path)
    assert theirs.keys() == values.keys()
    for name, array in values.items():
        np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(theirs[name], array)
        assert theirs[name].dtype == array.dtype


def test_arrays_that_are_not_contiguous_are_written_and_filled_too(tmp_path):
    values = np.arange(12.0).reshape(3, 4)
    write_tensors(tmp_path / "t", {"a": values.T})
    target = np.zeros((3, 4))
    read_tensors(tmp_path / "t", {"a": target.T})
    np.testing.assert_array_equal(target, values)


@given(st.data())
def test_a_file_that_was_cut_or_changed_is_refused_or_read_never_trusted(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "t.safetensors"
    write_tensors(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(5, np.int64)})
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(ValueError):  # and nothing else, such as a KeyError or a MemoryError
        read_tensors(path, {"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.int64)})


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "O", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
        [],
    ],
)
def test_a_header_that_promises_what_is_not_there_is_refused_before_memory_is_taken(tmp_path, entry):
    text = json.dumps({"a": entry}).encode()
    (tmp_path / "t").write_bytes(len(text).to_bytes(8, "little") + text + b"1234")
    with pytest.raises(ValueError, match="header of this safetensors file is damaged"):
        read_header(tmp_path / "t")


def test_another_shape_is_refused_before_any_array_is_changed(tmp_path):
    write_tensors(tmp_path / "t", {"a": np.ones(3), "b": np.ones(3)})
    first = np.zeros(3)
    with pytest.raises(ValueError, match=r"b is float64 of shape \[3\], expected float64 of \[4\]"):
        read_tensors(tmp_path / "t", {"a": first, "b": np.zeros(4)})
    assert not first.any()
