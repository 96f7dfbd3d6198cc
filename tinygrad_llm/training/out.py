"""The folder that a run writes to: files of something else are refused, those of an earlier run are moved aside."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from tinygrad_llm.commandline import os_reason
from tinygrad_llm.training.folder import METRICS


def check_out(out: Path, files: Sequence[str]) -> None:
    """Refuse what is no folder, or one whose files bear a run's names but are no run's: each begins with its metrics.

    files: the names that a run may write. Raises: ValueError.
    """
    if (out.is_symlink() or out.exists()) and not out.is_dir():
        raise ValueError(f"--out {out}: exists and is not a folder; name another one")
    present = [name for name in files if (out / name).exists()]
    if present and METRICS not in present:
        raise ValueError(f"--out {out}: holds {', '.join(present)} of something else; name another folder")


def make_out(out: Path) -> None:
    """Make the folder. Raises: ValueError where it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be written ({os_reason(error)}); name another folder") from None


def open_out(out: Path, files: Sequence[str]) -> None:
    """Move those of the files that are there into earlier-1, -2, ..., say so, and begin a run with empty metrics.

    Raises: ValueError where the folder cannot be written.
    """
    try:
        earlier = [out / name for name in files if (out / name).exists()]
        if earlier:
            aside = next(p for n in itertools.count(1) if not (p := out / f"earlier-{n}").exists())
            aside.mkdir()
            for path in earlier:
                path.rename(aside / path.name)
        (out / METRICS).touch()
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be written ({os_reason(error)}); name another folder") from None
    if earlier:
        print(f"{out} held an earlier run; its files are now in {aside}")
