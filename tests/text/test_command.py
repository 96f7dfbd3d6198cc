"""python -m tinygrad_llm.text: train and show; fetch is tested with the files it fetches."""

import io
import sys

import pytest

from tinygrad_llm import text
from tinygrad_llm.text.__main__ import main


@pytest.fixture
def trained(tmp_path, capsys):
    (tmp_path / "book.txt").write_text("the cat sat on the mat. " * 20)
    assert main(["train", str(tmp_path / "book.txt"), "--vocab-size", "270", "--out", str(tmp_path / "t.json")]) == 0
    assert "269 tokens" in capsys.readouterr().out
    return tmp_path / "t.json"


def test_train_writes_a_tokenizer(trained):
    tokenizer = text.load(trained)
    assert tokenizer.vocab_size == 269 and tokenizer.decode(tokenizer.encode("the cat")) == "the cat"


def test_show_prints_tokens_and_merges(trained, capsys, monkeypatch):
    ids = text.load(trained).encode("the cat")
    assert main(["show", str(trained), "the cat", "--merges"]) == 0
    shown = capsys.readouterr().out
    assert "t + h -> " in shown or "h + e -> " in shown
    assert [int(line.split()[0]) for line in shown.split("\n\n")[1].splitlines()[: len(ids)]] == ids
    assert "7 bytes" in shown
    monkeypatch.setattr(sys, "stdin", io.StringIO("a"))
    assert main(["show", str(trained), "-"]) == 0 and "1 tokens, 1 bytes" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 460), ("unigram", 300)])
def test_train_takes_every_kind_that_learns(tmp_path, capsys, kind, size):
    (tmp_path / "book.txt").write_text("the cat sat on the mat. " * 20)
    command = ["train", str(tmp_path), "--kind", kind, "--vocab-size", str(size), "--out", str(tmp_path / "t.json")]
    assert main(command) == 0
    tokenizer = text.load(tmp_path / "t.json")
    assert tokenizer.name == kind and f"{tokenizer.vocab_size} tokens, the last of them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere.json", "x"], "No such file or directory"),
        (["train", "nowhere.txt"], "no such file or folder"),
        (["train", "{tmp}/book.txt", "--vocab-size", "3"], "no room for 256 bytes"),
        (["train", "{tmp}/book.txt", "--out", "{tmp}/no/t.json"], "there is no such folder"),
        (["train", "{tmp}/book.txt", "--kind", "unigram", "--workers", "2"], "--workers is of bpe alone"),
        (["train", "{tmp}/book.txt", "--kind", "char"], "--kind: invalid choice: 'char'"),
        (["fetch", "gpt5"], "invalid choice: 'gpt5'"),
        (["show", "{tmp}/char.json", "a", "--merges"], "merges nothing"),
        ([], "required"),
    ],
)
def test_a_mistake_is_one_sentence(trained, capsys, arguments, message):
    text.CharTokenizer("a").save(trained.parent / "char.json")
    before = sorted(trained.parent.iterdir())
    try:
        code = main([argument.format(tmp=trained.parent) for argument in arguments])
    except SystemExit as error:
        code = error.code
    shown = capsys.readouterr().err
    assert code == 2 and shown.count("\n") == 1 and message in shown
    assert sorted(trained.parent.iterdir()) == before
