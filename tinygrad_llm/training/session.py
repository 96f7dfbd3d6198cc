"""A run as a command line goes through it: its folder opened or gone on with, shown as it goes, and how it ended."""

import argparse
import hashlib
import json
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tinygrad_llm import devices
from tinygrad_llm.commandline import os_reason
from tinygrad_llm.files import write_atomically
from tinygrad_llm.nn import Module
from tinygrad_llm.training import console
from tinygrad_llm.training.checkpoint import Checkpoints, Damaged
from tinygrad_llm.training.cli import warner
from tinygrad_llm.training.configuration import KEPT, configuration
from tinygrad_llm.training.folder import CHECKPOINTS, EVENTS, METRICS, STEPS, RunFolder
from tinygrad_llm.training.interrupt import StopOnInterrupt
from tinygrad_llm.training.metrics import Evaluation
from tinygrad_llm.training.out_folder import BASE, WRITTEN, in_use, open_out
from tinygrad_llm.training.recipe import Recipe
from tinygrad_llm.training.resumable import Resumable
from tinygrad_llm.training.spikes import BadStep
from tinygrad_llm.training.trainer import Trainer

RUN_FILES = (METRICS, STEPS, KEPT, CHECKPOINTS, EVENTS)  # what each run writes as it goes
MODELS = ("model.safetensors", "adapter_model.safetensors")  # what it writes at its end


def goes_on(args: argparse.Namespace, about: dict[str, str]) -> bool:
    """Whether the run in --out is to go on: it has checkpoints, or was killed before its first one.

    Raises: ValueError for checkpoints of another run.
    """
    if not args.resume:
        return False
    out = Path(args.out)
    parts = [checkpoints_of(args, about, folder) for folder in (out, *([] if base_in_use(args) else [out / BASE]))]
    with _with_flags(out):
        for checkpoints in parts:
            checkpoints.check()
    found = any(part.steps() for part in parts)
    if not found:
        print(f"--resume: there is no checkpoint in {out} to go on from; the run begins anew", flush=True)
    return found or not any((out / name).exists() for name in MODELS)


def base_in_use(args: argparse.Namespace) -> bool:
    """Whether the folder `base` in --out is that of an earlier run, with which this one begins: there it stays."""
    return in_use(getattr(args, "model", None), Path(args.out, BASE))


@contextmanager
def working_in(args: argparse.Namespace, about: dict[str, str]) -> Iterator[StopOnInterrupt]:
    """The folder --out, held, for a run that begins or goes on there; gives what tells that a signal came.

    Raises: as open_out and goes_on; ValueError for what the system did not let the run write.
    """
    out = Path(args.out)
    files = [name for name in WRITTEN if name != BASE or not base_in_use(args)]
    with open_out(out, files, lambda: goes_on(args, about)), StopOnInterrupt() as stop:
        try:
            yield stop
        except OSError as error:
            raise ValueError(f"--out {out}: {os_reason(error)}; once that is mended, --resume goes on") from None


@contextmanager
def _with_flags(out: Path) -> Iterator[None]:
    """Where what goes wrong may lie in flags that are not known any more, say so, too."""
    try:
        yield
    except Damaged:
        raise
    except ValueError as error:
        if (out / KEPT).is_file():
            raise
        raise ValueError(
            f"{out} has checkpoints and no {KEPT}, which would tell the flags of their run; give them all again, since "
            f"with those of now: {error}"
        ) from None


def checkpoints_of(args: argparse.Namespace, about: dict[str, str], folder: Path | None = None) -> Checkpoints:
    """The checkpoints of the run in --out, or of the part of it that has a folder of its own, as the flags say."""
    path = (folder or Path(args.out)) / CHECKPOINTS
    return Checkpoints(path, args.keep, args.save_every, args.save_minutes, about)


def open_run(
    program: str, args: argparse.Namespace, checkpoints: Checkpoints, trainer: Resumable, recipe: Recipe | None = None
) -> RunFolder:
    """The files of a run, made or gone on with, and all flags kept in --out; says where it goes on.

    recipe: whose values are kept as flags, too.

    Raises: as RunFolder. A run that may not go on has changed nothing.
    """
    out = Path(args.out)
    checkpoints.folder.parent.mkdir(exist_ok=True)
    with _with_flags(out):
        folder = RunFolder(checkpoints, trainer, args.resume, warner(program), args.tensorboard)
    write_atomically(out / KEPT, configuration(program, args, recipe), durable=True)
    if folder.resumed is not None:
        print(f"going on after step {folder.resumed} of {trainer.steps}\n", flush=True)
    return folder


def run_shown(
    folder: RunFolder,
    trainer: Trainer,
    stop: Callable[[], bool],
    on_step: Callable[[console.Progress], None] = lambda shown: None,
    on_evaluation: Callable[[console.Progress, Evaluation], Evaluation] = lambda shown, evaluation: evaluation,
    share: Callable[[float], float] = lambda pace: 0.0,
) -> None:
    """Train to the end or until stop(), with a bar or a line an evaluation; save what is due, and in the end.

    on_step comes after each step; on_evaluation after each evaluation, to which it may add. After steps too bad to skip
    the run goes back to its newest checkpoint. share: that of this machine's speed, at so many tokens a second.

    Raises: BadStep where that does not help either; OSError.
    """

    def stepped(trainer: Trainer) -> None:
        pace, lr = trainer.tokens / trainer.seconds, trainer.optimizer.param_groups[0]["lr"]
        shown.step(trainer.last_loss or 0.0, pace, lr, trainer.last_norm, share(pace))
        folder.on_step(trainer)
        on_step(shown)

    def evaluated(trainer: Trainer, evaluation: Evaluation) -> None:
        shown.evaluation(evaluation)
        trainer.evaluations[-1] = on_evaluation(shown, evaluation)
        folder.on_evaluation(trainer, trainer.evaluations[-1])

    def skipped(trainer: Trainer, error: BadStep) -> None:
        shown.write(f"skipped: {error}")

    with closing(console.progress(trainer.steps, start=trainer.step)) as shown:
        while True:
            try:
                trainer.run(stepped, evaluated, stop, skipped)
                break
            except BadStep as error:
                shown.write(f"back to the checkpoint after step {folder.rewind(trainer, error)}: {error}")
        folder.save(trainer)


def exit_code(stop: StopOnInterrupt, trainer: Resumable) -> int:
    """0; or, after a signal, that of the signal and a sentence on what was kept."""
    if stop.number is None:
        return 0
    name = "Ctrl-C" if stop.number == signal.SIGINT else "SIGTERM"
    print(
        f"stopped by {name} after step {trainer.step} of {trainer.steps}; the files above were kept, and --resume goes "
        f"on"
    )
    return 128 + stop.number


def origin(rows: Collection[object], model: Module | None = None) -> dict[str, str]:
    """What a tuning belongs to: a SHA-256 of all its rows, as ids, and one of the weights that it begins with."""
    found = {"data or tokenizer": hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()}
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items() if model else ():
        digest.update(name.encode())
        digest.update(devices.move(tensor.array, devices.CPU).tobytes())
    return {**found, "model to begin with": digest.hexdigest()}
