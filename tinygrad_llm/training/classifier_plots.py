"""Pictures of a classifier's run: its curves and its confusion matrix."""

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_llm.files import write_atomically
from tinygrad_llm.training.plots import TRAIN, VALIDATION


def plot_curves(
    path: str | os.PathLike[str],
    history: Sequence[dict[str, Any]],
    title: str,
    over: str = "epoch",
    loss: str = "loss (nats a text)",
) -> None:
    """Loss and accuracy of both parts, as far as the records have them, over the epochs or the like, as a PNG at path.

    over: the key of the horizontal axis. loss: what the axis of losses says.
    """
    figure = new_figure(9, 4)
    places = [record[over] for record in history]
    panels = [("loss", loss), ("accuracy", "share that is right")]
    panels = [(key, name) for key, name in panels if f"val_{key}" in history[0]]
    for place, (key, name) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for part, label, colour in (("train", "training", TRAIN), ("val", "validation", VALIDATION)):
            if f"{part}_{key}" in history[0]:
                values = [record[f"{part}_{key}"] for record in history]
                axes.plot(places, values, color=colour, marker="o", label=f"{label}, {values[-1]:.3f} at the end")
        axes.set_xlabel(over)
        axes.set_ylabel(name)
        axes.locator_params(axis="x", integer=True)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, parse_math=False)
    write_figure(path, figure)


def plot_confusion(path: str | os.PathLike[str], confusion: np.ndarray, classes: Sequence[str], title: str) -> None:
    """How many texts of each class (row) were taken for which (column), as a PNG at path."""
    side = 3.2 + 0.55 * len(classes)
    figure = new_figure(side + 0.6, side)
    axes = figure.add_subplot()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(classes)):
        for j in range(len(classes)):
            colour = "white" if share[i, j] > 0.5 else "black"
            text = f"{confusion[i, j]:,}\n{share[i, j]:.1%}"
            axes.text(j, i, text, ha="center", va="center", color=colour)
    names = [name if len(name) < 16 else name[:15] + "…" for name in classes]
    axes.set_xticks(range(len(classes)), names, parse_math=False, rotation=45 if len(classes) > 4 else 0)
    axes.set_yticks(range(len(classes)), names, parse_math=False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)
    write_figure(path, figure)


def new_figure(width: float, height: float) -> Any:
    """An empty picture of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the user's settings are
    return figure


def write_figure(path: str | os.PathLike[str], figure: Any) -> None:
    """A figure as a PNG file, written whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())
