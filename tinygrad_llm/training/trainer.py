"""The training loop, and what it asks of the optimizer."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.creation import from_numpy
from tinygrad_llm.data.fingerprint import Examples, fingerprint
from tinygrad_llm.data.packing import IGNORED, PackedBatch
from tinygrad_llm.data.stream import RandomWindows, Stream
from tinygrad_llm.data.windows import Windows
from tinygrad_llm.models.gpt import GPTModel
from tinygrad_llm.models.modes import evaluating
from tinygrad_llm.nn import Module
from tinygrad_llm.nn import functional as F
from tinygrad_llm.optim import AdamW
from tinygrad_llm.optim.lr_scheduler import (
    LambdaLR,
    warmup_constant,
    warmup_cosine,
    warmup_inverse_sqrt,
    warmup_stable_decay,
)
from tinygrad_llm.training.ahead import LookAhead
from tinygrad_llm.training.captured import CapturedStep
from tinygrad_llm.training.metrics import Evaluation
from tinygrad_llm.training.precision import Precision
from tinygrad_llm.training.recipe import Recipe
from tinygrad_llm.training.resumable import Record, Resumable, masks_state, set_masks_state
from tinygrad_llm.training.spikes import BadStep, NonFiniteLoss, SpikeGuard
from tinygrad_llm.training.step import Step, decay_groups

Batch = tuple[np.ndarray, np.ndarray] | PackedBatch
MOST_SKIPPED = 3  # bad steps in a row; one more, and it is not the batch that is bad


class Judged(Examples, Protocol):
    """What a model is judged by: fixed batches of at most `count` of its examples, as `Windows` gives them."""

    def spread(self, count: int, batch: int) -> Iterable[Batch]: ...


def next_token_loss(model: Module, batch: Batch, device: str = "cpu") -> Tensor:
    """Mean of -log p(y[b, t] | x[b, :t+1]) over all targets but IGNORED: (x (B, T), y (B, T)) -> (), nats a token.

    A PackedBatch has documents and positions too; then no token sees another document, and padding counts for nothing.

    Raises: TypeError for packed rows and a model that is no GPTModel, which alone knows of documents.
    """
    return loss_of(model, [from_numpy(part).to(device) for part in batch])


def loss_of(model: Module, batch: Sequence[Tensor]) -> Tensor:
    """next_token_loss of a batch's tensors, where the model is."""
    ids, targets, *packed = batch
    if isinstance(model, GPTModel):
        known: dict[str, Any] = dict(zip(("documents", "positions"), packed, strict=False))
        return model.loss(ids, targets, **known)
    if packed:
        raise TypeError(f"next_token_loss: packed rows need a GPTModel, found {type(model).__name__}")
    return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())


def mean_loss(model: Module, batches: Iterable[Batch], device: str = "cpu") -> float:
    """The next-token loss over all targets of the batches, without dropout; the model's mode is restored.

    Raises: ValueError when there is no target.
    """
    total, tokens = 0.0, 0
    with no_grad(), evaluating(model):
        for batch in batches:
            if count := targets_in(batch):
                total += next_token_loss(model, batch, device).item() * count
                tokens += count
    if not tokens:
        raise ValueError("mean_loss: there is no batch to take the mean over")
    return total / tokens


def targets_in(batch: Batch) -> int:
    """How many targets a batch has to learn from."""
    return int(np.count_nonzero(batch[1] != IGNORED))


def rate_factor(recipe: Recipe) -> Callable[[int], float]:
    """The factor on the recipe's learning rate at step t."""
    floor = recipe.min_lr / recipe.lr if recipe.lr else 0.0
    if recipe.schedule == "constant":
        return warmup_constant(recipe.warmup)
    if recipe.schedule == "inverse-sqrt":
        return warmup_inverse_sqrt(recipe.warmup, floor)
    if recipe.schedule == "warmup-stable-decay":
        down = min(round(recipe.decay * recipe.steps), recipe.steps - recipe.warmup)
        return warmup_stable_decay(recipe.warmup, recipe.steps, down, floor)
    return warmup_cosine(recipe.warmup, recipe.steps, floor)


def adamw(model: Module, recipe: Recipe) -> AdamW:
    """AdamW of the parameters that learn, with the recipe's numbers; only matrices decay."""
    groups = decay_groups([p for p in model.parameters() if p.requires_grad], recipe.weight_decay)
    return AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))


COUNTERS = ("step", "tokens", "skipped", "first_loss", "last_loss", "last_norm", "seconds")


class Trainer(Resumable):
    """Trains a language model by a recipe on the batches of a stream; judges it on fixed windows.

    Two runs with the same model, recipe, windows and rng give the same losses to the last bit.
    `train` should have stride 1 and `validation` stride T, so that no token is judged twice. stream: where the batches
    come from, such as `MixedBatches` of packed rows; by default windows of `train`, drawn at random by rng. With a
    stream, `train` and `validation` may be whatever has `spread`: they are what the model is judged by. graph: on a GPU
    repeat steps as CUDA graphs; warn: told why where that cannot be.

    Raises: ValueError when a batch has more windows than there are, or for no windows and no stream.
    """

    def __init__(
        self,
        model: Module,
        recipe: Recipe,
        train: Windows | Judged,
        validation: Judged,
        rng: np.random.Generator,
        device: str = "cpu",
        stream: Stream | None = None,
        graph: bool = True,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        super().__init__()
        self.train_judged: Judged = train
        if isinstance(train, Windows):
            if recipe.batch > len(train):
                raise ValueError(
                    f"--batch {recipe.batch}: the training text has only {len(train)} windows of {train.context} "
                    f"tokens; use a smaller batch or a longer text"
                )
            self.train_judged = Windows(train.ids, train.context, stride=train.context)
            stream = RandomWindows(train, recipe.batch, rng) if stream is None else stream
        if stream is None:
            raise ValueError(f"Trainer: {type(train).__name__} is no Windows to draw from; give a stream")
        self.model, self.recipe, self.device = model, recipe, device
        self.train: Any = train  # Windows, or what else is judged
        self.validation, self.rng, self.stream = validation, rng, stream
        self.precision = Precision(recipe.dtype, device)
        self.optimizer = adamw(model, recipe)
        about = model, self.optimizer, loss_of, recipe.clip, device, self.precision
        self.parts = Step(*about)
        if graph and devices.device(device).type == "cuda":
            self.stream = LookAhead(stream)
            self.parts = CapturedStep(*about, warn=warn)
            self.parts.meanwhile = self._look_ahead
        self.schedule = LambdaLR(self.optimizer, rate_factor(recipe))
        self.guard = SpikeGuard(recipe.spike)
        self.skipped = 0  # bad steps that were not taken
        self.first_loss: float | None = None
        self.evaluations: list[Evaluation] = []
        self._marked = (0, 0.0)  # tokens and seconds at the last evaluation
        self._judged_on = fingerprint(validation)

    def run(
        self,
        on_step: Callable[["Trainer"], None] = lambda trainer: None,
        on_evaluation: Callable[["Trainer", Evaluation], None] = lambda trainer, evaluation: None,
        stop: Callable[[], bool] = lambda: False,
        on_skip: Callable[["Trainer", BadStep], None] = lambda trainer, error: None,
    ) -> bool:
        """Train to the recipe's last step, or until stop() is true after a step. Returns whether the end was reached.

        Evaluates before the first step, every `eval_every` steps and at the end, each time after on_step, which may
        save what the evaluation could lose. The callbacks see each step and each evaluation as soon as it is done. A
        step whose loss or gradient is no number, or whose loss jumps (`spike`), is not taken: on_skip is told, and the
        next batch takes its place. A trainer that was restored goes on as if it had never stopped.

        Raises: BadStep after MOST_SKIPPED of them in a row; NonFiniteLoss from an evaluation.
        """
        skipped = 0
        while True:
            if self.evaluation_due():
                on_evaluation(self, self.evaluate())
            if self.step >= self.recipe.steps or stop():
                return self.step >= self.recipe.steps
            try:
                self.train_step()
            except BadStep as error:
                skipped += 1
                if skipped > MOST_SKIPPED:
                    raise
                self.skipped += 1
                on_skip(self, error)
            else:
                skipped = 0
                on_step(self)

    def evaluation_due(self) -> bool:
        """Whether the model is to be judged before the next step."""
        due = self.step % self.recipe.eval_every == 0 or self.step >= self.recipe.steps
        return due and not (self.evaluations and self.evaluations[-1].step == self.step)

    def train_step(self) -> float:
        """Forward, backward, clip, update: one optimizer step. Returns the mean loss over its targets.

        The parts of an accumulated step weigh by their targets, so that the step is that of one large batch.

        Raises: NonFiniteLoss or LossSpike, before the parameters are touched.
        """
        with devices.on(devices.device(self.device)):
            return self._train_step()

    def _train_step(self) -> float:
        start = time.perf_counter()
        drawn = [next(self.stream) for _ in range(self.recipe.accumulate)]
        batches = [(batch, count) for batch in drawn if (count := targets_in(batch))]
        total = sum(count for _, count in batches)
        while True:
            loss = self._gradients(batches, total)
            self.guard.check(loss, self.step + 1)
            if not total or self.parts.ready():
                break
        norm = self.parts.clip()
        self._check_finite("the norm of the gradient", norm, self.step + 1)
        self.parts.update()
        self.schedule.step()
        self.guard.accept(loss)
        self.step += 1
        self.tokens += total
        self.last_loss, self.last_norm = loss, norm
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.seconds += time.perf_counter() - start
        return loss

    def _gradients(self, batches: list[tuple[Batch, int]], total: int) -> float:
        """Those of the mean loss over all targets of the batches, each with its number; returns the loss."""
        loss = 0.0
        self.parts.begin([batch for batch, _ in batches])
        for batch, count in batches:
            loss += self.parts.forward(batch, count / total) * (count / total)
            self._check_finite("the loss", loss, self.step + 1)
            self.parts.backward()
        return loss

    def _look_ahead(self) -> None:
        """Let the batches of the next step start on their way to the GPU."""
        if self.step + 1 < self.recipe.steps and isinstance(self.stream, LookAhead):
            with suppress(Exception):  # which comes again when the batch is due
                batches = self.stream.look(self.recipe.accumulate)
                self.parts.send([batch for batch in batches if targets_in(batch)])

    def evaluate(self) -> Evaluation:
        """Both losses on fixed windows, without dropout, and how fast training was since the evaluation before."""
        count, batch = self.recipe.eval_windows, self.recipe.batch
        with self.timed("evaluation"), self.precision.region():
            train_loss = mean_loss(self.model, self.train_judged.spread(count, batch), self.device)
            val_loss = mean_loss(self.model, self.validation.spread(count, batch), self.device)
        self._check_finite("the training loss", train_loss, self.step)
        self._check_finite("the validation loss", val_loss, self.step)
        tokens, seconds = self.tokens - self._marked[0], self.seconds - self._marked[1]
        self._marked = (self.tokens, self.seconds)
        evaluation = Evaluation(
            step=self.step,
            tokens=self.tokens,
            train_loss=train_loss,
            val_loss=val_loss,
            lr=self.schedule.get_last_lr()[0],
            tokens_per_second=tokens / seconds if seconds else 0.0,
            grad_norm=self.last_norm,
        )
        self.evaluations.append(evaluation)
        return evaluation

    @property
    def steps(self) -> int:
        """The recipe's."""
        return self.recipe.steps

    @property
    def history(self) -> list[Record]:
        """The evaluations as records."""
        return [evaluation.record() for evaluation in self.evaluations]

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation so far."""
        return self.best.step if self.best else None

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest validation loss so far, the first of them if there are several."""
        return min(self.evaluations, key=lambda e: e.val_loss, default=None)

    def out_of_patience(self) -> bool:
        """Whether the last `patience` evaluations brought no better validation loss; never where patience is 0."""
        if not self.recipe.patience or self.best is None:
            return False
        return len(self.evaluations) - 1 - self.evaluations.index(self.best) >= self.recipe.patience

    def state_dict(self) -> dict[str, Any]:
        """Everything but the arrays of model and optimizer that decides how the run goes on, as JSON values."""
        return {
            **{name: getattr(self, name) for name in COUNTERS},
            "beside": dict(self.beside),
            "marked": list(self._marked),
            "evaluations": self.history,
            "guard": self.guard.state_dict(),
            "scaler": self.precision.state_dict(),
            "stream": self.stream.state_dict(),
            "judged_on": self._judged_on,
            "random": masks_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; the learning rate is that of this recipe's schedule at the state's step.

        Raises: ValueError for a state of another text, batch or stream, or one past the recipe's last step.
        """
        if state["step"] > self.recipe.steps:
            raise ValueError(f"--steps {self.recipe.steps}: {state['step']} steps have been done; give more of them")
        if state["judged_on"] != self._judged_on:
            raise ValueError("the state was judged on another validation text; resume with the same one")
        self.stream.load_state_dict(state["stream"])
        set_masks_state(state["random"])
        self.guard.load_state_dict(state["guard"])
        self.precision.load_state_dict(state.get("scaler", {}))
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.beside, self._marked = dict(state["beside"]), tuple(state["marked"])
        self.evaluations[:] = [Evaluation(**e) for e in state["evaluations"]]
        self.schedule = LambdaLR(self.optimizer, rate_factor(self.recipe), last_epoch=self.step - 1)

    def _check_finite(self, what: str, value: float, step: int) -> None:
        if math.isfinite(value):
            return
        if self.last_loss is None:
            before = "no step before it went well"
        else:
            before = f"the last good loss was {self.last_loss:.4f} at step {self.step}"
        raise NonFiniteLoss(
            f"step {step}: {what} is {value}; {before}; try a lower --lr (it was {self.recipe.lr:g}), a longer "
            f"--warmup or a smaller --clip"
        )
