"""What the documents show, runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python_blocks(text: str) -> list[str]:
    """The fenced blocks of a Markdown text that are marked as Python, each on its own lines of the page."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in found]


def run(document: Path) -> dict:
    """The names that the Python of a document leaves behind, run from top to bottom."""
    names: dict = {"__name__": document.stem}
    for block in python_blocks(document.read_text("utf-8")):
        exec(compile(block, document, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What a document writes, it writes into the current folder."""
    monkeypatch.chdir(tmp_path)


def test_the_readme_runs_and_so_does_the_test_it_shows():
    tests = [value for name, value in run(ROOT / "README.md").items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_the_python_of_the_documents_runs(document):
    assert python_blocks(document.read_text("utf-8"))
    run(document)


@pytest.mark.torch
def test_the_page_on_pytorch_is_what_its_script_writes():
    pytest.importorskip("torch")
    command = [sys.executable, "-W", "ignore", str(ROOT / "docs" / "pytorch_table.py"), "--print"]
    written = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "docs" / "pytorch.md").read_text("utf-8") == written, "run: python docs/pytorch_table.py"
