"""The training loop, and what it asks of the optimizer."""

import math
import time
from collections.abc import Callable, Iterable

import numpy as np

from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.creation import from_numpy
from tinygrad_llm.data.packing import IGNORED, PackedBatch
from tinygrad_llm.data.stream import RandomWindows, Stream
from tinygrad_llm.data.windows import Windows
from tinygrad_llm.models.generation import evaluating
from tinygrad_llm.models.gpt import GPTModel
from tinygrad_llm.nn import Module
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn.utils import clip_grad_norm_
from tinygrad_llm.optim import AdamW
from tinygrad_llm.optim.lr_scheduler import LambdaLR, warmup_cosine
from tinygrad_llm.random import fast_masks
from tinygrad_llm.training.metrics import Evaluation
from tinygrad_llm.training.recipe import Recipe

Batch = tuple[np.ndarray, np.ndarray] | PackedBatch


class NonFiniteLoss(ArithmeticError):
    """The loss or its gradient is no longer a number. The parameters may be ruined: keep no file of them."""


def next_token_loss(model: Module, batch: Batch, device: str = "cpu") -> Tensor:
    """Mean of -log p(y[b, t] | x[b, :t+1]) over all tokens: (x (B, T), y (B, T)) -> scalar, nats per token.

    A PackedBatch has documents and positions too; then no token sees another document, and padding counts for nothing.

    Raises: TypeError for packed rows and a model that is no GPTModel, which alone knows of documents.
    """
    ids, targets, *packed = (from_numpy(part).to(device) for part in batch)
    if isinstance(model, GPTModel):
        return model.loss(ids, targets, **dict(zip(("documents", "positions"), packed, strict=False)))
    if packed:
        raise TypeError(f"next_token_loss: packed rows need a GPTModel, found {type(model).__name__}")
    return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())


def mean_loss(model: Module, batches: Iterable[Batch], device: str = "cpu") -> float:
    """The next-token loss over all tokens of the batches, without dropout; the model's mode is restored.

    Raises: ValueError when there is no batch.
    """
    total, tokens = 0.0, 0
    with no_grad(), evaluating(model):
        for batch in batches:
            count = int((batch[1] != IGNORED).sum())
            total += next_token_loss(model, batch, device).item() * count
            tokens += count
    if not tokens:
        raise ValueError("mean_loss: there is no batch to take the mean over")
    return total / tokens


def adamw(model: Module, recipe: Recipe) -> AdamW:
    """AdamW that decays the matrices and leaves biases and norms alone: a norm's weight has no reason to be small."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2))


class Trainer:
    """Trains a language model by a recipe on the batches of a stream; judges it on fixed windows.

    Two runs with the same model, recipe, windows and rng give the same losses to the last bit.
    `train` should have stride 1 and `validation` stride T, so that no token is judged twice. stream: where the batches
    come from, such as `MixedBatches` of packed rows; by default windows of `train`, drawn at random by rng.

    Raises: ValueError when a batch has more windows than there are.
    """

    def __init__(
        self,
        model: Module,
        recipe: Recipe,
        train: Windows,
        validation: Windows,
        rng: np.random.Generator,
        device: str = "cpu",
        stream: Stream | None = None,
    ) -> None:
        if recipe.batch > len(train):
            raise ValueError(
                f"--batch {recipe.batch}: the training text has only {len(train)} windows of {train.context} tokens; "
                f"use a smaller batch or a longer text"
            )
        self.model, self.recipe, self.device = model, recipe, device
        self.train, self.validation, self.rng = train, validation, rng
        self.stream = RandomWindows(train, recipe.batch, rng) if stream is None else stream
        self.train_judged = Windows(train.ids, train.context, stride=train.context)
        self.optimizer = adamw(model, recipe)
        floor = recipe.min_lr / recipe.lr if recipe.lr else 0.0
        self.schedule = LambdaLR(self.optimizer, warmup_cosine(recipe.warmup, recipe.steps, floor))
        self.step = 0
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self.seconds = 0.0  # spent in training steps, evaluations and callbacks apart
        self.evaluations: list[Evaluation] = []
        self._marked = (0, 0.0)  # tokens and seconds at the last evaluation

    @property
    def tokens(self) -> int:
        """Predictions learned from so far."""
        return self.step * self.recipe.tokens_per_step

    def run(
        self,
        on_step: Callable[["Trainer"], None] = lambda trainer: None,
        on_evaluation: Callable[["Trainer", Evaluation], None] = lambda trainer, evaluation: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the recipe's last step, or until stop() is true after a step. Returns whether the end was reached.

        Evaluates before the first step, every `eval_every` steps and at the end; the callbacks see each step and each
        evaluation as soon as it is done.

        Raises: NonFiniteLoss naming the step and the last good loss.
        """
        on_evaluation(self, self.evaluate())
        while self.step < self.recipe.steps:
            self.train_step()
            if self.step % self.recipe.eval_every == 0 or self.step == self.recipe.steps:
                on_evaluation(self, self.evaluate())
            on_step(self)
            if stop():
                break
        return self.step == self.recipe.steps

    def train_step(self) -> float:
        """Forward, backward, clip, update: one optimizer step. Returns the mean loss over its windows.

        Raises: NonFiniteLoss, before the parameters are touched.
        """
        start = time.perf_counter()
        recipe, loss = self.recipe, 0.0
        self.model.train()
        self.optimizer.zero_grad()
        for _ in range(recipe.accumulate):
            with fast_masks():
                part = next_token_loss(self.model, next(self.stream), self.device)
            loss += part.item() / recipe.accumulate
            self._check_finite("the loss", loss, self.step + 1)
            (part / recipe.accumulate).backward()
        norm = clip_grad_norm_(self.model.parameters(), recipe.clip or math.inf)  # one norm over all parameters
        self._check_finite("the norm of the gradient", norm.item(), self.step + 1)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.last_loss = loss
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.seconds += time.perf_counter() - start
        return loss

    def evaluate(self) -> Evaluation:
        """Both losses on fixed windows, without dropout, and how fast training was since the evaluation before."""
        count, batch = self.recipe.eval_windows, self.recipe.batch
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
        )
        self.evaluations.append(evaluation)
        return evaluation

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
