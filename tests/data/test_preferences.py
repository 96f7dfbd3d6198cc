"""Pairs of answers: what is refused, how they become ids, and generated ones whose preference a program knows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import encode_pairs, phi3, preferences
from tinygrad_llm.data.preferences import is_polite, says_all
from tinygrad_llm.text import CharTokenizer

ENTRY = {"instruction": "Greet.", "input": "Ann", "chosen": "Good day", "rejected": "Hey"}


def test_generated_pairs_are_what_they_say_and_repeatable():
    entries = preferences.generate(3, 600)
    assert entries[:200] == preferences.generate(3, 200) and entries != preferences.generate(4, 600)
    assert len({(e["instruction"], e["input"]) for e in entries}) == 600
    for entry in entries:
        assert is_polite(entry["chosen"]) and not is_polite(entry["rejected"])
        assert says_all(entry, entry["chosen"]) and says_all(entry, entry["rejected"])
        assert not is_polite(entry["instruction"] + entry["input"])  # the prompt does not give it away
        assert all(fact in entry["instruction"] + entry["input"] for fact in entry["facts"])
        assert "{" not in "".join(entry[key] for key in ("instruction", "input", "chosen", "rejected"))


@given(st.integers(0, 20), st.data())
def test_an_answer_that_leaves_something_out_does_not_say_all(seed, data):
    (entry,) = preferences.generate(seed, 1)
    fact = data.draw(st.sampled_from(entry["facts"]))
    assert not says_all(entry, entry["chosen"].replace(fact, "it"))


@pytest.mark.parametrize(
    ("answer", "polite"),
    [
        ("Please come.", True),
        ("Thanks!", True),
        ("Come.", False),
        ("Please come and hurry up.", False),
        ("pleased", False),
    ],
)
def test_politeness(answer, polite):
    assert is_polite(answer) == polite


def test_both_answers_follow_one_prompt():
    tokenizer = CharTokenizer.build("".join(phi3({**ENTRY, "output": "Good day Hey"})))
    (pair,) = encode_pairs([ENTRY], tokenizer, phi3)
    prompt = tokenizer.encode_ordinary(phi3({**ENTRY, "output": "x"}).prompt)
    for example, answer in zip(pair, ("Good day", "Hey"), strict=True):
        assert example.ids == prompt + tokenizer.encode_ordinary(answer)
        assert example.answers == [False] * len(prompt) + [True] * len(answer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": ""}, "entry 1 must have a text as its 'chosen', found ''"),
        ({"rejected": None}, "entry 1 must have a text as its 'rejected', found None"),
        ({"instruction": 3}, "entry 1 must have a text as its 'instruction', found 3"),
        ({"input": []}, "entry 1 must have a text as its 'input'"),
        ({"rejected": "Good day"}, "entry 1 has one text as chosen and as rejected: 'Good day'"),
    ],
)
def test_what_is_no_pair_is_named(change, message):
    with pytest.raises(ValueError) as error:
        encode_pairs([ENTRY, {**ENTRY, **change}], CharTokenizer.build("abc"))
    assert message in str(error.value)


def test_numbers_out_of_range():
    for arguments, message in [((-1, 1), "must not be negative"), ((1, -1), "must not"), ((1, 10**6), "at most")]:
        with pytest.raises(ValueError, match=message):
            preferences.generate(*arguments)
