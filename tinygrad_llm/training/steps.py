"""What every step of a run was like: a CSV file of a line a step."""

import csv
import os
from pathlib import Path
from typing import Any

from tinygrad_llm.files import replacing, sync

COLUMNS = ("step", "tokens", "loss", "lr", "grad_norm", "seconds")


class StepsFile:
    """A CSV file with one line a step; lines after the step `upto`, and one that was cut off, are removed first.

    Lines reach the system at the latest with `sync`, which a checkpoint calls: those that a kill takes along are of
    steps that are done again.
    """

    def __init__(self, path: str | os.PathLike[str], upto: int = 0) -> None:
        self.path = Path(path)
        kept = _lines_upto(self.path, upto) if upto and self.path.exists() else []
        with replacing(self.path) as file:
            file.write((",".join(COLUMNS) + "\n").encode())
            file.writelines(kept)
        self._file = self.path.open("ab")

    def write(self, *values: Any) -> None:
        """Append the line of a step: a value for each of COLUMNS; numbers as they are read back to the last bit."""
        self._file.write((",".join(map(repr, values)) + "\n").encode())

    def sync(self) -> None:
        """Wait until the lines lie on the disk."""
        sync(self._file)

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._file.close()


def _lines_upto(path: Path, step: int) -> list[bytes]:
    kept = []
    with path.open("rb") as file:
        for line in file:
            number = line.partition(b",")[0]
            whole = line.endswith(b"\n") and line.count(b",") == len(COLUMNS) - 1 and number.isdigit()
            if whole and int(number) <= step:
                kept.append(line)
    return kept


def read_steps(path: str | os.PathLike[str]) -> dict[str, list[float]]:
    """The columns of a steps file by name; a line that was cut off is left out.

    Raises: ValueError for a file that is none, or has something else than numbers in it.
    """
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != COLUMNS:
            raise ValueError(f"{path}: expected the columns {', '.join(COLUMNS)}")
        for row in rows:
            if len(row) == len(COLUMNS):
                for name, value in zip(COLUMNS, row, strict=True):
                    columns[name].append(float(value))
    return columns
