"""Event files, read back by TensorBoard itself."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.data import Windows
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import PRESETS, BadStep, Checkpoints, EventsFile, RunFolder, Trainer, read_steps

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

RECIPE = PRESETS["shakespeare-char"].recipe.replace(
    layers=1, heads=2, channels=16, context=8, batch=4, steps=12, eval_every=4, eval_windows=10, lr=1e-2
)
IDS = np.arange(400) * 7 % 11


def trainer():
    tg.manual_seed(0)
    train, validation = Windows(IDS[:300], 8), Windows(IDS[300:], 8, stride=8)
    return Trainer(GPTModel(RECIPE.model_config(11)), RECIPE, train, validation, np.random.default_rng(0))


def read(folder):
    """What TensorBoard shows of a folder."""
    everything = {accumulator.SCALARS: 0, accumulator.TENSORS: 0}
    found = accumulator.EventAccumulator(str(folder), size_guidance=everything)
    return found.Reload()


def run(out, stop=12, resume=False, save_at=(4, 8, 12)):
    """A run that samples at steps 4, 8 and 12; returns its trainer."""
    t = trainer()
    with RunFolder(Checkpoints(out / "checkpoints"), t, resume, print, tensorboard=True) as folder:

        def on_step(t):
            folder.on_step(t)
            if t.step in save_at:
                folder.save(t)
                folder.on_sample(t, f"a sample\n  after {t.step}")

        t.run(on_step, folder.on_evaluation, lambda: t.step >= stop)
    return t


def check_whole(out, t):
    found = read(out / "tensorboard")
    steps = read_steps(out / "steps.csv")
    for tag, column in (("loss/step", "loss"), ("step/learning rate", "lr"), ("step/gradient norm", "grad_norm")):
        events = found.Scalars(tag)
        assert [e.step for e in events] == list(range(1, 13))
        assert [e.value for e in events] == pytest.approx(steps[column], rel=1e-6)
    for tag, values in (
        ("loss/training", [e.train_loss for e in t.evaluations]),
        ("loss/validation", [e.val_loss for e in t.evaluations]),
        ("perplexity/validation", np.exp([e.val_loss for e in t.evaluations])),
    ):
        events = found.Scalars(tag)
        assert [e.step for e in events] == [0, 4, 8, 12]
        assert [e.value for e in events] == pytest.approx(values, rel=1e-6)
    assert [e.step for e in found.Scalars("speed/tokens per second")] == [4, 8, 12]


def test_it_shows_each_step_each_evaluation_and_the_samples_as_they_are(tmp_path):
    check_whole(tmp_path, run(tmp_path))
    samples = read(tmp_path / "tensorboard").Tensors("sample")
    assert [e.step for e in samples] == [4, 8, 12]
    assert samples[0].tensor_proto.string_val[0] == b"    a sample\n      after 4"
    summary = read(tmp_path / "tensorboard").SummaryMetadata("sample")
    assert summary.plugin_data.plugin_name == "text"


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 8, 11])
def test_what_comes_again_after_a_resume_stands_there_once(tmp_path, stop):
    run(tmp_path, stop)
    t = run(tmp_path, resume=True)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    check_whole(tmp_path, t)


def test_a_run_that_goes_back_to_a_checkpoint_loses_what_it_gave_up(tmp_path):
    t = trainer()
    with RunFolder(Checkpoints(tmp_path / "checkpoints"), t, False, print, tensorboard=True) as folder:
        t.run(folder.on_step, folder.on_evaluation, lambda: t.step == 6)
        assert folder.rewind(t, BadStep("too bad")) == 4
        t.run(folder.on_step, folder.on_evaluation)
    check_whole(tmp_path, t)


def test_a_record_that_a_kill_cut_off_hides_nothing(tmp_path):
    run(tmp_path, 5)
    (path,) = (tmp_path / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    check_whole(tmp_path, run(tmp_path, resume=True))


def test_any_numbers_and_texts_of_another_loop(tmp_path):
    with EventsFile(tmp_path) as events:
        events.scalars(3, {"accuracy/test": 0.75})
        events.text(3, "note", "é \ud800 <b>\n")
    found = read(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("accuracy/test")] == [(3, 0.75)]
    assert found.Tensors("note")[0].tensor_proto.string_val[0].decode() == "    é ? <b>\n"


def test_the_writer_needs_neither_tensorflow_nor_pytorch(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from tinygrad_llm.training import EventsFile\n"
        f"EventsFile({str(tmp_path)!r}).close()\n"
        "print([name for name in ('torch', 'tensorflow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
