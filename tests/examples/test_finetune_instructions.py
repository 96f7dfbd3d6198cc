"""examples/finetune_instructions.py: what it learns, writes, and refuses, and who can talk with the result."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.data import FORM_FILE, FORMS, corpora, tasks
from tinygrad_llm.models import GPTModel, commandline, load
from tinygrad_llm.text import BPETokenizer
from tinygrad_llm.training import read_metrics
from tinygrad_llm.training.responses import respond

EXAMPLES = Path(__file__).parents[2] / "examples"


def module(name):
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification and specification.loader
    found = importlib.util.module_from_spec(specification)
    sys.modules[name] = found
    specification.loader.exec_module(found)
    return found


example, chat, write = module("finetune_instructions"), module("chat"), module("generate")
WORDS = ("red", "blue", "green", "gold")


def run(script, *arguments):
    try:
        return script.main([str(a) for a in arguments])
    except SystemExit as error:
        return error.code


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a small model that has learned nothing yet, and its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = BPETokenizer.train(["Say red, blue, green or gold. <|user|>\n\n<|assistant|>\n" * 3], 290)
    tg.manual_seed(3)
    config = {"context_length": 64, "emb_dim": 32, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0, "tie_weights": True}
    GPTModel({"vocab_size": tokenizer.vocab_size, **config}).save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """A file of entries whose answer is the word asked for, once as the input and once in the instruction."""
    path = tmp_path_factory.mktemp("entries") / "entries.json"
    found = [
        {"instruction": "Say", "input": word, "output": word} if i % 2 else
        {"instruction": f"Say {word}", "output": word}
        for i in range(15) for word in WORDS
    ]  # fmt: skip
    path.write_text(json.dumps(found))
    return path


def tune(base, entries, out, *flags):
    return run(example, "--model", base, "--data", entries, "--out", out, "--style=phi3", "--answer-tokens=6", *flags)


def answers(folder, questions, form):
    model, tokenizer = commandline.load_run(folder)
    return respond(model, tokenizer, form, questions, 6, tokenizer.special_tokens[commandline.END])


@pytest.mark.parametrize("kind", ["all", "lora"])
def test_a_run_on_a_file_learns_and_others_talk_with_it(base, entries, tmp_path, capsys, monkeypatch, kind):
    out = tmp_path / "out"
    learn = ["--epochs=25", "--lr=1e-2", "--mask-prompt", "--train", kind, "--rank=16"]
    assert tune(base, entries, out, *learn, "--evaluations=2") == 0
    shown = capsys.readouterr().out
    assert "-> " in shown and "test accuracy 100.00%" in shown
    weights = {
        "all": {"model.safetensors", "config.json"}, "lora": {"adapter_model.safetensors", "adapter_config.json"}
    }[kind]  # fmt: skip
    beside = {"metrics.jsonl", "curves.png", "responses.json", "tokenizer.json", FORM_FILE}
    beside |= {"run.json", "steps.csv", "checkpoints"}
    assert {path.name for path in out.iterdir()} - {".lock"} == weights | beside
    records = read_metrics(out / "metrics.jsonl")
    last = records[-1]
    assert len(records) == 4 and last["test_accuracy"] == 1 and last["tested"] == 6
    assert (last["trainable"] < last["parameters"]) == (kind == "lora")
    assert records[-2]["val_loss"] < records[0]["val_loss"] / 2
    responses = json.loads((out / "responses.json").read_text())
    test = json.loads(entries.read_text())[51:57]  # behind the first 85 of 100
    assert [{k: v for k, v in r.items() if k != "model_response"} for r in responses] == test
    assert [r["model_response"] for r in responses] == [e["output"] for e in test]
    assert answers(out, test, FORMS["phi3"]) == [e["output"] for e in test]

    assert run(write, out, "Say green", "--temperature", 0) == 0
    assert capsys.readouterr().out == "Say green\ngreen\n"
    assert run(write, out, "Say green", "--temperature", 0, "--template", "none", "--tokens", 1) == 0
    assert capsys.readouterr().out.startswith("Say green") and not capsys.readouterr().out
    typed = iter(["Say gold", "Say blue"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed, "/quit"))
    assert run(chat, "--model", out, "--temperature", 0) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["gold", "blue"]
    assert run(chat, "--model", out, "--system", "Be kind.") == 2
    assert "takes no system's text" in capsys.readouterr().err


def test_what_an_earlier_run_wrote_is_kept_and_a_run_repeats(base, entries, tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    for out in (first, again, again):
        assert tune(base, entries, out, "--epochs=1", "--lr=1e-3", "--style=chat", "--accumulate=2") == 0
    one, two = (read_metrics(out / "metrics.jsonl")[-2] for out in (first, again))
    assert one["val_loss"] == two["val_loss"] and one["step"] == 3  # 51 entries, 8 a batch, two batches a step
    assert read_metrics(again / "earlier-1" / "metrics.jsonl")[-2]["val_loss"] == one["val_loss"]
    assert json.loads((first / FORM_FILE).read_text())["opening"] == FORMS["chat"].opening


def test_an_adapter_keeps_its_base_when_the_folder_moves(base, entries, tmp_path):
    """The base that a run made itself lies inside its folder, and is found from there."""
    out = tmp_path / "out"
    assert tune(base, entries, out, "--epochs=1", "--train=lora", "--rank=2") == 0
    config = json.loads((out / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == base
    before, _ = commandline.load_run(out)
    (out / "base").symlink_to(base)
    (out / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "base"}))
    out.rename(tmp_path / "moved")
    after, _ = commandline.load_run(tmp_path / "moved")
    for name, tensor in before.state_dict().items():
        assert np.array_equal(tensor.array, after.state_dict()[name].array), name
    (tmp_path / "moved" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="name there what it adapts"):
        commandline.load_run(tmp_path / "moved")


def test_from_nothing_in_short(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(corpora, "STORIES_CHARACTERS", 40_000)
    monkeypatch.setattr(example, "VALIDATION", 11)
    monkeypatch.setattr(example, "TEST", 22)
    monkeypatch.setattr(example, "CUT_BY", 40)
    out = tmp_path / "out"
    short = ["--tasks=48", "--epochs=1", "--evaluations=1", "--answer-tokens=4"]
    assert run(example, "--out", out, "--pretrain-steps=2", *short) == 0
    last = read_metrics(out / "metrics.jsonl")[-1]
    assert last["tested"] == 22 and set(last["kinds"]) == set(tasks.KINDS) and 0 <= last["test_accuracy"] <= 1
    responses = json.loads((out / "responses.json").read_text())
    train, _, test = example.entries_of(example.parser().parse_args(short))
    assert [r["output"] for r in responses] == [e["output"] for e in test] and len(train) == 48
    first, tuned = load(out / "base"), GPTModel.from_pretrained(out)
    assert first.config.vocab_size == tuned.config.vocab_size
    assert [record["step"] for record in read_metrics(out / "base" / "metrics.jsonl")] == [0, 2]
    assert not np.array_equal(first.tok_emb.weight.array, tuned.tok_emb.weight.array)
    assert run(example, "--out", out, "--model", out / "base", "--train=lora", "--rank=1", *short) == 0
    assert "base" not in {path.name for path in (out / "earlier-1").iterdir()}  # it is in use
    commandline.load_run(out)


def test_no_prompt_of_the_test_is_learned_from():
    parts = example.entries_of(example.parser().parse_args(["--tasks=3000"]))
    prompts = [{f"{e['instruction']} {e['input']}".strip() for e in part} for part in parts]
    assert [len(p) for p in prompts] == [3000, example.VALIDATION, example.TEST]
    assert not prompts[0] & prompts[1] and not prompts[0] & prompts[2] and not prompts[1] & prompts[2]


def test_entries_that_do_not_fit_are_left_out_and_counted(base, entries, tmp_path, capsys):
    found = json.loads(entries.read_text())
    found[0]["instruction"] = "Say red " * 40
    path = tmp_path / "long.json"
    path.write_text(json.dumps(found))
    assert tune(base, path, tmp_path / "out", "--epochs=1") == 0
    assert "left out   1 training entries, whose prompts alone have 64 tokens or more" in capsys.readouterr().out


def test_a_shape_that_cannot_be_is_refused_at_once(tmp_path, capsys):
    assert example.main(["--heads", "3", "--out", str(tmp_path / "out")]) == 2
    assert "--heads 3 does not divide --channels 128" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ('[{"instruction": "a", "output": "b"}]', [], "leave a part empty"),
        ('[{"instruction": "a"}]', [], "entry 0 must have a text as its 'output'"),
        ('[{"instruction": "a", "output": " "}]', [], "entry 0 has an empty 'output'"),
        ("{}", [], "must be a list of objects"),
        ("[", [], "line 1 is not JSON"),
        (None, [], "No such file"),
        ("", ["--epochs=0"], "--epochs 0: must be at least 1"),
        ("", ["--batch=0"], "--batch 0: must be at least 1"),
        ("", ["--train=lora", "--alpha=0"], "--alpha 0.0: must be positive"),
        ("", ["--dropout=1"], "drop_rate must be"),
        ("", ["--lr=-1"], "--lr -1.0: must be at least 0"),
        ("", ["--rank=0"], "--rank 0: must be at least 1"),
        ("", ["--max-length=0"], "--max-length 0"),
        ("", ["--max-length=3"], "no training entry has its answer within 3 tokens"),
        ("", ["--style=vicuna"], "invalid choice"),
        ("", ["--train=head"], "invalid choice"),
        ("", ["--model=nowhere"], "nowhere: there is no such folder or file"),
        ("", ["--seed=-1"], "--seed -1"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(base, entries, tmp_path, capsys, content, flags, message):
    path, out = tmp_path / "some.json", tmp_path / "out"
    if content is not None:
        path.write_text(content or entries.read_text())
    assert tune(base, path, out, *flags) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and message in shown.err and shown.err.startswith("finetune_instructions.py: ")
    assert not out.exists()


def test_a_folder_of_something_else_stays(base, entries, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    assert tune(base, entries, other) == 2
    assert "of something else" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["config.json"] and (other / "config.json").read_text() == "{}"
