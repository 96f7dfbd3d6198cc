"""The fine-tunings after a kill, a signal or a change: they end with the bits of a run left alone, or say why."""

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.data import corpora
from tinygrad_llm.models import GPTModel, commandline
from tinygrad_llm.text import BPETokenizer
from tinygrad_llm.training import Checkpoints, RunFolder, read_metrics, read_steps

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]
WORDS = ("tea", "cat", "sun", "log", "map", "key", "pen", "cup")
OFTEN = ["--save-every=2", "--save-minutes=0"]
TINY = ["--layers=1", "--heads=2", "--channels=16"]

# Runs an example with few stories and tests; dies at the n-th time that it opens, renames, makes or removes a file.
KILLED = """
import os, runpy, signal, sys
from tinygrad_llm.data import corpora
corpora.STORIES_CHARACTERS = 20_000
left, out, script, sys.argv = [int(sys.argv[1])], sys.argv[2], sys.argv[3], sys.argv[3:]
def hook(event, arguments):
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and out in str(arguments[0]):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
runpy.run_path(script, run_name="__main__")
"""


def load(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def swift():
    """Nothing here asks what a power cut leaves, so nobody waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


EXAMPLES = {name: load(f"finetune_{name}") for name in ("classifier", "instructions", "preferences")}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Data for each example, and a small model with its tokenizer."""
    folder = tmp_path_factory.mktemp("given")
    pairs = [(a, b) for a in WORDS for b in WORDS]
    random.Random(0).shuffle(pairs)
    rows = {
        "classifier": [{"text": f"{a} {b} {a}", "label": "one" if a < b else "two"} for a, b in pairs],
        "instructions": [{"instruction": f"Say {a}", "input": b, "output": a} for a, b in pairs],
        "preferences": [{"instruction": f"{a} {b}?", "chosen": f"yes {a}", "rejected": f"no {a}"} for a, b in pairs],
    }
    for name, found in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(found))
    tokenizer = BPETokenizer.train([f"Say {' '.join(WORDS)}. <|user|>\n\n<|assistant|>\nyes no and"], 280)
    tg.manual_seed(3)
    config = {"context_length": 64, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0, "tie_weights": True}
    GPTModel({"vocab_size": tokenizer.vocab_size, **config}).save_pretrained(folder / "model")
    tokenizer.save(folder / "model" / "tokenizer.json")
    return folder


def flags(kind, given, name):
    """Of a short run of an example: "fresh" begins with nothing, "lora" with a model."""
    begin = TINY if kind == "fresh" else ["--model", given / "model", "--train=lora", "--rank=2"]
    if (kind, name) == ("fresh", "instructions"):
        begin = [*begin, "--pretrain-steps=5"]
    own = {
        "classifier": ["--epochs=4", "--batch=6", "--dropout=0.1", "--drop-tokens=0.2"],
        "instructions": ["--epochs=2", "--batch=8", "--style=phi3", "--answer-tokens=2", "--evaluations=3", "--lr=1e-2",
                         "--dropout=0.1"],
        "preferences": ["--epochs=2", "--batch=12", "--style=phi3", "--answers=both", "--answer-epochs=2", "--lr=3e-3"],
    }[name]  # fmt: skip
    return ["--data", given / f"{name}.json", *begin, *own, *OFTEN]


def run(name, *arguments):
    return EXAMPLES[name].main([str(argument) for argument in arguments])


def killed(name, out, point, *arguments):
    """A process of an example, killed at its file operation of that number, if it comes so far."""
    command = [sys.executable, "-c", KILLED, point, out, ROOT / "examples" / f"finetune_{name}.py", "--out", out]
    return subprocess.run(
        [str(part) for part in (*command, *arguments)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def bits(out):
    """All that a run has written, to the last bit, but for the times in it."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock"):
        if path.name == "metrics.jsonl":
            records = [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second")}
                       for r in read_metrics(path)]  # fmt: skip
            found[path.relative_to(out)] = records
        elif path.name == "steps.csv":
            found[path.relative_to(out)] = {k: v for k, v in read_steps(path).items() if k != "seconds"}
        else:
            found[path.relative_to(out)] = b"" if path.name == "state.json" else path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):
    """The folder of a run that was left alone, by example and kind; made once."""
    made = {}

    def of(name, kind):
        if (name, kind) not in made:
            made[name, kind] = tmp_path_factory.mktemp(f"{name}-{kind}") / "out"
            assert run(name, *flags(kind, given, name), "--out", made[name, kind]) == 0
        return made[name, kind]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "STORIES_CHARACTERS", 20_000)
        yield of


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
@pytest.mark.parametrize(
    ("name", "kind"), [("classifier", "lora"), ("instructions", "fresh"), ("preferences", "fresh")]
)
def test_a_run_that_is_killed_and_goes_on_ends_with_the_same_bits(given, whole, tmp_path, name, kind):
    """Killed in the middle of writing; what is left goes on without a flag but --resume, if it has any."""
    expected, out, point = whole(name, kind), tmp_path / "out", random.randrange(1, 160)
    arguments = flags(kind, given, name)
    done = killed(name, out, point, *arguments)
    assert done.returncode in (0, -signal.SIGKILL) and "Traceback" not in done.stderr, (point, done.stderr)
    assert run(name, *([] if (out / "run.json").exists() else arguments), "--out", out, "--resume") == 0, point
    assert bits(out) == bits(expected), point


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_run_that_is_stopped_keeps_its_files_and_goes_on(given, whole, tmp_path, capsys, monkeypatch, name):
    """By SIGTERM, in the tuning proper, after a step that is not saved otherwise."""
    expected, out, real = whole(name, "lora"), tmp_path / "out", RunFolder.on_step

    def on_step(folder, trainer):
        real(folder, trainer)
        if folder.folder == out and trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunFolder, "on_step", on_step)
    assert run(name, *flags("lora", given, name), "--out", out) == 143
    shown = capsys.readouterr().out
    assert "stopped by SIGTERM after step 3 of" in shown and "the files above were kept, and --resume" in shown
    assert (out / "adapter_model.safetensors").exists() and max(read_steps(out / "steps.csv")["step"]) == 3
    monkeypatch.undo()
    assert run(name, "--out", out, "--resume") == 0
    assert bits(out) == bits(expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_finished_run_finds_nothing_left_to_do(whole, tmp_path, capsys, name):
    out = tmp_path / "out"
    shutil.copytree(whole(name, "lora"), out)
    before, steps = bits(out), Checkpoints(out / "checkpoints").steps()[-1]
    assert run(name, "--out", out, "--resume") == 0
    assert f"going on after step {steps} of {steps}" in capsys.readouterr().out
    assert bits(out) == before


@pytest.mark.parametrize("name", EXAMPLES)
def test_other_flags_data_or_weights_are_refused_in_one_sentence(given, whole, tmp_path, capsys, name):
    out, data, model = tmp_path / "out", tmp_path / "data.json", tmp_path / "model"
    shutil.copytree(whole(name, "lora"), out)
    shutil.copytree(given / "model", model)
    rows = json.loads((given / f"{name}.json").read_text())
    rows[3], rows[4] = rows[4], rows[3]
    data.write_text(json.dumps(rows))
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    kept = json.loads((out / "run.json").read_text())

    def refused(*arguments):
        before = bits(out)
        capsys.readouterr()
        assert run(name, "--out", out, "--resume", *arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith(f"finetune_{name}.py: ")
        assert bits(out) == before
        return error

    assert f"--lr 0.5: the run in {out} has {kept['lr']}" in refused("--lr=0.5")
    assert f"--data {data}: the run in {out} has {kept['data']}" in refused("--data", data)
    (out / "run.json").write_text(json.dumps({**kept, "data": str(data)}))
    assert "is of another data or tokenizer; go on with the same one" in refused()
    (out / "run.json").write_text(json.dumps({**kept, "model": str(model)}))
    assert "is of another model to begin with; go on with the same one" in refused()
    (out / "run.json").unlink()
    error = refused("--data", kept["data"])  # --model is not given
    assert f"{out} has checkpoints and no run.json, which would tell the flags of their run; give them all" in error


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_ends_a_run_is_told_in_one_sentence_and_it_goes_on(given, whole, tmp_path, capsys, monkeypatch, name):
    """A full disk; then, in a folder of its own, a model that is ruined."""
    out, real = tmp_path / "out", Checkpoints.save

    def full(checkpoints, trainer):
        if trainer.step == 4:
            raise OSError(28, "No space left on device")
        return real(checkpoints, trainer)

    monkeypatch.setattr(Checkpoints, "save", full)
    assert run(name, *flags("lora", given, name), "--out", out) == 2
    error = capsys.readouterr().err
    assert error == f"finetune_{name}.py: --out {out}: No space left on device; once that is mended, --resume goes on\n"
    monkeypatch.undo()
    assert run(name, "--out", out, "--resume") == 0 and bits(out) == bits(whole(name, "lora"))
    with np.errstate(all="ignore"):
        assert run(name, *flags("lora", given, name), "--out", tmp_path / "ruined", "--lr=1e30") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and any(word in error for word in ("nan", "no number", "inf"))


@pytest.mark.parametrize("train", ["all", "lora"])
@pytest.mark.parametrize("name", ["instructions", "preferences"])
def test_what_tells_classes_apart_is_no_base_for_what_writes(given, tmp_path, capsys, name, train):
    flat, chosen = tmp_path / "flat", flags("lora", given, "classifier")
    assert run("classifier", *chosen, "--train", train, "--epochs=1", "--out", flat) == 0
    capsys.readouterr()
    assert run(name, *flags("lora", given, name), "--model", flat, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"finetune_{name}.py: {flat}: the model tells classes apart and writes no text")
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_adapter_is_merged_into_its_base_and_tuned_on(given, whole, tmp_path, capsys, name):
    """And so is one on top of it; a base that was moved away is told by the adapter that misses it."""
    first, second, third = whole("instructions", "lora"), tmp_path / "second", tmp_path / "third"
    chosen = [*flags("lora", given, name), *(["--answers=none"] if name == "preferences" else [])]
    assert run(name, *chosen, "--model", first, "--out", second) == 0
    read, bottom = commandline.read_model(second).state_dict(), commandline.read_model(first).state_dict()
    changed = {key for key in bottom if key != "out_head.weight" and not np.array_equal(bottom[key], read[key])}
    assert changed and all("trf_blocks" in key or "tok_emb" in key for key in changed), changed
    assert run("classifier", *flags("lora", given, "classifier"), "--model", second, "--train=all", "--out", third) == 0
    base = given / "model"
    base.rename(given / "away")
    capsys.readouterr()
    try:
        assert run(name, *chosen, "--model", second, "--out", tmp_path / "no") == 2
        assert f"{first}: an adapter of {base}, and there is no such folder" in capsys.readouterr().err
    finally:
        (given / "away").rename(base)
    config = json.loads((second / "adapter_config.json").read_text())
    (second / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(second)}))
    with pytest.raises(ValueError, match="leads back to it"):
        commandline.read_model(second)
    with pytest.raises(ValueError, match="holds an adapter, not a model; load_adapter"):
        GPTModel.from_pretrained(second)


def test_a_run_over_another_kind_leaves_none_of_its_files(given, whole, tmp_path, capsys):
    """Each kind over each other; all that was there is found in the folder of the earlier run."""
    pretrain = load("pretrain")
    text = given / "text.txt"
    text.write_text("the cat sat on the mat, and the dog sat on the cat.\n" * 40)
    short = ["--tokenizer=char", *TINY, "--context=16", "--batch=4", "--steps=2", "--eval-windows=4", "--samples=0"]
    assert pretrain.main(["--data", str(text), "--out", str(tmp_path / "plain"), *short]) == 0
    kept = {path.name for path in (tmp_path / "plain").iterdir()}
    for name, kind in (("classifier", "lora"), ("instructions", "fresh"), ("preferences", "fresh")):
        out = tmp_path / name
        shutil.copytree(whole(name, kind), out)
        before = {path.name for path in out.iterdir()} - {".lock"}
        assert pretrain.main(["--data", str(text), "--out", str(out), *short]) == 0
        assert {path.name for path in out.iterdir()} == kept | {"earlier-1"}
        assert {path.name for path in (out / "earlier-1").iterdir()} == before
    for flag in (["--out", whole("instructions", "fresh"), "--resume"], ["--config", tmp_path / "plain" / "run.json"]):
        assert run("preferences", *flag) == 2
        program = {"--out": "finetune_instructions.py", "--config": "pretrain.py"}[flag[0]]
        assert f"run.json: tells of a run of {program}, not of finetune_preferences.py" in capsys.readouterr().err
    assert run("classifier", "--predict", "tea cat tea", "--out", tmp_path / "classifier") == 2
    assert "has no classifier.json, but a run of pretrain.py; train a classifier" in capsys.readouterr().err
    shutil.copy(whole("classifier", "lora") / "classifier.json", tmp_path / "plain")
    assert run("classifier", "--predict", "tea cat tea", "--out", tmp_path / "plain") == 2
    assert "classifier.json has 2 classes, the model beside it 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_flag_that_another_makes_void_is_refused(given, tmp_path, capsys, name):
    of_data = {"instructions": "tasks", "preferences": "pairs"}
    assert run(name, *flags("lora", given, name), "--model=", "--out", tmp_path / "out") == 2
    assert "--model is empty" in capsys.readouterr().err
    for flag in ("layers", "heads", "channels", *(["pretrain-steps"] if name == "instructions" else [])):
        assert run(name, *flags("lora", given, name), f"--{flag}=3", "--out", tmp_path / "out") == 2
        assert f"--{flag} 3: means nothing beside --model; leave one out" in capsys.readouterr().err
    if name in of_data:
        assert run(name, *flags("lora", given, name), f"--{of_data[name]}=3", "--out", tmp_path / "out") == 2
        assert f"--{of_data[name]} 3: means nothing beside --data; leave one out" in capsys.readouterr().err
    if name != "preferences":
        flag = "context" if name == "classifier" else "max-length"
        assert run(name, *flags("lora", given, name), f"--{flag}=65", "--out", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert f"--{flag} 65: " in error and "reads 64 tokens at most" in error
    assert not (tmp_path / "out").exists()
