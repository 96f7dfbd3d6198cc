"""examples/prepare_data.py, and examples/pretrain.py on what it made."""

import gzip
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinygrad_llm import text
from tinygrad_llm.data import Shards, known, preparation, sources, verify

pytest.importorskip("filelock")
ROOT = Path(__file__).parents[2]
TINY = ["--layers=1", "--heads=2", "--channels=16", "--context=16", "--batch=4", "--steps=4", "--eval-every=2",
        "--eval-windows=8", "--samples=1", "--sample-tokens=12"]  # fmt: skip


def script(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


prepare_data, pretrain = script("prepare_data"), script("pretrain")


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(20):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"the cat {i} sat on the mat, and the dog sat on the cat.\n" * 20)
    return tmp_path / "texts"


def main(*arguments):
    return prepare_data.main(["--tokenizer=char", "--workers=0", *map(str, arguments)])


def refused(capsys, *arguments):
    """The one sentence on stderr."""
    try:
        code = main(*arguments)
    except SystemExit as error:
        code = error.code
    shown = capsys.readouterr()
    assert code == 2 and shown.err.count("\n") == 1 and shown.err.startswith("prepare_data.py: "), shown.err
    return shown.err


def test_a_folder_becomes_shards_that_a_run_learns_from(texts, tmp_path, capsys):
    out = tmp_path / "shards"
    assert main("--data", texts, "--out", out, "--shard-tokens", 5000) == 0
    shown = capsys.readouterr().out
    manifest = verify(out)
    for split, documents in (("train", 18), ("validation", 2)):
        line = next(line for line in shown.splitlines() if line.startswith(split))
        assert line.split()[1:3] == [str(documents), f"{manifest.tokens(split):,}"]
    assert "in 20 files, 1.00 bytes a token" in shown and f"pretrain.py --data {out}" in shown

    assert pretrain.main(["--data", str(out), "--out", str(tmp_path / "run"), *TINY]) == 0
    shown = capsys.readouterr().out
    assert f"text       shards: {manifest.tokens('train'):,} tokens to learn from" in shown
    assert text.load(tmp_path / "run" / "tokenizer.json").to_dict() == Shards(out).tokenizer.to_dict()


def test_a_run_refuses_shards_that_do_not_fit(texts, tmp_path, capsys):
    out = tmp_path / "shards"
    assert main("--data", texts, "--out", out) == 0
    capsys.readouterr()
    assert pretrain.main(["--data", str(out), "--out", str(tmp_path / "run"), "--tokenizer", "word", *TINY]) == 2
    assert "--tokenizer word: the shards in" in capsys.readouterr().err
    raw = bytearray((out / "train-00000.ids").read_bytes())
    raw[500] ^= 1
    (out / "train-00000.ids").write_bytes(raw)
    assert pretrain.main(["--data", str(out), "--out", str(tmp_path / "run"), *TINY]) == 2
    assert "train-00000.ids: its SHA-256 is not the manifest's" in capsys.readouterr().err
    (out / "manifest.json").rename(out / "progress.json")
    assert pretrain.main(["--data", str(out), "--out", str(tmp_path / "run"), *TINY]) == 2
    assert "its preparation was interrupted" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_text_of_its_own_to_judge_by(texts, tmp_path):
    (tmp_path / "judge.jsonl").write_text(json.dumps({"text": "the cat"}) + "\n" + json.dumps({"text": "the mat"}))
    assert main("--data", texts, "--out", tmp_path / "out", "--val-data", tmp_path / "judge.jsonl") == 0
    opened = Shards(tmp_path / "out")
    assert opened.tokenizer.decode(opened.row("validation")[:]) == "the catthe mat"
    assert opened.manifest.documents("train") == 20


def test_a_corpus_by_name_brings_its_mark_and_its_own_validation(tmp_path, monkeypatch):
    for name, content in (("a", "one<|e|>two<|e|>three"), ("b", "two<|e|>one")):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(known, "fetch", lambda name: {"train": tmp_path / "a", "validation": tmp_path / "b"})
    monkeypatch.setattr(prepare_data.data, "fetch", known.fetch)
    monkeypatch.setitem(known.CORPORA, "pair", known.Known("", "", {}, "<|e|>"))
    tokenizer = text.build("char", "onetwhr")
    tokenizer.save(tmp_path / "tokenizer.json")
    assert main("--data", "pair", "--out", tmp_path / "out", "--tokenizer", tmp_path / "tokenizer.json") == 0
    opened = Shards(tmp_path / "out")
    assert opened.row("train").ends.tolist() == [3, 6, 11] and opened.row("validation").ends.tolist() == [3, 6]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nowhere"], "nowhere: there is no such file or folder"),
        (["--data", "alpaca"], "--data alpaca: a table of examples, not a text"),
        (["--tokenizer", "morse"], "--tokenizer morse: neither a file nor one of bpe, char"),
        (["--val-fraction", "1"], "the validation share 1.0 must lie in [0, 1)"),
        (["--shard-tokens", "0"], "shard_tokens 0 must be at least 1"),
        (["--workers", "-1"], "--workers -1: must be at least 0"),
        (["--vocab-size", "300"], "the char tokenizer has no size to choose; that of bpe,"),
        (["--tokenizer", "bpe", "--vocab-size", "3"], "vocab_size 3 has no room for 256 bytes"),
        (["--mark", "two words"], "the mark 'two words' between documents must be one word"),
        (["--key"], "--key: expected one argument"),
        (["--out", ""], "--out is empty"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_in_one_sentence(texts, tmp_path, capsys, flags, message):
    assert message in refused(capsys, "--data", texts, "--out", tmp_path / "out", *flags)


def test_characters_are_not_learned_from_more_than_fits(texts, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepare_data, "MOST_TO_LEARN", 1000)
    error = refused(capsys, "--data", texts, "--out", tmp_path / "out")
    assert "--tokenizer char: knows only characters that it has seen" in error and "1000 B together; take one" in error


@pytest.mark.parametrize("name", ["bpe", "unigram", "wordpiece"])
def test_a_vocabulary_is_learned_from_a_sample_of_any_text(texts, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(sources, "BLOCK", 2000)
    monkeypatch.setattr(prepare_data, "MOST_TO_LEARN", 10_000)
    (texts / "more.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": "Ünseen words ▁ 中文"}).encode()))
    command = ["--data", texts, "--out", tmp_path / "out", "--tokenizer", name, "--vocab-size", 500]
    for _ in range(2):  # the same command learns the same, and finds its own folder finished
        assert main(*command) == 0
    opened = Shards(tmp_path / "out")
    assert opened.tokenizer.name == name and opened.tokenizer.vocab_size <= 500
    ids = [*opened.row("train")[:].tolist(), *opened.row("validation")[:].tolist()]
    assert "Ünseen words ▁ 中文" in opened.tokenizer.decode(ids)
    learned = "".join(sources.sample_texts(sources.find_sources(texts), 10_000))
    assert 3_000 < len(learned) < 12_000 and learned.startswith("the cat 0")
    assert any(f"cat {i} " in learned for i in (6, 7, 8, 9))  # of the last files


def test_stopped_or_out_of_room_the_same_command_goes_on(texts, tmp_path, capsys, monkeypatch):
    command = ["--data", texts, "--out", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(preparation.OpenShard, "sync", lambda self: (_ for _ in ()).throw(OSError(28, "No space left")))
        error = refused(capsys, *command)
        assert "No space left" in error and "what was done is kept" not in error  # nothing was
    with monkeypatch.context() as patch:
        patch.setattr(preparation.OpenShard, "seal", lambda self: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert "No space left; what was done is kept, the same command goes on" in refused(capsys, *command)
    with monkeypatch.context() as patch:
        patch.setattr(preparation.OpenShard, "seal", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(*command) == 130
        assert "stopped; the same command goes on from here" in capsys.readouterr().err
    assert main(*command) == 0 and verify(tmp_path / "out")
    assert main(*command) == 0  # finished: nothing to do
    assert main(*command, "--fresh") == 0


def test_as_a_process_with_workers_it_ends_at_ctrl_c_without_a_trace(tmp_path):
    (tmp_path / "book.txt").write_text("once upon a time there was a king who had no crown\n" * 1_000_000)
    text.build("char", (tmp_path / "book.txt").read_text()).save(tmp_path / "tokenizer.json")
    command = [sys.executable, str(ROOT / "examples" / "prepare_data.py"), "--workers=2", "--data", "book.txt"]
    command += ["--out", "out", "--tokenizer", "tokenizer.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "out" / "train.ids.partial").is_file() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and shown == ""
    assert errors == "prepare_data.py: stopped; the same command goes on from here\n"


def test_help_is_a_page(capsys):
    with pytest.raises(SystemExit) as caught:
        main("--help")
    shown = capsys.readouterr().out
    assert caught.value.code == 0 and max(map(len, shown.splitlines())) <= 100
    for expected in ("--mark", "manifest.json", "tiny-stories", "exit codes:", "examples:"):
        assert expected in shown
