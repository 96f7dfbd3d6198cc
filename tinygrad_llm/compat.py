"""Run a script that says `import torch` on this package: `python -m tinygrad_llm.compat script.py [arguments]`.

`install()` does the same from within a program: from then on `import torch`, `import torch.nn.functional as F`,
`from torch.utils.data import DataLoader` and so on give this package's modules, for that process.
"""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import tinygrad_llm

NAME, OURS = "torch", "tinygrad_llm"


class _Alias(Loader):
    """Gives a module of this package under another name, without running it again."""

    def __init__(self, module: ModuleType):
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the alias there


class _Finder(MetaPathFinder):
    """Finds torch and torch.x.y as tinygrad_llm and tinygrad_llm.x.y."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != NAME and not name.startswith(f"{NAME}."):
            return None
        mine = OURS + name.removeprefix(NAME)
        try:
            module = importlib.import_module(mine)
        except ModuleNotFoundError as error:
            if error.name is None or not mine.startswith(error.name):
                raise  # something that our module needs is not installed
            raise ModuleNotFoundError(
                f"{name}: tinygrad_llm has no such module; docs/pytorch.md lists what is there", name=name
            ) from None
        return ModuleSpec(name, _Alias(module), is_package=hasattr(module, "__path__"))

    def find_distributions(self, context: Any = None) -> Iterator[metadata.Distribution]:
        """What importlib.metadata knows as the package torch: this one's version."""
        if context is not None and context.name == NAME:
            yield _Distribution()


class _Distribution(metadata.Distribution):
    """Says name and version, and has no files."""

    def read_text(self, filename: str) -> str | None:
        return f"Name: {NAME}\nVersion: {tinygrad_llm.__version__}\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise FileNotFoundError(f"{path}: the package {NAME} is {OURS} here, and has no such file")


def install() -> None:
    """Let `import torch` mean this package in this process. Doing so twice is harmless.

    Raises:
        RuntimeError: the real torch is imported already; its tensors and ours cannot be told apart by name.
    """
    there = sys.modules.get(NAME)
    if there is tinygrad_llm:
        return
    if there is not None:
        raise RuntimeError(
            "tinygrad_llm.compat: torch is imported already; call install() before anything imports it, or use "
            "`import tinygrad_llm as torch`"
        )
    sys.meta_path.insert(0, _Finder())
    importlib.import_module(NAME)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: run a script or, with -m, a module, with `import torch` meaning this package."""
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_llm.compat", description="Run a script that says `import torch` on tinygrad_llm."
    )
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module")
    parser.add_argument("script", metavar="SCRIPT", help="a file, or with -m a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what the script finds in sys.argv")
    args = parser.parse_args(argv)
    if not args.module and not Path(args.script).is_file():
        parser.error(f"{args.script}: no such file")
    install()
    sys.argv = [args.script, *args.arguments]
    if args.module:
        sys.path.insert(0, "")
        runpy.run_module(args.script, run_name="__main__", alter_sys=True)
        return
    sys.path.insert(0, str(Path(args.script).resolve().parent))
    runpy.run_path(args.script, run_name="__main__")


if __name__ == "__main__":
    main()
