import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import models
from tinygrad_llm.data import ShuffledWindows, Windows
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import PRESETS, Checkpoints, Damaged, NonFiniteLoss, RunFolder, Trainer
from tinygrad_llm.training.metrics import read_metrics
from tinygrad_llm.training.steps import read_steps

ROOT = Path(__file__).parents[2]
RECIPE = PRESETS["shakespeare-char"].recipe.replace(
    layers=1, heads=2, channels=16, context=8, batch=4, steps=12, eval_every=4, eval_windows=10, lr=1e-2, dropout=0.1
)
IDS = np.arange(400) * 7 % 11
FILES = ["config.json", "model.safetensors", "optimizer.safetensors", "state.json"]


def trainer(recipe=RECIPE, seed=0, ids=IDS, shuffled=False):
    tg.manual_seed(seed)
    train, validation = Windows(ids[:300], recipe.context), Windows(ids[300:], recipe.context, stride=recipe.context)
    stream = ShuffledWindows(train, recipe.batch, 3) if shuffled else None
    model = GPTModel(recipe.model_config(11))
    return Trainer(model, recipe, train, validation, np.random.default_rng(seed), stream=stream)


def refuse(text):
    raise AssertionError(f"no checkpoint should be left out: {text}")


def stopped(folder, at, every=1, **kind):
    """A trainer that ran to a step and saved checkpoints, and its losses."""
    t, losses, checkpoints = trainer(**kind), [], Checkpoints(folder, every=every)

    def on_step(t):
        losses.append(t.last_loss)
        if checkpoints.due(t):
            checkpoints.save(t)

    t.run(on_step, stop=lambda: t.step == at)
    return t, losses


def numbers(t):
    """All that a run has come to, to the last bit."""
    state = t.state_dict()
    for record in (state, *state["evaluations"]):
        for name in ("seconds", "beside", "marked", "tokens_per_second"):
            record.pop(name, None)
    arrays = [p.array.tobytes() for p in t.model.parameters()]
    for p in t.model.parameters():
        own = t.optimizer.state[p]
        arrays += [own["exp_avg"].array.tobytes(), own["exp_avg_sq"].array.tobytes(), own["step"]]
    return state, arrays, [group["lr"] for group in t.optimizer.param_groups]


@pytest.mark.parametrize(
    "changes", [{}, {"tie_weights": False, "accumulate": 2}, {"spike": 6.0, "qkv_bias": True}], ids=str
)
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("at", [1, 4, 11])
def test_a_restored_run_is_that_which_never_stopped_to_the_last_bit(tmp_path, changes, shuffled, at):
    kind = {"recipe": RECIPE.replace(**changes), "shuffled": shuffled}
    whole, expected = trainer(**kind), []
    whole.run(lambda t: expected.append(t.last_loss))
    end = numbers(whole)
    _, losses = stopped(tmp_path, at, **kind)
    again = trainer(seed=7, **kind)
    assert Checkpoints(tmp_path).restore(again, refuse) == at
    again.run(lambda t: losses.append(t.last_loss))
    assert losses == expected and numbers(again) == end


def test_the_newest_and_the_best_are_kept_and_nothing_else_is_left(tmp_path):
    t, _ = stopped(tmp_path, 12)
    assert [e.step for e in t.evaluations if e.val_loss == t.best.val_loss] == [12]  # not yet when 12 was saved
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000008", "step-00000011", "step-00000012"}
    t.evaluations[0] = t.evaluations[0].__class__(**{**vars(t.evaluations[1]), "val_loss": 0.0, "step": 11})
    t.recipe = t.recipe.replace(steps=20)
    checkpoints = Checkpoints(tmp_path, every=1)
    t.run(lambda t: checkpoints.save(t), stop=lambda: t.step == 15)
    assert checkpoints.steps() == [11, 14, 15]


def in_folder(out, t, stop=12, resume=False):
    """Train in a folder as examples/pretrain.py does."""
    with RunFolder(Checkpoints(out / "checkpoints", keep=1), t, resume, refuse) as folder:
        t.run(folder.on_step, folder.on_evaluation, lambda: t.step >= stop)
        folder.save(t)
        return folder.checkpoints


def test_the_best_checkpoint_is_that_of_the_best_evaluation_as_soon_as_it_is_made(tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 1.0, 1.5, 0.5, 0.7])
    t = trainer(RECIPE.replace(steps=20))
    real = Trainer.evaluate

    def evaluate(t):
        real(t)
        t.evaluations[-1] = replace(t.evaluations[-1], val_loss=next(losses))
        return t.evaluations[-1]

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    kept = []

    class Watched(RunFolder):
        def on_evaluation(self, trainer, evaluation):
            super().on_evaluation(trainer, evaluation)
            best = self.checkpoints.best(trainer)
            kept.append((best and best.name, self.checkpoints.steps()))

    with Watched(Checkpoints(tmp_path / "checkpoints", keep=1), t, False, refuse) as folder:
        t.run(folder.on_step, folder.on_evaluation)
    four, eight, sixteen = "step-00000004", "step-00000008", "step-00000016"
    assert kept == [(None, []), (four, [4]), (eight, [8]), (eight, [8, 12]), (sixteen, [16]), (sixteen, [16, 20])]
    state = json.loads((tmp_path / "checkpoints" / sixteen / "state.json").read_text())["state"]["trainer"]
    assert (state["evaluations"][-1]["step"], state["evaluations"][-1]["val_loss"]) == (16, 0.5)


@pytest.mark.parametrize("stop", [4, 6, 8, 12])
def test_no_step_is_judged_twice_and_the_numbers_are_those_without_a_stop(tmp_path, monkeypatch, stop):
    whole, judged, real = trainer(), [], Trainer.evaluate
    whole.run()
    expected = numbers(whole)
    monkeypatch.setattr(Trainer, "evaluate", lambda t: judged.append(t.step) or real(t))
    in_folder(tmp_path, trainer(), stop)
    again = trainer(seed=3)
    in_folder(tmp_path, again, resume=True)
    assert judged == [0, 4, 8, 12] and numbers(again) == expected
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [0, 4, 8, 12]


def test_a_model_that_cannot_be_judged_leaves_no_checkpoint_to_go_on_from(tmp_path):
    t, ruined = trainer(), []

    def on_step(t):
        if t.step == 8 and not ruined:
            ruined.append(t.model.out_head.weight.array.copy())
            t.model.out_head.weight.array[:] = 3e38  # finite, and no logit is
        folder.on_step(t)

    with RunFolder(Checkpoints(tmp_path / "checkpoints"), t, False, refuse) as folder:
        with np.errstate(all="ignore"), pytest.raises(NonFiniteLoss) as caught:
            t.run(on_step, folder.on_evaluation)
        assert folder.checkpoints.steps() == [4, 8]
        assert folder.rewind(t, caught.value) == 4 and folder.checkpoints.steps() == [4]
        assert t.run(on_step, folder.on_evaluation)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [0, 4, 8, 12]


def test_what_a_kill_left_of_a_states_replacement_goes_with_the_next_checkpoint(tmp_path):
    stopped(tmp_path, 3)
    (Checkpoints(tmp_path).path(3) / ".state.json.x7a").write_text("half")
    again, checkpoints = trainer(), Checkpoints(tmp_path)
    assert checkpoints.restore(again, refuse) == 3
    again.train_step()
    checkpoints.save(again)
    assert sorted(path.name for path in checkpoints.path(3).iterdir()) == FILES


def test_a_checkpoint_of_another_validation_text_is_refused(tmp_path):
    stopped(tmp_path, 3)
    other = IDS.copy()
    other[300:] = other[300:][::-1]
    with pytest.raises(ValueError, match="judged on another validation text"):
        Checkpoints(tmp_path).restore(trainer(ids=other), refuse)


def test_a_checkpoint_is_due_by_steps_by_time_and_before_an_evaluation(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tinygrad_llm.training.checkpoint.time.monotonic", lambda: now[0])
    t, checkpoints = trainer(), Checkpoints(tmp_path, every=3, minutes=2)
    due = []
    for step in range(1, 8):
        t.train_step()
        now[0] += 121 if step == 7 else 1
        due.append(checkpoints.due(t))
    assert due == [False, False, True, True, False, True, True]
    checkpoints.save(t)
    assert not checkpoints.due(t)


def test_its_folder_holds_a_model_that_loads(tmp_path):
    t, _ = stopped(tmp_path, 4)
    model = models.load(Checkpoints(tmp_path).path(4))
    ids = tg.tensor([[1, 2, 3]])
    assert np.array_equal(model(ids).array, t.model.eval()(ids).array)


@given(st.data())
def test_a_damaged_newest_checkpoint_is_left_out_loudly(tmp_path_factory, data):
    folder = made_once(tmp_path_factory)
    copy = tmp_path_factory.mktemp("copy") / "c"
    shutil.copytree(folder, copy)
    checkpoints = Checkpoints(copy)
    newest = checkpoints.path(checkpoints.steps()[-1])
    path = newest / data.draw(st.sampled_from(FILES))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["changed", "cut", "missing"]))
    if how == "changed":
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content if how == "changed" else content[:place])
    if how == "missing":
        path.unlink()
    said, t = [], trainer()
    assert checkpoints.restore(t, said.append) == 2 and t.step == 2
    assert len(said) == 1 and "after step 3 is damaged" in said[0] and path.name in said[0]
    shutil.rmtree(copy)


def made_once(factory, made=[]):  # noqa: B006
    if not made:
        made.append(factory.mktemp("whole"))
        stopped(made[0], 3)
    return made[0]


def test_where_none_is_whole_the_run_does_not_start_anew_in_silence(tmp_path):
    stopped(tmp_path, 3)
    for path in tmp_path.rglob("state.json"):
        path.write_text("{}")
    t = trainer()
    with pytest.raises(Damaged, match="none of the 2 checkpoints is whole"):
        Checkpoints(tmp_path).restore(t, lambda text: None)
    assert t.step == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"recipe": RECIPE.replace(channels=32)}, "is of another model: "),
        ({"recipe": RECIPE.replace(layers=2)}, "is of another model: "),
        ({"recipe": RECIPE.replace(batch=5)}, "state is of a stream with batch 4, this one has 5"),
        ({"shuffled": True}, "kind 'random', this one has 'shuffled'"),
        ({"recipe": RECIPE.replace(steps=2)}, "--steps 2: 3 steps have been done"),
    ],
)  # fmt: skip
def test_another_runs_checkpoint_is_refused_before_anything_changes(tmp_path, other, message):
    stopped(tmp_path, 3)
    t = trainer(seed=1, **other)
    before = [p.array.copy() for p in t.model.parameters()]
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path).restore(t, refuse)
    assert t.step == 0 and all((p.array == old).all() for p, old in zip(t.model.parameters(), before, strict=True))


def test_another_texts_checkpoint_is_refused(tmp_path):
    t = trainer()
    Checkpoints(tmp_path, about={"text": "a"}).save(t)
    with pytest.raises(ValueError, match="is of another text; go on with the same one"):
        Checkpoints(tmp_path, about={"text": "b"}).restore(trainer(), refuse)


def test_a_ruined_model_is_never_saved(tmp_path):
    t, _ = stopped(tmp_path, 3)
    t.train_step()
    t.model.out_head.weight.array[2, 3] = np.nan
    with pytest.raises(NonFiniteLoss, match=r"step 4: tok_emb\.weight holds nan or infinity; no checkpoint"):
        Checkpoints(tmp_path).save(t)
    assert Checkpoints(tmp_path).steps() == [2, 3]


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    t, _ = stopped(tmp_path, 3)
    t.train_step()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Checkpoints(tmp_path).save(t)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000002", "step-00000003"}


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_checkpoint import Checkpoints, stopped
left = [int(sys.argv[3])]
def hook(event, arguments):
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and "step-" in str(arguments[0]):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
stopped(sys.argv[2], 5)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
@pytest.mark.parametrize("operation", [3, 9, 26, 31, 35, 38])
def test_a_kill_while_a_checkpoint_is_written_or_removed_loses_one_step(tmp_path, operation):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path), str(operation)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole = trainer()
    whole.run()
    expected, again = numbers(whole), trainer(seed=5)
    if Checkpoints(tmp_path).restore(again, refuse) is None:
        assert operation < 7
        return
    checkpoints = Checkpoints(tmp_path, every=1)
    again.run(lambda t: checkpoints.save(t))
    assert numbers(again) == expected
    assert all(path.name.startswith("step-") for path in tmp_path.iterdir())


def test_the_files_of_a_run_lose_what_comes_again(tmp_path):
    def run(resume, upto):
        t = trainer(seed=0)
        with RunFolder(Checkpoints(tmp_path / "checkpoints", every=3), t, resume, refuse) as folder:
            t.run(folder.on_step, folder.on_evaluation, stop=lambda: t.step == upto)
        return t

    run(False, 8)  # the newest checkpoint is of step 8, then 6
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000008")
    with (tmp_path / "steps.csv").open("a") as file:
        file.write("9,1")  # cut off by a crash
    t = run(True, 12)
    assert read_steps(tmp_path / "steps.csv")["step"] == list(range(1, 13))
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == [0, 4, 8, 12] and records == t.history
    whole = trainer()
    losses = []
    whole.run(lambda t: losses.append(t.last_loss))
    assert read_steps(tmp_path / "steps.csv")["loss"] == losses


def test_steps_too_bad_to_skip_go_back_to_the_newest_checkpoint_and_on_with_other_data(tmp_path):
    t, said = trainer(), []
    with RunFolder(Checkpoints(tmp_path / "checkpoints", every=1), t, False, refuse) as folder:
        t.run(folder.on_step, folder.on_evaluation, stop=lambda: t.step == 3)
        position = t.stream.state_dict()
        t.model.out_head.weight.array[:] = np.nan
        with np.errstate(all="ignore"), pytest.raises(NonFiniteLoss) as caught:
            t.run(folder.on_step, folder.on_evaluation, on_skip=lambda t, error: said.append(str(error)))
        assert len(said) == 3 and t.step == 3 and all("step 4: the loss is nan" in s for s in said)
        assert folder.rewind(t, caught.value) == 3 and t.stream.state_dict() != position
        with pytest.raises(NonFiniteLoss):
            folder.rewind(t, caught.value)
        assert t.run(folder.on_step, folder.on_evaluation)
    assert read_steps(tmp_path / "steps.csv")["step"] == list(range(1, 13))


def test_the_state_is_json_that_a_person_can_read(tmp_path):
    stopped(tmp_path, 3)
    state = json.loads((Checkpoints(tmp_path).path(3) / "state.json").read_text())["state"]
    assert state["trainer"]["step"] == 3 and set(state["files"]) == set(FILES) - {"state.json"}


def test_saving_and_restoring_take_no_memory_beside_the_trainers(tmp_path):
    recipe = RECIPE.replace(channels=256, layers=2)
    t, again = trainer(recipe), trainer(recipe)
    for each in (t, again):
        each.train_step()  # so that the moments are there
    checkpoints = Checkpoints(tmp_path)
    tracemalloc.start()
    checkpoints.save(t)
    checkpoints.restore(again, refuse)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    parameters = sum(p.array.nbytes for p in t.model.parameters())
    assert parameters > 6e6 and peak < 0.1 * parameters
