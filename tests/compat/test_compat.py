"""Scripts that say `import torch`, run on this package; and what scripts ask of a machine before they start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import tinygrad_llm as ours

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor, optim
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

assert torch.nn.functional is F and isinstance(torch.ones(1), Tensor)
torch.manual_seed(123)
device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
model = torch.compile(nn.Linear(2, 3)).to(device)
print(model.weight)
print(sys.argv[1:], __name__, type(torch.ones(1)).__module__.split(".")[0])
"""


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    import os

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_a_script_runs_unchanged_and_prints_pytorchs_numbers(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run("-m", "tinygrad_llm.compat", "script.py", "--lr", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["Parameter containing:", "tensor([[-0.2883,  0.0234],"]
    assert lines[-1] == "['--lr', '3'] __main__ tinygrad_llm"


def test_a_module_and_the_files_beside_a_script(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import torch\nx = torch.arange(3)\n")
    (tmp_path / "main.py").write_text("import helper\nprint(helper.x)\n")
    for arguments in (["main.py"], ["-m", "main"]):
        done = run("-m", "tinygrad_llm.compat", *arguments, cwd=tmp_path)
        assert done.stdout == "tensor([0, 1, 2])\n", done.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import torch.distributed", "torch.distributed: tinygrad_llm has no such module"),
        ("from torch.nn import NoSuchLayer", "cannot import name 'NoSuchLayer'"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "script.py").write_text(code)
    done = run("-m", "tinygrad_llm.compat", "script.py", cwd=tmp_path)
    assert done.returncode != 0 and message in done.stderr


def test_files_are_read_by_the_safetensors_library_in_its_form_for_pytorch(tmp_path: Path) -> None:
    values = {"a": [[1.5, -2.0], [3.0, 4.0]], "half": [0.5], "none": np.zeros((0, 3)), "one": 3.0}
    kinds = {"half": np.float16, "one": np.float64}
    arrays = {name: np.array(value, kinds.get(name, np.float32)) for name, value in values.items()}
    safetensors.numpy.save_file({**arrays, "ids": np.arange(3)}, tmp_path / "a.safetensors")
    (tmp_path / "script.py").write_text(
        "import torch\nfrom safetensors import safe_open\nfrom safetensors.torch import load, load_file\n"
        "found = load_file('a.safetensors')\n"
        "for name, x in sorted(found.items()):\n    print(name, x.dtype, list(x.shape), x.tolist())\n"
        "found['a'].add_(1)\nagain = load(open('a.safetensors', 'rb').read())\nprint(again['a'].tolist())\n"
        "with safe_open('a.safetensors', framework='pt') as file:\n    print(file.get_tensor('half') * 2)\n"
        "model = torch.nn.Linear(2, 2, bias=False)\nprint(model.load_state_dict({'weight': found['a']}))\n"
    )
    done = run("-m", "tinygrad_llm.compat", "script.py", cwd=tmp_path)
    assert done.stdout.splitlines() == [
        "a torch.float32 [2, 2] [[1.5, -2.0], [3.0, 4.0]]",
        "half torch.float16 [1] [0.5]",
        "ids torch.int64 [3] [0, 1, 2]",
        "none torch.float32 [0, 3] []",
        "one torch.float64 [] 3.0",
        "[[1.5, -2.0], [3.0, 4.0]]",
        "tensor([1.], dtype=torch.float16)",
        "<All keys matched successfully>",
    ], done.stderr


def test_a_missing_script_is_one_sentence() -> None:
    done = run("-m", "tinygrad_llm.compat", "nowhere.py")
    assert done.returncode == 2 and "nowhere.py: no such file" in done.stderr and "Traceback" not in done.stderr


def test_it_refuses_where_another_torch_is_imported() -> None:
    code = (
        "import sys, types\nsys.modules['torch'] = types.ModuleType('torch')\n"
        "import tinygrad_llm.compat\ntinygrad_llm.compat.install()"
    )
    done = run("-c", code)
    assert done.returncode == 1 and "torch is imported already" in done.stderr


def test_the_modules_stay_themselves() -> None:
    code = (
        "import tinygrad_llm.compat as c\nc.install(); c.install()\nimport torch.nn.functional, tinygrad_llm\n"
        "print(torch is tinygrad_llm, torch.__name__, torch.nn.functional.__spec__.name)"
    )
    assert run("-c", code).stdout.split() == ["True", "tinygrad_llm", "tinygrad_llm.nn.functional"]


def test_what_changes_nothing_is_accepted() -> None:
    model = ours.nn.Linear(2, 2)
    assert ours.compile(model, mode="max-autotune") is model
    with ours.amp.autocast("cpu", ours.bfloat16, enabled=False):
        assert model(ours.ones(1, 2)).dtype is ours.float32
    scaler = ours.amp.GradScaler(enabled=False)
    assert scaler.scale(3) == 3 and scaler.get_scale() == 1.0


@pytest.mark.skipif(ours.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu() -> None:
    assert ours.cuda.device_count() == 0 and not ours.backends.mps.is_available()
    ours.cuda.manual_seed_all(1)
    ours.cuda.empty_cache()
    with pytest.warns(UserWarning, match="CUDA is not available"), ours.autocast("cuda", dtype=ours.float16):
        assert not ours.is_autocast_enabled("cuda")
    with pytest.warns(UserWarning, match="CUDA is not available"):
        assert not ours.amp.GradScaler().is_enabled()


PRINTED: list[dict[str, Any]] = [
    {"precision": 2},
    {"sci_mode": False},
    {"sci_mode": True, "precision": 3},
    {"threshold": 5, "edgeitems": 1},
    {"linewidth": 40},
    {"profile": "short"},
    {"profile": "full"},
]


@pytest.mark.torch
@pytest.mark.parametrize("options", PRINTED, ids=str)
def test_print_options(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    try:
        for lib in (ours, torch):
            lib.set_printoptions(**options)
        for make in (
            lambda lib: lib.arange(30) ** 3 / 7,
            lambda lib: lib.arange(40).reshape(4, 10),
            lambda lib: lib.arange(1200).reshape(2, 3, 200) / 64,
            lambda lib: lib.tensor([1e-9, 1.0]),
        ):
            assert repr(make(ours)) == repr(make(torch))
    finally:
        for lib in (ours, torch):
            lib.set_printoptions(profile="default")


def test_the_version_of_torch_is_this_packages(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "from importlib.metadata import version\nimport torch\n"
        "print(version('torch') == torch.__version__, version('numpy') != torch.__version__)\n"
    )
    done = run("-m", "tinygrad_llm.compat", "script.py", cwd=tmp_path)
    assert done.stdout == "True True\n", done.stderr
