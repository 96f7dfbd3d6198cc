import io
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.training import Evaluation, StopOnInterrupt, console
from tinygrad_llm.training.cli import Parser, fail, os_reason


class Terminal(io.StringIO):
    def isatty(self):
        return True


def evaluation(step):
    return Evaluation(step, step * 100, 2.5, 2.75, 1e-3, 12_345.6 if step else 0.0)


def test_a_pipe_gets_a_line_per_evaluation_and_nothing_else():
    stream = io.StringIO()
    shown = console.progress(1000, stream)
    for step in range(3):
        shown.evaluation(evaluation(step * 500))
        for _ in range(100):
            shown.step(2.5, 100.0, 1e-3, 0.5, 0.2)
    shown.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()
    assert lines[0] == "step    0/1000   train  2.5000   validation  2.7500"
    assert lines[1].startswith("step  500/1000   train  2.5000   validation  2.7500    12,346 tokens/s   0:00 left")


def test_the_time_left_is_that_of_the_latest_steps(monkeypatch):
    now = iter([100.0, 101.0, 1001.0, 1021.0])  # a slow first part, then 10 steps in 20 s
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    stream = io.StringIO()
    shown = console.progress(40, stream)
    for step in (0, 10, 20):
        shown.evaluation(evaluation(step))
    lines = stream.getvalue().splitlines()
    assert lines[1].endswith("   45:00 left") and lines[2].endswith("   0:40 left")


def test_a_terminal_gets_a_bar_with_loss_speed_and_time_left():
    stream = Terminal()
    shown = console.progress(2, stream)
    shown.evaluation(evaluation(0))
    shown._bar.mininterval = 0
    shown.step(2.5, 12_345.6, 1e-3, 0.51, 0.25)
    shown._bar.refresh()
    shown.write("a line of its own")
    shown.evaluation(evaluation(1))
    shown.close()
    written = stream.getvalue()
    assert (
        " 50%" in written
        and "1/2 steps, loss 2.500 (validation 2.750), lr 1.0e-03, |g| 0.51, 12,346 tokens/s (25% of peak)" in written
        and " left]" in written
    )
    assert "a line of its own\n" in written and "validation  2.7500" in written


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (83.4, "1:23"), (59.6, "1:00"), (3725, "1:02:05")])
def test_a_time_is_shown_as_on_a_clock(seconds, shown):
    assert console.clock(seconds) == shown


@given(st.text())
def test_a_sample_cannot_steer_the_terminal(text):
    block = console.sample_block(text, 3)
    assert all(c.isprintable() or c == "\n" for c in block) and "after step 3" in block


def test_a_sample_keeps_its_words():
    assert "    Once upon\n\n    a time, in café\n" in console.sample_block("\nOnce upon\n\na time, in café", 1)


def test_a_tables_columns_stand_under_each_other():
    shown = console.table([("", "training", "validation"), ("loss", "1.5", "1.625"), ("perplexity", "4.48", "5.08")])
    assert shown.splitlines() == [
        "            training  validation",
        "--------------------------------",
        "loss             1.5       1.625",
        "perplexity      4.48        5.08",
    ]


@given(st.dictionaries(st.sampled_from(["steps", "evaluation", "samples"]), st.floats(0.1, 1e6), min_size=1))
def test_shares_are_of_all(parts):
    shown = console.shares(parts)
    percent = [float(part.split("(")[1].rstrip("%)")) for part in shown.split(", ")]
    assert sum(percent) == pytest.approx(100, abs=0.16) and all(name in shown for name in parts)


def test_nothing_was_spent():
    assert console.shares({"steps": 0.0}) == "steps 0.0 s (0.0%)"


def test_the_first_interrupt_asks_and_the_second_insists():
    before = signal.getsignal(signal.SIGINT)
    with StopOnInterrupt() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_failure_is_one_line_with_exit_code_2(capsys):
    assert fail("prog", ValueError("first\n  second")) == 2
    assert capsys.readouterr().err == "prog: first second\n"


def test_a_wrong_flag_is_one_line_with_exit_code_2(capsys):
    parser = Parser(prog="prog")
    parser.add_argument("--steps", type=int)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--steps", "many"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "prog: --steps: invalid int value: 'many'; prog --help explains every flag\n"


def test_the_systems_reason_is_shown_without_its_number():
    assert os_reason(FileNotFoundError(2, "No such file or directory", "x")) == "No such file or directory: 'x'"
    assert os_reason(FileNotFoundError("x: there is no such file")) == "x: there is no such file"
