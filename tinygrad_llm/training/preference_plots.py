"""The picture of a run that learned preferences."""

import os
from collections.abc import Sequence
from typing import Any

from tinygrad_llm.training.classifier_plots import new_figure, write_figure
from tinygrad_llm.training.plots import LINES, QUIET, TRAIN, VALIDATION


def plot_preferences(path: str | os.PathLike[str], history: Sequence[dict[str, Any]], title: str) -> None:
    """Loss, reward accuracy and rewards over the steps, as a PNG at path; history: records of PreferenceTrainer."""
    figure = new_figure(12, 4)
    steps = [record["step"] for record in history]
    for place, (key, name) in enumerate((("loss", "loss (nats a pair)"), ("accuracy", "pairs in the right order"))):
        axes = figure.add_subplot(1, 3, place + 1)
        for part, label, colour in (("train", "training", TRAIN), ("val", "validation", VALIDATION)):
            values = [record[f"{part}_{key}"] for record in history]
            axes.plot(steps, values, color=colour, marker="o", label=f"{label}, {values[-1]:.3f} at the end")
        _finish(axes, name)
    axes = figure.add_subplot(1, 3, 3)
    for key, label, colour in (("chosen", "chosen answers", TRAIN), ("rejected", "rejected answers", VALIDATION)):
        values = [record[f"val_{key}"] for record in history]
        axes.plot(steps, values, color=colour, marker="o", label=f"{label}, {values[-1]:.2f} at the end")
    axes.axhline(0, color=QUIET, linewidth=1, linestyle=(0, (5, 4)))
    _finish(axes, "reward (nats, validation)")
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, parse_math=False)
    write_figure(path, figure)


def _finish(axes: Any, name: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(name)
    axes.locator_params(axis="x", integer=True)
    axes.grid(color=LINES, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
