"""Training a GPT to classify texts: batches, the loss, its measures, and the model of the best epoch."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.creation import arange, from_numpy
from tinygrad_llm.data.classification import Labelled, LabelledBatch, classification_batch
from tinygrad_llm.models.gpt import GPTModel
from tinygrad_llm.models.modes import evaluating
from tinygrad_llm.nn import Linear, Module
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn.utils import clip_grad_norm_
from tinygrad_llm.optim import AdamW
from tinygrad_llm.optim.lr_scheduler import LambdaLR, warmup_cosine
from tinygrad_llm.random import fast_masks
from tinygrad_llm.text import Tokenizer
from tinygrad_llm.training.trainer import NonFiniteLoss

Row = tuple[list[int], int]  # ids of a text, number of its class


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """How a classifier is trained.

    drop_tokens: the probability that a token of a text is replaced by padding in training, so that no single word
    decides. language: the weight of the loss of the next token beside that of the class, 0 for none; it needs the
    language model's head, which is kept apart then. Source: Radford et al., Improving language understanding by
    generative pre-training (2018), equation 5, for the second.
    """

    epochs: int = 8
    batch: int = 8
    lr: float = 1e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    drop_tokens: float = 0.0
    language: float = 0.0
    seed: int = 123

    def __post_init__(self) -> None:
        for name, low, below in (
            ("epochs", 1, math.inf), ("batch", 1, math.inf), ("lr", 0, math.inf), ("weight_decay", 0, math.inf),
            ("clip", 0, math.inf), ("drop_tokens", 0, 1), ("language", 0, math.inf), ("seed", 0, 2**63),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value < below:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be at least {low} and below {below}")


@dataclass(frozen=True)
class Measured:
    """What a model makes of labelled texts: the mean loss in nats, and the confusion matrix, a row a true class."""

    loss: float
    confusion: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    def per_class(self, classes: Sequence[str]) -> dict[str, dict[str, float]]:
        """Precision, recall and their harmonic mean F1 of each class; 0 where there is nothing to divide by."""
        found = {}
        for i, name in enumerate(classes):
            right = float(self.confusion[i, i])
            precision = right / max(self.confusion[:, i].sum(), 1)
            recall = right / max(self.confusion[i].sum(), 1)
            f1 = 2 * precision * recall / (precision + recall) if right else 0.0
            found[name] = {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
        return found


def encode(labelled: Labelled, tokenizer: Tokenizer, context: int) -> list[Row]:
    """Ids and class of each text; longer ones lose their end.

    Raises: ValueError naming a text without tokens.
    """
    rows = [
        (tokenizer.encode_ordinary(text)[:context], int(n))
        for text, n in zip(labelled.texts, labelled.labels, strict=True)
    ]
    if empty := [i for i, (ids, _) in enumerate(rows) if not ids]:
        raise ValueError(f"text {labelled.texts[empty[0]]!r} has no tokens; leave it out")
    return rows


def measure(model: GPTModel, rows: Sequence[Row], classes: int, batch: int = 32, device: str = "cpu") -> Measured:
    """Loss and confusion matrix on all rows, without dropout."""
    total, confusion = 0.0, np.zeros((classes, classes), np.int64)
    with no_grad(), evaluating(model):
        for given in _batches(rows, batch):
            logits = classify(model, given, device)
            total += F.cross_entropy(logits, from_numpy(given.labels).to(device), reduction="sum").item()
            np.add.at(confusion, (given.labels, logits.cpu().numpy().argmax(-1)), 1)
    return Measured(total / len(rows), confusion)


def probabilities(model: GPTModel, texts: Sequence[Sequence[int]], device: str = "cpu") -> np.ndarray:
    """The probability of each class: texts as ids -> (N, classes)."""
    with no_grad(), evaluating(model):
        parts = [
            F.softmax(classify(model, given, device), -1).cpu().numpy()
            for given in _batches([(list(ids), 0) for ids in texts], 32)
        ]
    return np.concatenate(parts)


def classify(model: GPTModel, given: LabelledBatch, device: str = "cpu") -> Tensor:
    """The logits of the classes at each row's last real token."""
    return model.classify(from_numpy(given.ids).to(device), from_numpy(given.last).to(device))


def _batches(rows: Sequence[Row], batch: int) -> Iterator[LabelledBatch]:
    for start in range(0, len(rows), batch):
        yield classification_batch(rows[start : start + batch], 0)


class ClassifierTrainer:
    """Trains what of a model learns, and keeps the weights of the epoch that was best on the validation texts.

    Best is the highest accuracy, of equal ones the lowest loss. Two runs with the same model, rows and recipe give the
    same weights to the last bit.
    """

    def __init__(
        self,
        model: GPTModel,
        recipe: ClassifierRecipe,
        train: Sequence[Row],
        validation: Sequence[Row],
        classes: int,
        language_head: Module | None = None,
        device: str = "cpu",
    ) -> None:
        self.model, self.recipe, self.classes, self.device = model, recipe, classes, device
        self.train, self.validation, self.language_head = train, validation, language_head
        self.rng = np.random.default_rng(recipe.seed)
        own = list(model.parameters()) + (list(language_head.parameters()) if language_head is not None else [])
        self.parameters = list({id(p): p for p in own if p.requires_grad}.values())
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = AdamW([group for group in groups if group["params"]], lr=recipe.lr)
        steps = recipe.epochs * -(-len(train) // recipe.batch)
        self.schedule = LambdaLR(self.optimizer, warmup_cosine(min(50, steps // 10), steps, 0.0))
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._best: tuple[tuple[float, float], list[Any]] | None = None

    def run(
        self,
        on_epoch: Callable[[dict[str, Any]], None] = lambda record: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """All epochs, or until stop() is true after a step; the best weights are put back. Whether all ran.

        Raises: NonFiniteLoss naming the step.
        """
        for epoch in range(1, self.recipe.epochs + 1):
            order = self.rng.permutation(len(self.train))
            for start in range(0, len(order), self.recipe.batch):
                self.train_step([self.train[i] for i in order[start : start + self.recipe.batch]])
                if stop():
                    break
            on_epoch(self._judged(epoch))
            if stop():
                break
        assert self._best is not None
        for parameter, array in zip(self.parameters, self._best[1], strict=True):
            parameter.array[...] = array
        return not stop()

    def train_step(self, rows: Sequence[Row]) -> float:
        """One step on some texts; returns the loss of their classes."""
        self.model.train()
        given = classification_batch(rows, 0)
        hidden = self.rng.random(given.ids.shape) < self.recipe.drop_tokens
        hidden[np.arange(len(rows)), given.last] = False  # there is what is judged
        ids = from_numpy(np.where(hidden, 0, given.ids)).to(self.device)
        last = from_numpy(given.last).to(self.device)
        with fast_masks():
            features = self.model.features(ids)  # (B, T, C)
            at_last = features[arange(len(rows), device=self.device), last]
            loss = F.cross_entropy(self.model.out_head(at_last), from_numpy(given.labels).to(self.device))
            value = loss.item()
            if self.language_head is not None:
                loss = loss + self.recipe.language * self._language_loss(features, given)
        if not math.isfinite(value):
            raise NonFiniteLoss(f"the loss is {value} at step {self.step + 1}; lower --lr")
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.parameters, self.recipe.clip or math.inf)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return value

    def _language_loss(self, features: Tensor, given: LabelledBatch) -> Tensor:
        """The next token's loss at the real tokens."""
        assert self.language_head is not None
        T = given.ids.shape[1]
        targets = np.full_like(given.ids, -100)
        targets[:, :-1] = np.where(np.arange(1, T) <= given.last[:, None], given.ids[:, 1:], -100)
        logits = self.language_head(features).flatten(0, 1)
        return F.cross_entropy(logits, from_numpy(targets).flatten().to(self.device))

    def _judged(self, epoch: int) -> dict[str, Any]:
        train = measure(self.model, self.train[: max(len(self.validation), 1)], self.classes, device=self.device)
        validation = measure(self.model, self.validation, self.classes, device=self.device)
        record = {
            "epoch": epoch, "step": self.step, "train_loss": train.loss, "val_loss": validation.loss,
            "train_accuracy": train.accuracy, "val_accuracy": validation.accuracy,
        }  # fmt: skip
        if not (math.isfinite(train.loss) and math.isfinite(validation.loss)):
            raise NonFiniteLoss(f"the loss is no number after step {self.step}; lower --lr")
        self.history.append(record)
        worth = (validation.accuracy, -validation.loss)
        if self._best is None or worth > self._best[0]:
            self._best = (worth, [p.array.copy() for p in self.parameters])
        return record


def language_head_of(model: GPTModel) -> Linear:
    """A head for the next token over the model's own token embedding, for the loss beside the classes'."""
    head = Linear(model.config.emb_dim, model.config.vocab_size, bias=False)
    head.weight = model.tok_emb.weight
    return head
