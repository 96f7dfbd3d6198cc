"""`import tinygrad_llm` is light: what only some runs need is imported when they need it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("cupy", "torch", "matplotlib", "tqdm", "tiktoken", "hypothesis", "pytest")


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["tinygrad_llm", "tinygrad_llm.training", "tinygrad_llm.text", "tinygrad_llm.data"])
def test_import_loads_nothing_heavy(module):
    loaded = loaded_by(f"import {module}")
    assert "numpy" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_check_sees_what_is_loaded():
    assert "hypothesis" in loaded_by("import hypothesis")
