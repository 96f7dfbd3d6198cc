"""What a run writes while it goes on, each file in step with the newest checkpoint."""

import json
from collections.abc import Callable
from dataclasses import asdict

from tinygrad_llm.files import write_atomically
from tinygrad_llm.training.checkpoint import Checkpoints
from tinygrad_llm.training.metrics import Evaluation, MetricsFile
from tinygrad_llm.training.spikes import BadStep
from tinygrad_llm.training.steps import StepsFile
from tinygrad_llm.training.trainer import Trainer

METRICS, STEPS, CHECKPOINTS = "metrics.jsonl", "steps.csv", "checkpoints"


class RunFolder:
    """`metrics.jsonl`, `steps.csv` and the checkpoints of a run; `on_step` and `on_evaluation` are callbacks for it.

    resume: the trainer is put into the newest whole checkpoint's state, if there is one, and both files lose what came
    after it, since that comes again. warn is told of checkpoints that were left out.

    Raises: OSError; ValueError for checkpoints of another run, or none of which is whole.
    """

    def __init__(self, checkpoints: Checkpoints, trainer: Trainer, resume: bool, warn: Callable[[str], None]) -> None:
        self.folder, self.checkpoints, self.warn = checkpoints.folder.parent, checkpoints, warn
        self.resumed = checkpoints.restore(trainer, warn) if resume else None
        self._rewound: int | None = None
        self._open(trainer)

    def _open(self, trainer: Trainer) -> None:
        """Both files with what they had at the trainer's step."""
        records = [json.dumps(asdict(e)) + "\n" for e in trainer.evaluations]
        write_atomically(self.folder / METRICS, "".join(records).encode())
        self._metrics = MetricsFile(self.folder / METRICS, append=True)
        self._steps = StepsFile(self.folder / STEPS, trainer.step)

    def on_step(self, trainer: Trainer) -> None:
        """Write the step's line; save, where that is due."""
        assert trainer.last_loss is not None
        lr = trainer.optimizer.param_groups[0]["lr"]
        self._steps.write(trainer.step, trainer.tokens, trainer.last_loss, lr, trainer.last_norm, trainer.seconds)
        if self.checkpoints.due(trainer):
            self.save(trainer)

    def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
        """Write its record."""
        self._metrics.write(evaluation)

    def save(self, trainer: Trainer) -> None:
        """Save a checkpoint of this step unless there is one; both files reach the disk before it."""
        if trainer.step == self.checkpoints.last:
            return
        self._steps.sync()
        self._metrics.sync()
        self.checkpoints.save(trainer)

    def rewind(self, trainer: Trainer, error: BadStep) -> int:
        """Back to the newest checkpoint after steps too bad to skip, on the data that come next. Returns its step.

        Raises: the error, where there is no checkpoint or this one did not help before.
        """
        position = trainer.stream.state_dict()
        step = self.checkpoints.restore(trainer, self.warn)
        if step is None or step == self._rewound:
            raise error
        self._rewound = step
        trainer.stream.load_state_dict(position)
        self.close()
        self._open(trainer)
        return step

    def close(self) -> None:
        """Close both files."""
        self._metrics.close()
        self._steps.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
