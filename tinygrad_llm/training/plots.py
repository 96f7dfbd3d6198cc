"""Pictures of runs. matplotlib is imported when one is drawn."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_llm.files import write_atomically
from tinygrad_llm.training.metrics import Evaluation

TRAIN, VALIDATION, QUIET, LINES = "#4c78a8", "#e4572e", "#6b6b6b", "#e6e6e6"
MOST_POINTS = 2000  # of a curve: more than a picture has columns


def plot_loss(
    path: str | os.PathLike[str],
    evaluations: Sequence[Evaluation],
    title: str,
    floor: float | None = None,
    steps: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Loss (left axis) and perplexity = exp(loss) (right axis) over the tokens seen, as a PNG at path.

    `floor`, in nats per token, is drawn as a dashed line: what no model can beat on this validation text. `steps`, what
    `read_steps` returns, adds each step's loss, and the learning rate and the norm of the gradient below.

    Raises: ValueError without evaluations.
    """
    if not evaluations:
        raise ValueError("plot_loss: there is no evaluation to draw")
    more = _thinned(steps) if steps and steps["tokens"] else None
    figure, panels = _figure([3, 1, 1] if more else [1])
    axes = panels[0]
    if more:
        axes.plot(more["tokens"], more["loss"], color=TRAIN, linewidth=0.7, alpha=0.35, label="each step's batch")
    tokens = [e.tokens for e in evaluations]
    for losses, name, colour, width in (  # the lower line is wider, so that it shows where the two are equal
        ([e.train_loss for e in evaluations], "training", TRAIN, 5),
        ([e.val_loss for e in evaluations], "validation", VALIDATION, 1.8),
    ):
        label = f"{name}, {losses[-1]:.3f} at the end"
        axes.plot(tokens, losses, color=colour, linewidth=width, marker="o", markersize=width + 2, label=label)
    if floor is not None:
        axes.axhline(floor, color=QUIET, linestyle=(0, (5, 4)), linewidth=1.3, label=f"entropy floor, {floor:.3f}")
    _finish_losses(axes, title)
    if more:
        for panel, name, label in ((panels[1], "lr", "learning rate"), (panels[2], "grad_norm", "gradient norm")):
            panel.plot(more["tokens"], more[name], color=TRAIN, linewidth=1)
            panel.set_ylabel(label)
            panel.set_ylim(bottom=0)
    _save(figure, panels, path)


def plot_runs(path: str | os.PathLike[str], runs: Mapping[str, Sequence[Evaluation]]) -> None:
    """The validation losses of several runs over the tokens seen, training losses dotted, as one PNG at path.

    Raises: ValueError when there is no run with an evaluation.
    """
    drawn = {name: evaluations for name, evaluations in runs.items() if evaluations}
    if not drawn:
        raise ValueError("plot_runs: there is no evaluation to draw")
    figure, panels = _figure([1])
    for number, (name, evaluations) in enumerate(drawn.items()):
        colour, tokens = f"C{number}", [e.tokens for e in evaluations]
        best = min(e.val_loss for e in evaluations)
        validation = [e.val_loss for e in evaluations]
        panels[0].plot(tokens, validation, color=colour, linewidth=1.8, marker=".", label=f"{name}, best {best:.3f}")
        panels[0].plot(tokens, [e.train_loss for e in evaluations], color=colour, linewidth=1, linestyle=":")
    _finish_losses(panels[0], "validation loss (training: dotted)")
    _save(figure, panels, path)


def _figure(heights: Sequence[int]) -> tuple[Any, list[Any]]:
    """A figure of panels below each other, which share the axis of tokens."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8 + 1.5 * (len(heights) - 1)), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the user's settings are
    panels = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    return figure, list(panels)


def _finish_losses(axes: Any, title: str) -> None:
    """Title, legend, and the axis of perplexities beside that of losses."""
    import numpy as np

    axes.set_title(title, loc="left", fontsize=11, pad=10, parse_math=False)
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    right = axes.secondary_yaxis("right", functions=(np.asarray, np.asarray))  # same height, labelled in perplexity
    perplexities = _round_perplexities(math.exp(min(axes.get_ylim()[1], 700)))
    labels = [f"{p:,.0f}" if p < 1e6 else f"{p:.0e}" for p in perplexities]
    right.set_yticks([math.log(p) for p in perplexities], labels)
    right.set_ylabel("perplexity = exp(loss)")
    right.spines["right"].set_color(QUIET)


def _save(figure: Any, panels: Sequence[Any], path: str | os.PathLike[str]) -> None:
    """Grids, the axis of tokens, and the file."""
    from matplotlib.ticker import EngFormatter

    for panel in panels:
        panel.margins(x=0.02)
        panel.grid(color=LINES, linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("tokens seen")
    panels[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[-1].set_xlim(left=0)
    figure.align_ylabels()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


def _thinned(steps: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Columns with at most MOST_POINTS numbers, each the mean of the steps that it stands for."""
    length = len(steps["tokens"])
    size = -(-length // MOST_POINTS)
    return {
        name: [math.fsum(part) / len(part) for part in (column[i : i + size] for i in range(0, length, size))]
        for name, column in steps.items()
    }


def _round_perplexities(highest: float) -> list[float]:
    """Round numbers from 1 to highest, few enough to stand on an axis."""
    steps = (1, 2, 5) if highest < 1e3 else (1, 3) if highest < 1e5 else (1,)
    decades = range(int(math.log10(highest)) + 1)
    return [float(s * 10**d) for d in decades for s in steps if s * 10**d <= highest]
