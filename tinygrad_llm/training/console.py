"""What a run shows: a progress bar on a terminal, a calm log elsewhere, samples, and the table at the end."""

import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from tinygrad_llm.training.memory import format_bytes, held_memory
from tinygrad_llm.training.metrics import Evaluation


class Progress(Protocol):
    """Shows how a run goes on; `write` prints a text without hurting what is shown."""

    def step(self, loss: float, tokens_per_second: float, lr: float, grad_norm: float, share: float) -> None:
        """One more step was done; share is that of the machine's speed in matrix products."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """The model was judged."""

    def write(self, text: str) -> None:
        """Print a text of its own."""

    def close(self) -> None:
        """Nothing more will come."""


def progress(steps: int, stream: TextIO | None = None, start: int = 0) -> Progress:
    """A bar when stream, by default standard output, is a terminal, else a log of one line per evaluation.

    start: how many of the steps an earlier process did.
    """
    stream = stream or sys.stdout
    return Bar(steps, stream, start) if stream.isatty() else Log(steps, stream, start)


def evaluation_line(evaluation: Evaluation, steps: int) -> str:
    """One evaluation in one line whose columns stand under each other."""
    e, width = evaluation, len(str(steps))
    speed = f"{e.tokens_per_second:>9,.0f} tokens/s" if e.tokens_per_second else ""
    return f"step {e.step:>{width}}/{steps}   train {e.train_loss:7.4f}   validation {e.val_loss:7.4f} {speed}".rstrip()


class Bar:
    """A tqdm bar with loss, speed and time left; evaluations and samples scroll above it."""

    def __init__(self, steps: int, stream: TextIO, start: int = 0) -> None:
        from tqdm import tqdm

        self.steps = steps
        self._loss: float | None = None
        self._validation = ""
        form = "{percentage:3.0f}% {bar} {n_fmt}/{total_fmt} steps{postfix} [{elapsed}, {remaining} left]"
        self._bar: Any = tqdm(
            total=steps, initial=start, file=stream, bar_format=form, dynamic_ncols=True, mininterval=0.2, leave=False
        )

    def step(self, loss: float, tokens_per_second: float, lr: float, grad_norm: float, share: float) -> None:
        """Move on by one; the loss shown is a running mean over about twenty steps."""
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        self._numbers = (tokens_per_second, lr, grad_norm, share)
        if self._bar.update():  # it is drawn now and then only, and then with the numbers of the step before
            self._bar.set_postfix_str(self._postfix(), refresh=False)

    def _postfix(self) -> str:
        speed, lr, norm, share = self._numbers
        held = held_memory()
        memory = f", {format_bytes(held)}" if held else ""
        return (
            f"loss {self._loss:.3f}{self._validation}, lr {lr:.1e}, |g| {norm:.2f}, {speed:,.0f} tokens/s "
            f"({share:.0%} of peak){memory}"
        )

    def evaluation(self, evaluation: Evaluation) -> None:
        """Print it above the bar."""
        self._validation = f" (validation {evaluation.val_loss:.3f})"
        self.write(evaluation_line(evaluation, self.steps))

    def write(self, text: str) -> None:
        """Print text above the bar."""
        self._bar.write(text, file=self._bar.fp)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


class Log:
    """A line per evaluation, with the time left, for files and pipes."""

    def __init__(self, steps: int, stream: TextIO, start: int = 0) -> None:
        self.steps, self._stream = steps, stream
        self._last = (start, time.monotonic())  # step and time of the last evaluation

    def step(self, loss: float, tokens_per_second: float, lr: float, grad_norm: float, share: float) -> None:
        """Say nothing: a log is read later."""

    def evaluation(self, evaluation: Evaluation) -> None:
        """Print it with the time left, should all steps take as long as those since the evaluation before."""
        line = evaluation_line(evaluation, self.steps)
        step, then = self._last
        self._last = (evaluation.step, time.monotonic())
        if step < evaluation.step < self.steps:
            a_step = (self._last[1] - then) / (evaluation.step - step)
            line += f"   {clock(a_step * (self.steps - evaluation.step))} left"
        self.write(line)

    def write(self, text: str) -> None:
        """Print text at once."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to take away."""


def clock(seconds: float) -> str:
    """83.4 -> '1:23'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def shares(parts: dict[str, float]) -> str:
    """Seconds of each part, and its share of all: {"steps": 9, "evaluation": 1} -> "steps 9.0 s (90.0%), ..."."""
    whole = sum(parts.values()) or 1.0
    return ", ".join(f"{name} {seconds:.1f} s ({seconds / whole:.1%})" for name, seconds in parts.items())


def sample_block(text: str, step: int) -> str:
    """A sample of generated text, set apart from the numbers; characters that would steer a terminal are escaped."""
    return f"\n--- a sample after step {step}\n" + textwrap.indent(printable(text.strip("\n")), "    ") + "\n"


def printable(text: str) -> str:
    """A text with every character escaped that would steer a terminal, but line ends."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned columns, the first to the left, the others to the right; row 0 is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])
