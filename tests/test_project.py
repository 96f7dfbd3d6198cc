"""What the project says of itself is true: version, extras, commands, and no trace of one particular machine."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import tinygrad_llm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

# The README's commands, and what CI adds to make them short.
COMMANDS = {
    "pip install -e '.[examples]' && python examples/pretrain.py": " --steps 30 --samples 1 --out '$scratch/pretrain'",
    "pip install -e '.[test]' && pytest": "",
}

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home|tmp)/")
UNFINISHED = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")


def tracked_files() -> list[Path]:
    """The files that git tracks here; skips where this is no git checkout."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def offences(text: str, pattern: re.Pattern[str]) -> list[str]:
    return [line.strip() for line in text.splitlines() if pattern.search(line)]


def test_the_version_is_one():
    assert tinygrad_llm.__version__ == PROJECT["version"]


def test_extras():
    extras = PROJECT["optional-dependencies"]
    assert {"examples", "test", "dev", "cuda", "cuda12"} <= extras.keys()
    assert not any("torch" in requirement for group in extras.values() for requirement in group)


@pytest.mark.parametrize(("command", "shorter"), COMMANDS.items())
def test_the_readme_shows_the_commands_that_ci_runs(command, shorter):
    assert command in (ROOT / "README.md").read_text("utf-8").splitlines()
    assert f'run "{command}{shorter}"' in (ROOT / ".ci/run").read_text("utf-8").splitlines()


def test_links_of_the_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("pattern", [MACHINE_PATH, UNFINISHED])
def test_no_tracked_file_holds_a_trace(pattern):
    found = {}
    for path in tracked_files():
        try:
            lines = offences(path.read_text("utf-8"), pattern)
        except UnicodeDecodeError:  # binary
            continue
        if lines:
            found[str(path.relative_to(ROOT))] = lines
    assert not found


def test_traces_are_recognised():
    assert offences("see " + "/work" + "/main/x", MACHINE_PATH)
    assert offences('"' + "/home" + '/me"', MACHINE_PATH)
    assert offences("# TO" + "DO: later", UNFINISHED)
    assert not offences("a network/work/item, docs/home/page, ../work/", MACHINE_PATH)
