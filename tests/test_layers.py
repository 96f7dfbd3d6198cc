"""The layers of the house: an import points to the same layer or a lower one, and a few files know even less."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "tinygrad_llm"

# The number of each module or folder right below the package; the package itself is the face and stands on all of them.
LAYERS = {
    "dtypes": 0, "devices": 0, "files": 0, "kernels": 0, "cuda": 0, "backends": 0, "passthrough": 0, "interrupts": 0,
    "commandline": 0, "warning": 0,
    "random": 1, "autograd": 1, "profiler": 1,
    "nn": 2, "optim": 2, "utils": 2, "serialization": 2, "amp": 2,
    "text": 3, "data": 3, "models": 3,
    "training": 4, "testing": 4, "evaluation": 4,
    "compat": 6,
}  # fmt: skip
FACE = 5

# What files below autograd/ may not see, although it stands in their own layer.
TENSOR_LEVEL = (
    "autograd", "autograd.base", "autograd.tensor", "autograd.in_place", "autograd.methods", "autograd.functions",
    "autograd.creation", "autograd.gradcheck",
)  # fmt: skip
BLIND_TO = {
    "autograd.ops": TENSOR_LEVEL,
    "autograd.graph": (*TENSOR_LEVEL, "autograd.ops"),
}

NAMES_CUPY = ("kernels", "devices")


def below(module: str, folder: str) -> bool:
    """Is the dotted name `module` that of `folder` or of something inside it?"""
    return module == folder or module.startswith(folder + ".")


def layer(module: str) -> int:
    """The layer of a dotted name relative to the package; "" is the face."""
    return LAYERS[module.split(".")[0]] if module else FACE


def imported(node: ast.AST, module: str, is_package: bool, modules: set[str]) -> list[str]:
    """The absolute dotted names that one import statement reaches, `from folder import module` spelt in full."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    source = node.module or ""
    if node.level:
        here = [PACKAGE, *filter(None, module.split("."))]
        start = here[: len(here) - node.level + is_package]
        source = ".".join([*start, *filter(None, [node.module])])
    names = [f"{source}.{alias.name}" for alias in node.names]
    return [name if name in modules else source for name in names]


def violations(module: str, source: str, modules: set[str], is_package: bool = False) -> list[str]:
    """What `source`, as the file of `module` (dotted, without the package's name), may not import or name.

    `modules` holds the absolute dotted names of all modules there are.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        where = f"{module or '__init__'}, line {getattr(node, 'lineno', '?')}"
        for target in imported(node, module, is_package, modules):
            if target.split(".")[0] in ("cupy", "cupyx") and not any(below(module, name) for name in NAMES_CUPY):
                found.append(f"{where}: {target} belongs to kernels/ and devices.py alone")
            if not below(target, PACKAGE):
                continue
            target = target.removeprefix(PACKAGE).lstrip(".")
            if layer(target) > layer(module):
                found.append(f"{where}: layer {layer(module)} imports {target or PACKAGE} of layer {layer(target)}")
            for reader, unseen in BLIND_TO.items():
                # `autograd` itself is the face of its folder: only its exact name is Tensor's.
                hit = any(target == name or (name != "autograd" and below(target, name)) for name in unseen)
                if below(module, reader) and hit:
                    found.append(f"{where}: {reader} never sees {target}")
        if isinstance(node, ast.Name) and node.id == "cupy" and not any(below(module, name) for name in NAMES_CUPY):
            found.append(f"{where}: the name cupy belongs to kernels/ and devices.py alone")
    return found


def dotted(path: Path) -> str:
    """tinygrad_llm/nn/linear.py -> nn.linear; tinygrad_llm/nn/__init__.py -> nn."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
MODULES = {f"{PACKAGE}.{dotted(path)}".rstrip(".") for path in FILES}


def test_the_package_obeys_its_layers():
    found = [
        violation
        for path in FILES
        for violation in violations(dotted(path), path.read_text("utf-8"), MODULES, path.name == "__init__.py")
    ]
    assert len(FILES) > 20
    assert not found, "\n".join(found)


def test_every_file_has_a_layer():
    assert {dotted(path).split(".")[0] for path in FILES} - {""} <= set(LAYERS)


KNOWN = {
    f"{PACKAGE}{name}"
    for name in (
        "", ".kernels", ".devices", ".autograd", ".autograd.tensor", ".autograd.graph", ".autograd.registry",
        ".autograd.ops", ".autograd.ops.shape", ".autograd.functions.math", ".nn", ".nn.functional", ".optim",
        ".models", ".training",
    )
}  # fmt: skip


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.cpu", "from tinygrad_llm.autograd import Tensor"),
        ("autograd.tensor", "from tinygrad_llm import nn"),
        ("autograd.tensor", "from ..nn import functional"),
        ("nn.linear", "import tinygrad_llm.models.gpt"),
        ("nn.linear", "def f():\n    from tinygrad_llm import training"),
        ("models.gpt", "import tinygrad_llm"),
        ("models.gpt", "from tinygrad_llm import Tensor"),
        ("autograd.ops.shape", "from tinygrad_llm.autograd import Tensor"),
        ("autograd.ops.shape", "from ..tensor import Tensor"),
        ("autograd.ops.shape", "from tinygrad_llm.autograd.functions.math import exp"),
        ("autograd.ops.shape", "from .. import tensor"),
        ("autograd.graph", "from .tensor import Tensor"),
        ("autograd.graph", "from tinygrad_llm.autograd.ops import shape"),
        ("autograd.graph", "from . import ops"),
        ("nn.linear", "import cupy as cp"),
        ("nn.linear", "from cupyx.scipy import special"),
        ("training.trainer", "def f(x):\n    return isinstance(x, cupy.ndarray)"),
    ],
)
def test_a_violation_is_caught(module, source):
    assert violations(module, source, KNOWN)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("", "from tinygrad_llm.training import trainer"),
        ("kernels.cuda", "import cupy"),
        ("devices", "import cupy"),
        ("autograd.ops.shape", "from tinygrad_llm import kernels\nfrom ..registry import register"),
        ("autograd.ops.shape", "from . import shape"),
        ("autograd.graph", "from tinygrad_llm.autograd.registry import Partial"),
        ("autograd.tensor", "from . import graph, ops"),
        ("nn.linear", "from tinygrad_llm.autograd import Tensor\nfrom tinygrad_llm.nn import functional as F"),
        ("models.gpt", "import numpy as np\nfrom tinygrad_llm import nn, optim"),
    ],
)
def test_what_is_allowed_is_not_reported(module, source):
    assert violations(module, source, KNOWN) == []


def test_a_relative_import_in_a_package_starts_at_the_package_itself():
    assert violations("autograd", "from .tensor import Tensor", KNOWN, is_package=True) == []
    assert violations("kernels", "from ..autograd import Tensor", KNOWN, is_package=True)
