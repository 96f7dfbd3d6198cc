"""examples/finetune_classifier.py: what it learns, writes, predicts and refuses."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.data import Labelled, messages
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import read_metrics
from tinygrad_llm.training.classifier import (
    ClassifierRecipe,
    ClassifierTrainer,
    Measured,
    encode,
    language_head_of,
    measure,
    next_tokens,
    probabilities,
)

SCRIPT = Path(__file__).parents[2] / "examples" / "finetune_classifier.py"
specification = importlib.util.spec_from_file_location("finetune_classifier", SCRIPT)
assert specification and specification.loader
example = importlib.util.module_from_spec(specification)
sys.modules["finetune_classifier"] = example
specification.loader.exec_module(example)

SMALL = ["--layers=1", "--heads=2", "--channels=16", "--context=24"]


@pytest.fixture
def reviews(tmp_path):
    """A table in which the class is whether the word good or bad stands somewhere, the classes of unequal size."""
    rng = np.random.default_rng(0)
    words = ["the", "tea", "was", "here", "and", "so", "it", "went"]
    lines = []
    for i in range(150):
        kind = "bad" if i % 3 == 0 else "good"
        text = [str(word) for word in rng.choice(words, 6)]
        text[int(rng.integers(6))] = kind
        lines.append(f'{i},"{" ".join(text)}",{kind}ness')
    path = tmp_path / "reviews.csv"
    path.write_text("id,review,stars\n" + "\n".join(lines) + "\n")
    return path


def run(path, out, *flags):
    return example.main(["--data", str(path), "--text=review", "--label=stars", "--out", str(out), *flags])


def test_a_run_learns_writes_its_files_and_predicts(reviews, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert run(reviews, out, *SMALL, "--epochs=25", "--lr=1e-2") == 0
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {
        "metrics.jsonl", "curves.png", "confusion.png", "model.safetensors", "config.json", "tokenizer.json",
        "classifier.json", "run.json", "steps.csv", "checkpoints",
    }  # fmt: skip
    records = read_metrics(out / "metrics.jsonl")
    last = records[-1]
    assert len(records) == 26 and last["test_accuracy"] >= 0.9
    assert sum(map(sum, last["confusion"])) == 20  # a fifth of 50 + 50
    assert set(last["classes"]) == {"badness", "goodness"}
    assert last["classes"]["badness"].keys() == {"precision", "recall", "f1"}
    for name in ("curves.png", "confusion.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()

    assert example.main(["--predict", "it was bad tea and so", "--out", str(out)]) == 0
    one = capsys.readouterr().out
    assert one.startswith("badness\t") and one.endswith("\tit was bad tea and so\n")
    shares = [float(part.split()[1]) for part in one.split("\t")[1].split("  ")]
    assert sum(shares) == pytest.approx(1, abs=2e-3)
    listed = tmp_path / "listed.txt"
    listed.write_text("it was bad tea and so\n\nso it was good tea and\n")
    assert example.main(["--predict", str(listed), "--out", str(out)]) == 0
    both = capsys.readouterr().out
    assert both.startswith(one) and both.splitlines()[1].startswith("goodness\t")
    monkeypatch.setattr(sys, "stdin", io.StringIO(listed.read_text()))
    assert example.main(["--predict", "-", "--out", str(out)]) == 0
    assert capsys.readouterr().out == both

    assert run(reviews, out, *SMALL, "--epochs=1") == 0
    assert "its files are now in" in capsys.readouterr().out
    assert read_metrics(out / "earlier-1" / "metrics.jsonl") == records


@pytest.fixture
def folder(reviews, tmp_path):
    """A language model with its tokenizer, in Hugging Face's layout."""
    assert run(reviews, tmp_path / "first", *SMALL, "--epochs=1") == 0
    first = GPTModel.from_pretrained(tmp_path / "first")
    folder = tmp_path / "base"
    GPTModel({**first.config.to_dict(), "tie_weights": True}).save_pretrained(folder, layout="huggingface")
    (tmp_path / "first" / "tokenizer.json").rename(folder / "tokenizer.json")
    return folder


@pytest.mark.parametrize("kind", ["head", "last", "all", "lora"])
def test_what_learns_and_what_stays(reviews, folder, tmp_path, capsys, kind):
    """A model of this project's own, with its tokenizer, goes on as a classifier."""
    base = GPTModel.from_pretrained(folder).state_dict()
    out = tmp_path / "out"
    assert run(reviews, out, "--model", str(folder), "--train", kind, "--epochs=1", "--lr=1e-2", "--rank=2") == 0
    if kind == "lora":
        assert not (out / "model.safetensors").exists() and (out / "adapter_model.safetensors").exists()
        keys = json.loads((out / "adapter_config.json").read_text())
        assert keys["r"] == 2 and keys["modules_to_save"] == ["score"]
    else:
        after = GPTModel.from_pretrained(out).state_dict()
        changed = {n for n, t in after.items() if "head" not in n and not np.array_equal(t.array, base[n].array)}
        expected = {
            "head": set(),
            "last": {n for n in base if n.startswith(("trf_blocks.0.", "final_norm."))},
            "all": set(base) - {"out_head.weight"},
        }[kind]
        assert changed == expected
    capsys.readouterr()
    assert example.main(["--predict", "it was bad", "--out", str(out)]) == 0
    assert "badness" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["last", "lora"])
def test_frozen_weights_in_eight_bits(reviews, folder, tmp_path, capsys, kind):
    """What is predicted is what was measured: by the model as it was packed."""
    out = tmp_path / "out"
    assert run(reviews, out, "--model", str(folder), "--train", kind, "--epochs=1", "--frozen=int8") == 0
    assert "layers in eight bits" in capsys.readouterr().out
    test = tmp_path / "all.txt"
    lines = [line.split(",")[1].strip('"') for line in reviews.read_text().splitlines()[1:]]
    test.write_text("\n".join(lines))
    assert example.main(["--predict", str(test), "--out", str(out)]) == 0
    found = capsys.readouterr().out.splitlines()
    model = GPTModel.from_pretrained(folder if kind == "lora" else out)
    if kind == "lora":
        example.load_adapter(model, out)
        example.nn.quantize_frozen(model)
    tokenizer = example.text.load(out / "tokenizer.json")
    expected = probabilities(model, [tokenizer.encode_ordinary(line) for line in lines])
    shown = [[float(part.split()[1]) for part in line.split("\t")[1].split("  ")] for line in found]
    np.testing.assert_allclose(shown, expected, atol=6e-4)
    if kind == "last":  # its first layers were rounded and written as such
        before = GPTModel.from_pretrained(folder).tok_emb.weight.array
        assert 0 < np.abs(model.tok_emb.weight.array - before).max() <= np.abs(before).max() / 250


def test_generated_messages_are_balanced_repeatable_and_share_their_words():
    records = messages.generate(5, 2000)
    assert records == messages.generate(5, 3000)[:2000] and records != messages.generate(6, 2000)
    counts = Labelled.from_records(records).counts()
    assert set(counts) == {"ham", "spam"} and abs(counts["ham"] - 1000) < 120
    words = {name: {w for r in records if r["label"] == name for w in r["text"].lower().split()} for name in counts}
    for word in ("free", "win", "call", "prize", "cash", "sorry"):
        assert word in words["ham"] and word in words["spam"], word
    assert not any("{" in r["text"] for r in records)


def classifier(context=12):
    tg.manual_seed(0)
    config = {"vocab_size": 30, "context_length": context, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    return GPTModel(config).replace_head(3)


def test_padding_changes_no_prediction():
    model, rng = classifier(), np.random.default_rng(0)
    texts = [rng.integers(0, 30, n).tolist() for n in (1, 5, 12, 3)]
    together = probabilities(model, texts)
    alone = np.concatenate([probabilities(model, [ids]) for ids in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)


def test_the_weights_of_the_best_epoch_are_kept():
    """Before the last epoch the head is turned round, so that this one is bad."""
    rng = np.random.default_rng(0)
    rows = [([int(n) * 9 + int(i) for i in rng.integers(0, 9, 6)], int(n)) for n in rng.integers(0, 3, 60)]
    model = classifier()
    trainer = ClassifierTrainer(model, ClassifierRecipe(epochs=5, lr=3e-2), rows[:40], rows[40:], 3)

    def spoil(trainer, record):
        if record["epoch"] == 4:
            model.out_head.weight.array[...] *= -9

    assert trainer.run(on_evaluation=spoil)
    trainer.finish()
    best = max((r["val_accuracy"], -r["val_loss"]) for r in trainer.history)
    found = measure(model, rows[40:], 3)
    assert (found.accuracy, -found.loss) == pytest.approx(best)
    assert best != (trainer.history[-1]["val_accuracy"], -trainer.history[-1]["val_loss"])


def test_the_next_tokens_loss_is_that_of_the_language_model():
    model = classifier()
    head = language_head_of(model)
    trainer = ClassifierTrainer(model, ClassifierRecipe(language=1.0), [([1], 0)], [([1], 0)], 3, head)
    from tinygrad_llm.data import classification_batch

    given = classification_batch([([1, 2, 3, 4], 0), ([5, 6], 1)], 0)
    found = trainer._language_loss(model.features(tg.tensor(given.ids)), tg.tensor(next_tokens(given))).item()
    logp = (head(model.features(tg.tensor(given.ids)))).log_softmax(-1).detach().array
    pairs = [(0, 0, 2), (0, 1, 3), (0, 2, 4), (1, 0, 6)]
    assert found == pytest.approx(-np.mean([logp[b, t, target] for b, t, target in pairs]), abs=1e-5)


def test_measures_against_the_definitions():
    found = Measured(0.0, np.array([[8, 2], [1, 9]]))
    assert found.accuracy == 17 / 20
    spam = found.per_class(["ham", "spam"])["spam"]
    assert spam["precision"] == pytest.approx(9 / 11) and spam["recall"] == pytest.approx(9 / 10)
    assert spam["f1"] == pytest.approx(2 * 9 / (2 * 9 + 2 + 1))
    assert Measured(0.0, np.array([[0, 3], [0, 4]])).per_class(["a", "b"])["a"]["f1"] == 0


def test_a_text_without_tokens_is_refused():
    class Nothing:
        def encode_ordinary(self, text):
            return []

    with pytest.raises(ValueError, match="'x' has no tokens"):
        encode(Labelled(["x"], np.array([0]), ("a", "b")), Nothing(), 5)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("label,text\na,x\nb,y\n", ["--label=kind"], "label, text; say which are meant by --text and --label"),
        ("label,text\na,x\na,y\n", [], "have one class"),
        ("label,text\na,x\nb,\n", [], "the text in column 'text' is empty"),
        ("label,text\na,x\nb,y\n", [], "as the rarest has, 1 of 'a'; 2 items leave a part empty"),
        ("label,text\na,x\nb,y\n", ["--train=lora"], "without --model nothing has been learned"),
        ("label,text\na,x\nb,y\n", ["--frozen=int8"], "nothing is frozen with --train all"),
        ("label,text\na,x\nb,y\n", ["--epochs=0"], "--epochs 0: must be at least 1"),
        ("label,text\na,x\nb,y\n", ["--train=some"], "invalid choice"),
        (None, [], "texts.csv: No such file"),
        (None, ["--data=nope"], "--data nope: No such file"),
        (None, ["--config=nope.toml"], "--config nope.toml: No such file"),
        (None, ["--predict", "x"], "has no classifier.json; train a classifier there first"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(tmp_path, capsys, content, flags, message):
    path, out = tmp_path / "texts.csv", tmp_path / "out"
    if content is not None:
        path.write_text(content)
    try:
        code = example.main(["--data", str(path), "--out", str(out), *flags])
    except SystemExit as error:
        code = error.code
    shown = capsys.readouterr().err
    assert code == 2 and shown.count("\n") == 1 and message in shown and shown.startswith("finetune_classifier.py: ")
    assert not out.exists()


def test_an_empty_text_to_predict_and_a_folder_of_something_else(reviews, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(reviews, out, *SMALL, "--epochs=1") == 0
    assert example.main(["--predict", " ", "--out", str(out)]) == 2
    assert "the text is empty" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    assert run(reviews, other, *SMALL, "--epochs=1") == 2
    assert "of something else" in capsys.readouterr().err and (other / "config.json").read_text() == "{}"


def test_tensorboard_gets_losses_and_accuracies(reviews, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "out"
    assert run(reviews, out, *SMALL, "--epochs=2", "--tensorboard") == 0
    found = accumulator.EventAccumulator(str(out / "tensorboard")).Reload()
    records = read_metrics(out / "metrics.jsonl")[:2]
    for tag, key in (("loss/training", "train_loss"), ("accuracy/validation", "val_accuracy")):
        assert [e.step for e in found.Scalars(tag)] == [r["step"] for r in records]
        assert [e.value for e in found.Scalars(tag)] == pytest.approx([r[key] for r in records])
