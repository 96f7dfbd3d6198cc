import os
import subprocess
import sys

import pytest

from tinygrad_llm.training import locked
from tinygrad_llm.training.out_folder import check_out, in_use, open_out

FILES = ("metrics.jsonl", "model.bin", "checkpoints")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_each_run_finds_a_folder_of_its_own_and_nothing_is_lost(tmp_path, capsys):
    out = tmp_path / "runs" / "a"
    for number in range(3):
        with open_out(out, FILES):
            (out / "model.bin").write_text(str(number))
            (out / "checkpoints").mkdir()
    (out / "notes.txt").write_text("mine")
    assert names(out) == ["checkpoints", "earlier-1", "earlier-2", "metrics.jsonl", "model.bin", "notes.txt"]
    assert [(out / part / "model.bin").read_text() for part in ("earlier-1", "earlier-2", ".")] == ["0", "1", "2"]
    assert capsys.readouterr().out.count("held an earlier run; its files are now in") == 2


def test_what_a_kill_left_half_written_goes_and_nothing_else(tmp_path):
    for name in (".model.bin.x7_a", ".saving-ab/model.bin", "checkpoints/.metrics.jsonl.9", ".mine", "metrics.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    with open_out(tmp_path, FILES, lambda: True):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} - {".lock"}
    assert left == {"checkpoints", "metrics.jsonl", ".mine"}


def test_a_run_that_goes_on_keeps_its_files(tmp_path, capsys):
    with open_out(tmp_path, FILES):
        (tmp_path / "model.bin").write_text("0")
    with open_out(tmp_path, FILES, goes_on=lambda: True):
        assert (tmp_path / "model.bin").read_text() == "0"
    assert names(tmp_path) == ["metrics.jsonl", "model.bin"] and capsys.readouterr().out == ""


def test_the_folder_is_held_while_it_is_open_and_free_again_behind(tmp_path):
    with open_out(tmp_path, FILES), pytest.raises(ValueError, match="another run works in this folder"):
        other = f"from tinygrad_llm.training import locked\nwith locked({str(tmp_path)!r}): pass"
        done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, env=os.environ)
        raise ValueError(done.stderr)
    with locked(tmp_path):
        pass


def test_what_is_not_a_runs_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "model.bin").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, message in (
        (".", "holds model.bin of something else"), ("link", "is not a folder"), ("model.bin", "is not a folder"),
        ("model.bin/a", "cannot be written"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message), open_out(tmp_path / name, FILES):
            raise AssertionError("it was opened")
    with pytest.raises(ValueError, match="of something else"):
        check_out(tmp_path, FILES)
    assert names(tmp_path) == ["link", "model.bin"]


def test_a_failure_of_the_run_itself_is_its_own(tmp_path):
    with pytest.raises(OSError, match="No space left"), open_out(tmp_path, FILES):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("model", ["", "model.safetensors", "checkpoints/step-00000001"])
def test_what_a_run_begins_with_does_not_move_aside(tmp_path, model):
    """But for `base`, which stays where it is; and a model beside a run's files is no part of them."""
    out = tmp_path / "out"
    (out / "mine").mkdir(parents=True)
    check_out(out, model=str(out))
    for name in ("metrics.jsonl", "model.safetensors", "base/model.safetensors", "checkpoints/step-00000001/a"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("")
    for allowed in ("mine", "base"):
        check_out(out, model=str(out / allowed))
    check_out(out, model="gpt2")
    with pytest.raises(ValueError, match="whose files move aside"):
        check_out(out, model=str(out / model))
    assert in_use(str(out / "base"), out / "base") and not in_use("base", out / "base")
