import math
import subprocess
import sys
from pathlib import Path

import pytest

from tinygrad_llm.training import Evaluation, plot_loss, plots


def run(losses):
    return [Evaluation(100 * i, 76_800 * i, loss - 0.05, loss, 1e-3, 1e4) for i, loss in enumerate(losses)]


@pytest.mark.parametrize("losses", [[4.2], [4.2, 2.5, 1.9], [10.9, 7.0, 6.1], [0.0, 0.0], [5000.0, 4000.0]])
@pytest.mark.parametrize("floor", [None, 0.45])
def test_a_picture_is_drawn_for_every_kind_of_run(tmp_path, losses, floor):
    plot_loss(tmp_path / "loss.png", run(losses), "a run", floor)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]


def drawn(monkeypatch, floor):
    """The axes that plot_loss drew, with the secondary one."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self))
    monkeypatch.setattr(plots, "write_atomically", lambda path, content: None)
    plot_loss("loss.png", run([4.0, 2.0, 1.0]), "a run", floor)
    axes = figures[0].axes[0]
    return axes, axes.child_axes[0]


def test_the_curves_are_the_losses_over_the_tokens(monkeypatch):
    axes, _ = drawn(monkeypatch, floor=None)
    train, validation = axes.get_lines()
    assert list(validation.get_xdata()) == [0, 76_800, 153_600] and list(validation.get_ydata()) == [4.0, 2.0, 1.0]
    assert list(train.get_ydata()) == [3.95, 1.95, 0.95]


def test_the_floor_is_a_dashed_line_at_its_height(monkeypatch):
    axes, _ = drawn(monkeypatch, floor=0.45)
    line = axes.get_lines()[-1]
    assert set(line.get_ydata()) == {0.45} and line.get_linestyle() == "--"


def test_perplexity_stands_at_the_height_of_its_logarithm(monkeypatch):
    _, right = drawn(monkeypatch, floor=None)
    labels = [float(label.get_text().replace(",", "")) for label in right.get_yticklabels()]
    assert len(labels) >= 4 and list(right.get_yticks()) == pytest.approx([math.log(p) for p in labels])


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no evaluation"):
        plot_loss(tmp_path / "loss.png", [], "a run")
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_imported_only_to_draw():
    code = (
        "import sys, tinygrad_llm.training; print([m for m in ('matplotlib', 'tqdm', 'tiktoken') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[]\n", done.stderr
