"""Runs in 16 bits: losses near float32's, overflow, and a run that goes on after a kill to the same bits."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda.kinds import each_gpu, gpu
from tinygrad_llm import devices, models
from tinygrad_llm.data.windows import Windows
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import PRESETS, NonFiniteLoss, Trainer, read_steps
from tinygrad_llm.training.precision import Precision

EXAMPLES = Path(__file__).parents[2] / "examples"
HALF = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
TINY = ["--layers", "1", "--channels", "16", "--heads", "2", "--context", "8", "--batch", "2", "--eval-windows", "2",
        "--samples", "1", "--sample-tokens", "2", "--eval-every", "2"]  # fmt: skip
RECIPE = PRESETS["stories"].recipe.replace(
    layers=2, channels=32, heads=2, context=16, steps=30, batch=4, eval_every=30, eval_windows=4, samples=0, lr=3e-3
)


def trainer(dtype: str, **changes: object) -> Trainer:
    recipe = RECIPE.replace(dtype=dtype, **changes)
    tg.manual_seed(0)
    ids = (61 * np.random.default_rng(1).random(3000) ** 3).astype(np.int64)
    train, validation = Windows(ids[:2500], 16, 1), Windows(ids[2500:], 16, 16)
    return Trainer(GPTModel(recipe.model_config(61)), recipe, train, validation, np.random.default_rng(2))


def losses(run: Trainer) -> list[float]:
    return [run.train_step() for _ in range(run.recipe.steps - run.step)]


@HALF
@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_are_float32s_within_a_hundredth(dtype, accumulate):
    exact, narrow = (losses(trainer(d, accumulate=accumulate)) for d in ("float32", dtype))
    assert exact != narrow and narrow[-1] < narrow[0] - 0.3
    np.testing.assert_allclose(narrow, exact, rtol=0, atol=1e-2)


@HALF
def test_weights_moments_and_judgements(dtype):
    run = trainer(dtype)
    run.train_step()
    assert all(p.dtype is tg.float32 for p in run.model.parameters())
    assert all(v.dtype is tg.float32 for s in run.optimizer.state.values() for v in s.values() if tg.is_tensor(v))
    exact = trainer("float32")
    narrow = trainer(dtype)
    assert 0 < abs(narrow.evaluate().val_loss - exact.evaluate().val_loss) < 1e-2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_overflow_is_computed_again_with_half_the_factor():
    run, calm = trainer("float16"), trainer("float16")
    run.precision.scaler.update(2.0**40)
    calm.precision.scaler.update(2.0**10)
    first = run.train_step()
    assert first == calm.train_step() and run.step == 1 and run.skipped == 0
    assert 1 < run.precision.scaler.get_scale() < 2.0**40


def test_what_no_factor_helps_ends():
    run = trainer("float16")
    weight = run.model.tok_emb.weight.register_hook(lambda g: g * float("inf"))
    before = run.model.pos_emb.weight.numpy(force=True).copy()
    with pytest.raises(NonFiniteLoss, match="--dtype bfloat16"):
        run.train_step()
    assert (run.model.pos_emb.weight.numpy(force=True) == before).all()
    weight.remove()


def test_a_state_holds_the_factor():
    run, other = trainer("float16"), trainer("float16")
    run.precision.scaler.update(2.0**20)
    run.train_step()
    state = json.loads(json.dumps(run.state_dict()))
    other.load_state_dict(state)
    assert other.precision.state_dict() == run.precision.state_dict() == state["scaler"]
    del state["scaler"]  # as a run wrote it that knew of none
    trainer("float32").load_state_dict(state)


def test_an_old_gpu_multiplies_no_bfloat16(monkeypatch):
    monkeypatch.setattr(devices, "properties", lambda number: {"major": 7, "minor": 5})
    with pytest.raises(ValueError, match=r"capability 7\.5, which multiplies no bfloat16; use --dtype float16"):
        Precision("bfloat16", "cuda")


def example(name):
    specification = importlib.util.spec_from_file_location(f"in_16_bits_{name}", EXAMPLES / f"{name}.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("the cat sat on the mat, and the dog sat by the door. " * 30, "utf-8")
    return ["--data", str(path), "--tokenizer", "char"]


@HALF
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_pretrain_goes_on_to_the_same_bits(dtype, device, tmp_path, words, capsys):
    pytest.importorskip("matplotlib")
    pretrain = example("pretrain")
    options = [*TINY, *words, "--dtype", dtype, "--device", device, "--dropout", "0.1", "--schedule", "constant"]
    with gpu("pretended"):
        assert pretrain.main([*options, "--steps", "4", "--out", str(tmp_path / "whole")]) == 0
        assert pretrain.main([*options, "--steps", "2", "--out", str(tmp_path / "parts")]) == 0
        assert pretrain.main(["--resume", "--steps", "4", "--out", str(tmp_path / "parts")]) == 0
        assert pretrain.main(["--resume", "--dtype", "float32", "--out", str(tmp_path / "parts")]) == 2
    assert "--dtype float32: the run in" in capsys.readouterr().err
    whole, parts = (read_steps(tmp_path / name / "steps.csv") for name in ("whole", "parts"))
    assert parts["loss"] == whole["loss"] and len(whole["loss"]) == 4
    assert json.loads((tmp_path / "parts" / "run.json").read_text())["dtype"] == dtype
    assert models.load(tmp_path / "parts").tok_emb.weight.dtype is tg.float32


@each_gpu
@HALF
def test_the_other_examples(kind, dtype, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    rows = tmp_path / "rows.txt"
    rows.write_text("".join(f"{name}\t{name} is written {i}\n" for i in range(20) for name in ("ham", "spam")), "utf-8")
    options = ["--dtype", dtype, "--device", "cuda", "--layers", "1", "--heads", "2", "--channels", "16"]
    more = ["--tasks", "40", "--epochs", "1", "--pretrain-steps", "2", "--evaluations", "1", "--answer-tokens", "2"]
    classify, instruct = example("finetune_classifier"), example("finetune_instructions")
    with gpu(kind):
        one = [*options, "--data", str(rows), "--epochs", "1", "--out", str(tmp_path / "classifier")]
        assert classify.main(one) == 0, capsys.readouterr().err
        assert instruct.main([*options, *more, "--out", str(tmp_path / "i")]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["pretrain", "finetune_classifier", "finetune_instructions"])
def test_an_unknown_dtype_is_named(name, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert example(name).main(["--dtype", "int4", "--out", str(tmp_path / "new")]) == 2
    assert "--dtype int4: unknown; choose one of float32, bfloat16, float16" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
