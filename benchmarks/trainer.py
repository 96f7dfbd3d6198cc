"""What a run costs beside its steps, and the trainer beside the mathematics: python benchmarks/trainer.py

The trainer of a preset, with the files it writes, runs some steps as it is, and some with forward, backward, clipping
and AdamW left out: what remains is batches, checks, counters and files, the trainer's own cost. Then evaluations,
checkpoints and samples are timed, and counted as often as the preset's whole run has them. Medians throughout, so that
a machine that is busy for a while changes little.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
from machine import describe

import tinygrad_llm as tg
from tinygrad_llm.data import Windows
from tinygrad_llm.models import GPTModel, generate
from tinygrad_llm.optim import AdamW
from tinygrad_llm.training import PRESETS, Checkpoints, Recipe, RunFolder, Trainer, console
from tinygrad_llm.training import step as of_step


def milliseconds(act: Callable[[], object], times: int) -> float:
    """The median time of so many calls, the first apart."""
    act()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        found.append(time.perf_counter() - start)
    return 1e3 * statistics.median(found)


def without_mathematics() -> ExitStack:
    """A block in which loss, gradients, their norm and the update cost nothing."""
    parameter = tg.zeros((), requires_grad=True)
    stack = ExitStack()
    stack.enter_context(mock.patch.object(GPTModel, "loss", lambda *given, **known: parameter * 1.0))
    stack.enter_context(mock.patch.object(of_step, "clip_grad_norm_", lambda *given: parameter))
    stack.enter_context(mock.patch.object(AdamW, "step", lambda optimizer: None))
    return stack


def measure(recipe: Recipe, vocabulary: int, tensorboard: bool, steps: int, times: int) -> dict[str, float]:
    """Milliseconds of a step, of the trainer's part of it, of an evaluation, a checkpoint and a sample."""
    tg.manual_seed(0)
    ids = (vocabulary * np.random.default_rng(0).random(250_000) ** 3).astype(np.uint16)
    model = GPTModel(recipe.model_config(vocabulary))
    train, validation = Windows(ids, recipe.context), Windows(ids[:50_000], recipe.context, recipe.context)
    trainer = Trainer(model, recipe, train, validation, np.random.default_rng(0))
    prompt = tg.tensor([[1]])
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        checkpoints = Checkpoints(Path(scratch, "checkpoints"))
        folder = stack.enter_context(RunFolder(checkpoints, trainer, False, print, tensorboard))
        shown = console.progress(recipe.steps, io.StringIO())

        def step() -> None:
            trainer.train_step()
            shown.step(trainer.last_loss or 0.0, 1.0, recipe.lr, trainer.last_norm, 0.5)
            folder.on_step(trainer)

        def write() -> None:
            generate(model, prompt, recipe.sample_tokens, recipe.context, temperature=recipe.temperature)

        checkpoints.due = lambda trainer: False  # type: ignore[method-assign]  # they are timed by themselves
        whole = milliseconds(step, steps)
        with without_mathematics():
            own = milliseconds(step, 20 * steps)
        return {
            "step": whole, "trainer": own, "evaluation": milliseconds(trainer.evaluate, times),
            "checkpoint": milliseconds(lambda: checkpoints.save(trainer), times), "sample": milliseconds(write, times),
        }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("--preset", choices=("stories", "shakespeare-char"), default="stories", help="[stories]")
    page.add_argument("--tensorboard", action="store_true", help="write event files, too")
    page.add_argument("--steps", type=int, default=60, metavar="N", help="that are timed [60]")
    page.add_argument("--times", type=int, default=5, metavar="N", help="of evaluations, checkpoints, samples [5]")
    args = page.parse_args(argv)
    if args.steps < 1 or args.times < 1:
        page.error("--steps and --times must be at least 1")
    preset = PRESETS[args.preset]
    recipe = preset.recipe
    ms = measure(recipe, preset.vocab_size or 65, args.tensorboard, args.steps, args.times)
    evaluations = -(-recipe.steps // recipe.eval_every) + 1
    beside = {"evaluation": evaluations * ms["evaluation"], "checkpoint": evaluations * ms["checkpoint"],
              "sample": recipe.samples * ms["sample"]}  # fmt: skip
    whole = recipe.steps * ms["step"] + sum(beside.values())
    rows = [("", "ms", "in a run", "share of it")]
    rows += [("step", f"{ms['step']:.2f}", f"{recipe.steps:,}", f"{recipe.steps * ms['step'] / whole:.1%}")]
    for name, total in beside.items():
        rows.append((name, f"{ms[name]:.1f}", f"{total / ms[name]:.0f}", f"{total / whole:.1%}"))
    print("\n".join(f"{name:<11}{value}" for name, value in describe().items()))
    print(f"\n{console.table(rows)}")
    print(f"\nof a step the trainer takes {ms['trainer']:.3f} ms, {ms['trainer'] / ms['step']:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
