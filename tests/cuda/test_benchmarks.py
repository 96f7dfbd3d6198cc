"""The benchmarks' sides on a pretended GPU: what they ask of the library is there, and they do what they say."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import tinygrad_llm as tg
from tests.cuda.kinds import each_gpu, gpu
from tinygrad_llm import devices
from tinygrad_llm.kernels import REFERENCE

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONFIG = {"vocab_size": 33, "context_length": 8, "emb_dim": 16, "n_heads": 2, "n_layers": 2, "qkv_bias": True,
          "drop_rate": 0.0, "tie_weights": True}  # fmt: skip
ORDER = {"peer": "ours", "device": "cuda", "dtype": "float32", "tf32": False, "graph": False, "attention": "fused",
         "threads": 1, "config": CONFIG, "checkpoint": False, "batch": 2, "context": 8, "lr": 1e-2,
         "betas": [0.9, 0.95], "weight_decay": 0.1}  # fmt: skip


@pytest.fixture
def peer(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peer")


class Event:
    """A moment of a clock that a call moves on by two milliseconds."""

    clock = 0

    def __init__(self, enable_timing: bool):
        assert enable_timing

    def record(self) -> None:
        self.at = Event.clock = Event.clock + 2

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


@each_gpu
def test_a_side_trains_on_a_gpu_as_on_the_cpu(kind, peer, monkeypatch):
    if kind == "pretended":
        monkeypatch.setattr(devices, "_set_product_precision", lambda: None)  # of cuBLAS
    with gpu(kind):
        there = peer.Training(ORDER)
        assert all(p.is_cuda for p in there.model.parameters())
        turn = there.train(4)
        here = peer.Training(ORDER | {"device": "cpu"}).train(4)
        assert turn["losses"] == pytest.approx(here["losses"], abs=1e-4)
        assert len(turn["ms"]) == 1 and len(here["ms"]) == 4  # a turn of a GPU is timed as a whole
        inspected = there.inspect()
        assert inspected["held_mb"] >= 0 and set(inspected) >= {"our_kernels"}


def test_the_rate_of_a_product_is_by_its_median(peer, monkeypatch):
    monkeypatch.setitem(peer.PRODUCT, "cuda", (50, 20, 10))
    monkeypatch.setattr(tg.cuda, "Event", Event)
    with gpu("pretended"):
        assert peer.product_rate(tg, "cuda", tg.float32, 3) == pytest.approx(2 * 50 * 20 * 10 / 2e-3 / 1e9)


@each_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_calls_whose_bandwidth_is_measured(kind, dtype, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bandwidth = importlib.import_module("bandwidth")
    if kind == "pretended":
        monkeypatch.setattr(bandwidth, "CUDA", REFERENCE)
    with gpu(kind):
        names = []
        for name, call, count in bandwidth.cases(1024, 64, 50, getattr(tg, dtype)):
            call()
            assert count > 0
            names.append(name)
    assert len(names) > 15 and len(set(names)) == len(names)
