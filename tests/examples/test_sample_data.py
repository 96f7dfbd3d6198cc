"""examples/sample_data.py, in this process."""

import importlib.util
import io
import re
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "sample_data.py"
specification = importlib.util.spec_from_file_location("sample_data", SCRIPT)
assert specification and specification.loader
sample_data = importlib.util.module_from_spec(specification)
sys.modules["sample_data"] = sample_data
specification.loader.exec_module(sample_data)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join("the cat sat on the mat " * n for n in range(1, 9)))  # 23 n characters, one cut
    return path


def main(*arguments):
    return sample_data.main(["--tokenizer=char", *(str(a) for a in arguments)])


def sections(shown):
    """The text of each section by the first word of its heading."""
    parts = re.split(r"^(Windows|Packing|Mixing).*\n-+\n", shown, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_windows_are_drawn_where_they_start(book, capsys):
    assert main("--data", book, "--context", 4, "--stride", 2) == 0
    drawn = sections(capsys.readouterr().out)["Windows"]
    assert "t|h|e| \n" in drawn and "h|e| |c\n" in drawn
    for stride in (1, 2, 4):
        lines = drawn.split(f"stride {stride}: ")[1].split("\n\n")[0].splitlines()
        assert f"each id a target {4 // stride} times" in lines[0] or (stride == 4 and "once" in lines[0])
        for index, line in enumerate(lines[1:]):
            assert line == f"  {'·' * (stride * index)}████░{'·' * (24 - stride * index - 5)}"
        assert len(lines) > 4


def test_rows_before_and_after_packing(book, capsys):
    assert main("--data", book, "--context", 4, "--length", 60) == 0
    packing = sections(capsys.readouterr().out)["Packing"]
    padded, cut, fitted = (block.splitlines()[1:] for block in packing.split("\n\n")[:3])
    assert padded[0] == "  " + "a" * 23 + "·" * 37 and padded[1] == "  " + "b" * 46 + "·" * 14
    assert padded[2] == "  " + "c" * 60 and padded[3] == "  " + "c" * 9 + "·" * 51
    assert cut[0] == "  " + "a" * 23 + "b" * 37
    assert fitted[0] == "  " + "c" * 60
    assert "documents cut" in packing and "times as many tokens" in packing


def test_a_text_alone_is_mixed_with_itself_and_several_by_name(book, tmp_path, capsys):
    (tmp_path / "small.txt").write_text("on the mat the cat sat " * 3)
    assert main("--data", book, "--context", 4) == 0
    alone = sections(capsys.readouterr().out)["Mixing"]
    assert alone.count("book.txt, part") == 3
    assert main("--data", book, tmp_path / "small.txt", "--context", 4, "--alpha", 0) == 0
    several = sections(capsys.readouterr().out)["Mixing"]
    assert several.count("50.0%") == 2
    assert several.rstrip().splitlines()[-1].strip() == "ab" * 36


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(book, monkeypatch, environment, coloured):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main("--data", book) == 0
    assert ("\033[" in sys.stdout.getvalue()) == coloured


def test_a_terminal_without_blocks_gets_letters(book, monkeypatch):
    stream = Terminal()
    stream.encoding = "ascii"
    monkeypatch.setattr(sys, "stdout", stream)
    assert main("--data", book) == 0
    assert stream.getvalue().isascii()


def test_the_stories_by_default(monkeypatch, capsys):
    monkeypatch.setattr(sample_data.data.corpora, "STORIES_CHARACTERS", 20_000)
    assert sample_data.main([]) == 0
    shown = sections(capsys.readouterr().out)
    assert "stories, part 1" in shown["Mixing"] and "0 documents cut" in shown["Packing"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--context", "0"], "--context 0: must be at least 1"),
        (["--stride", "-1"], "--stride -1: must be at least 1"),
        (["--length", "0"], "--length 0: must be at least 1"),
        (["--context", "900"], "part 1 has fewer than --context 900 + 1 tokens; lower --context"),
        (["--alpha", "nan"], "--alpha nan and --seed 0 must be at least 0"),
        (["--tokenizer", "morse"], "unknown tokenizer 'morse'"),
        (["--data", "nowhere.txt"], "nowhere.txt: there is no such file or folder"),
        (["--data", "stories", "stories"], "two texts have the same name"),
        (["--speed", "9"], "unrecognized arguments"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_in_one_sentence(book, capsys, flags, message):
    try:
        code = main("--data", book, *flags)
    except SystemExit as error:
        code = error.code
    shown = capsys.readouterr()
    assert code == 2 and shown.out == ""
    assert message in shown.err and shown.err.count("\n") == 1 and shown.err.startswith("sample_data.py: ")
