"""Pictures of a run. matplotlib is imported when one is drawn."""

import io
import math
import os
from collections.abc import Sequence

from tinygrad_llm.files import write_atomically
from tinygrad_llm.training.metrics import Evaluation

TRAIN, VALIDATION, QUIET = "#4c78a8", "#e4572e", "#6b6b6b"


def plot_loss(
    path: str | os.PathLike[str], evaluations: Sequence[Evaluation], title: str, floor: float | None = None
) -> None:
    """Loss (left axis) and perplexity = exp(loss) (right axis) over the tokens seen, as a PNG at path.

    `floor`, in nats per token, is drawn as a dashed line: what no model can beat on this validation text.

    Raises: ValueError without evaluations.
    """
    if not evaluations:
        raise ValueError("plot_loss: there is no evaluation to draw")
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(8, 4.8), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the user's settings are
    axes = figure.add_subplot()
    tokens = [e.tokens for e in evaluations]
    for losses, name, colour, width in (  # the lower line is wider, so that it shows where the two are equal
        ([e.train_loss for e in evaluations], "training", TRAIN, 5),
        ([e.val_loss for e in evaluations], "validation", VALIDATION, 1.8),
    ):
        label = f"{name}, {losses[-1]:.3f} at the end"
        axes.plot(tokens, losses, color=colour, linewidth=width, marker="o", markersize=width + 2, label=label)
    if floor is not None:
        axes.axhline(floor, color=QUIET, linestyle=(0, (5, 4)), linewidth=1.3, label=f"entropy floor, {floor:.3f}")

    axes.set_title(title, loc="left", fontsize=11, pad=10, parse_math=False)
    axes.set_xlabel("tokens seen")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.margins(x=0.02)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)

    top = axes.get_ylim()[1]
    right = axes.secondary_yaxis("right", functions=(np.asarray, np.asarray))  # same height, labelled in perplexity
    perplexities = _round_perplexities(math.exp(min(top, 700)))
    labels = [f"{p:,.0f}" if p < 1e6 else f"{p:.0e}" for p in perplexities]
    right.set_yticks([math.log(p) for p in perplexities], labels)
    right.set_ylabel("perplexity = exp(loss)")
    right.spines["right"].set_color(QUIET)

    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


def _round_perplexities(highest: float) -> list[float]:
    """Round numbers from 1 to highest, few enough to stand on an axis."""
    steps = (1, 2, 5) if highest < 1e3 else (1, 3) if highest < 1e5 else (1,)
    decades = range(int(math.log10(highest)) + 1)
    return [float(s * 10**d) for d in decades for s in steps if s * 10**d <= highest]
