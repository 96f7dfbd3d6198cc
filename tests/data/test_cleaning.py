import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import ExactDuplicates, Finding, Length, PersonalData, clean, read_report, replay, summary
from tinygrad_llm.data.cleaning import replaced

STEPS = [Length(least=2), PersonalData(), ExactDuplicates()]
TEXTS = ["one text", "  One\n TEXT ", "", "write to a@b.org now", "write to c@d.org now", "x", "another"]
KEPT = ["one text", "write to [EMAIL] now", "another"]


@dataclass(frozen=True)
class Shorten:
    """Takes the first and the last character away."""

    name: str = "shorten"

    def start(self):
        return lambda i, text: Finding("ends", None, [(0, 1, ""), (len(text) - 1, len(text), "")][: len(text)])


def test_steps_act_one_after_another_and_the_report_says_why(tmp_path):
    assert list(clean(TEXTS, STEPS, tmp_path / "report")) == KEPT
    head, *records, tail = read_report(tmp_path / "report")
    assert head["steps"] == ["length", "personal data", "exact duplicates"]
    assert [(r["document"], r["step"], r["reason"], r["measure"], r.get("spans")) for r in records] == [
        (1, "exact duplicates", "the text of document 0", 1.0, None),
        (2, "length", "empty", 0, None),
        (3, "personal data", "1 email", 1, [[9, 16, "[EMAIL]"]]),
        (4, "personal data", "1 email", 1, [[9, 16, "[EMAIL]"]]),
        (4, "exact duplicates", "the text of document 3", 1.0, None),
        (5, "length", "fewer characters than allowed", 1, None),
    ]
    assert (tail["documents"], tail["kept"]) == (7, 3)
    assert "a@b" not in (tmp_path / "report").read_text()
    lines = summary(tmp_path / "report").splitlines()
    assert lines[0] == "7 documents, 3 kept"
    assert [line.split() for line in lines[1:]] == [
        ["length", "2", "removed", "0", "changed"],
        ["personal", "data", "0", "removed", "2", "changed"],
        ["exact", "duplicates", "2", "removed", "0", "changed"],
    ]


@given(st.lists(st.text(alphabet="ab @.c\ud800", max_size=12), max_size=12))
def test_a_replay_gives_the_same_documents(tmp_path_factory, texts):
    report = tmp_path_factory.mktemp("reports") / "report"
    steps = [Length(), Shorten(), Length(), ExactDuplicates()]
    cleaned = list(clean(iter(texts), steps, report))
    assert list(replay(iter(texts), report)) == cleaned
    again = report.with_name("again")
    assert list(clean(texts, steps, again)) == cleaned  # a step starts anew each time
    assert again.read_bytes() == report.read_bytes()


@pytest.mark.parametrize("place", range(len(TEXTS)))
def test_a_replay_on_other_documents_is_refused(tmp_path, place):
    list(clean(TEXTS, STEPS, tmp_path / "report"))
    for other in (
        [*TEXTS[:place], TEXTS[place] + "!", *TEXTS[place + 1 :]],
        [*TEXTS[:place], *TEXTS[place + 1 :]],
        [*TEXTS[:place], "new", *TEXTS[place:]],
    ):
        with pytest.raises(ValueError, match="written for"):
            list(replay(other, tmp_path / "report"))


def test_documents_stream(tmp_path):
    asked = []

    def documents():
        for i in range(5):
            asked.append(i)
            yield f"text {i}"

    stream = clean(documents(), [Length()], tmp_path / "report")
    assert next(stream) == "text 0" and asked == [0]
    stream.close()
    assert list(tmp_path.iterdir()) == []  # no half report


def test_a_failing_step_leaves_an_old_report_as_it_was(tmp_path):
    list(clean(TEXTS, STEPS, tmp_path / "report"))
    before = (tmp_path / "report").read_bytes()
    with pytest.raises(TypeError, match="document 1 must be a text, not bytes"):
        list(clean(["a text", b"bytes"], STEPS, tmp_path / "report"))
    assert (tmp_path / "report").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def lines_of(tmp_path):
    list(clean(TEXTS, STEPS, tmp_path / "report"))
    return (tmp_path / "report").read_text().splitlines()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "ends before its last line"),
        (lambda lines: [], "ends before its last line"),
        (lambda lines: lines[1:], "not a report"),
        (lambda lines: [lines[0].replace('"version": 1', '"version": 2'), *lines[1:]], "version 2 of the report; 1 is"),
        (lambda lines: [lines[0], "{", *lines[1:]], "line 2 is not JSON"),
        (lambda lines: [lines[0], "[" * 100_000, *lines[1:]], "line 2 is not JSON"),
        (lambda lines: [lines[0], "[1]", *lines[1:]], "line 2 is no record"),
        (lambda lines: [*lines, lines[1]], "line 9 is no record"),
        (lambda lines: [*lines[:3], lines[3].replace("[[9,", '[["9",'), *lines[4:]], "line 4 is no record"),
    ],
)
def test_a_report_that_is_none_is_refused(tmp_path, change, message):
    lines = change(lines_of(tmp_path))
    (tmp_path / "report").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        list(replay(TEXTS, tmp_path / "report"))


def test_spans_outside_of_a_text_are_refused(tmp_path):
    lines = lines_of(tmp_path)
    record = json.loads(lines[3])
    record["spans"] = [[9, 900, ""]]
    lines[3] = json.dumps(record)
    (tmp_path / "report").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"span 9\.\.900 must lie in 0\.\.20"):
        list(replay(TEXTS, tmp_path / "report"))


@given(st.text(max_size=30), st.data())
def test_replaced_leaves_what_lies_between_the_spans(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    spans = [(a, b, f"<{a}>") for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    expected = list(text)
    for a, b, instead in reversed(spans):
        expected[a:b] = [instead]
    assert replaced(text, spans) == "".join(expected)
