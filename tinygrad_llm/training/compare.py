"""Several runs beside each other: a table, and the curves in one picture."""

import os
from collections.abc import Sequence
from pathlib import Path

from tinygrad_llm.training import console
from tinygrad_llm.training.folder import METRICS
from tinygrad_llm.training.metrics import Evaluation, read_metrics


def read_run(folder: str | os.PathLike[str]) -> list[Evaluation]:
    """The evaluations of a run, in order. Raises: OSError; ValueError naming a file that has something else."""
    path = Path(folder, METRICS)
    try:
        return [Evaluation(**record) for record in read_metrics(path)]
    except TypeError:
        raise ValueError(f"{path}: a record is no evaluation; each needs step, tokens, losses, lr and speed") from None


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> dict[str, list[Evaluation]]:
    """The runs with evaluations among the folders, by name; what is no run is left out, as `runs/*` may name anything.

    Raises: ValueError where none is a run, or a run's file is damaged.
    """
    runs = {str(folder): read_run(folder) for folder in folders if Path(folder, METRICS).is_file()}
    runs = {name: evaluations for name, evaluations in runs.items() if evaluations}
    if not runs:
        raise ValueError(f"none of {', '.join(map(str, folders))} is the folder of a run with an evaluation")
    return runs


def comparison(runs: dict[str, list[Evaluation]]) -> str:
    """A table of a line a run, the best validation loss first."""
    rows: list[tuple[str, ...]] = [("run", "steps", "tokens", "training", "validation", "best", "at step", "tokens/s")]
    for name, evaluations in sorted(runs.items(), key=lambda item: min(e.val_loss for e in item[1])):
        last, best = evaluations[-1], min(evaluations, key=lambda e: e.val_loss)
        speeds = [e.tokens_per_second for e in evaluations if e.tokens_per_second]
        speed = f"{sum(speeds) / len(speeds):,.0f}" if speeds else ""
        losses = (f"{loss:.4f}" for loss in (last.train_loss, last.val_loss, best.val_loss))
        rows.append((name, f"{last.step:,}", f"{last.tokens:,}", *losses, f"{best.step:,}", speed))
    return console.table(rows)
