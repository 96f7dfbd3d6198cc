from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data.padding import padded_length

LENGTH = st.integers(1, 200)


@given(LENGTH, st.integers(1, 64), st.none() | LENGTH)
def test_no_row_is_cut_and_none_is_padded_beyond_the_limit(longest, multiple, most):
    length = padded_length(longest, multiple, most)
    assert longest <= length < longest + multiple
    assert length % multiple == 0 or length in (longest, most)
    if most is not None and longest <= most:
        assert length <= most
    if most is not None and longest > most:
        assert length == longest
