"""The numbers of a run: one JSON record per evaluation, perplexity, peak memory."""

import json
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinygrad_llm.files import sync


@dataclass(frozen=True)
class Evaluation:
    """What is known at one moment of a run; losses in nats per token."""

    step: int
    tokens: int  # predictions learned from so far
    train_loss: float
    val_loss: float
    lr: float
    tokens_per_second: float  # of training alone, since the evaluation before; 0 where nothing was trained yet
    grad_norm: float = 0.0  # of the last step before clipping; 0 where nothing was trained yet
    val_accuracy: float | None = None  # share of right answers, where there are questions

    def record(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class MetricsFile:
    """A file of JSON lines that always consists of whole records, however the run ends.

    A record is written by one call and flushed. `append=True` goes on with a file; a record cut off by a crash
    is removed first. Otherwise the file starts empty.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = Path(path)
        if append and self.path.exists():
            content = self.path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:
                os.truncate(self.path, len(whole))
        self._file = self.path.open("ab" if append else "wb")

    def write(self, record: Evaluation | dict[str, Any]) -> None:
        """Append one record. Raises: ValueError for a value that is not finite."""
        fields = record if isinstance(record, dict) else record.record()
        self._file.write((json.dumps(fields, allow_nan=False) + "\n").encode())
        self._file.flush()

    def sync(self) -> None:
        """Wait until the records lie on the disk."""
        sync(self._file)

    def close(self) -> None:
        """Close the file; what was written is already there."""
        self._file.close()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a metrics file; one cut off at the end is left out.

    Raises: ValueError naming the line that is not a JSON object.
    """
    records = []
    content = Path(path).read_text(encoding="utf-8")
    for number, line in enumerate(content[: content.rfind("\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} is not a JSON object")
        records.append(record)
    return records


def perplexity(loss: float) -> float:
    """exp(loss): the number of equally likely tokens that would surprise as much; inf where it overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def peak_memory() -> int | None:
    """The most memory this process ever held at once, in bytes; None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes everywhere but on macOS
