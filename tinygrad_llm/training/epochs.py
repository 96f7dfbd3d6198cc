"""Training on rows of data, epoch by epoch: every row once in a new order, and the best weights are kept."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from tinygrad_llm.autograd import Tensor
from tinygrad_llm.nn import Module
from tinygrad_llm.nn.utils import clip_grad_norm_
from tinygrad_llm.optim import AdamW
from tinygrad_llm.optim.lr_scheduler import LambdaLR, warmup_cosine
from tinygrad_llm.random import fast_masks
from tinygrad_llm.training.precision import Precision
from tinygrad_llm.training.recipe import check_dtype, flag
from tinygrad_llm.training.spikes import NonFiniteLoss

Row = TypeVar("Row")
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class EpochRecipe:
    """How training goes. clip: the largest norm of the whole gradient, 0 for no limit; seed: of the rows' order.

    dtype: of products, float32, bfloat16 or float16; weights and their steps are float32.

    Raises: ValueError naming the first value outside its bounds.
    """

    epochs: int = 8
    batch: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 123
    dtype: str = "float32"

    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {
        "epochs": (1, math.inf), "batch": (1, math.inf), "lr": (0, math.inf), "weight_decay": (0, math.inf),
        "clip": (0, math.inf), "seed": (0, 2**63),
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name, (low, below) in self.BOUNDS.items():
            value = getattr(self, name)
            if not low <= value < below:
                raise ValueError(f"{flag(name)} {value}: must be at least {low} and below {below}")
        check_dtype(self.dtype)


class EpochTrainer(ABC, Generic[Row]):
    """AdamW with a short warm-up and a cosine down to 0 over all epochs; the best weights that were judged are kept.

    A subclass gives the loss of some rows, how the model is judged, and what a judgement is worth. judgements: in an
    epoch, evenly. Two runs with the same model, rows and recipe give the same weights to the last bit.
    """

    def __init__(
        self, model: Module, parameters: Iterable[Tensor], recipe: EpochRecipe, rows: Sequence[Row], judgements: int = 1
    ) -> None:
        self.model, self.rows = model, rows
        self.rng = np.random.default_rng(recipe.seed)
        self.parameters = list({id(p): p for p in parameters if p.requires_grad}.values())
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.precision = Precision(recipe.dtype, str(self.parameters[0].device) if self.parameters else "cpu")
        self.optimizer = AdamW([group for group in groups if group["params"]], lr=recipe.lr)
        self.epochs, self.batch, self.clip, self.judgements = recipe.epochs, recipe.batch, recipe.clip, judgements
        steps = recipe.epochs * -(-len(rows) // recipe.batch)
        self.schedule = LambdaLR(self.optimizer, warmup_cosine(min(50, steps // 10), steps, 0.0))
        self.step = 0
        self.history: list[Record] = []
        self._best: tuple[tuple[float, ...], list[Any]] | None = None

    @abstractmethod
    def loss(self, rows: Sequence[Row]) -> Tensor:
        """What is to become small, of some rows -> ()."""

    @abstractmethod
    def judge(self) -> Record:
        """Measures of the model as it is, whose losses end in "loss"."""

    @abstractmethod
    def worth(self, record: Record) -> tuple[float, ...]:
        """How good a judgement is; the greatest is the best, of equal ones the first."""

    def run(
        self, on_record: Callable[[Record], None] = lambda record: None, stop: Callable[[], bool] = lambda: False
    ) -> bool:
        """All epochs, or until stop() is true after a step; the best weights are put back. Whether all ran.

        on_record sees each judgement, with its epoch and step. Raises: NonFiniteLoss naming the step.
        """
        for epoch in range(1, self.epochs + 1):
            order = self.rng.permutation(len(self.rows))
            starts = range(0, len(order), self.batch)
            due = {-(-len(starts) * (n + 1) // self.judgements) for n in range(self.judgements)}  # steps of this epoch
            for number, start in enumerate(starts, 1):
                self.train_step([self.rows[i] for i in order[start : start + self.batch]])
                stopped = stop()
                if stopped or number in due:
                    on_record(self.judged(epoch))
                if stopped:
                    break
            if stop():
                break
        assert self._best is not None
        for parameter, array in zip(self.parameters, self._best[1], strict=True):
            parameter.array[...] = array
        return not stop()

    def train_step(self, rows: Sequence[Row]) -> float:
        """One step on some rows; returns their loss. Raises: NonFiniteLoss, before the parameters are touched."""
        self.model.train()
        while True:
            with fast_masks(), self.precision.region():
                loss = self.loss(rows)
            value = loss.item()
            if not math.isfinite(value):
                raise NonFiniteLoss(f"the loss is {value} at step {self.step + 1}; lower --lr")
            self.optimizer.zero_grad()
            self.precision.backward(loss)
            if self.precision.ready(self.optimizer):
                break
        clip_grad_norm_(self.parameters, self.clip or math.inf)
        self.precision.step(self.optimizer)
        self.schedule.step()
        self.step += 1
        return value

    def judged(self, epoch: int) -> Record:
        """Judge the model, and remember its weights if they are the best so far. Raises: NonFiniteLoss."""
        with self.precision.region():
            record = {"epoch": epoch, "step": self.step, **self.judge()}
        if not all(math.isfinite(value) for name, value in record.items() if name.endswith("loss")):
            raise NonFiniteLoss(f"the loss is no number after step {self.step}; lower --lr")
        self.history.append(record)
        worth = self.worth(record)
        if self._best is None or worth > self._best[0]:
            self._best = (worth, [p.array.copy() for p in self.parameters])
        return record
