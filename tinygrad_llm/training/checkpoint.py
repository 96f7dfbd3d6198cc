"""Checkpoints: all that a run needs to go on as if it had never stopped, in folders that are whole or not there.

A checkpoint is a folder `step-00000400` with `model.safetensors` and `config.json` (which `models.load` opens),
`optimizer.safetensors` (the moments, by parameter) and `state.json`: the trainer's counters, evaluations, random
streams and place in the data, and the SHA-256 of every file, of itself too. A trainer that goes back to its best
weights in the end has those of before in `best.safetensors`. Of a model that rests in part, the rest is left out: a run
begins with it.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.graph import note_write
from tinygrad_llm.files import sync, sync_folder, write_atomically
from tinygrad_llm.models.checkpoint import CONFIG, WEIGHTS
from tinygrad_llm.models.gpt import GPTModel
from tinygrad_llm.optim.optimizer import moment
from tinygrad_llm.serialization.tensors import read_header, read_tensors, sha256, write_tensors
from tinygrad_llm.training.resumable import Resumable
from tinygrad_llm.training.spikes import NonFiniteLoss

MOMENTS, BEST, STATE, FORMAT = "optimizer.safetensors", "best.safetensors", "state.json", 2
NAME = re.compile(r"step-(\d{8,})")
AT_ONCE = 2**22  # numbers that are checked at a time
LONGEST_STATE = 2**28  # bytes of a state.json that is worth reading


class Damaged(ValueError):
    """A checkpoint is not what was written: cut off, changed, or with a file missing."""


class Checkpoints:
    """The checkpoints of one run in a folder: the `keep` newest, and the one of the best validation loss so far.

    A process that is killed leaves those that were there. Only one process may write into a folder (`training.lock`).
    every and minutes: a checkpoint is due after that many steps, or that much time; 0 = not for that. about: what the
    run belongs to, such as a fingerprint of its text by the name "text"; a checkpoint that says otherwise is refused.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int = 2,
        every: int = 0,
        minutes: float = 0.0,
        about: dict[str, str] | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"--keep {keep}: at least 1 checkpoint must stay")
        self.about = about or {}
        self.folder, self.keep, self.every, self.minutes = Path(folder), keep, every, minutes
        self.last: int | None = None  # the step that was saved or restored last
        self._files: dict[str, str] = {}  # the checksums of its files
        self._time = time.monotonic()

    def path(self, step: int) -> Path:
        """The folder of the checkpoint after a step."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps there are checkpoints of, whole or damaged, in order."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def due(self, trainer: Resumable) -> bool:
        """Whether enough steps or time have passed, or an evaluation comes next, which may need long or fail."""
        if trainer.step == self.last:
            return False
        by_step = bool(self.every) and trainer.step % self.every == 0
        by_time = bool(self.minutes) and time.monotonic() - self._time >= 60 * self.minutes
        return by_step or by_time or trainer.evaluation_due()

    def save(self, trainer: Resumable) -> Path:
        """Write a checkpoint; on return it lies on the disk, and those that are no longer needed are gone.

        Takes no memory beside the trainer's: arrays go to the file one at a time.

        Raises: OSError, such as for a full disk, what was there before being kept; NonFiniteLoss when a parameter is no
        number: a ruined model is never saved.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        weights, moments, _ = _arrays(trainer)
        for name, array in weights.items():
            if not _finite(array):
                raise NonFiniteLoss(f"step {trainer.step}: {name} holds nan or infinity; no checkpoint was written")
        path = self.path(trainer.step)
        temporary = self.folder / f".saving-{path.name}"
        try:
            temporary.mkdir()
            sums = {
                WEIGHTS: write_tensors(temporary / WEIGHTS, weights),
                MOMENTS: write_tensors(temporary / MOMENTS, moments),
            }
            if best := trainer.best_weights():
                sums[BEST] = write_tensors(temporary / BEST, best)
            if isinstance(trainer.model, GPTModel):
                content = json.dumps(trainer.model.config.to_dict(), indent=2) + "\n"
                sums[CONFIG] = _write(temporary / CONFIG, content.encode())
            _write(temporary / STATE, self._state(trainer, sums))
            sync_folder(temporary)
            if path.exists():  # one that was damaged, or of a course that was given up
                self.discard(trainer.step)
            temporary.rename(path)
            sync_folder(self.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.last, self._files, self._time = trainer.step, sums, time.monotonic()
        self._prune(trainer)
        return path

    def judged(self, trainer: Resumable) -> None:
        """Take an evaluation into the checkpoint of its step, which was saved before it; a best one of before may go.

        The file of the state alone is replaced, by the same state and the evaluation: whoever goes on from here need
        not evaluate again. Raises: OSError, the checkpoint being what it was.
        """
        if trainer.step == self.last:
            write_atomically(self.path(trainer.step) / STATE, self._state(trainer, self._files), durable=True)
        self._prune(trainer)

    def tidy(self, trainer: Resumable) -> None:
        """Remove what is not needed, where a process that was killed could not do so any more."""
        self._sweep()
        self._prune(trainer)

    def best(self, trainer: Resumable) -> Path | None:
        """The checkpoint of the best evaluation so far; None before there is one, or where it was not saved."""
        path = self.path(trainer.best_step) if trainer.best_step is not None else None
        return path if path and path.is_dir() else None

    def _state(self, trainer: Resumable, sums: dict[str, str]) -> bytes:
        _, _, values = _arrays(trainer)
        return _sealed({
            "format": FORMAT, "files": sums, "about": self.about, "optimizer": values, "trainer": trainer.state_dict(),
        })  # fmt: skip

    def restore(self, trainer: Resumable, warn: Callable[[str], None]) -> int | None:
        """Put a trainer into the state of the newest whole checkpoint. Returns its step, None where there is none.

        One that is damaged is left out; `warn` is told which, and why. The trainer is changed only once a checkpoint
        was found whole; its own arrays are filled, so that no memory is taken beside them.

        Raises: Damaged when there are checkpoints and none is whole; ValueError for those of another model or text.
        """
        steps = self.steps()
        for step in reversed(steps):
            path = self.path(step)
            try:
                state = verify(path)
            except Damaged as error:
                warn(f"the checkpoint after step {step} is damaged and left out: {error}")
                continue
            self._check_about(path, state)
            _load(trainer, path, state)
            self.last, self._files, self._time = step, state["files"], time.monotonic()
            return step
        if steps:
            raise Damaged(f"{self.folder}: none of the {len(steps)} checkpoints is whole")
        return None

    def check(self) -> None:
        """Refuse checkpoints of another run before any work is put into this one. Raises: ValueError."""
        for path in map(self.path, self.steps()):
            with suppress(Damaged):  # what is left out need not fit
                self._check_about(path, _state_in(path))

    def _check_about(self, path: Path, state: dict[str, Any]) -> None:
        for name, value in self.about.items():
            if state["about"].get(name) != value:
                raise ValueError(f"{path} is of another {name}; go on with the same one, or start in a new folder")

    def _prune(self, trainer: Resumable) -> None:
        """Remove what is neither among the newest nor the best, and what lies ahead: it was found damaged, or left."""
        done = [step for step in self.steps() if step <= trainer.step]
        wanted = set(done[-self.keep :])
        for step in self.steps():
            if step not in wanted and step != trainer.best_step:
                self.discard(step)

    def discard(self, step: int) -> None:
        """Remove a checkpoint: by one rename it is none any more, whatever happens to its files then."""
        path = self.path(step)
        away = self.folder / f".removed-{path.name}"
        shutil.rmtree(away, ignore_errors=True)
        path.rename(away)
        shutil.rmtree(away, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what a killed process left half written or half removed."""
        for path in (*self.folder.glob(".saving-step-*"), *self.folder.glob(".removed-step-*")):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob(f"step-*/.{STATE}.*"):
            path.unlink(missing_ok=True)


def verify(path: Path) -> dict[str, Any]:
    """The state of a checkpoint whose every file is what was written. Raises: Damaged, naming the file."""
    state = _state_in(path)
    with _readable():
        for name, expected in state["files"].items():
            if Path(name).name != name or sha256(path / name) != expected:
                raise Damaged(f"{name} is not what was written; its checksum differs")
    return state


def _state_in(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, whatever its other files are. Raises: Damaged; ValueError for another format."""
    with _readable():
        if (path / STATE).stat().st_size > LONGEST_STATE:
            raise Damaged(f"{STATE} is too large to be one")
        state = _opened((path / STATE).read_bytes())
    if state["format"] != FORMAT:
        raise ValueError(f"{path}: format {state['format']} was written by another version; this one reads {FORMAT}")
    return state


@contextmanager
def _readable() -> Iterator[None]:
    """A file that is missing or cannot be read is damage."""
    try:
        yield
    except FileNotFoundError as error:
        raise Damaged(f"{Path(error.filename).name} is missing") from None
    except OSError as error:
        raise Damaged(f"it cannot be read ({error})") from None


def _load(trainer: Resumable, path: Path, state: dict[str, Any]) -> None:
    weights, _, _ = _arrays(trainer)
    _check_same_model(path, weights)
    parameters = trainer.tensors()
    header = read_header(path / MOMENTS)
    strange = [name for name in header if name.partition("/")[2] not in parameters]
    if strange or any(name not in parameters for name in state["optimizer"]):
        raise ValueError(f"{path}: has moments of {', '.join(strange[:3])}, which this model does not have")
    before = trainer.state_dict()
    try:
        trainer.load_state_dict(state["trainer"])
    except (KeyError, TypeError, ValueError) as error:
        trainer.load_state_dict(before)
        raise ValueError(f"{path}: {error}") from None
    moments = {}
    for name in header:
        kind, _, of = name.partition("/")
        own = trainer.optimizer.state[parameters[of]]
        if kind not in own:
            own[kind] = moment(parameters[of])
        moments[name] = own[kind].array
    for of, values in state["optimizer"].items():
        trainer.optimizer.state[parameters[of]].update(values)
    read_tensors(path / WEIGHTS, weights)
    read_tensors(path / MOMENTS, moments)
    if best := trainer.best_weights():
        read_tensors(path / (WEIGHTS if trainer.best_step == trainer.step else BEST), best)
    for array in weights.values():
        note_write(array)


def _check_same_model(path: Path, weights: dict[str, Any]) -> None:
    """Raises: ValueError naming the first difference between a checkpoint's weights and a model's."""
    header = read_header(path / WEIGHTS)
    for name in sorted(header.keys() | weights.keys()):
        there = list(header[name].shape) if name in header else "not there"
        here = list(weights[name].shape) if name in weights else "not there"
        if there != here:
            raise ValueError(f"{path} is of another model: {name} is {there} in it and {here} in this one")


def _arrays(trainer: Resumable) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The arrays of a model by name, tied ones once; those of the optimizer by kind/name; its numbers by name."""
    tensors = trainer.tensors()
    weights = {name: tensor.array for name, tensor in tensors.items()}
    moments: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, p in tensors.items():
        for kind, value in trainer.optimizer.state.get(p, {}).items():
            if isinstance(value, Tensor):
                moments[f"{kind}/{name}"] = value.array
            else:
                values.setdefault(name, {})[kind] = value
    return weights, moments, values


def _finite(array: Any) -> bool:
    """Whether every number of an array is finite, found a piece at a time."""
    flat = array.reshape(-1)
    pieces = (flat[start : start + AT_ONCE] for start in range(0, flat.size, AT_ONCE))
    return all(bool(np.isfinite(piece).all()) for piece in pieces)


def _write(path: Path, content: bytes) -> str:
    """Write a new file that lies on the disk on return. Returns its SHA-256."""
    with path.open("xb") as file:
        file.write(content)
        sync(file)
    return hashlib.sha256(content).hexdigest()


def _sealed(state: dict[str, Any]) -> bytes:
    """A state as JSON, with the SHA-256 of its own text."""
    text = json.dumps(state, allow_nan=False)
    return f'{{"sha256": "{hashlib.sha256(text.encode()).hexdigest()}",\n"state": {text}}}\n'.encode()


def _opened(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
        state = values["state"]
        whole = content == _sealed(state)  # numbers are written as they were read
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise Damaged(f"{STATE} is not what was written; its checksum differs")
    return state
