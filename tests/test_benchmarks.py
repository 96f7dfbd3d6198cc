"""The benchmarks run, and compare like with like. No test looks at a time."""

import importlib
import json
import os
import shlex
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TINY = ["--batch", "8", "--context", "16", "--steps", "5", "--rounds", "2", "--warmup", "1", "--threads", "1"]


def bench(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def train_step(tmp_path: Path, *flags: str) -> dict:
    """The record of a very short run."""
    done = bench("train_step.py", *TINY, "--json", str(tmp_path / "record.json"), *flags)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "record.json").read_text())


def test_train_step_measures_each_step(tmp_path):
    record = train_step(tmp_path, "--against", "none")
    assert list(record["results"]) == ["ours"]
    ours = record["results"]["ours"]
    assert ours["parameters"] == 802_176  # of the preset's shape with 16 positions, the head tied
    assert len(ours["round_medians_ms"]) == 2
    assert ours["last_loss"] < ours["first_loss"] - 0.2


@pytest.mark.torch
def test_both_peers_do_the_same_work(tmp_path):
    record = train_step(tmp_path, "--against", "torch")
    ours, torch = record["results"]["ours"], record["results"]["torch"]
    assert ours["parameters"] == torch["parameters"]
    assert ours["first_loss"] == pytest.approx(torch["first_loss"], abs=0.1)
    assert ours["last_loss"] == pytest.approx(torch["last_loss"], abs=0.3)
    ratio = record["ratios"]["torch"]
    assert ratio["median"] == pytest.approx(ours["median_ms"] / torch["median_ms"])
    assert ratio["lowest"] <= ratio["highest"]


def test_memory_prints_a_row_a_process_and_checkpoints_change_no_loss():
    flags = ["--preset", "shakespeare-char", "--batch", "8", "--context", "32", "--steps", "2", "--threads", "1"]
    done = bench("memory.py", *flags, "--checkpoint")
    assert done.returncode == 0, done.stderr
    plain, saving = (line.split()[-4:] for line in done.stdout.splitlines() if line.startswith("ours"))
    assert float(plain[0]) < float(plain[1]) and plain[3] == saving[3]


@pytest.mark.parametrize(
    ("flags", "message"), [(["--steps", "0"], "--steps 0: must be at least 1"), (["--preset", "huge"], "'huge'")]
)
def test_train_step_refuses_bad_flags(flags, message):
    done = bench("train_step.py", *flags)
    assert done.returncode == 2
    assert message in done.stderr


def test_overhead_prints_a_line_a_measure():
    done = bench("overhead.py", "--repeat", "100", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    for measure in ("a * b, recorded", "a * b, no_grad", "backward, an op"):
        assert any(line.startswith(measure) and float(line.split()[-1]) > 0 for line in done.stdout.splitlines())


def test_import_time_lists_the_slowest_modules():
    done = bench("import_time.py", "--rounds", "1", "--top", "3")
    assert done.returncode == 0, done.stderr
    assert "import tinygrad_llm" in done.stdout
    assert len(done.stdout.split("slowest modules of their own, ms\n")[1].splitlines()) == 3


def test_lora_prints_a_row_a_side_and_learns_less():
    flags = ["--size", "small", "--batch", "1", "--context", "8", "--rounds", "1", "--against", "none"]
    done = bench("lora.py", *flags)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("lora ", "int8 ", "full "))]
    learns = {row[0]: int(row[1].replace(",", "")) for row in rows if len(row) == 6}
    assert learns["lora"] == 6 * 16 * 384 * (1 + 3 + 1 + 1 + 1 + 4 + 4 + 1) == learns["int8"]
    assert learns["lora"] < learns["full"] / 5


def test_data_prints_a_row_a_stream():
    done = bench("data.py", "--shards", "2", "--tokens", "2000", "--steps", "2", "--no-model")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("random, ", "shuffled, "))]
    assert len(rows) == 4 and all(0 < float(row[-2]) <= float(row[-1]) for row in rows)


def test_generate_prints_a_row_a_peer_and_batch(tmp_path):
    flags = ["--model", "tiny", "--batch", "1", "3", "--tokens", "4", "--rounds", "1", "--threads", "1"]
    done = bench("generate.py", *flags, "--against", "without", "--json", str(tmp_path / "record.json"))
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    speeds = record["speeds"]
    assert set(speeds) == {f"{peer}, batch {batch}" for peer in ("ours", "without") for batch in (1, 3)}
    assert record["tokens"] == {"1": 4, "3": 4}
    assert all(len(rounds) == 1 for rounds in speeds.values())
    assert "batch 3: " in done.stdout and "times batch 1" in done.stdout
    assert bench("generate.py", "--tokens", "2000").returncode == bench("generate.py", "--seconds", "0").returncode == 2


def test_the_slowest_side_decides_how_many_tokens_all_write(monkeypatch):
    tokens_of_turn = script(monkeypatch, "generate").tokens_of_turn
    assert tokens_of_turn([0.001, 0.05], 256, 4.0) == 80
    assert tokens_of_turn([0.001, 0.002], 256, 4.0) == tokens_of_turn([-0.01], 256, 4.0) == 256
    assert tokens_of_turn([0.001, 7.0], 256, 4.0) == 8 and tokens_of_turn([7.0], 4, 4.0) == 4


def verdict(tmp_path, *flags):
    (tmp_path / "story.txt").write_text("the cat sat on the mat, and the dog sat on the cat; it was late.\n" * 16)
    size = ["--layers=2", "--heads=2", "--channels=32", "--context=16", "--epochs=1", "--words=10", "--threads=1"]
    files = [f"--data={tmp_path}/story.txt", f"--json={tmp_path}/v.json", f"--plot={tmp_path}/v.png"]
    return bench("verdict.py", "--tokenizer=char", *size, *files, *flags)


@pytest.mark.torch
@pytest.mark.parametrize("dropout", ["0", "0.1"])
def test_one_listing_learns_the_same_with_either_library(tmp_path, dropout):
    pytest.importorskip("torch")
    done = verdict(tmp_path, "--dropout", dropout)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "v.json").read_text())
    ours, torch = record["curves"]["ours"], record["curves"]["torch"]
    assert len(ours) == len(torch) > 4 and ours[-1]["validation"] < ours[0]["validation"] - 0.1
    for a, b in zip(ours, torch, strict=True):
        assert a["step"] == b["step"]
        assert (a["train"], a["validation"]) == pytest.approx((b["train"], b["validation"]), abs=1e-4)
    assert max(record["difference"].values()) < 1e-4 and record["same_text"]
    assert (tmp_path / "v.png").read_bytes().startswith(b"\x89PNG")


def test_a_story_that_is_too_short_is_refused(tmp_path):
    done = verdict(tmp_path, "--context=2000")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "tokens to the training part do not fill 2 windows of 2000" in done.stderr


def test_the_trainers_own_cost_is_told_apart_from_the_mathematics():
    done = bench("trainer.py", "--steps", "2", "--times", "1")
    assert done.returncode == 0, done.stderr
    shown = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.endswith("%")}
    assert {"step", "evaluation", "checkpoint", "sample"} < shown.keys()
    assert sum(float(shown[name][-1][:-1]) for name in shown if name != "of") == pytest.approx(100, abs=0.3)
    assert float(shown["of"][-3]) < float(shown["step"][1])
    assert bench("trainer.py", "--steps", "0").returncode == 2


def script(monkeypatch, name: str):
    """A benchmark as a module: they import each other by name, which an example may have, too."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    known = sys.modules.get(name)
    if known is not None and Path(str(known.__file__)).parent != ROOT / "benchmarks":
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module(name)


def test_the_share_of_the_peak_is_that_of_the_fastest_product(monkeypatch):
    train_step = script(monkeypatch, "train_step")
    config = {"n_layers": 2, "emb_dim": 8, "vocab_size": 10}
    order = {"config": config, "batch": 3, "context": 4, "threads": 1, "dtype": "bfloat16", "tf32": False}
    weights, tokens = 2 * 12 * 64 + 80, 12
    assert train_step.operations(order) == tokens * (6 * weights + 2 * 6 * 4 * 8)
    side = {"median_ms": 2.0, "fastest_ms": 1.0, "peak_mb": 9.0, "first_loss": 3.0, "last_loss": 2.0, "our_launches": 5}
    side |= {"graph": ""}
    rate = train_step.operations(order) / 2e-3 / 1e9  # what a step of 2 ms would take, all of it
    results = {"ours": side | {"product_gflops": rate}, "torch": side | {"median_ms": 1.0, "product_gflops": 2 * rate}}
    results["torch"] |= {"launches": 7, "kernels": 6, "busy_ms": 0.5, "slowest": [("gemm", 0.4, 2)], "held_mb": 8.0}
    record = {"order": order, "results": results, "machine": {}, "load": 0, "ratios": {}}
    lines = train_step.table(record).splitlines()
    ours, torch = (next(line for line in lines if line.startswith(name)) for name in ("ours ", "torch "))
    assert " 50% " in ours and "100% " in torch and "9 (8)" in torch
    assert "torch: 7 launches of 6 kernels and copies a step, busy 0.5 ms; longest gemm 0.4" in lines
    assert lines[-1] == "a step launches 5 of our kernels; CuPy's, cuBLAS' not counted"


def test_what_a_trace_tells(monkeypatch):
    events = [
        ("cudaLaunchKernel", False, 3.0),
        ("gemm", True, 500.0),
        ("cudaMemcpyAsync", False, 2.0),
        ("gemm", True, 250.0),
    ]
    events += [("cudaDeviceSynchronize", False, 90.0), ("copy", True, 1000.0), ("cuLaunchKernelEx", False, 3.0)]
    told = script(monkeypatch, "peer").told(events)
    assert told == {"launches": 3, "kernels": 3, "busy_ms": 1.75, "slowest": [("copy", 1.0, 1), ("gemm", 0.75, 2)]}


def test_losses_are_compared_step_by_step(monkeypatch):
    compare = script(monkeypatch, "losses").compare
    found = compare([3.0, 2.5, 2.0, 1.5, 1.0], [3.0, 2.25, 2.0, 2.0, 1.0])
    assert (found["largest"], found["at"]) == (0.5, 4)
    assert found["quarters"] == [0.0, 0.25, -0.25, 0.0]
    assert compare([1.0, float("nan")], [1.0, 1.0])["largest"] == float("inf")
    assert compare([1.5], [1.0])["quarters"] == [0.5]


def test_attention_prints_a_row_a_side_and_size(tmp_path):
    flags = [
        "--tokens",
        "16",
        "32",
        "--widths",
        "8",
        "--in-all",
        "32",
        "--channels",
        "16",
        "--rounds",
        "1",
        "--runs",
        "1",
    ]
    done = bench("attention.py", *flags, "--against", "none", "--json", str(tmp_path / "record.json"))
    assert done.returncode == 0, done.stderr
    sides = json.loads((tmp_path / "record.json").read_text())["sides"]
    assert [(row["tokens"], row["width"], row["side"]) for row in sides] == [(16, 8, "ours"), (32, 8, "ours")]
    for row, batch in zip(sides, (2, 1), strict=True):
        work = batch * 2 * row["tokens"] ** 2 * 8
        assert row["tflops"] == pytest.approx([2 * work / row["ms"][0] / 1e9, 5 * work / row["ms"][1] / 1e9])
    assert bench("attention.py", "--dtype", "bfloat16").returncode == 2
    assert bench("attention.py", "--tokens", "64", "--in-all", "32").returncode == 2


def test_what_a_side_of_attention_cannot_do_is_left_out(monkeypatch, capsys):
    attention, shape = script(monkeypatch, "attention"), (2, 2, 6, 8)
    sides, ours = dict.fromkeys(["ours", *attention.OF_CUDNN, attention.CHOSEN], attention.tg), attention.ours
    seen = []

    def some(where, shape, name):
        with attention.allowed(name):
            switches = attention.tg.backends.cuda
            seen.append((attention.cudnn.deterministic, switches.flash_sdp_enabled(), switches.cudnn_sdp_enabled()))
        forward, backward = ours(where, shape, "ours")

        def fails():
            raise RuntimeError("no plan")

        return {"cuDNN": (forward, fails), "cuDNN, any order": (fails, backward)}.get(name, (forward, backward))

    monkeypatch.setattr(attention, "ours", some)
    found = attention.compare(sides, {"device": "cpu", "dtype": "float32"}, shape, 1, 1)
    assert list(found) == ["ours", "cuDNN", "chosen"]
    assert seen == [(False, True, False), (True, False, True), (False, False, True), (False, True, True)]
    assert found["cuDNN"][0] and found["cuDNN"][1] is None and not attention.cudnn.deterministic
    told = capsys.readouterr().err
    assert "cuDNN's backward is left out at (2, 2, 6, 8): no plan" in told
    assert "cuDNN, any order is left out at (2, 2, 6, 8): no plan" in told


@pytest.mark.torch
def test_attention_has_equal_numbers_for_both_sides(monkeypatch):
    torch = pytest.importorskip("torch")
    attention, where, shape = script(monkeypatch, "attention"), {"device": "cpu", "dtype": "float32"}, (2, 2, 6, 8)
    ours, theirs = attention.ours(where, shape, "ours"), attention.theirs(torch, where, shape)
    seen = attention.kernels.of(np.zeros(1)).attention
    q, k, v = (x.array for x in attention.parts(attention.tg, where, shape)[:3])
    y, _ = seen(q, k, v, None, True, 8**-0.5, None, 0.0)
    np.testing.assert_allclose(theirs[0]().detach().numpy(), y, atol=1e-5)
    for a, b in zip(theirs[1](), ours[1]()[:3], strict=True):
        np.testing.assert_allclose(a.numpy(), b, atol=1e-5)


def test_losses_of_sixteen_bits_and_of_full_numbers(tmp_path):
    flags = [
        "--batch",
        "2",
        "--context",
        "8",
        "--steps",
        "3",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "record.json"),
    ]
    done = bench("losses.py", *flags)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "record.json").read_text())
    assert 0 < record["largest"] < 0.1 and {len(values) for values in record["losses"].values()} == {3}
    assert bench("losses.py", *flags, "--most", "0").returncode == 1
    refused = bench("losses.py", "--against", "cpu")
    assert refused.returncode == 2 and "takes --device cuda" in refused.stderr


def side(ms: float, rate: float = 1e6) -> dict:
    """What a side that took so long would have answered."""
    return {"median_ms": ms, "peak_mb": 2000.0, "product_gflops": rate}


def test_a_ladder_of_models_is_drawn(monkeypatch, tmp_path, capsys):
    ladder = script(monkeypatch, "ladder")
    monkeypatch.setattr(
        ladder, "measure", lambda order, peers, *_, **__: {p: side(9.0 + i) for i, p in enumerate(peers)}
    )
    flags = ["--presets", "baby", "--plot", str(tmp_path / "a.png"), "--json", str(tmp_path / "a.json")]
    ladder.main(flags)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "a.json").read_text())["found"]["baby"]["ours"] == side(10.0)
    assert "plain NumPy" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        ladder.main(["--rounds", "0"])


def test_the_ladder_of_a_gpu_is_a_table_that_adds_one_thing_a_rung(monkeypatch, tmp_path, capsys):
    ladder, orders, refused = script(monkeypatch, "ladder"), [], []

    def measure(order, peers, rounds, steps, warmup):
        if order["dtype"] in refused:
            raise RuntimeError("a peer ended")
        orders.append(order)
        return {peer: side(100.0 / (i + 1)) for i, peer in enumerate(peers)}

    monkeypatch.setattr(ladder, "measure", measure)
    monkeypatch.setattr(ladder, "find_spec", lambda name: True)
    monkeypatch.setattr(
        script(monkeypatch, "pictures"), "describe", lambda device: {"GPU": "a GPU", "processor": "one"}
    )
    monkeypatch.setattr(ladder, "need", lambda device: None)
    assert ladder.main(["--device", "cuda", "--batch", "16", "--plot", str(tmp_path / "a.png")]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [cells[0].strip("| ") for cells in rows] == list(ladder.RUNGS)
    changed = [{k for k in a if a[k] != b[k]} for a, b in pairwise(orders)]
    assert changed == [{"tf32"}, {"dtype"}, {"attention"}, {"graph"}, {"batch"}]
    assert orders[-1]["batch"] == 16 and rows[-1][1] == "16 x 1024" and rows[0][1] == "8 x 1024"
    assert rows[0][2] == "81,920 tokens/s" and rows[0][5] == "163,840 tokens/s" and rows[0][7] == "0.50 |"
    share = ladder.operations(orders[0]) / 100.0 / 1e6 / 1e6
    assert rows[0][3] == f"{share:.0%}" and 0.05 < share < 0.15
    refused.append("bfloat16")
    assert ladder.main(["--device", "cuda", "--rungs", "TF32", "bfloat16"]) == 1
    shown = capsys.readouterr()
    assert "| TF32 |" in shown.out and "bfloat16: a peer ended" in shown.err
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_scaling_is_drawn(monkeypatch, tmp_path, capsys):
    scaling = script(monkeypatch, "scaling")
    monkeypatch.setattr(scaling, "measure", lambda order, peers, *_, **__: {peer: side(5.0) for peer in peers})
    scaling.main(["--axes", "batch", "--most", "4", "--plot", str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split() for line in lines] == [["batch", "1"], ["batch", "2"], ["batch", "4"]]


def on_gpu(half: str, folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "benchmarks" / "on_gpu.sh"), half, str(folder)]
    environment = os.environ | {"PYTHON": python}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_what_runs_on_a_gpu_goes_on_after_a_failure_and_sums_up(tmp_path):
    stub = tmp_path / "python"
    stub.write_text("""#!/bin/sh
if [ "$1" = -c ]; then exit 1; fi
echo "line one of $1"; echo "last line of $1"
case "$*" in *losses.py*json*) for last; do :; done; echo 5 > "$last";; esac
case "$*" in *float16*) case "$*" in *bfloat16*) ;; *) exit 7;; esac;; esac
""")
    stub.chmod(0o755)
    done = on_gpu("right", tmp_path / "out", str(stub))
    assert done.returncode == 1
    summary = (tmp_path / "out" / "summary-right.txt").read_text()
    assert "FAILED (7): losses-f16" in summary and "SOMETHING FAILED" in summary
    assert summary.index("== compile: ") < summary.index("== tests: ")
    assert summary.index("== losses-bf16: ") < summary.index("== losses-f16: ")
    assert "    last line of examples/generate.py" in summary
    assert "line one of benchmarks/losses.py" in (tmp_path / "out" / "log-right.txt").read_text()
    with tarfile.open(tmp_path / "out" / "json-right.tar.gz") as numbers:
        assert {"./losses-bf16.json", "./losses-cpu.json"} <= set(numbers.getnames())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "json-right.tar.gz", "log-right.txt", "summary-right.txt",
    ]  # fmt: skip
    assert on_gpu("both", tmp_path / "out", str(stub)).returncode == 2


def test_what_runs_on_a_gpu_takes_flags_that_there_are(monkeypatch, tmp_path):
    listed = on_gpu("list", tmp_path, sys.executable)
    assert listed.returncode == 0, listed.stderr
    commands = [
        line.split(maxsplit=3)[3] for line in listed.stdout.splitlines() if line.startswith(("right ", "fast "))
    ]
    checked = set()
    for _, path, *flags in (shlex.split(command) for command in commands if "benchmarks/" in command):
        module = script(monkeypatch, Path(path).stem)
        if hasattr(module, "arguments"):
            module.arguments(flags)
            checked.add(module.__name__)
    assert {"losses", "train_step", "attention"} <= checked


def test_a_side_that_cannot_train_is_left_out(monkeypatch, capsys):
    train_step = script(monkeypatch, "train_step")

    class Peer:
        def __init__(self, order):
            self.name, self.parameters, self.turns, self.ms = order["peer"], 0, 0, [[1.0]]

        def ready(self):
            if self.name == bad:
                raise RuntimeError("a peer ended with exit code 1")
            self.parameters = 3

        def train(self, steps, measured=True):
            self.turns += steps

        def ask(self, line):
            if (self.name, line) == ("torch-compile", "inspect"):
                raise RuntimeError("a tracer failed")
            return {"product_gflops": 1.0}

        def result(self):
            return {"turns": self.turns, "rate": self.product_gflops}

        def close(self):
            pass

    monkeypatch.setattr(train_step, "Peer", Peer)
    bad = "torch"
    found = train_step.measure({"device": "cpu"}, ["ours", "torch", "torch-compile"], 2, 5, 3, inspect=True)
    assert found == {name: {"turns": 13, "rate": 1.0} for name in ("ours", "torch-compile")}
    said = capsys.readouterr().err
    assert "torch is left out: a peer ended" in said and "a step of torch-compile is not inspected: a tracer" in said
    bad = "ours"
    with pytest.raises(RuntimeError, match="ended"):
        train_step.measure({"device": "cpu"}, ["ours", "torch"], 2, 5, 3)


def test_ops_prints_a_row_an_op():
    flags = ["--preset", "shakespeare-char", "--only", "norm", "--rounds", "1", "--seconds", "0", "--threads", "1"]
    done = bench("ops.py", *flags, "--against", "none", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    (row,) = (line.split() for line in done.stdout.splitlines() if line.startswith("layer norm"))
    assert all(float(ms) > 0 for ms in row[2:]) and len(row) == 4


@pytest.mark.parametrize("name", ["train_step", "losses", "attention", "ops", "bandwidth", "ladder"])
def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch, capsys, name):
    module = script(monkeypatch, name)
    monkeypatch.setattr("tinygrad_llm.devices.cuda_problem", lambda: "there is no NVIDIA driver")
    with pytest.raises(SystemExit) as ended:
        module.main([] if name == "bandwidth" else ["--device", "cuda"])
    assert ended.value.code == 2 and capsys.readouterr().err == "--device cuda: there is no NVIDIA driver\n"
