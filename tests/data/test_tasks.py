"""The generated tasks: each answer is right by a solver of its own, prompts differ, and a seed gives the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import tasks
from tinygrad_llm.training.responses import accuracy, is_right

SEEDS = st.integers(0, 2**32)
FORWARD = {"old": "new", "cold": "warm", "dirty": "clean", "ugly": "beautiful", "noisy": "quiet"}
COMMON = {"It", "is", "about", "The", "friend", "of", "was", "were", "ate", "lived"}


def about(entry):
    """What the task is about: its input, or what stands behind the instruction's mark."""
    return entry["input"] or re.split(r"[:?] ", entry["instruction"], maxsplit=1)[1]


def numbers(text):
    return [tasks.NUMBERS.index(word) + 1 for word in re.findall(r"\w+", text) if word in tasks.NUMBERS]


def solve(entry):
    """The answer by other means than the generator's, as far as a program can tell; None where only a part is known."""
    given, kind = about(entry), entry["kind"]
    listed = given.split(", ")
    if kind == "repeat":
        return f"It is {given}."
    if kind == "reverse":
        return f"It is {', '.join(reversed(listed))}."
    if kind == "sort":
        return f"It is {', '.join(sorted(listed))}."
    if kind == "place":
        return f"It is {listed[tasks.PLACES.index(entry['instruction'].split()[3])]}."
    if kind == "plural":
        return "They are " + re.sub(r"\ban? (\w+ \w+)", r"\1s", given) + "."
    if kind == "sum":
        (first, second), lost = numbers(given), "loses" in given
        result = first - second if lost else first + second
        noun = re.search(r"has \w+ (\w+?)s? and", given)[1]
        return f"{given.split()[0]} has {tasks.NUMBERS[result - 1]} {noun}{'s' * (result > 1)}."
    if kind == "count":
        return f"It is {tasks.NUMBERS[len(listed) - 1]} word{'s' * (len(listed) > 1)}."
    if kind == "contain":
        article, noun = re.match(r"Is there (an?) (\w+)\?", entry["instruction"]).groups()
        return f"Yes, there is {article} {noun}." if noun in listed else f"No, no {noun}."
    return None


@given(SEEDS)
def test_answers_are_those_of_another_solver(seed):
    for entry in tasks.generate(seed, 4 * len(tasks.KINDS)):
        expected = solve(entry)
        assert expected is None or entry["output"] == expected


@given(SEEDS)
def test_what_only_a_table_knows(seed):
    entries = tasks.generate(seed, 4 * len(tasks.KINDS))
    for entry in (e for e in entries if e["kind"] == "past"):
        who, verb, rest = about(entry).split(" ", 2)
        assert entry["output"] == f"{who} {tasks.PAST[verb]} {rest}"
    for entry in (e for e in entries if e["kind"] == "opposite"):
        asked, said = (re.findall(r"an? (\w+) (\w+)", text) for text in (about(entry), entry["output"]))
        assert [noun for _, noun in asked] == [noun for _, noun in said] and len(asked) == 2
        for (look, _), (other, _) in zip(asked, said, strict=True):
            assert tasks.OPPOSITE[look] == other and tasks.OPPOSITE[other] == look
            assert FORWARD.get(look, other) == other
    for entry in (e for e in entries if e["kind"] == "story"):
        names = re.findall(r"\b(?:[A-Z]\w+ and )?[A-Z]\w+", about(entry))
        answer = entry["output"].rstrip(".")
        words = set(re.findall(r"\w+", answer)) - COMMON
        assert words and words <= set(re.findall(r"\w+", about(entry) + " in In a A")), answer
        if entry["instruction"].startswith("Who"):
            assert any(answer.endswith(name) for name in names)


@given(SEEDS, st.integers(0, 60), st.integers(0, 60))
def test_a_seed_gives_the_same_and_more_begin_with_fewer(seed, few, more):
    entries = tasks.generate(seed, few)
    assert tasks.generate(seed, few + more)[:few] == entries
    assert [e["kind"] for e in entries] == [[*tasks.KINDS][i % len(tasks.KINDS)] for i in range(few)]


def test_no_prompt_comes_twice_in_whatever_form():
    prompts = [(f"{e['instruction']} {e['input']}").strip() for e in tasks.generate(3, 12_000)]
    assert len(set(prompts)) == len(prompts)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        tasks.generate(-1, 3)


@given(SEEDS)
def test_the_right_answer_is_accepted_and_others_are_not(seed):
    entries = tasks.generate(seed, len(tasks.KINDS))
    answers = [e["output"] for e in entries]
    assert accuracy(entries, [f" {answer}\n" for answer in answers]) == (1.0, dict.fromkeys(tasks.KINDS, 1.0))
    for entry, answer in zip(entries, answers, strict=True):
        words = answer.rstrip(".").split()
        for wrong in ("", answer[:-1], answer + " " + answer, " ".join(words[:-1]) + ".", answer.lower(), "It is."):
            assert not is_right(entry, wrong)
    shifted = answers[1:] + answers[:1]
    assert accuracy(entries, shifted)[0] == sum(a == b for a, b in zip(answers, shifted, strict=True)) / len(answers)


def test_accuracy_of_entries_without_a_kind():
    entries = [{"output": "a"}, {"output": "b"}]
    assert accuracy(entries, ["a", "c"]) == (0.5, {})
    with pytest.raises(ValueError, match="no entries"):
        accuracy([], [])
