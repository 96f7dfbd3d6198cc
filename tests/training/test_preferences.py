"""DPO: its loss by hand and by PyTorch, its gradients, the sums it is made of, and a model that learns a preference."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.autograd import gradcheck
from tinygrad_llm.data import Pair, instruction_batch
from tinygrad_llm.data.instructions import Example
from tinygrad_llm.models import GPTModel
from tinygrad_llm.testing import tensors
from tinygrad_llm.training.epochs import EpochRecipe
from tinygrad_llm.training.preferences import (
    AnswerTrainer,
    PreferenceRecipe,
    PreferenceTrainer,
    Rewards,
    dpo_loss,
    measure_pairs,
    refer,
    sequence_log_probabilities,
)

END = 11
four = st.lists(st.tuples(*[st.floats(-60, 0)] * 4), min_size=1, max_size=6).map(lambda rows: np.array(rows).T)


def gpt(seed=0, drop=0.0):
    tg.manual_seed(seed)
    config = {"vocab_size": 12, "context_length": 12, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": drop}
    return GPTModel({**config, "qkv_bias": True, "tie_weights": True}).double()


def pair(prompt, chosen, rejected):
    examples = [Example([*prompt, *a], [False] * len(prompt) + [True] * len(a)) for a in (chosen, rejected)]
    return Pair(*examples)


ids = st.lists(st.integers(0, 10), min_size=1, max_size=5)
pairs = st.lists(st.builds(pair, ids, ids, ids), min_size=1, max_size=5)


@given(four, st.floats(0.01, 2))
def test_the_loss_by_hand(logp, beta):
    found = dpo_loss(*map(tg.tensor, logp), beta)
    c, r, rc, rr = logp
    margin = beta * ((c - rc) - (r - rr))
    assert found.loss.item() == pytest.approx(np.mean(np.logaddexp(0, -margin)), abs=1e-12)
    np.testing.assert_allclose(found.chosen.numpy() - found.rejected.numpy(), margin, atol=1e-12)
    assert dpo_loss(*map(tg.tensor, (c, r, c, r)), beta).loss.item() == pytest.approx(math.log(2))


@given(tensors(shape=(3,)), tensors(shape=(3,)), st.floats(0.1, 2))
def test_gradients_are_those_of_differences_and_of_the_formula(chosen, rejected, beta):
    reference = tg.tensor([0.3, -1.0, 2.0], dtype=tg.float64), tg.tensor([0.0, 1.0, -0.5], dtype=tg.float64)
    assert gradcheck(lambda a, b: dpo_loss(a, b, *reference, beta).loss, (chosen, rejected))
    a, b = (x.detach().double().requires_grad_() for x in (chosen, rejected))
    found = dpo_loss(a, b, *reference, beta)
    found.loss.backward()
    margin = (found.chosen - found.rejected).detach().numpy()
    np.testing.assert_allclose(a.grad.numpy(), -beta / (1 + np.exp(margin)) / 3, atol=1e-9)
    np.testing.assert_allclose(b.grad.numpy(), -a.grad.numpy(), atol=1e-12)


@given(pairs)
def test_sums_are_over_the_answer_and_its_end_and_padding_changes_nothing(rows):
    model = gpt()
    examples = [example for row in rows for example in row]
    found = sequence_log_probabilities(model, instruction_batch(examples, END, mask_prompt=True)).tolist()
    for example, sum_ in zip(examples, found, strict=True):
        row = [*example.ids, END]
        with tg.no_grad():
            logp = model(tg.tensor([row[:-1]]))[0].log_softmax(-1).numpy()
        start = example.answers.index(True)
        assert sum_ == pytest.approx(sum(logp[t - 1, row[t]] for t in range(start, len(row))), abs=1e-9)
    referred = [sum_ for row in refer(model, rows, END, batch=2) for sum_ in (row.chosen, row.rejected)]
    np.testing.assert_allclose(referred, found, atol=1e-9)


def test_the_gradient_of_a_models_loss():
    """Along a random direction, against central differences."""
    model, rng = gpt(), np.random.default_rng(0)
    rows = refer(gpt(1), [pair([1, 2], [3, 4], [5]), pair([6], [7], [8, 9, 10])], END)
    trainer = PreferenceTrainer(model, PreferenceRecipe(beta=0.5), [row.pair for row in rows], [rows[0].pair], END)
    loss = trainer.loss(rows)
    model.zero_grad()
    loss.backward()
    directions = [rng.standard_normal(p.shape) for p in model.parameters()]
    slope = sum((p.grad.array * d).sum() for p, d in zip(model.parameters(), directions, strict=True))
    moved = []
    for sign in (1, -1):
        for p, d in zip(model.parameters(), directions, strict=True):
            p.array[...] += sign * 1e-5 * d
        moved.append(trainer.loss(rows).item())
        for p, d in zip(model.parameters(), directions, strict=True):
            p.array[...] -= sign * 1e-5 * d
    assert slope == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-6)


@pytest.mark.torch
def test_loss_and_gradients_are_pytorchs():
    """The whole of it, from logits on, written with PyTorch as in the paper's appendix."""
    torch = pytest.importorskip("torch")
    model, rows = gpt(), refer(gpt(1), [pair([1, 2], [3, 4], [5]), pair([6], [7], [8, 9, 10])], END)
    examples = [row.pair.chosen for row in rows] + [row.pair.rejected for row in rows]
    batch = instruction_batch(examples, END, mask_prompt=True)
    mine = model(tg.tensor(batch.inputs)).detach().requires_grad_()
    logits = torch.tensor(mine.detach().numpy(), requires_grad=True)
    keep = torch.tensor(batch.targets) != -100
    per_token = torch.gather(logits.log_softmax(-1), 2, torch.tensor(batch.targets).clamp(min=0)[:, :, None])[:, :, 0]
    chosen, rejected = (per_token * keep).sum(1).split(2)
    reference = torch.tensor([[row.chosen, row.rejected] for row in rows], dtype=torch.float64)
    margin = 0.3 * ((chosen - rejected) - (reference[:, 0] - reference[:, 1]))
    expected = -torch.nn.functional.logsigmoid(margin).mean()
    expected.backward()

    class Given(nn.Module):  # the features are the logits
        config, features = model.config, staticmethod(lambda ids: mine)
        tok_emb, out_head = model.tok_emb, nn.Identity()

    logp = sequence_log_probabilities(Given(), batch)
    ours = dpo_loss(logp[:2], logp[2:], *tg.tensor(reference.numpy()).T, 0.3)
    ours.loss.backward()
    assert ours.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    np.testing.assert_allclose(mine.grad.numpy(), logits.grad.numpy(), atol=1e-12)


def preferring(count, seed=0):
    """Prompts of two ids; the chosen answer repeats the first, the rejected one the second."""
    rng = np.random.default_rng(seed)
    return [
        pair(prompt, prompt[:1], prompt[1:])
        for prompt in rng.integers(0, 10, (count, 2)).tolist()
        if len(set(prompt)) > 1
    ]


@pytest.mark.parametrize("kind", ["all", "lora"])
def test_a_model_learns_what_is_preferred_on_prompts_that_it_has_not_seen(kind):
    model = gpt(drop=0.1).float()
    if kind == "lora":
        nn.apply_lora(model, rank=8, alpha=16)
    before = {name: p.array.copy() for name, p in model.named_parameters() if not p.requires_grad}
    recipe = PreferenceRecipe(epochs=10, batch=16, lr=3e-2 if kind == "lora" else 1e-2, beta=0.5)
    trainer = PreferenceTrainer(model, recipe, preferring(300), preferring(60, 1), END, judgements=1)
    start = measure_pairs(model, trainer.validation, END, 0.5)
    assert start.accuracy == pytest.approx(0.5, abs=0.2) and start.margin == pytest.approx(0, abs=1e-4)
    assert start.loss == pytest.approx(math.log(2), abs=1e-4)  # the reference is the model itself
    assert trainer.run()
    trainer.finish()
    found = measure_pairs(model, trainer.validation, END, 0.5)
    assert found.accuracy >= 0.9 and found.margin > 1 and found.loss < 0.3
    assert found.loss == pytest.approx(min(record["val_loss"] for record in trainer.history), abs=1e-6)
    assert all(np.array_equal(p.array, before[n]) for n, p in model.named_parameters() if n in before)


def test_two_runs_are_one_and_judgements_come_evenly():
    steps, weights = [], []
    for _ in range(2):
        model = gpt()
        trainer = PreferenceTrainer(
            model, PreferenceRecipe(epochs=2, batch=7), preferring(40), preferring(9, 1), END, 3
        )
        assert trainer.run(on_evaluation=lambda trainer, record: steps.append((record["epoch"], record["step"])))
        weights.append(model.out_head.weight.array.copy())
    per_epoch = -(-len(preferring(40)) // 7)
    marks = [-(-per_epoch * n // 3) for n in (1, 2, 3)]
    expected = [(0, 0), *((1, m) for m in marks), *((2, per_epoch + m) for m in marks)]
    assert steps == 2 * expected
    assert np.array_equal(*weights)


def test_a_run_that_is_stopped_is_judged_and_says_so():
    trainer = PreferenceTrainer(gpt(), PreferenceRecipe(batch=4), preferring(40), preferring(9, 1), END, 1)
    assert not trainer.run(stop=lambda: trainer.step >= 2)
    assert trainer.step == 2 and trainer.history[-1]["step"] == 0
    trainer.finish()
    assert trainer.history[-1]["step"] == 2


def test_answers_are_learned_before_preferences():
    examples = [row.chosen for row in preferring(120)]
    trainer = AnswerTrainer(gpt().float(), EpochRecipe(epochs=6, batch=8, lr=1e-2), examples[:100], examples[100:], END)
    trainer.run()
    losses = [record["val_loss"] for record in trainer.history]
    assert len(losses) == 6 and losses[-1] < 0.5 * math.log(12)


def test_measures_by_their_definitions_and_bounds():
    found = Rewards(0.0, np.array([1.0, 0.0, 2.0, -1.0]), np.array([0.0, 0.0, 3.0, -2.0]))
    assert found.accuracy == (1 + 0.5 + 0 + 1) / 4 and found.margin == 0.25
    for options, message in [
        ({"beta": 0}, "--beta 0: must be at least"),
        ({"batch": 0}, "--batch 0"),
        ({"lr": -1}, "--lr -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            PreferenceRecipe(**options)
