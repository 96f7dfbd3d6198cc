"""`import tinygrad_llm` is light: what only some runs need is imported when they need it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("cupy", "torch", "matplotlib", "tqdm", "tiktoken", "hypothesis", "pytest", "lm_eval")


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("part", ["", ".training", ".text", ".data", ".evaluation"])
def test_import_loads_nothing_heavy(part):
    loaded = loaded_by(f"import tinygrad_llm{part}")
    assert "numpy" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_check_sees_what_is_loaded():
    assert "hypothesis" in loaded_by("import hypothesis")
