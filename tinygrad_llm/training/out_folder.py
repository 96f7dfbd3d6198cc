"""The folder --out of an example: refused where it is something else's, and cleared without losing anything."""

import itertools
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tinygrad_llm.commandline import os_reason
from tinygrad_llm.training.lock import locked

FIRST = "metrics.jsonl"  # every run begins with it: a folder with files of a run's names and without it is no run's
BASE = "base"  # the folder, in a run's, of what was trained before that run proper
WRITTEN = (  # by a run of any kind: a run that begins leaves none of another kind's, which would speak of its own
    FIRST, "steps.csv", "run.json", "checkpoints", "tensorboard", "loss.png", "curves.png", "confusion.png",
    "answers.json", "responses.json", "model.safetensors", "config.json", "adapter_model.safetensors",
    "adapter_config.json", "tokenizer.json", "chat_template.json", "classifier.json", BASE,
)  # fmt: skip


def check_out(out: Path, files: Collection[str] = WRITTEN, model: str | None = None) -> None:
    """Refuse, before any work, what is no folder, or one whose files have a run's names and are none; writes nothing.

    model: what the run begins with. It must not move aside, since a run that goes on, or an adapter, looks for it.

    Raises: ValueError with what is there.
    """
    if (out.is_symlink() or out.exists()) and not out.is_dir():
        raise ValueError(f"--out {out}: exists and is not a folder; name another one")
    present = _present(out, files)
    if present and FIRST not in present:
        raise ValueError(f"--out {out}: holds {', '.join(present)} of something else; name another folder")
    itself = bool(present) and in_use(model, out) and out.samefile(model or "")
    if itself or any(in_use(model, out / name) for name in present if name != BASE):
        raise ValueError(f"--model {model}: lies in --out {out}, whose files move aside; name another --out")


def in_use(model: str | None, part: Path) -> bool:
    """Whether the model that a run begins with is this file, or lies in this folder."""
    return model is not None and Path(model).exists() and Path(model).resolve().is_relative_to(part.resolve())


@contextmanager
def open_out(
    out: Path, files: Collection[str] = WRITTEN, goes_on: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Make the folder and hold it against other processes; an earlier run's files move to earlier-1, -2, ... in it.

    files: the names that runs write, `metrics.jsonl` among them, which is there from now on. goes_on: asked once the
    folder is held; where it is true, the files stay, since this run goes on with them.

    Raises: ValueError for a folder that is something else's, cannot be written, or is another process's now.
    """
    check_out(out, files)
    with ExitStack() as held:
        try:
            out.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(out))
            _sweep(out, files)
            if not goes_on():
                _move_aside(out, _present(out, files))
            (out / FIRST).touch()
        except OSError as error:
            raise ValueError(f"--out {out}: cannot be written ({os_reason(error)}); name another folder") from None
        yield


def _present(out: Path, files: Collection[str]) -> list[str]:
    return [name for name in files if (out / name).exists()]


def _sweep(out: Path, names: Collection[str]) -> None:
    """Remove what a process that was killed left half written, here and in the folders of the run."""
    for folder in (out, *(out / name for name in names if (out / name).is_dir())):
        for name in names:
            for path in folder.glob(f".{name}.*"):
                path.unlink(missing_ok=True)
        for path in folder.glob(".saving-*"):
            shutil.rmtree(path, ignore_errors=True)


def _move_aside(out: Path, names: Collection[str]) -> None:
    if names:
        aside = next(p for n in itertools.count(1) if not (p := out / f"earlier-{n}").exists())
        aside.mkdir()
        for name in names:
            (out / name).rename(aside / name)
        print(f"{out} held an earlier run; its files are now in {aside}")
