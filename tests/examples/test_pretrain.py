"""examples/pretrain.py, in this process for messages and files, as a process of its own for the rest."""

import dataclasses
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import models, text
from tinygrad_llm.data import corpora
from tinygrad_llm.training import cli, memory, read_metrics
from tinygrad_llm.training.configuration import effective_flags

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "pretrain.py"
FIRST_FILES = {"tokenizer.json", "run.json", "metrics.jsonl", "steps.csv", "checkpoints"}
ALL_FILES = FIRST_FILES | {"model.safetensors", "config.json", "loss.png"}
KEYS = {"step", "tokens", "train_loss", "val_loss", "lr", "tokens_per_second"}
TINY = [
    "--layers=1", "--heads=2", "--channels=16", "--context=16", "--batch=4", "--steps=6", "--eval-every=3",
    "--eval-windows=8", "--samples=2", "--sample-tokens=12",
]  # fmt: skip

specification = importlib.util.spec_from_file_location("pretrain", SCRIPT)
assert specification and specification.loader
pretrain = importlib.util.module_from_spec(specification)
sys.modules["pretrain"] = pretrain
specification.loader.exec_module(pretrain)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("the cat sat on the mat, and the dog sat on the cat.\n" * 40)
    return path


def main(*arguments):
    return pretrain.main(["--tokenizer=char", *(str(a) for a in arguments)])


def names(folder):
    """The files of a folder but for hidden ones, such as its lock."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def refused(capsys, out, *arguments):
    """The one sentence that a run is refused with; asserts the exit code and that nothing is left behind."""
    try:
        code = main(*arguments, "--out", out)
    except SystemExit as error:  # the parser's own refusals
        code = error.code
    shown = capsys.readouterr()
    assert code == 2
    assert shown.err.count("\n") == 1 and shown.err.startswith("pretrain.py: ") and "Traceback" not in shown.err
    assert not out.exists()
    return shown.err


def test_a_run_writes_its_files_and_they_hold_what_was_trained(book, tmp_path, capsys):
    out = tmp_path / "runs" / "deep"
    assert main("--data", book, "--out", out, *TINY) == 0
    assert names(out) == ALL_FILES
    records = read_metrics(out / "metrics.jsonl")
    assert [r["step"] for r in records] == [0, 3, 6] and [r["tokens"] for r in records] == [0, 192, 384]
    assert all(set(r) >= KEYS and all(math.isfinite(r[k]) for k in KEYS) for r in records)
    assert records[-1]["val_loss"] < records[0]["val_loss"]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")

    model, tokenizer = models.load(out), text.load(out / "tokenizer.json")
    config = json.loads((out / "config.json").read_text())
    assert (config["n_layers"], config["emb_dim"], config["vocab_size"]) == (1, 16, tokenizer.vocab_size)
    logits = model(tg.tensor([tokenizer.encode("the cat sat on")]))
    assert logits.shape == (1, 14, tokenizer.vocab_size) and np.isfinite(logits.array).all()

    shown = capsys.readouterr().out
    assert shown.count("--- a sample after step") == 2
    for expected in ("the first step's loss", "perplexity", "tokens/s", "peak memory", "time", "model.safetensors"):
        assert expected in shown
    assert f"{records[-1]['val_loss']:.4f}" in shown


def test_the_same_seed_gives_the_same_run(book, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main("--data", book, "--out", tmp_path / name, "--seed", seed, *TINY, "--dropout", 0.1) == 0

    def losses(name):
        return [(r["train_loss"], r["val_loss"]) for r in read_metrics(tmp_path / name / "metrics.jsonl")]

    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert losses("a") == losses("b") and weights["a"] == weights["b"]
    assert losses("a") != losses("c")


def test_the_stories_come_with_their_floor(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(corpora, "STORIES_CHARACTERS", 40_000)
    assert main("--out", tmp_path / "run", *TINY) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if "no model can pay less than" in line)
    words = line.replace(";", "").split()
    loss, floor = float(words[words.index("pays") + 1]), float(words[-1])
    assert 0.1 < floor < 1.5 < loss
    assert f"it is {loss - floor:.4f} nats a token above the floor" in shown or f"{loss - floor:.3f}" in shown


def test_a_second_run_in_a_folder_moves_the_first_aside(book, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for steps in (6, 3):
        assert main("--data", book, "--out", out, *TINY, "--steps", steps) == 0
    assert [r["step"] for r in read_metrics(out / "metrics.jsonl")] == [0, 3]
    assert [r["step"] for r in read_metrics(out / "earlier-1" / "metrics.jsonl")] == [0, 3, 6]
    assert names(out / "earlier-1") == ALL_FILES
    assert (out / "notes.txt").read_text() == "mine"
    assert "held an earlier run" in capsys.readouterr().out


def test_samples_begin_with_what_the_tokenizer_can_say(book, tmp_path, capsys):
    """The tokenizer "simple" has no tokens for white space."""
    out, flags = tmp_path / "run", ["--data", str(book), "--tokenizer=simple", *TINY]
    assert "--prompt ' \\n': the tokenizer simple has no tokens for it" in refused(capsys, out, *flags, "--prompt= \n")
    assert main(*flags, "--out", out) == 0
    assert capsys.readouterr().out.count("--- a sample after step") == 2
    assert main(*flags, "--out", out, "--resume", "--steps=9", "--samples=3") == 0


def test_a_failure_in_training_is_not_laid_to_resuming(book, tmp_path, capsys, monkeypatch):
    def failing(run, seed):
        raise ValueError("it went wrong")

    monkeypatch.setattr(pretrain, "sample", failing)
    assert main("--data", book, "--out", tmp_path / "run", *TINY) == 2
    assert capsys.readouterr().err == "pretrain.py: it went wrong\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--preset", "tiny"], "--preset tiny: there is no such preset; choose one of stories,"),
        (["--tokenizer", "morse"], "--tokenizer morse: unknown; choose one of bpe, char"),
        (["--steps", "-3"], "--steps -3: must be at least 1"),
        (["--steps", "1.5"], "--steps: invalid int value: '1.5'"),
        (["--lr", "nan"], "--lr nan: must be"),
        (["--lr", "-1"], "--lr -1.0: must be at least 0 (highest learning rate)"),
        (["--heads", "3"], "--heads 3 does not divide --channels 16"),
        (["--batch", "100000"], "--batch 100000: the training text has only"),
        (["--context", "5000"], "the training text has 1872 tokens and one window needs 5000 + 1"),
        (["--val-fraction", "0.001"], "the validation text has 2 tokens and one window needs 16 + 1"),
        (["--val-fraction", "1"], "--val-fraction 1.0: must lie between 0 and 1"),
        (["--prompt", "ZEBRA"], "--prompt 'ZEBRA': char tokenizer: character 'Z' (U+005A) at position 0"),
        (["--prompt", ""], "--prompt is empty"),
        (["--seed", "-1"], "--seed -1: must lie in"),
        (["--device", "tpu"], "--device tpu: expected cpu or cuda"),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
        (["--channels", "200000"], "a batch of 4 windows of 16 tokens needs about 7.0 TiB for"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused_in_one_sentence(book, tmp_path, capsys, flags, message):
    assert message in refused(capsys, tmp_path / "run", "--data", book, *TINY, *flags)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file or folder"),
        (b"", "the file is empty"),
        ("caf\xe9".encode("latin-1"), "not UTF-8: byte 0xe9 at position 3"),
        (b"too short", "the training text has 8 tokens and one window needs 16 + 1"),
    ],
)
def test_a_text_that_cannot_be_learned_from_is_refused(tmp_path, capsys, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    error = refused(capsys, tmp_path / "run", "--data", path, *TINY)
    assert message in error
    if content is None or b"short" not in content:
        assert "text.txt" in error


def test_a_preset_without_a_text_asks_for_one(tmp_path, capsys):
    error = refused(capsys, tmp_path / "run", "--preset", "shakespeare-char")
    assert "--preset shakespeare-char has no text of its own; name one with --data" in error


def test_a_gpu_that_is_not_there_is_refused(book, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tinygrad_llm.devices.cuda_problem", lambda: "this machine has no CUDA device; use device cpu")
    error = refused(capsys, tmp_path / "run", "--data", book, "--device", "cuda", *TINY)
    assert "--device cuda: this machine has no CUDA device" in error


def test_a_missing_library_is_named_before_training(book, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "matplotlib" else object())
    error = refused(capsys, tmp_path / "run", "--data", book, *TINY)
    assert "matplotlib is not installed; pip install -e '.[examples]'" in error


def test_a_tokenizer_without_its_files_says_how_to_go_on(book, tmp_path, capsys, monkeypatch):
    def offline(encoding):
        raise ConnectionError("gpt2 tokenizer: its files are not there; go on with --tokenizer char")

    monkeypatch.setattr(text.tiktoken, "_make", offline)
    error = refused(capsys, tmp_path / "run", "--data", book, "--tokenizer", "gpt2", *TINY)
    assert "go on with --tokenizer char" in error


def test_a_run_larger_than_the_machine_is_refused_with_the_estimate(book, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2**16)
    error = refused(capsys, tmp_path / "run", "--data", book, *TINY)
    assert "a batch of 4 windows of 16 tokens needs about" in error and "has 64.0 KiB" in error


@pytest.mark.parametrize("kind", ["a file", "below a file"])
def test_a_folder_that_cannot_be_written_is_refused(book, capsys, kind):
    out = book if kind == "a file" else book / "run"
    assert main("--data", book, "--out", out, *TINY) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"--out {out}: " in error and "name another" in error
    assert book.read_text().startswith("the cat")


def test_an_exploding_run_ends_with_one_sentence_and_no_model(book, tmp_path, capsys, monkeypatch):
    real, calls = pretrain.Trainer.train_step, []

    def spoiled(trainer):
        calls.append(trainer.step)
        if trainer.step == 4:
            trainer.model.out_head.weight.array[:] = np.nan
        return real(trainer)

    monkeypatch.setattr(pretrain.Trainer, "train_step", spoiled)
    out = tmp_path / "run"
    assert main("--data", book, "--out", out, *TINY) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "at step 4" in error
    assert "step 5: the loss is nan; the last good loss was" in error
    assert names(out) == FIRST_FILES
    assert [r["step"] for r in read_metrics(out / "metrics.jsonl")] == [0, 3]


def test_a_full_disk_ends_with_one_sentence(book, tmp_path, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrain, "save_pretrained", full)
    assert main("--data", book, "--out", tmp_path / "run", *TINY) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device" in error
    assert names(tmp_path / "run") == FIRST_FILES


def test_ctrl_c_before_training_leaves_nothing(book, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain.text, "build", interrupted)
    assert main("--data", book, "--out", tmp_path / "run", *TINY) == 130
    assert "nothing was written" in capsys.readouterr().err and not (tmp_path / "run").exists()


def start(*arguments, **keywords):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **keywords
    )


def test_ctrl_c_keeps_whole_files_of_the_step_it_stopped_at(book, tmp_path):
    out = tmp_path / "run"
    process = start("--data", book, "--out", out, *TINY, "--steps", 1_000_000)
    assert process.stdout is not None
    for line in process.stdout:
        if "the first step's loss" in line:
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == ""
    assert "stopped by Ctrl-C after step" in shown and "of 1000000; the files above were kept, and --resume" in shown
    assert names(out) == ALL_FILES
    assert models.load(out).config.n_layers == 1


def test_as_a_process_it_takes_a_folder_and_logs_calmly(book, tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.md"):
        (tmp_path / "texts" / name).write_text(book.read_text())
    process = start("--data", tmp_path / "texts", "--out", tmp_path / "run", *TINY)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and errors == "", errors
    assert "\r" not in shown and "step 3/6   train" in shown


def test_as_a_process_it_refuses_without_a_stack_trace(tmp_path):
    process = start("--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and shown == ""
    assert errors.count("\n") == 1 and "there is no such file or folder" in errors


def test_help_is_a_page_with_every_flag_and_its_values(capsys):
    with pytest.raises(SystemExit) as caught:
        main("--help")
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    for expected in ("--data", "--min-lr", "--no-tie-weights", "[4, 4, 12]", "examples:", "files,", "exit codes:"):
        assert expected in shown
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize("name", ["data", "out"])
def test_an_empty_path_is_refused(book, capsys, name):
    assert pretrain.main(["--data", str(book), f"--{name}", ""]) == 2
    assert f"--{name} is empty" in capsys.readouterr().err


def test_files_of_something_else_are_left_where_they_are(book, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    assert pretrain.main(["--data", str(book), "--out", str(out)]) == 2
    assert "config.json of something else" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["config.json"] and (out / "config.json").read_text() == "mine"


def test_a_link_to_nowhere_is_no_folder(book, tmp_path, capsys):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert pretrain.main(["--data", str(book), "--out", str(tmp_path / "link")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_one_token_is_nothing_to_learn_from(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a" * 5000)
    assert main("--data", tmp_path / "a.txt", "--out", tmp_path / "out") == 2
    assert "one different token only" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_must_be_finite(book, tmp_path, capsys, value):
    assert pretrain.main(["--data", str(book), "--out", str(tmp_path / "out"), "--lr", value]) == 2
    assert f"--lr {value}: must be a finite number" in capsys.readouterr().err


def weights(out):
    return (out / "model.safetensors").read_bytes()


def contents(out):
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_resume_starts_goes_on_and_finds_nothing_left_to_do(book, tmp_path, capsys):
    whole, out = tmp_path / "whole", tmp_path / "run"
    flags = ["--data", book, *TINY, "--steps", 12, "--dropout", 0.1, "--schedule", "constant"]
    assert main(*flags, "--out", whole) == 0
    capsys.readouterr()
    assert main(*flags, "--steps", 6, "--out", out, "--resume") == 0  # nothing there: it starts, and says so
    assert f"--resume: there is no checkpoint in {out} to go on from; the run begins anew" in capsys.readouterr().out
    assert pretrain.main(["--out", str(out), "--resume", "--steps", "12"]) == 0
    shown = capsys.readouterr().out
    assert "going on after step 6 of 12" in shown and "anew" not in shown
    assert pretrain.main(["--out", str(out), "--resume"]) == 0
    assert "going on after step 12 of 12" in capsys.readouterr().out
    assert [r["step"] for r in read_metrics(out / "metrics.jsonl")] == [0, 3, 6, 9, 12]
    assert names(out) == ALL_FILES
    assert len((out / "steps.csv").read_text().splitlines()) == 13
    again = tmp_path / "again"  # the same flags, from the file
    assert pretrain.main(["--config", str(whole / "run.json"), "--out", str(again)]) == 0
    assert weights(again) == weights(whole)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "0.5"], "--lr 0.5: the run in {out} has 0.002; leave the flag out to go on with it"),
        (["--tokenizer", "word"], "--tokenizer word: the run in {out} has char"),
        (["--steps", "3"], "--steps 3: 6 steps have been done"),
        (["--keep", "0"], "--keep 0: at least 1 checkpoint must stay"),
    ],
)
def test_a_flag_that_contradicts_the_run_is_refused(book, tmp_path, capsys, flags, message):
    out = tmp_path / "run"
    assert main("--data", book, "--out", out, *TINY) == 0
    before = contents(out)
    capsys.readouterr()
    assert pretrain.main(["--out", str(out), "--resume", *flags]) == 2
    error = capsys.readouterr().err
    assert message.format(out=out) in error and error.count("\n") == 1
    assert contents(out) == before


def test_a_text_that_has_changed_is_refused(book, tmp_path, capsys):
    out = tmp_path / "run"
    assert main("--data", book, "--out", out, *TINY) == 0
    book.write_text(book.read_text().replace("mat", "zam", 1))
    before = contents(out)
    capsys.readouterr()
    assert pretrain.main(["--out", str(out), "--resume"]) == 2
    assert contents(out) == before
    assert "is of another text or tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--layers=2"]])
def test_where_the_flags_are_lost_it_says_so(book, tmp_path, capsys, monkeypatch, flags):
    monkeypatch.setattr(corpora, "STORIES_CHARACTERS", 40_000)
    out = tmp_path / "run"
    assert main("--data", book, "--out", out, *TINY) == 0
    (out / "run.json").unlink()
    before = contents(out)
    capsys.readouterr()
    given = [] if not flags else ["--data", book, "--tokenizer=char", *TINY, *flags]
    assert pretrain.main(["--out", str(out), "--resume", *map(str, given)]) == 2
    error = capsys.readouterr().err
    assert f"{out} has checkpoints and no run.json, which would tell the flags of their run; give them all" in error
    assert ("is of another model" if flags else "is of another text or tokenizer") in error and error.count("\n") == 1
    assert contents(out) == before
    assert main("--data", book, "--out", out, *TINY, "--resume") == 0 and (out / "run.json").exists()


def test_a_damaged_checkpoint_is_left_out_loudly(book, tmp_path, capsys):
    out = tmp_path / "run"
    assert main("--data", book, "--out", out, *TINY) == 0
    before = weights(out)
    newest = max((out / "checkpoints").iterdir())
    (newest / "optimizer.safetensors").write_bytes(b"")
    assert pretrain.main(["--out", str(out), "--resume"]) == 0
    assert "warning: the checkpoint after step 6 is damaged and left out" in capsys.readouterr().err
    assert weights(out) == before and [r["step"] for r in read_metrics(out / "metrics.jsonl")] == [0, 3, 6]


def test_two_runs_in_one_folder_are_one_too_many(book, tmp_path, capsys):
    from tinygrad_llm.training import locked

    out = tmp_path / "run"
    out.mkdir()
    with locked(out):
        assert main("--data", book, "--out", out, *TINY) == 2
    assert "another run works in this folder" in capsys.readouterr().err and names(out) == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_goes_on_to_the_same_bits(book, tmp_path, number):
    whole, out = tmp_path / "whole", tmp_path / "run"
    flags = ["--data", book, *TINY, "--steps", 600, "--eval-every", 200, "--save-every", 20, "--dropout", 0.1]
    assert main(*flags, "--out", whole) == 0
    process = start("--tokenizer=char", *flags, "--out", out)
    while len(list(out.glob("checkpoints/step-*"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    shown, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == ((143, "") if number == signal.SIGTERM else (-9, ""))
    assert ("stopped by SIGTERM after step" in shown) == (number == signal.SIGTERM)
    assert pretrain.main(["--out", str(out), "--resume"]) == 0
    assert weights(out) == weights(whole)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "lr = 1e-2\nspeed = 3\n", "a.toml: speed: there is no such flag"),
        ("a.toml", "lr = \n", "a.toml: not TOML"),
        ("a.json", "[1]", "a.json: expected a table"),
        ("a.json", '{"tie_weights": 3}', "a.json: tie_weights = 3: not a value of --tie-weights"),
        ("a.toml", "layers = 1.5", "--layers: invalid int value: '1.5'"),
        ("a.toml", None, "No such file"),
    ],
)
def test_a_configuration_that_says_nothing_is_refused(book, tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    assert message in refused(capsys, tmp_path / "run", "--data", book, *TINY, "--config", path)


def test_flags_go_before_the_file_that_goes_before_the_preset(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("lr = 0.5\nlayers = 7\ntie_weights = false\nsave-every = 9\n")
    args = effective_flags(pretrain.parser(), ["--config", str(path), "--layers", "3"], pretrain.FREE)
    assert (args.lr, args.layers, args.tie_weights, args.save_every, args.heads) == (0.5, 3, False, 9, None)


def test_a_disk_too_small_for_the_checkpoints_is_refused(book, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    assert "4 checkpoints need" in refused(capsys, tmp_path / "run", "--data", book, *TINY)


def test_tensorboard_gets_the_losses_and_the_samples_and_a_resume_repeats_none(book, tmp_path, capsys):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")  # texts
    out = tmp_path / "run"
    assert main("--data", book, "--out", out, *TINY, "--tensorboard") == 0
    assert pretrain.main(["--out", str(out), "--resume", "--steps", "12", "--samples", "4"]) == 0
    found = accumulator.EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [e.step for e in found.Scalars("loss/step")] == list(range(1, 13))
    records = read_metrics(out / "metrics.jsonl")
    assert [(e.step, pytest.approx(e.value)) for e in found.Scalars("loss/validation")] == [
        (r["step"], r["val_loss"]) for r in records
    ]
    texts = shown.EventAccumulator(str(out / "tensorboard"), tensor_size_guidance={"text": 0})
    samples = texts.Reload().Tensors("sample")
    assert [e.step for e in samples] == [3, 6, 9, 12]
    assert samples[0].tensor_proto.string_val[0].decode().splitlines()[-1] in capsys.readouterr().out
    assert main("--data", book, "--out", out, *TINY) == 0
    assert names(out / "earlier-1") == ALL_FILES | {"tensorboard"} and "tensorboard" not in names(out)


def test_tensorboard_that_is_not_there_is_named_before_training(book, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "tensorboard" else object())
    error = refused(capsys, tmp_path / "run", "--data", book, *TINY, "--tensorboard")
    assert "tensorboard is not installed; pip install -e '.[tensorboard]'" in error


def test_the_end_says_what_the_time_went_to_and_where_the_best_model_is(book, tmp_path, capsys):
    out = tmp_path / "run"
    assert main("--data", book, "--out", out, *TINY, "--steps", 9, "--lr", 0.02) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("spent on"))
    assert [word for word in ("steps", "evaluation", "samples", "checkpoints") if f"{word} " in line] == [
        "steps", "evaluation", "samples", "checkpoints"
    ]  # fmt: skip
    shares = [float(part) for part in line.replace("(", " ").replace("%", " ").split() if part.count(".") == 1]
    assert sum(shares[1::2]) == pytest.approx(100, abs=0.3)


def test_the_end_names_the_best_model_where_it_is_not_the_last(book, tmp_path, capsys, monkeypatch):
    real, losses = pretrain.Trainer.evaluate, iter([9.0, 1.0, 2.0, 3.0])

    def evaluate(trainer):
        real(trainer)
        trainer.evaluations[-1] = dataclasses.replace(trainer.evaluations[-1], val_loss=next(losses))
        return trainer.evaluations[-1]

    monkeypatch.setattr(pretrain.Trainer, "evaluate", evaluate)
    out = tmp_path / "run"
    assert main("--data", book, "--out", out, *TINY, "--steps", 9, "--keep", 1) == 0
    path = out / "checkpoints" / "step-00000003"
    assert f"best         validation 1.0000 after step 3, in {path}" in capsys.readouterr().out
    assert names(out / "checkpoints") == {"step-00000003", "step-00000009"} and models.load(path)
