"""examples/tokenize_text.py: every tokenizer takes part, in colours only where they can be shown."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tinygrad_llm import text

SCRIPT = Path(__file__).parents[2] / "examples" / "tokenize_text.py"
specification = importlib.util.spec_from_file_location("tokenize_text", SCRIPT)
assert specification and specification.loader
example = importlib.util.module_from_spec(specification)
specification.loader.exec_module(example)


def test_every_tokenizer_takes_part(capsys):
    assert example.main(["--characters", "60000"]) == 0
    shown = capsys.readouterr().out
    table = shown[shown.index("tokenizer  ") :]
    for name in text.names():
        assert re.search(rf"\b{name}\b", table)
    row = re.search(r"^bpe +[\d,]+ +(\d+) +[\d.]+ +the same", table, re.MULTILINE)
    tokens = re.search(r"^bpe\n  (.*)$", shown, re.MULTILINE)
    assert row and tokens and len(tokens[1].split("|")) == int(row[1])
    assert "\x1b" not in shown


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_colours_are_for_terminals(monkeypatch, capsys, no_color, colored):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert example.main(["hello", "--only", "char,bpe", "--characters", "5000"]) == 0
    assert ("\x1b[" in capsys.readouterr().out) is colored


def test_a_sentence_that_a_tokenizer_cannot_take_does_not_stop_the_others(capsys):
    assert example.main(["Привет \ud83d", "--only", "char,bpe,simple", "--characters", "5000"]) == 0
    shown = capsys.readouterr().out
    assert "lone surrogate" in shown and "is not among" in shown and "[UNK]" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "the text is empty"),
        (["x", "--only", "morse"], "--only morse: unknown"),
        (["x", "--characters", "0"], "must be at least 1"),
        (["x", "--data", "nowhere"], "no such file"),
        (["x", "--colour"], "unrecognized arguments"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, arguments, message):
    try:
        code = example.main(arguments)
    except SystemExit as error:
        code = error.code
    shown = capsys.readouterr().err
    assert code == 2 and shown.count("\n") == 1 and message in shown and shown.startswith("tokenize_text.py: ")
