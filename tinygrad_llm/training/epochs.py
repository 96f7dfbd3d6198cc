"""Training on rows of data, epoch by epoch: every row once in a new order, and the best weights are kept."""

import math
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import from_numpy
from tinygrad_llm.data.padding import LENGTHS, padded_length
from tinygrad_llm.nn import Module
from tinygrad_llm.optim import AdamW
from tinygrad_llm.optim.lr_scheduler import LambdaLR, warmup_cosine
from tinygrad_llm.training.captured import CapturedStep
from tinygrad_llm.training.precision import Precision
from tinygrad_llm.training.recipe import check_dtype, flag
from tinygrad_llm.training.resumable import Record, Resumable, masks_state, set_masks_state
from tinygrad_llm.training.spikes import NonFiniteLoss
from tinygrad_llm.training.step import Step, decay_groups

Row = TypeVar("Row")
COUNTERS = ("step", "tokens", "last_loss", "last_norm", "seconds")


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


class EpochTrainer(Resumable, Generic[Row]):
    """AdamW with a short warm-up and a cosine down to 0 over all epochs; the best weights that were judged are kept.

    A subclass gives the batch of some rows and its loss, how the model is judged, and what a judgement is worth.
    judgements: in an epoch, evenly. at_start: judge before the first step, too. graph: on a GPU repeat steps as CUDA
    graphs; warn: told why where that cannot be. Two runs with the same model, rows and recipe give the
    same weights to the last bit, and so does one that was saved and restored in between (`Checkpoints`).
    """

    def __init__(
        self,
        model: Module,
        parameters: Iterable[Tensor],
        recipe: EpochRecipe,
        rows: Sequence[Row],
        judgements: int = 1,
        at_start: bool = False,
        graph: bool = True,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        super().__init__()
        self.model, self.rows = model, rows
        self.rng = np.random.default_rng(recipe.seed)
        self.parameters = list({id(p): p for p in parameters if p.requires_grad}.values())
        self.device = str(self.parameters[0].device) if self.parameters else "cpu"
        self.precision = Precision(recipe.dtype, self.device)
        self.optimizer = AdamW(decay_groups(self.parameters, recipe.weight_decay), lr=recipe.lr)
        about = model, self.optimizer, self._loss, recipe.clip, self.device, self.precision, self.parameters
        self.on_gpu = devices.device(self.device).type == "cuda"
        self.parts = CapturedStep(*about, warn=warn) if graph and self.on_gpu else Step(*about)
        self.epochs, self.batch, self.at_start = recipe.epochs, recipe.batch, at_start
        self.per_epoch = -(-len(rows) // recipe.batch)  # steps
        self.due = {-(-self.per_epoch * (n + 1) // judgements) for n in range(judgements)}  # steps of an epoch
        self.factor = warmup_cosine(min(50, self.steps // 10), self.steps, 0.0)
        self.schedule = LambdaLR(self.optimizer, self.factor)
        self._history: list[Record] = []
        self._best: dict[str, Any] = {}
        self._order = np.empty(0, np.int64)  # of this epoch's rows
        self._before_order: Any = None  # the state of rng that it was drawn from

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.epochs * self.per_epoch

    @property
    def history(self) -> list[Record]:
        """The judgements so far."""
        return self._history

    @property
    def best(self) -> Record | None:
        """The judgement that is worth most so far, the first of them if there are several."""
        return max(self.history, key=self.worth, default=None)

    @property
    def best_step(self) -> int | None:
        """The step of the best judgement so far."""
        return self.best["step"] if self.best else None

    @abstractmethod
    def arrays(self, rows: Sequence[Row]) -> Sequence[np.ndarray]:
        """The batch of some rows, in main memory."""

    @abstractmethod
    def loss_of(self, batch: Sequence[Tensor]) -> Tensor:
        """What is to become small, of a batch where the model is -> ()."""

    def loss(self, rows: Sequence[Row]) -> Tensor:
        """That of some rows."""
        return self.loss_of([from_numpy(array).to(self.device) for array in self.arrays(rows)])

    def _loss(self, model: Module, batch: Sequence[Tensor]) -> Tensor:
        return self.loss_of(batch)

    def length(self, longest: int, most: int) -> int:
        """How long the rows of a batch are made: on a GPU a multiple of LENGTHS, see `padded_length`."""
        return padded_length(longest, LENGTHS, most) if self.on_gpu else longest

    @abstractmethod
    def targets(self, rows: Sequence[Row]) -> int:
        """How many predictions there are to learn from in some rows."""

    @abstractmethod
    def judge(self) -> Record:
        """Measures of the model as it is, whose losses end in "loss"."""

    @abstractmethod
    def worth(self, record: Record) -> tuple[float, ...]:
        """How good a judgement is; the greatest is the best, of equal ones the first."""

    def run(
        self,
        on_step: Callable[["EpochTrainer[Row]"], None] = lambda trainer: None,
        on_evaluation: Callable[["EpochTrainer[Row]", Record], None] = lambda trainer, record: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the last epoch's end, or until stop() is true after a step. Returns whether the end was reached.

        Each judgement comes after on_step, which may save what it could lose. A trainer that was restored goes on as if
        it had never stopped. `finish` then goes back to the best weights.

        Raises: NonFiniteLoss naming the step.
        """
        while True:
            if self.evaluation_due():
                on_evaluation(self, self.judged())
            if self.step >= self.steps or stop():
                return self.step >= self.steps
            self.train_step(self._next_rows())
            on_step(self)

    def finish(self) -> None:
        """Put the best weights back, after a judgement of those there are, unless that was made."""
        if not self.history or self.history[-1]["step"] != self.step:
            self.judged()
        tensors = self.tensors()
        for name, array in self._best.items():
            tensors[name].array[...] = array

    def evaluation_due(self) -> bool:
        """Whether the model is to be judged before the next step."""
        if self.history and self.history[-1]["step"] == self.step:
            return False
        return (self.step - 1) % self.per_epoch + 1 in self.due if self.step else self.at_start

    def _next_rows(self) -> list[Row]:
        """The rows of the next step; each epoch has an order of its own."""
        place = self.step % self.per_epoch
        if place == 0:
            self._draw_order(self.rng.bit_generator.state)
        return [self.rows[i] for i in self._order[place * self.batch : (place + 1) * self.batch]]

    def _draw_order(self, state: Any) -> None:
        self._before_order = self.rng.bit_generator.state = state
        self._order = self.rng.permutation(len(self.rows))

    def train_step(self, rows: Sequence[Row]) -> float:
        """One step on some rows; returns their loss. Raises: NonFiniteLoss, before the parameters are touched."""
        with devices.on(devices.device(self.device)):
            return self._train_step(rows)

    def _train_step(self, rows: Sequence[Row]) -> float:
        start, batch = time.perf_counter(), self.arrays(rows)
        while True:
            self.parts.begin([batch])
            value = self.parts.forward(batch, 1.0)
            if not math.isfinite(value):
                raise NonFiniteLoss(f"the loss is {value} at step {self.step + 1}; lower --lr")
            self.parts.backward()
            if self.parts.ready():
                break
        norm = self.parts.clip()
        if not math.isfinite(norm):
            raise NonFiniteLoss(f"the norm of the gradient is {norm} at step {self.step + 1}; lower --lr")
        self.parts.update()
        self.schedule.step()
        self.step += 1
        self.tokens += self.targets(rows)
        self.last_loss, self.last_norm = value, norm
        self.seconds += time.perf_counter() - start
        return value

    def judged(self) -> Record:
        """Judge the model, and remember its weights if they are the best so far. Raises: NonFiniteLoss."""
        with self.timed("evaluation"), self.precision.region():
            measures = self.judge()
        if not all(math.isfinite(value) for name, value in measures.items() if name.endswith("loss")):
            raise NonFiniteLoss(f"the loss is no number after step {self.step}; lower --lr")
        record = {"epoch": -(-self.step // self.per_epoch), "step": self.step, **measures, "seconds": self.spent}
        self.history.append(record)
        if self.best is record:
            tensors = self.tensors()
            for name, array in self.best_weights().items():
                array[...] = tensors[name].array
        return record

    def best_weights(self) -> dict[str, Any]:
        """The arrays of the best judgement's weights by name; none before there is one."""
        if self.history and not self._best:
            self._best = {name: t.array.copy() for name, t in self.tensors().items() if t.requires_grad}
        return self._best

    def state_dict(self) -> dict[str, Any]:
        """Everything but the arrays of model and optimizer that decides how the run goes on, as JSON values."""
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "beside": dict(self.beside),
            "history": [dict(record) for record in self.history],
            "rows": self._facts(),
            "order": self._before_order,
            "rng": self.rng.bit_generator.state,
            "random": masks_state(),
            "scaler": self.precision.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises: ValueError for one of a run on other rows, or in other batches."""
        if state["rows"] != self._facts():
            raise ValueError(f"the state is of a run on {state['rows']}, this one is on {self._facts()}")
        if state["order"] is not None:
            self._draw_order(state["order"])
        self.rng.bit_generator.state = state["rng"]
        set_masks_state(state["random"])
        self.precision.load_state_dict(state.get("scaler", {}))
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.beside, self._best = dict(state["beside"]), {}
        self._history = [dict(record) for record in state["history"]]
        self.schedule = LambdaLR(self.optimizer, self.factor, last_epoch=self.step - 1)

    def _facts(self) -> dict[str, int]:
        return {"rows": len(self.rows), "batch": self.batch, "epochs": self.epochs}
