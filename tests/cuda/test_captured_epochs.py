"""The steps of fine-tunings as CUDA graphs, and those of float16: the numbers of ordinary steps, to the last bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda import emulated, recorded
from tests.cuda.test_captured import IDS, RECIPE, run, state
from tinygrad_llm import nn
from tinygrad_llm.data import Pair, Windows
from tinygrad_llm.data.instructions import Example
from tinygrad_llm.kernels.cuda import products
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import Trainer
from tinygrad_llm.training.captured import WARM_UP, CapturedStep
from tinygrad_llm.training.classifier import ClassifierRecipe, ClassifierTrainer
from tinygrad_llm.training.epochs import EpochRecipe
from tinygrad_llm.training.preferences import AnswerTrainer, PreferenceRecipe, PreferenceTrainer

END, CONTEXT = 11, 24
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(3, 20, 24)
TEXTS = [(RNG.integers(0, 11, n).tolist(), int(n) % 3) for n in LENGTHS]
EXAMPLES = [Example(RNG.integers(0, 11, n).tolist(), [False] * 2 + [True] * (int(n) - 2)) for n in LENGTHS]
PAIRS = [Pair(*EXAMPLES[i : i + 2]) for i in range(0, 24, 2)]
SIZES = {"vocab_size": 12, "context_length": CONTEXT, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "drop_rate": 0.2}
HOW: dict[str, Any] = {"epochs": 2, "batch": 4, "lr": 1e-2, "clip": 0.1}


@pytest.fixture
def gpu() -> Iterator[None]:
    with emulated.gpu():
        yield


def gpt() -> GPTModel:
    tg.manual_seed(0)
    return GPTModel(SIZES)


def classifier(dtype: str, **more: Any) -> ClassifierTrainer:
    """With a head for the next token that is no part of the model."""
    model = gpt()
    head = model.out_head.cuda()
    model.replace_head(3)
    recipe = ClassifierRecipe(**HOW, dtype=dtype, drop_tokens=0.2, language=0.5)
    return ClassifierTrainer(model.cuda(), recipe, TEXTS[:14], TEXTS[20:], 3, head, **more)


def answers(dtype: str, **more: Any) -> AnswerTrainer:
    return AnswerTrainer(gpt().cuda(), EpochRecipe(**HOW, dtype=dtype), EXAMPLES[:14], EXAMPLES[20:], END, **more)


def preferences(dtype: str, **more: Any) -> PreferenceTrainer:
    """Adapters alone learn."""
    model = gpt()
    nn.apply_lora(model, rank=2)
    recipe = PreferenceRecipe(**HOW | {"epochs": 3}, dtype=dtype)
    return PreferenceTrainer(model.cuda(), recipe, PAIRS[:10], PAIRS[10:], END, 1, **more)


def numbers(make: Any, dtype: str, **more: Any) -> Any:
    """A trainer after its last step, and what each step and each judgement was like."""
    trainer, found = make(dtype, **more), []
    trainer.run(
        lambda t: found.append((t.last_loss, t.last_norm, t.tokens)),
        lambda t, record: found.append({k: v for k, v in record.items() if k != "seconds"}),
    )
    trainer.finish()
    weights = {name: tensor.tolist() for name, tensor in trainer.tensors().items()}
    return trainer, (found, weights, tg.get_rng_state().tolist(), trainer.precision.state_dict())


@pytest.mark.parametrize(("make", "dtype"), [(classifier, "float16"), (answers, "bfloat16"), (preferences, "float32")])
def test_steps_are_those_without_graphs_to_the_last_bit(gpu, make, dtype):
    (ordinary, expected) = numbers(make, dtype, graph=False)
    before = recorded.launched
    trainer, found = numbers(make, dtype, warn=pytest.fail)
    assert found == expected
    assert recorded.launched - before > WARM_UP and not isinstance(ordinary.parts, CapturedStep)
    assert isinstance(trainer.parts, CapturedStep) and 1 <= len(trainer.parts._passes) <= 3


def test_where_it_cannot_be_one_line_says_why(gpu, monkeypatch):
    monkeypatch.setattr(products, "works", lambda number: False)
    told: list[str] = []
    assert numbers(answers, "float32", warn=told.append)[1] == numbers(answers, "float32", graph=False)[1]
    assert len(told) == 1 and "not captured" in told[0]


def test_a_batch_is_made_longer_on_a_gpu_alone_and_the_loss_stays(gpu):
    for make, rows in ((classifier, TEXTS[:4]), (answers, EXAMPLES[:4]), (preferences, None)):
        trainer = make("float32")
        rows = trainer.rows[:4] if rows is None else rows
        trainer.model.eval()
        there = trainer.loss(rows).item()
        shapes = [a.shape for a in trainer.arrays(rows)]
        assert (shapes[0][1] == CONTEXT and make is not preferences) or shapes[1][0] % 32 == 0
        state = trainer.rng.bit_generator.state
        trainer.on_gpu = False
        shorter = trainer.arrays(rows)
        assert shorter[0].shape[1] < shapes[0][1]
        if make is classifier:
            continue  # which draws what it hides for each batch
        assert there == pytest.approx(trainer.loss(rows).item(), rel=1e-5) and state == trainer.rng.bit_generator.state


def test_rows_that_are_too_long_are_told_of_as_on_the_cpu(gpu):
    row = Example([1, 2] * CONTEXT, [False, True] * CONTEXT)
    with pytest.raises(ValueError, match="context"):
        answers("float32").loss([row])


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "steps": 8}])
def test_float16_is_scaled_and_overflows_as_without_graphs(gpu, changes):
    """The factor grows until gradients overflow; the step is computed again with a smaller one, in a graph or not."""
    recipe = RECIPE.replace(**{"dtype": "float16", "steps": 9, **changes})
    tried: list[list[float]] = []

    def trained(graph: bool) -> Any:
        factors: list[float] = []

        def on_step(trainer: Any) -> None:
            scaler = trainer.precision.scaler
            scaler.set_growth_interval(2)
            scaler.set_growth_factor(2.0**9)
            scaler.set_backoff_factor(2.0**-8)
            factors.append(scaler.get_scale())

        found = run(graph, recipe, on_step=on_step)
        tried.append(factors)
        return found

    (ordinary, expected), (trainer, found) = trained(False), trained(True)
    assert found == expected and state(trainer) == state(ordinary) and tried[0] == tried[1]
    late = tried[0][WARM_UP + 1 :]
    moves = {np.sign(after - before) for before, after in pairwise(late)}
    assert {-1, 1} <= moves and trainer.parts._unscale is not None


def test_a_first_step_that_must_be_computed_often_in_float16_is_no_warm_up(gpu):
    """There are no moments before it, without which an update cannot be captured."""
    recipe, found = RECIPE.replace(dtype="float16"), []
    for graph in (False, True):
        tg.manual_seed(0)
        windows, rng = Windows(IDS, RECIPE.context), np.random.default_rng(0)
        model = GPTModel(recipe.model_config(11)).cuda()
        trainer = Trainer(model, recipe, windows, windows, rng, "cuda", graph=graph, warn=pytest.fail)
        trainer.precision.scaler.update(2.0**40)
        trainer.precision.scaler.set_backoff_factor(2.0**-8)
        found.append([trainer.train_step() for _ in range(3)])
    assert found[0] == found[1] and trainer.parts._at_work


@pytest.mark.cuda
@pytest.mark.parametrize("make", [classifier, answers, preferences])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_steps_on_a_gpu(make, dtype, monkeypatch):
    if not products.can_be_captured():
        pytest.skip("no library of products that can be captured: pip install nvmath-python")
    monkeypatch.setitem(SIZES, "emb_dim", 64)
    (_, expected), (trainer, found) = (numbers(make, dtype, graph=graph, warn=pytest.fail) for graph in (False, True))
    assert found == expected and trainer.parts._passes
