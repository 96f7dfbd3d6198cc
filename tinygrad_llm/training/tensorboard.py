"""TensorBoard's event files, an optional extra: scalars by step and sample texts, in step with the checkpoints."""

import os
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinygrad_llm.files import sync
from tinygrad_llm.training.metrics import Evaluation, perplexity
from tinygrad_llm.training.resumable import Record, Resumable

NAME = "events.out.tfevents.{:010d}.tinygrad_llm"  # TensorBoard looks for tfevents and reads files by name
PARTS = {"train": "training", "val": "validation"}  # by how their keys begin in a record
FLUSH = 5.0  # seconds after which records reach the system at the latest, for whoever watches


class EventsFile:
    """A new event file in a folder, for `tensorboard --logdir`; `on_step` and `on_evaluation` are callbacks for it.

    since: what earlier files in the folder have from this step on no longer counts; TensorBoard leaves it out, since it
    comes again. Steps before it stay in the files that have them.

    Raises: ImportError where tensorboard is not installed; OSError.
    """

    def __init__(self, folder: str | os.PathLike[str], since: int = 0) -> None:
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            raise ImportError("tensorboard is not installed; pip install -e '.[tensorboard]' brings it") from None
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name.split(".")[3]) for path in folder.glob("events.out.tfevents.*.tinygrad_llm")]
        self._file = (folder / NAME.format(max([int(time.time()), *(number + 1 for number in taken)]))).open("xb")
        self._records, self._event = RecordWriter(self._file), event_pb2.Event
        self._flushed = time.monotonic()
        self._write(file_version="brain.Event:2")
        self._write(step=since, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One number a tag; tags with a common beginning up to a slash stand together."""
        self._write(step=step, summary={"value": [{"tag": tag, "simple_value": v} for tag, v in values.items()]})

    def text(self, step: int, tag: str, text: str) -> None:
        """A text, shown as it is: its lines are indented, which Markdown takes for preformatted."""
        metadata = {"plugin_data": {"plugin_name": "text"}}
        tensor = {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": 1}]}, "string_val": [_shown(text)]}
        self._write(step=step, summary={"value": [{"tag": tag, "metadata": metadata, "tensor": tensor}]})

    def on_step(self, trainer: Resumable) -> None:
        """Loss, learning rate and norm of the gradient of the step that was just done."""
        assert trainer.last_loss is not None
        lr = trainer.optimizer.param_groups[0]["lr"]
        values = {"loss/step": trainer.last_loss, "step/learning rate": lr, "step/gradient norm": trainer.last_norm}
        self.scalars(trainer.step, values)

    def on_evaluation(self, trainer: Resumable, evaluation: Evaluation | Record) -> None:
        """What was measured of both parts; of a language model also perplexities, and its speed since the last one."""
        record = evaluation if isinstance(evaluation, dict) else evaluation.record()
        split = [(*key.split("_", 1), value) for key, value in record.items() if key.split("_", 1)[0] in PARTS]
        values = {f"{what}/{PARTS[part]}": value for part, what, value in split}
        if "tokens_per_second" in record:
            values |= {f"perplexity/{PARTS[part]}": perplexity(value) for part, what, value in split if what == "loss"}
        if record.get("tokens_per_second"):
            values["speed/tokens per second"] = record["tokens_per_second"]
        self.scalars(record["step"], values)

    def again(self, trainer: Resumable) -> None:
        """Write what is known of the step a trainer was restored to, which earlier files no longer count for."""
        if trainer.step:
            self.on_step(trainer)
        if trainer.history and trainer.history[-1]["step"] == trainer.step:
            self.on_evaluation(trainer, trainer.history[-1])

    def sync(self) -> None:
        """Wait until the records lie on the disk."""
        sync(self._file)

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._file.close()

    def __enter__(self) -> "EventsFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        if time.monotonic() - self._flushed > FLUSH:
            self._file.flush()
            self._flushed = time.monotonic()


def _shown(text: str) -> bytes:
    return textwrap.indent(text, "    ", lambda line: True).encode("utf-8", errors="replace")
