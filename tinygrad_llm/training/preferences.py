"""Direct preference optimization: a model learns which of two answers is preferred, without a model of rewards.

How much better the tuned model likes an answer than the model it began as, beta ln(p(y|x) / p_ref(y|x)), is its reward
for it, and the loss wants that of the chosen answer above that of the rejected one. The gradient of one pair is

    -beta sigmoid(-margin) (d ln p(chosen|x) - d ln p(rejected|x)),

large where the rewards are in the wrong order and small where they are right already. The reference keeps the model
from going further than the pairs ask for.

Source: Rafailov et al., Direct preference optimization: your language model is secretly a reward model (2023).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.autograd.creation import from_numpy, zeros
from tinygrad_llm.data.instructions import IGNORED, Example, InstructionBatch, instruction_batch
from tinygrad_llm.data.padding import LENGTHS, widened
from tinygrad_llm.data.preferences import Pair
from tinygrad_llm.models.gpt import GPTModel
from tinygrad_llm.models.modes import evaluating
from tinygrad_llm.nn import functional as F
from tinygrad_llm.training.epochs import EpochRecipe, EpochTrainer


def sequence_log_probabilities(model: GPTModel, batch: InstructionBatch) -> Tensor:
    """The sum of ln p over each row's targets that are not ignored: inputs and targets (B, T) -> (B,).

    The head is computed at these alone.
    """
    device = model.tok_emb.weight.device
    inputs, *learned = (from_numpy(part).to(device) for part in (batch.inputs, *_learned(batch)))
    return _log_probabilities(model, inputs, *learned)


def _learned(batch: InstructionBatch, multiple: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of the targets that are not ignored, (N,) each; then as many that are as N asks for."""
    rows, columns = np.nonzero(batch.targets != IGNORED)
    more = 0, -len(rows) % multiple
    targets = np.pad(batch.targets[rows, columns], more, constant_values=IGNORED)
    return np.pad(rows, more), np.pad(columns, more), targets


def _log_probabilities(model: GPTModel, inputs: Tensor, rows: Tensor, columns: Tensor, targets: Tensor) -> Tensor:
    features = model.features(inputs)[rows, columns]  # (N, C)
    logp = -F.cross_entropy(model.out_head(features), targets, reduction="none")  # (N,)
    return zeros(len(inputs), dtype=logp.dtype, device=inputs.device).index_add(0, rows, logp)


class DPOLoss(NamedTuple):
    """The loss (), and the rewards of the chosen and the rejected answers, (N,) each."""

    loss: Tensor
    chosen: Tensor
    rejected: Tensor


def dpo_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float = 0.1
) -> DPOLoss:
    """The mean of -ln sigmoid(r_chosen - r_rejected), where r = beta (ln p(y|x) - ln p_ref(y|x)): four (N,) -> ().

    Source: equation 7.
    """
    rewards = beta * (chosen - reference_chosen), beta * (rejected - reference_rejected)
    return DPOLoss(-F.logsigmoid(rewards[0] - rewards[1]).mean(), *rewards)


@dataclass(frozen=True, kw_only=True)
class PreferenceRecipe(EpochRecipe):
    """How preferences are learned. beta: how strongly the reference holds the model; with less it may go further."""

    epochs: int = 1
    lr: float = 5e-4
    weight_decay: float = 0.0
    beta: float = 0.1

    BOUNDS: ClassVar = {**EpochRecipe.BOUNDS, "beta": (1e-6, math.inf)}


@dataclass(frozen=True)
class Rewards:
    """What a model makes of pairs: the mean loss in nats, and the rewards of both answers of each pair (N,)."""

    loss: float
    chosen: np.ndarray
    rejected: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of pairs in which the chosen answer has the higher reward; equal ones count half."""
        return float(np.mean((np.sign(self.chosen - self.rejected) + 1) / 2))

    @property
    def margin(self) -> float:
        """By how much, in the mean."""
        return float(np.mean(self.chosen - self.rejected))


class Referred(NamedTuple):
    """A pair, and ln p of its chosen and its rejected answer by the reference."""

    pair: Pair
    chosen: float
    rejected: float


class PreferenceTrainer(EpochTrainer[Referred]):
    """Tunes a model by DPO. The reference is the model as it is now: its ln p of all pairs is computed here, once.

    So no second model is kept, whether everything learns or adapters alone (which begin as nothing). The weights with
    the lowest loss on the validation pairs are kept. pad_id: the end of a text, which an answer ends with.
    """

    def __init__(
        self,
        model: GPTModel,
        recipe: PreferenceRecipe,
        train: Sequence[Pair],
        validation: Sequence[Pair],
        pad_id: int,
        judgements: int = 8,
        graph: bool = True,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.beta, self.pad_id = recipe.beta, pad_id
        own, referred = model.parameters(), refer(model, train, pad_id)
        super().__init__(model, own, recipe, referred, judgements, at_start=True, graph=graph, warn=warn)
        self.model: GPTModel = model
        self.validation = refer(model, validation, pad_id)

    def targets(self, rows: Sequence[Referred]) -> int:
        """The tokens of both answers, with their ends."""
        return _answered([example for row in rows for example in row.pair])

    def arrays(self, rows: Sequence[Referred]) -> list[np.ndarray]:
        """Ids (2 B, T), what of them is learned, (N,) each, and ln p by the reference (B, 2)."""
        batch = _answers([row.pair for row in rows], self.pad_id)
        length = self.length(batch.inputs.shape[1], self.model.config.context_length)
        learned = _learned(batch, LENGTHS if self.on_gpu else 1)
        return [widened(batch.inputs, length, self.pad_id), *learned, _reference(rows)]

    def loss_of(self, batch: Sequence[Tensor]) -> Tensor:
        """The loss of the pairs."""
        *answers, reference = batch
        return _of_both(_log_probabilities(self.model, *answers), reference, self.beta).loss

    def judge(self) -> dict[str, Any]:
        """Loss, reward accuracy, margin and rewards on the validation pairs, and on as many of the others."""
        record: dict[str, Any] = {}
        for part, rows in (("train", self.rows[: max(len(self.validation), 1)]), ("val", self.validation)):
            found = measure_pairs(self.model, rows, self.pad_id, self.beta)
            record |= {
                f"{part}_loss": found.loss, f"{part}_accuracy": found.accuracy, f"{part}_margin": found.margin,
                f"{part}_chosen": float(found.chosen.mean()), f"{part}_rejected": float(found.rejected.mean()),
            }  # fmt: skip
        return record

    def worth(self, record: dict[str, Any]) -> tuple[float, ...]:
        """The validation loss."""
        return (-record["val_loss"],)


def refer(model: GPTModel, pairs: Sequence[Pair], pad_id: int, batch: int = 16) -> list[Referred]:
    """The pairs with what a model, which becomes their reference, thinks of them."""
    found: list[Referred] = []
    with no_grad(), evaluating(model):
        for start in range(0, len(pairs), batch):
            part = pairs[start : start + batch]
            logp = sequence_log_probabilities(model, _answers(part, pad_id)).tolist()
            found += map(Referred, part, logp[: len(part)], logp[len(part) :])
    return found


def measure_pairs(model: GPTModel, rows: Sequence[Referred], pad_id: int, beta: float, batch: int = 16) -> Rewards:
    """Loss and rewards on all pairs, without dropout."""
    total, chosen, rejected = 0.0, [], []
    with no_grad(), evaluating(model):
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            found = _loss_of(model, part, pad_id, beta)
            total += found.loss.item() * len(part)
            chosen += found.chosen.tolist()
            rejected += found.rejected.tolist()
    return Rewards(total / len(rows), np.array(chosen), np.array(rejected))


def _loss_of(model: GPTModel, rows: Sequence[Referred], pad_id: int, beta: float) -> DPOLoss:
    """Both answers of all pairs go through the model at once."""
    logp = sequence_log_probabilities(model, _answers([row.pair for row in rows], pad_id))
    return _of_both(logp, from_numpy(_reference(rows)), beta)


def _reference(rows: Sequence[Referred]) -> np.ndarray:
    return np.array([[row.chosen, row.rejected] for row in rows])


def _of_both(logp: Tensor, reference: Tensor, beta: float) -> DPOLoss:
    """Of ln p of all chosen answers, then of all rejected ones (2 N,), and by the reference (N, 2)."""
    n, reference = len(reference), reference.to(logp)
    return dpo_loss(logp[:n], logp[n:], reference[:, 0], reference[:, 1], beta)


def _answers(pairs: Sequence[Pair], pad_id: int) -> InstructionBatch:
    """First all chosen answers, then all rejected ones, with their prompts, of which nothing is a target."""
    return instruction_batch([p.chosen for p in pairs] + [p.rejected for p in pairs], pad_id, mask_prompt=True)


def _answered(examples: Sequence[Example]) -> int:
    """How many targets these answers have, the end after each among them."""
    return sum(sum(example.answers[1:]) + 1 for example in examples)


class AnswerTrainer(EpochTrainer[Example]):
    """Teaches a model to give answers at all, by the next token's loss on them; it comes before preferences."""

    def __init__(
        self,
        model: GPTModel,
        recipe: EpochRecipe,
        train: Sequence[Example],
        validation: Sequence[Example],
        pad_id: int,
        graph: bool = True,
        warn: Callable[[str], None] = warnings.warn,
    ) -> None:
        super().__init__(model, model.parameters(), recipe, train, graph=graph, warn=warn)
        self.model: GPTModel = model
        self.validation, self.pad_id = validation, pad_id

    def targets(self, rows: Sequence[Example]) -> int:
        """The tokens of the answers, with their ends."""
        return _answered(rows)

    def arrays(self, rows: Sequence[Example]) -> list[np.ndarray]:
        """Ids and targets (B, T)."""
        ids, targets = instruction_batch(rows, self.pad_id, mask_prompt=True)
        length = self.length(ids.shape[1], self.model.config.context_length)
        return [widened(ids, length, self.pad_id), widened(targets, length, IGNORED)]

    def loss_of(self, batch: Sequence[Tensor]) -> Tensor:
        """Nats a token of the answers."""
        ids, targets = batch
        return self.model.loss(ids, targets)

    def judge(self) -> dict[str, Any]:
        """The loss on the validation examples, without dropout: a mean of means over batches of 16."""
        with no_grad(), evaluating(self.model):
            parts = [self.validation[start : start + 16] for start in range(0, len(self.validation), 16)]
            return {"val_loss": sum(self.loss(part).item() for part in parts) / len(parts)}

    def worth(self, record: dict[str, Any]) -> tuple[float, ...]:
        """The validation loss."""
        return (-record["val_loss"],)
