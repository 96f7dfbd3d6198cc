"""What a run writes while it goes on, each file in step with the newest checkpoint."""

import json
from collections.abc import Callable

from tinygrad_llm.files import write_atomically
from tinygrad_llm.training.checkpoint import Checkpoints
from tinygrad_llm.training.metrics import Evaluation, MetricsFile
from tinygrad_llm.training.resumable import Record, Resumable
from tinygrad_llm.training.spikes import BadStep
from tinygrad_llm.training.steps import StepsFile
from tinygrad_llm.training.tensorboard import EventsFile
from tinygrad_llm.training.trainer import Trainer

METRICS, STEPS, CHECKPOINTS, EVENTS = "metrics.jsonl", "steps.csv", "checkpoints", "tensorboard"


class RunFolder:
    """`metrics.jsonl`, `steps.csv` and the checkpoints of a run; `on_step` and `on_evaluation` are callbacks for it.

    resume: the trainer is put into the newest whole checkpoint's state, if there is one, and both files lose what came
    after it, since that comes again. warn is told of checkpoints that were left out. tensorboard: write event files,
    too, in a folder of that name.

    Raises: OSError; ValueError for checkpoints of another run, or none of which is whole; ImportError for tensorboard.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        trainer: Resumable,
        resume: bool,
        warn: Callable[[str], None],
        tensorboard: bool = False,
    ) -> None:
        self.folder, self.checkpoints, self.warn = checkpoints.folder.parent, checkpoints, warn
        self.tensorboard = tensorboard
        self.resumed = checkpoints.restore(trainer, warn) if resume else None
        self._rewound: int | None = None
        self._open(trainer)

    def _open(self, trainer: Resumable) -> None:
        """The files with what they had at the trainer's step."""
        records = [json.dumps(record) + "\n" for record in trainer.history]
        write_atomically(self.folder / METRICS, "".join(records).encode())
        self._metrics = MetricsFile(self.folder / METRICS, append=True)
        self._steps = StepsFile(self.folder / STEPS, trainer.step)
        self._events = EventsFile(self.folder / EVENTS, trainer.step) if self.tensorboard else None
        if self._events:
            self._events.again(trainer)

    def on_step(self, trainer: Resumable) -> None:
        """Write the step's line; save, where that is due."""
        assert trainer.last_loss is not None
        lr = trainer.optimizer.param_groups[0]["lr"]
        self._steps.write(trainer.step, trainer.tokens, trainer.last_loss, lr, trainer.last_norm, trainer.seconds)
        if self._events:
            self._events.on_step(trainer)
        if self.checkpoints.due(trainer):
            self.save(trainer)

    def on_evaluation(self, trainer: Resumable, evaluation: Evaluation | Record) -> None:
        """Write its record, and take it into the checkpoint of its step."""
        self._metrics.write(evaluation)
        if self._events:
            self._events.on_evaluation(trainer, evaluation)
        with trainer.timed("checkpoints"):
            self.checkpoints.judged(trainer)

    def on_sample(self, trainer: Resumable, text: str) -> None:
        """Write a text of the model's to TensorBoard, which alone keeps them."""
        if self._events:
            self._events.text(trainer.step, "sample", text)

    def write(self, record: Record) -> None:
        """Write a record that is none of an evaluation's, such as what was measured at the end."""
        self._metrics.write(record)

    def save(self, trainer: Resumable) -> None:
        """Save a checkpoint of this step unless there is one; the other files reach the disk before it."""
        if trainer.step == self.checkpoints.last:
            self.checkpoints.tidy(trainer)
            return
        with trainer.timed("checkpoints"):
            for file in self._files():
                file.sync()
            self.checkpoints.save(trainer)

    def rewind(self, trainer: Trainer, error: BadStep) -> int:
        """Back to the newest checkpoint after steps too bad to skip, on the data that come next. Returns its step.

        A checkpoint of this very step, whose evaluation failed, is a ruined model's and goes.

        Raises: the error, where there is no checkpoint or this one did not help before.
        """
        if trainer.evaluation_due() and trainer.step == self.checkpoints.last:
            self.checkpoints.discard(trainer.step)
        position = trainer.stream.state_dict()
        step = self.checkpoints.restore(trainer, self.warn)
        if step is None or step == self._rewound:
            raise error
        self._rewound = step
        trainer.stream.load_state_dict(position)
        self.close()
        self._open(trainer)
        return step

    def _files(self) -> list[MetricsFile | StepsFile | EventsFile]:
        return [self._metrics, self._steps, *([self._events] if self._events else [])]

    def close(self) -> None:
        """Close the files."""
        for file in self._files():
            file.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
