"""Training epoch by epoch, saved and restored at any step: the same bits as in one go, or refused."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.data import Pair
from tinygrad_llm.data.instructions import Example
from tinygrad_llm.models import GPTModel
from tinygrad_llm.serialization.tensors import read_header
from tinygrad_llm.training import Checkpoints, NonFiniteLoss
from tinygrad_llm.training.classifier import ClassifierRecipe, ClassifierTrainer
from tinygrad_llm.training.epochs import EpochRecipe
from tinygrad_llm.training.preferences import AnswerTrainer, PreferenceRecipe, PreferenceTrainer

END, STEPS = 11, 10  # two epochs of 5 steps
RNG = np.random.default_rng(0)
TEXTS = [(RNG.integers(0, 11, 5).tolist(), int(n)) for n in RNG.integers(0, 3, 23)]
EXAMPLES = [Example(RNG.integers(0, 11, 6).tolist(), [False] * 3 + [True] * 3) for _ in range(46)]
PAIRS = [Pair(*EXAMPLES[i : i + 2]) for i in range(0, 46, 2)]
HOW = {"epochs": 2, "batch": 4, "lr": 1e-2}


def gpt(seed):
    tg.manual_seed(seed)
    config = {"vocab_size": 12, "context_length": 12, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "drop_rate": 0.1}
    return GPTModel(config)


def classifier(seed=0, **how):
    """With a head for the next token that is no part of the model."""
    model = gpt(seed)
    head = model.out_head
    model.replace_head(3)
    recipe = ClassifierRecipe(**{**HOW, "drop_tokens": 0.2, "language": 0.5, **how})
    return ClassifierTrainer(model, recipe, TEXTS[:18], TEXTS[18:], 3, head)


def answers(seed=0, **how):
    return AnswerTrainer(gpt(seed), EpochRecipe(**{**HOW, **how}), EXAMPLES[:18], EXAMPLES[18:23], END)


def preferences(seed=0, **how):
    """Adapters alone learn."""
    model = gpt(0)
    tg.manual_seed(seed)
    nn.apply_lora(model, rank=2)
    return PreferenceTrainer(model, PreferenceRecipe(**{**HOW, **how}), PAIRS[:18], PAIRS[18:], END, 2)


KINDS = {"classifier": classifier, "answers": answers, "preferences": preferences}


def refuse(text):
    raise AssertionError(f"no checkpoint should be left out: {text}")


def saved(folder, trainer, stop, every=1):
    """Train to a step, saving when due, as examples do; returns the checkpoints."""
    checkpoints = Checkpoints(folder, every=every)
    trainer.run(
        lambda t: checkpoints.save(t) if checkpoints.due(t) else None,
        lambda t, record: checkpoints.judged(t),
        lambda: trainer.step >= stop,
    )
    return checkpoints


def numbers(trainer):
    """All that a run has come to, to the last bit."""
    state = trainer.state_dict()
    for record in (state, *state["history"]):
        for name in ("seconds", "beside"):
            record.pop(name, None)
    arrays, best = {name: digest(t.array) for name, t in trainer.tensors().items()}, trainer.best_weights()
    own = {name: trainer.optimizer.state.get(t, {}) for name, t in trainer.tensors().items()}
    moments = {name: (digest(values["exp_avg"].array), values["step"]) for name, values in own.items() if values}
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    return state, arrays, {name: digest(array) for name, array in best.items()}, moments, rates


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@pytest.fixture(scope="module", autouse=True)
def swift():
    """Nothing here asks what a power cut leaves, so nobody waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def whole():
    """The numbers of each kind's run in one go, after its last step and after it was finished."""
    found = {}
    for name, make in KINDS.items():
        trainer = make()
        assert trainer.run() and trainer.step == STEPS
        last = numbers(trainer)
        trainer.finish()
        found[name] = last, numbers(trainer)
    return found


@given(st.sampled_from([*KINDS]), st.lists(st.integers(1, STEPS), min_size=1, max_size=3), st.sampled_from([1, 3]))
def test_a_run_restored_at_any_steps_is_that_in_one_go(whole, tmp_path_factory, name, stops, every):
    folder, make = tmp_path_factory.mktemp("run"), KINDS[name]
    for number, stop in enumerate(sorted(stops)):
        trainer = make(seed=number)  # what it begins with is what it was saved with
        if number:
            newest = Checkpoints(folder).steps()[-1:]
            assert Checkpoints(folder).restore(trainer, refuse) == (newest[0] if newest else None)
        if trainer.step == 0:
            trainer = make()
        saved(folder, trainer, stop, every)
    again = make(seed=9)
    if Checkpoints(folder).restore(again, refuse) is None:
        again = make()
    assert again.run() and numbers(again) == whole[name][0]
    again.finish()
    assert numbers(again) == whole[name][1]
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", KINDS)
def test_the_best_weights_of_before_come_back_from_any_checkpoint(tmp_path, monkeypatch, name):
    """The best is judged early and its own checkpoint is gone; the newest is damaged, so the one before goes on."""
    trainer = KINDS[name]()
    real, seen = type(trainer).judge, []

    def judge(self):
        seen.append({n: t.array.copy() for n, t in self.tensors().items() if t.requires_grad})
        return {**real(self), "val_loss": float(len(seen)), "val_accuracy": 0.5}

    monkeypatch.setattr(type(trainer), "judge", judge)
    checkpoints = saved(tmp_path, trainer, 9)
    assert len(seen) >= 1 and trainer.best["val_loss"] == 1
    for step in checkpoints.steps()[:-2]:
        checkpoints.discard(step)
    (checkpoints.path(9) / "best.safetensors").write_bytes(b"")
    said, again = [], KINDS[name](seed=5)
    assert Checkpoints(tmp_path).restore(again, said.append) == 8 and "best.safetensors" in said[0]
    again.finish()
    assert again.best["val_loss"] == 1
    tensors = again.tensors()
    assert all(np.array_equal(tensors[n].array, array) for n, array in seen[0].items())


def test_what_rests_is_no_part_of_a_checkpoint(tmp_path):
    checkpoints = saved(tmp_path, preferences(), 3)
    path = checkpoints.path(3)
    for name in ("model.safetensors", "best.safetensors"):
        assert all(".adapters.default." in of for of in read_header(path / name))
    state = json.loads((path / "state.json").read_text())["state"]
    assert set(state["files"]) == {"model.safetensors", "optimizer.safetensors", "best.safetensors", "config.json"}
    with pytest.raises(ValueError, match="is of another model"):
        checkpoints.restore(answers(), refuse)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: answers(batch=5), r"on \{'rows': 18, 'batch': 4, 'epochs': 2\}, this one is on"),
        (lambda: answers(epochs=3), "'epochs': 3"),
        (classifier, "is of another model: language_head.weight is not there"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_before_anything_changes(tmp_path, make, message):
    saved(tmp_path, answers(), 3)
    trainer = make()
    before = numbers(trainer)
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path).restore(trainer, refuse)
    assert numbers(trainer) == before


def test_a_gradient_that_is_no_number_is_not_taken():
    trainer = answers()
    trainer.train_step(trainer.rows[:4])
    before = numbers(trainer)[1]
    weight = trainer.model.out_head.weight
    weight.register_hook(lambda g: g * np.nan)
    with pytest.raises(NonFiniteLoss, match="the norm of the gradient is nan at step 2; lower --lr"):
        trainer.train_step(trainer.rows[:4])
    assert numbers(trainer)[1] == before


def test_every_step_counts_what_there_is_to_learn_from():
    for make, count in ((classifier, 18), (answers, 18 * 4), (preferences, 18 * 8)):
        trainer = make(epochs=1)
        assert trainer.run() and trainer.tokens == count and trainer.steps == 5
        assert trainer.last_loss > 0 and trainer.last_norm > 0 and trainer.spent > 0
