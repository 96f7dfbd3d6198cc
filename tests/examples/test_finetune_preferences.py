"""examples/finetune_preferences.py: what it learns, writes and refuses."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.models import GPTModel, load_adapter
from tinygrad_llm.training import read_metrics

pytest.importorskip("matplotlib")
SCRIPT = Path(__file__).parents[2] / "examples" / "finetune_preferences.py"
specification = importlib.util.spec_from_file_location("finetune_preferences", SCRIPT)
assert specification and specification.loader
example = importlib.util.module_from_spec(specification)
sys.modules["finetune_preferences"] = example
specification.loader.exec_module(example)

SMALL = ["--layers=1", "--heads=2", "--channels=32"]


@pytest.fixture
def pairs(tmp_path):
    """The chosen answer is yes, the rejected one no."""
    words = ["tea", "cat", "sun", "log", "map", "key", "pen", "cup"]
    entries = [
        {"instruction": f"{a} and {b}?", "chosen": f"yes {a}", "rejected": f"no {a}"} for a in words for b in words
    ]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([entries[i] for i in np.random.default_rng(0).permutation(len(entries))]))
    return path


def run(out, *flags):
    begin = [] if any(flag.startswith("--model") for flag in flags) else SMALL
    return example.main(["--out", str(out), *begin, *flags])


def test_pairs_are_learned_and_all_is_written(pairs, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--data", str(pairs), "--style=phi3", "--answers=both", "--answer-epochs=10", "--answer-lr=1e-2"]
    assert run(out, *flags, "--lr=3e-3", "--epochs=2", "--batch=8") == 0
    names = {path.name for path in out.iterdir()} - {".lock"}
    assert names == {
        "metrics.jsonl", "curves.png", "answers.json", "model.safetensors", "config.json", "tokenizer.json",
        "chat_template.json", "base", "run.json", "steps.csv", "checkpoints",
    }  # fmt: skip
    records = read_metrics(out / "metrics.jsonl")
    first, last = records[0], records[-1]
    assert first["step"] == 0 and first["val_accuracy"] == pytest.approx(0.5, abs=0.5)
    assert first["val_loss"] == pytest.approx(np.log(2), abs=1e-3) and abs(first["val_margin"]) < 1e-3
    assert last["test_accuracy"] == 1 and last["test_margin"] > 1 and last["tested"] == 7 and "own_after" not in last
    answers = json.loads((out / "answers.json").read_text())
    assert sum(a["after"].startswith("no") for a in answers) <= 1 and all(a["before"] for a in answers)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    before, after = (GPTModel.from_pretrained(folder).out_head.weight.array for folder in (out / "base", out))
    assert not np.array_equal(before, after)
    shown = capsys.readouterr().out
    assert "reward accuracy 100.00%" in shown and "right order" in shown

    assert run(out, *flags, "--answer-epochs=1", "--train=lora", "--rank=2", "--lr=1e-2") == 0
    assert "its files are now in" in capsys.readouterr().out
    assert read_metrics(out / "earlier-1" / "metrics.jsonl") == records and (out / "earlier-1" / "base").is_dir()
    model = GPTModel.from_pretrained(out / "base")
    ids = tg.tensor([[1, 2, 3]])
    plain = model(ids).detach().array
    load_adapter(model, out)
    assert not np.allclose(model(ids).detach().array, plain)
    assert not (out / "model.safetensors").exists()


def test_generated_pairs_count_the_models_own_answers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "TEST", 20)
    out = tmp_path / "out"
    assert run(out, "--pairs=40", "--answer-epochs=1") == 0
    last = read_metrics(out / "metrics.jsonl")[-1]
    assert last["tested"] == 20 and set(last["own_before"]) == set(last["own_after"]) == {"polite", "whole", "both"}
    answers = json.loads((out / "answers.json").read_text())
    assert example.preferences.obeyed(answers, [a["before"] for a in answers]) == last["own_before"]
    assert example.preferences.obeyed(answers, [a["chosen"] for a in answers]) == {"polite": 1, "whole": 1, "both": 1}
    assert example.preferences.obeyed(answers, [a["rejected"] for a in answers]) == {"polite": 0, "whole": 1, "both": 0}
    assert "say all" in capsys.readouterr().out


def test_an_adapter_is_of_the_model_that_answers_not_of_the_one_before(pairs, tmp_path):
    first, out = tmp_path / "first", tmp_path / "out"
    flags = ["--data", str(pairs), "--style=phi3", "--answer-epochs=1"]
    assert run(first, *flags) == 0
    assert run(out, *flags, "--model", str(first), "--answers=chosen", "--train=lora", "--rank=2") == 0
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    weights = [GPTModel.from_pretrained(folder).out_head.weight.array for folder in (first, out / "base")]
    assert not np.array_equal(*weights)


def test_a_model_of_before_goes_on(pairs, tmp_path, capsys):
    first, out = tmp_path / "first", tmp_path / "out"
    flags = ["--data", str(pairs), "--style=phi3", "--answer-epochs=1"]
    assert run(first, *flags) == 0
    assert run(out, *flags, "--model", str(first), "--train=lora", "--rank=2") == 0
    assert not (out / "base").exists() and (out / "adapter_model.safetensors").exists()
    assert "what an answer looks like" not in capsys.readouterr().out.split("first      ")[-1].split("pairs ")[-1]


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ('[{"instruction": "a", "chosen": "b"}]', [], "entry 0 must have a text as its 'rejected'"),
        ('[{"instruction": "a", "chosen": "b", "rejected": "b"}]', [], "has one text as chosen and as rejected"),
        ('[{"instruction": "a", "chosen": "b", "rejected": "c"}]', [], "leave a part empty"),
        ("{}", [], "must be a list of objects"),
        (None, [], "No such file"),
        (None, ["--data=nope"], "--data nope: No such file"),
        (None, ["--beta=0"], "--beta 0.0: must be at least"),
        (None, ["--epochs=0"], "--epochs 0: must be at least 1"),
        (None, ["--answers=none"], "--answers none: without --model nothing"),
        (None, ["--answer-epochs=0"], "--answer-epochs 0 must be at least 1"),
        (None, ["--rank=0"], "--rank 0: must be at least 1"),
        (None, ["--train=some"], "invalid choice"),
        (None, ["--model=nowhere"], "No such file"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(tmp_path, capsys, content, flags, message):
    path, out = tmp_path / "pairs.json", tmp_path / "out"
    if content is not None:
        path.write_text(content)
    try:
        code = run(out, "--data", str(path), *flags)
    except SystemExit as error:
        code = error.code
    shown = capsys.readouterr().err
    assert code == 2 and shown.count("\n") == 1 and message in shown and shown.startswith("finetune_preferences.py: ")
    assert not out.exists()


def test_a_folder_of_something_else_stays_as_it_is(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert run(tmp_path, "--pairs=40") == 2
    assert "of something else" in capsys.readouterr().err and (tmp_path / "config.json").read_text() == "{}"
