"""Exact match and what it overlooks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.evaluation import Normalization, exact_match, matches


@pytest.mark.parametrize(
    ("response", "expected", "options", "right"),
    [
        ("  Paris \n", "Paris", {}, True),
        ("a  b\n c", "a b c", {}, True),
        ("cafe\u0301", "café", {}, True),
        ("paris", "Paris", {}, False),
        ("Paris.", "Paris", {}, False),
        ("STRASSE", "straße", {"ignore_case": True}, True),
        ("Paris!", "paris", {"ignore_case": True}, False),
        ("„Paris“, $5", "Paris 5", {"ignore_punctuation": True}, True),
        ("ab", "a b", {"ignore_punctuation": True}, False),
        ("two", ["2", "two"], {}, True),
        ("three", ["2", "two"], {}, False),
        ("", " ", {}, True),
    ],
)
def test_what_counts(response, expected, options, right):
    assert matches([response], [expected], Normalization(**options)) == [right]


@given(st.text(), st.booleans(), st.booleans())
def test_normalization_is_done_once_and_for_all(text, case, punctuation):
    normal = Normalization(case, punctuation)
    assert normal(normal(text)) == normal(text)
    assert matches([text], [normal(text)], normal) == [True]


def test_the_share_and_what_is_refused():
    assert exact_match(["a", "b", "c", "d"], ["a", "b", "x", "d"]) == 0.75
    with pytest.raises(ValueError, match="1 responses, but 2 expected"):
        matches(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="no text is expected of response 0"):
        matches(["a"], [[]])
    with pytest.raises(ValueError, match="there are no responses"):
        exact_match([], [])
