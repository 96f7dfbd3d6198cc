"""The profile: every op once, nothing counted twice, and a trace that other programs read."""

import itertools
import json
import threading
import time

import pytest

import tinygrad_llm as ours
from tinygrad_llm import nn
from tinygrad_llm.autograd import registry
from tinygrad_llm.profiler import profile, record_function
from tinygrad_llm.utils.checkpoint import checkpoint


def rows_of(p: profile) -> dict:
    return {(row.name, row.kind): row for row in p.rows()}


def test_each_op_is_counted_forward_and_backward_with_its_bytes():
    x = ours.ones(3, 4, requires_grad=True)
    with profile() as p:
        y = (x * 2.0).exp().exp()
        y.sum().backward()
    rows = rows_of(p)
    assert rows["exp", "forward"].calls == rows["exp", "backward"].calls == 2
    assert rows["exp", "forward"].nbytes == 2 * 48
    assert rows["mul", "backward"].nbytes == 48
    assert all(0 < row.self_ns == row.total_ns for row in rows.values())
    assert 0 < sum(row.self_ns for row in rows.values()) / 1e9 < p.seconds


def test_what_a_checkpoint_runs_again_is_inside_its_backward():
    layer, x = nn.Linear(4, 4), ours.ones(3, 4, requires_grad=True)
    with profile() as p:
        checkpoint(lambda x: layer(x).exp(), x, use_reentrant=False).sum().backward()
    again = rows_of(p)["linear", "forward"]
    assert again.calls == 2
    assert sum(row.self_ns for row in p.rows()) / 1e9 < p.seconds


def test_regions_hold_their_ops():
    @record_function("twice")
    def twice(x):
        return x + x

    with profile() as p, record_function("outer"):
        time.sleep(0.002)
        twice(ours.ones(2))
    rows = rows_of(p)
    outer, inner, op = rows["outer", "region"], rows["twice", "region"], rows["add", "forward"]
    assert outer.total_ns >= outer.self_ns + inner.total_ns and outer.self_ns >= 2_000_000
    assert inner.total_ns == inner.self_ns + op.total_ns


def test_the_optimizer_and_the_clipping_have_rows():
    layer = nn.Linear(2, 2)
    layer(ours.ones(1, 2)).sum().backward()
    with profile() as p:
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        ours.optim.AdamW(layer.parameters()).step()
    assert {("clip_grad_norm_", "region"), ("AdamW.step", "region")} <= set(rows_of(p))


def test_the_table_is_sorted_cut_and_adds_up():
    with profile() as p:
        x = ours.ones(300, 300)
        for _ in range(3):
            x = x @ x
        x + 1
        x * 1
    assert [row.calls for row in p.rows("calls")] == [3, 1, 1]
    with pytest.raises(ValueError, match="sort_by 'speed' is unknown; choose one of self, total, calls, bytes"):
        p.rows("speed")
    shares = [float(line.split()[-1].rstrip("%")) for line in p.table().splitlines()[1:-1]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    cut = p.table("calls", row_limit=1).splitlines()
    assert cut[1].startswith("matmul") and cut[2].startswith("2 more")


def test_an_error_inside_leaves_no_profile_running_and_is_counted():
    with pytest.raises(RuntimeError), profile() as p:
        ours.ones(2, 3) @ ours.ones(2, 3)
    with pytest.raises(ValueError), profile() as p, record_function("bad"):
        raise ValueError
    assert registry.watch is None and rows_of(p)["bad", "region"].calls == 1


def test_one_profile_at_a_time():
    with profile(), pytest.raises(RuntimeError, match="another profile is running"), profile():
        pass
    with profile() as p:  # and the first has ended well
        ours.ones(2) + 1
    assert len(p.events) == 1


def test_other_threads_are_seen():
    with profile() as p:
        thread = threading.Thread(target=lambda: ours.ones(2).exp())
        thread.start()
        thread.join()
    assert [event.name for event in p.events] == ["exp"]
    assert p.events[0].thread != threading.get_ident()


def test_the_trace_is_chromes_format(tmp_path):
    with profile() as p:
        ours.ones(2, 3, requires_grad=True).exp().sum().backward()
    p.export_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [(e["name"], e["cat"]) for e in events] == [
        ("exp", "forward"), ("sum", "forward"), ("sum", "backward"), ("exp", "backward"),
    ]  # fmt: skip
    assert events[0]["args"] == {"bytes": 24, "shape": [2, 3]} and events[0]["ts"] == 0.0
    assert all(e["ph"] == "X" and e["dur"] > 0 for e in events)
    assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in itertools.pairwise(events))


def test_an_empty_profile_prints():
    with profile() as p:
        pass
    assert "between the ops" in p.table()
