"""The examples with --device cuda: on a pretended GPU to their end, from one device to the other, and without a GPU."""

from __future__ import annotations

import importlib.util
import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda.kinds import each_gpu, gpu
from tinygrad_llm import devices, models, text
from tinygrad_llm.kernels.cuda import launch
from tinygrad_llm.training import read_steps

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = ["--layers", "1", "--channels", "16", "--heads", "2", "--context", "8", "--batch", "2", "--eval-windows", "2",
        "--samples", "1", "--sample-tokens", "2", "--eval-every", "2"]  # fmt: skip
GPU = ["--device", "cuda"]


def example(name):
    specification = importlib.util.spec_from_file_location(f"on_gpu_{name}", EXAMPLES / f"{name}.py")
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


@pytest.fixture
def folder(tmp_path):
    """What a run leaves."""
    tokenizer = text.build("char", " abcdefghilmnopstuwy.\n<|>/")
    tg.manual_seed(1)
    models.save_pretrained(models.GPTModel(models.GPTConfig(tokenizer.vocab_size, 16, 16, 2, 2)), tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json")
    return str(tmp_path)


@each_gpu
@pytest.mark.parametrize("dropout", ["0", "0.1"])
def test_pretrain_goes_on_on_the_other_device(kind, tmp_path, words, dropout):
    pytest.importorskip("matplotlib")
    pretrain = example("pretrain")
    whole = [*TINY, *words, "--dropout", dropout, "--steps", "6"]
    with gpu(kind):
        assert pretrain.main([*whole, "--out", str(tmp_path / "cpu")]) == 0
        there_and_back = ["--resume", "--out", str(tmp_path / "both")]
        assert pretrain.main([*whole, *GPU, "--out", str(tmp_path / "both"), "--steps", "2"]) == 0
        assert pretrain.main([*there_and_back, "--device", "cpu", "--steps", "4"]) == 0
        assert pretrain.main([*there_and_back, *GPU, "--steps", "6"]) == 0
    ours, theirs = (read_steps(tmp_path / name / "steps.csv") for name in ("cpu", "both"))
    assert theirs["step"] == [1, 2, 3, 4, 5, 6]
    tolerance = 1e-4 if dropout == "0" else 0.2  # a GPU draws other masks
    np.testing.assert_allclose(theirs["loss"][:2], ours["loss"][:2], atol=tolerance)  # other rates from 3 on
    assert models.load(tmp_path / "both").tok_emb.weight.device == tg.device("cpu")


@each_gpu
def test_the_same_text_is_written(kind, folder, capsys):
    generate = example("generate")
    options = [folder, "the cat", "--tokens", "12", "--seed", "3", "--top-k", "9", "--repetition-penalty", "1.1"]
    with gpu(kind):
        for more in ([], ["--temperature", "0"], ["--beams", "2"]):
            assert generate.main([*options, *more]) == 0
            here = capsys.readouterr().out
            assert generate.main([*options, *more, *GPU]) == 0
            assert capsys.readouterr().out == here


@each_gpu
def test_chat_and_attention_maps(kind, folder, tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\nand the dog\n/quit\n"))
    with gpu(kind):
        assert example("chat").main(["--model", folder, "--tokens", "5", "--seed", "1", *GPU]) == 0
        picture = str(tmp_path / "a.png")
        assert example("attention_map").main([folder, "the cat sat", "--out", picture, *GPU]) == 0
    assert Path(picture).exists() and capsys.readouterr().err == ""


@each_gpu
@pytest.mark.parametrize("train", ["all", "lora"])
def test_classifiers(kind, tmp_path, capsys, train):
    pytest.importorskip("matplotlib")
    classify, out = example("finetune_classifier"), tmp_path / "classifier"
    tokenizer = text.build("char", "".join(map(chr, range(32, 127))))
    models.save_pretrained(models.GPTModel(models.GPTConfig(tokenizer.vocab_size, 16, 16, 2, 1)), tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json")
    rows = tmp_path / "rows.txt"
    rows.write_text("".join(f"{name}\t{name} is written {i}\n" for i in range(20) for name in ("ham", "spam")), "utf-8")
    options = ["--data", str(rows), "--model", str(tmp_path), "--train", train, "--epochs", "1", "--out", str(out)]
    with gpu(kind):
        assert classify.main([*options, *GPU]) == 0, capsys.readouterr().err
        capsys.readouterr()
        shown = []
        for more in ([], GPU):  # what was trained there is read here, too
            assert classify.main(["--predict", "spam is written", "--out", str(out), *more]) == 0
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1] and "spam" in shown[0]


LINES = {
    "pretrain": ["--out", "{}/new"], "finetune_classifier": ["--out", "{}/new"], "generate": ["{}", "the"],
    "chat": ["--model", "{}"], "attention_map": ["{}", "the"],
}  # fmt: skip
WRONG = {
    ("--device", "cuda"): "--device cuda: there is no driver",
    ("--device", "cuda:1"): "--device cuda:1: there is no driver",
    ("--device", "tpu"): "--device tpu: expected cpu or cuda",
    ("--device", "cuda:x"): "--device cuda:x: invalid device string",
    ("--gpu-memory", "0.5"): "--gpu-memory 0.5: only with --device cuda",
    ("--gpu-memory", "7"): "--gpu-memory 7.0: must be a share",
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("flags", WRONG)
def test_what_is_missing_is_said_in_a_sentence(monkeypatch, folder, capsys, name, flags):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(devices, "cuda_problem", lambda: "there is no driver")
    assert example(name).main([*(part.format(folder) for part in LINES[name]), *flags]) == 2
    said = capsys.readouterr()
    assert WRONG[flags] in said.err and said.err.count("\n") == 1 and not Path(folder, "new").exists()


def test_a_device_number_that_is_not_there(folder, capsys):
    with gpu("pretended"):
        assert example("generate").main([folder, "the", "--device", "cuda:3"]) == 2
    assert "--device cuda:3: CUDA error: invalid device ordinal: this machine has 1" in capsys.readouterr().err


def test_a_kernel_that_does_not_compile_shows_the_log(monkeypatch):
    class CompileException(Exception):
        pass

    def get_function(name):
        raise CompileException('norm.cu(3): error: identifier "nonsense" is undefined')

    compiler = types.SimpleNamespace(CompileException=CompileException)
    module = types.SimpleNamespace(get_function=get_function)
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(compiler=compiler), RawModule=lambda **given: module)
    monkeypatch.setattr(devices, "module_of", lambda target: cupy)
    with pytest.raises(RuntimeError, match=r"norm.cu does not compile with --std=c\+\+17 -DVEC=4: .*nonsense"):
        launch.compiled.__wrapped__("norm", "layer_norm", (("VEC", 4),))
