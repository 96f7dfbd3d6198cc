"""Whole scripts that nobody changed for this package print what they print with PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))


NUMBER = re.compile(r"-?\d+\.\d*(?:e[+-]\d+)?")


def printed(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(text: str) -> list[str]:
    """The text with # for every decimal number, as words; whether a vanishing number has a sign is no matter."""
    return re.sub(r"\[\s+", "[", NUMBER.sub("#", text)).split()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs(tmp_path: Path, script: Path) -> None:
    assert len(printed(tmp_path, "-m", "tinygrad_llm.compat", str(script))) > 500


@pytest.mark.torch
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_prints_what_it_prints_with_pytorch(tmp_path: Path, script: Path) -> None:
    """Word for word, and every number to 4 digits; a sum that rounds to 1 here may be 1.0000 there."""
    pytest.importorskip("torch")
    ours = printed(tmp_path, "-m", "tinygrad_llm.compat", str(script))
    theirs = printed(tmp_path, str(script))
    assert words(ours) == words(theirs)
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (ours, theirs)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=2e-4)
