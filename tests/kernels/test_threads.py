"""The worker threads: bad counts, errors, interrupts, forks, and several callers at once."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import tinygrad_llm as ours
from tinygrad_llm.kernels import threads
from tinygrad_llm.kernels.threads import for_each
from tinygrad_llm.models import GPTModel

TINY = {"vocab_size": 11, "context_length": 8, "emb_dim": 16, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0}


@pytest.fixture(params=[1, 2, 3])
def count(request, monkeypatch):
    """So many threads."""
    monkeypatch.setattr(threads, "_count", request.param)
    return request.param


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None])
def test_a_bad_count_is_refused_and_changes_nothing(bad):
    before = ours.get_num_threads()
    with pytest.raises(RuntimeError, match="expects a positive integer"):
        ours.set_num_threads(bad)
    assert ours.get_num_threads() == before


def test_more_threads_than_cores_warn_and_work():
    before = ours.get_num_threads()
    try:
        with pytest.warns(UserWarning, match=f"may run on {threads.CORES} cores"):
            ours.set_num_threads(threads.CORES + 5)
        assert ours.get_num_threads() == threads.CORES + 5
        done = []
        for_each(done.append, range(100))
        assert sorted(done) == list(range(100))
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours.set_num_threads(before)


def test_an_exception_in_one_part_is_raised_after_all_threads_stopped(count):
    done = []

    def work(part):
        if part == 7:
            raise KeyError("part 7")
        time.sleep(0.001)
        done.append(part)

    with pytest.raises(KeyError, match="part 7"):
        for_each(work, range(40))
    so_far = len(done)
    time.sleep(0.01)
    assert len(done) == so_far and 7 not in done
    again = []
    for_each(again.append, range(40))  # the threads are as good as new
    assert sorted(again) == list(range(40))


def test_an_interrupt_in_the_callers_share_waits_for_the_others(count):
    caller, done = threading.get_ident(), []

    def work(part):
        if threading.get_ident() == caller and part > 3:
            raise KeyboardInterrupt
        time.sleep(0.001)
        done.append(part)

    with pytest.raises(KeyboardInterrupt):
        for_each(work, range(40))
    so_far = len(done)
    time.sleep(0.01)
    assert len(done) == so_far


def run(script: str) -> subprocess.CompletedProcess[str]:
    """A script in a fresh interpreter: threads and signals of its own."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_starts_threads_of_its_own():
    done = run("""
import os, warnings
warnings.simplefilter("ignore")  # Python warns of fork beside threads
import numpy as np
from tinygrad_llm.kernels import CPU, threads
threads._count = 3
x = np.random.default_rng(0).standard_normal((3000, 400)).astype(np.float32)
y = CPU.activate(x, None, "gelu_tanh")
child = os.fork()
if not child:
    os._exit(0 if np.array_equal(CPU.activate(x, None, "gelu_tanh"), y) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
    assert done.stdout.strip() == "0", done.stderr


def losses_of(seed: int) -> list[float]:
    """The losses of a small model trained for some steps."""
    model = GPTModel(TINY)
    with ours.no_grad():
        rng = np.random.default_rng(seed)
        for p in model.parameters():
            p.copy_(ours.from_numpy(rng.standard_normal(tuple(p.shape)).astype(np.float32) * 0.1))
    optimizer = ours.optim.AdamW(model.parameters(), lr=1e-2)
    found = []
    for _ in range(20):
        ids = ours.from_numpy(rng.integers(0, 11, (4, 9)))
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_two_models_trained_in_two_threads_do_not_touch_each_other():
    alone = [losses_of(1), losses_of(2)]
    beside: dict[int, list[float]] = {}
    workers = [threading.Thread(target=lambda s=seed: beside.update({s: losses_of(s)})) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [beside[1], beside[2]] == alone


class Interrupting(ours.optim.SGD):
    """Sends Ctrl-C to the process while the first parameter is updated."""

    def update(self, p, g, state, group):
        if p is self.param_groups[0]["params"][0]:
            signal.raise_signal(signal.SIGINT)
        super().update(p, g, state, group)


def test_ctrl_c_in_a_step_waits_until_every_parameter_is_updated():
    ps = [ours.nn.Parameter(ours.zeros(3)) for _ in range(3)]
    for p in ps:
        p.grad = ours.ones(3)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        Interrupting(ps, lr=1.0).step()
    assert signal.getsignal(signal.SIGINT) is before
    assert [p.tolist() for p in ps] == [[-1.0] * 3] * 3


def test_a_step_in_another_thread_leaves_signals_alone():
    p = ours.nn.Parameter(ours.zeros(3))
    p.grad = ours.ones(3)
    worker = threading.Thread(target=ours.optim.SGD([p], lr=1.0).step)
    worker.start()
    worker.join()
    assert p.tolist() == [-1.0] * 3
