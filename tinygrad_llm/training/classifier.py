"""Training a GPT to classify texts: batches, the loss, its measures, and the model of the best epoch."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.creation import arange, from_numpy
from tinygrad_llm.data.classification import Labelled, LabelledBatch, classification_batch
from tinygrad_llm.data.instructions import IGNORED
from tinygrad_llm.data.padding import widened
from tinygrad_llm.models.gpt import GPTModel
from tinygrad_llm.models.modes import evaluating
from tinygrad_llm.nn import Linear, Module
from tinygrad_llm.nn import functional as F
from tinygrad_llm.text import Tokenizer
from tinygrad_llm.training.epochs import EpochRecipe, EpochTrainer

Row = tuple[list[int], int]  # ids of a text, number of its class


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe(EpochRecipe):
    """How a classifier is trained.

    drop_tokens: the probability that a token of a text is replaced by padding in training, so that no single word
    decides. language: the weight of the loss of the next token beside that of the class, 0 for none; it needs the
    language model's head, which is kept apart then. Source: Radford et al., Improving language understanding by
    generative pre-training (2018), equation 5, for the second.
    """

    drop_tokens: float = 0.0
    language: float = 0.0

    BOUNDS: ClassVar = {**EpochRecipe.BOUNDS, "drop_tokens": (0, 1), "language": (0, math.inf)}


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
    return model.classify(from_numpy(given.ids).to(device), from_numpy(given.last).to(device)).float()


def _batches(rows: Sequence[Row], batch: int) -> Iterator[LabelledBatch]:
    for start in range(0, len(rows), batch):
        yield classification_batch(rows[start : start + batch], 0)


def next_tokens(given: LabelledBatch) -> np.ndarray:
    """The targets (B, T) of the real tokens of some texts, one ahead."""
    targets = np.full_like(given.ids, IGNORED)
    real = np.arange(1, given.ids.shape[1]) <= given.last[:, None]
    targets[:, :-1] = np.where(real, given.ids[:, 1:], IGNORED)
    return targets


class ClassifierTrainer(EpochTrainer[Row]):
    """Trains what of a model learns, and keeps the weights of the epoch that was best on the validation texts.

    Best is the highest accuracy, of equal ones the lowest loss.
    """

    def __init__(
        self,
        model: GPTModel,
        recipe: ClassifierRecipe,
        train: Sequence[Row],
        validation: Sequence[Row],
        classes: int,
        language_head: Module | None = None,
        graph: bool = True,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        own = list(model.parameters()) + (list(language_head.parameters()) if language_head is not None else [])
        super().__init__(model, own, recipe, train, graph=graph, warn=warn)
        self.model: GPTModel = model
        self.recipe, self.classes = recipe, classes
        self.train, self.validation, self.language_head = train, validation, language_head

    def tensors(self) -> dict[str, Tensor]:
        """Those of the model, and of a head for the next token that is no part of it."""
        own = super().tensors()
        known = {id(tensor) for tensor in own.values()}
        head = self.language_head.named_parameters() if self.language_head is not None else ()
        return {**own, **{f"language_head.{name}": p for name, p in head if p.requires_grad and id(p) not in known}}

    def targets(self, rows: Sequence[Row]) -> int:
        """One a text."""
        return len(rows)

    def arrays(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Ids (B, T), the place of each text's last token, its class; next tokens (B, T) where there is a head."""
        given = classification_batch(rows, 0)
        hidden = self.rng.random(given.ids.shape) < self.recipe.drop_tokens
        hidden[np.arange(len(rows)), given.last] = False  # there is what is judged
        length = self.length(given.ids.shape[1], self.model.config.context_length)
        batch = [widened(np.where(hidden, 0, given.ids), length, 0), given.last, given.labels]
        return batch if self.language_head is None else [*batch, widened(next_tokens(given), length, IGNORED)]

    def loss_of(self, batch: Sequence[Tensor]) -> Tensor:
        """The loss of the classes, and perhaps of the next tokens."""
        ids, last, labels, *following = batch
        features = self.model.features(ids)  # (B, T, C)
        at_last = features[arange(len(ids), device=self.device), last]
        loss = F.cross_entropy(self.model.out_head(at_last), labels)
        return loss + self.recipe.language * self._language_loss(features, *following) if following else loss

    def _language_loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """The next token's loss at the real tokens."""
        assert self.language_head is not None
        return F.cross_entropy(self.language_head(features).flatten(0, 1), targets.flatten())

    def judge(self) -> dict[str, Any]:
        """Loss and accuracy on the validation texts, and on as many of the others."""
        train = measure(self.model, self.train[: max(len(self.validation), 1)], self.classes, device=self.device)
        validation = measure(self.model, self.validation, self.classes, device=self.device)
        return {
            "train_loss": train.loss, "val_loss": validation.loss,
            "train_accuracy": train.accuracy, "val_accuracy": validation.accuracy,
        }  # fmt: skip

    def worth(self, record: dict[str, Any]) -> tuple[float, ...]:
        """The accuracy, then the loss."""
        return (record["val_accuracy"], -record["val_loss"])


def language_head_of(model: GPTModel) -> Linear:
    """A head for the next token over the model's own token embedding, for the loss beside the classes'."""
    head = Linear(model.config.emb_dim, model.config.vocab_size, bias=False)
    head.weight = model.tok_emb.weight
    return head
