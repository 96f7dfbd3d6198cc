"""How often Python waits for the GPU, and how much it gives it to do: the whole of a training step, and of a token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda import pretend
from tinygrad_llm.cuda import CUDAGraph
from tinygrad_llm.kernels.cuda import heads, launch, losses
from tinygrad_llm.models import GPTModel, generate
from tinygrad_llm.nn.utils import clip_grad_norm_

CONFIG = {"vocab_size": 61, "context_length": 40, "emb_dim": 48, "n_heads": 3, "n_layers": 3, "qkv_bias": True}


@pytest.fixture
def counts(monkeypatch) -> Iterator[Counter[str]]:
    """Launches of each kernel, which computes nothing: nothing that Python does depends on the numbers."""
    found: Counter[str] = Counter()

    def start(file, name, definitions, grid, block, args, shared):
        found[name] += 1
        if name in ("sample", "likeliest"):
            parameters = launch.signatures(launch.source(file))[name]
            args[[p.name for p in parameters].index("tokens")][...] = 1  # a token that there is

    monkeypatch.setattr(launch, "start", start)
    for module in (heads, losses):
        monkeypatch.setattr(module, "shared_memory", lambda number: 160 * 1024)
    with pretend.gpu(), np.errstate(all="ignore"):
        yield found


def step(model, optimizer, ids):
    """A training step, but for the question what the loss was."""
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def two_groups(model):
    wide = [p for p in model.parameters() if p.ndim >= 2]
    return tg.optim.AdamW([{"params": wide}, {"params": [p for p in model.parameters() if p.ndim < 2]}])


@pytest.mark.parametrize("drop_rate", [0.0, 0.1])
def test_a_training_step_waits_for_nothing_and_launches_little(counts, drop_rate):
    model = GPTModel(CONFIG | {"drop_rate": drop_rate}).cuda()
    optimizer = two_groups(model)
    ids = tg.ones(2, 21, dtype=tg.int64, device="cuda")
    step(model, optimizer, ids)
    pretend.waits.clear()
    counts.clear()
    loss = step(model, optimizer, ids)
    assert pretend.waits == []
    loss.item()
    assert pretend.waits == ["item"]
    layers = CONFIG["n_layers"]
    norms = 2 * layers + 1
    expected = {
        "layer_norm": 1, "layer_norm_backward": 1, "dropout_add_norm": norms - 1,
        "dropout_add_norm_backward": norms - 1, "activate": layers, "activate_backward": layers,
        "squares": 1, "total": 1, "scale": 1, "adamw": 2,
    }  # fmt: skip
    if not drop_rate:
        expected |= dict.fromkeys(("attention", "attention_delta", "attention_dq", "attention_dkv"), layers)
    assert {name: counts[name] for name in expected} == expected
    biases = layers  # of activations; those of other layers get their gradients from the products of the weights'
    assert counts["sum_blocks"] == norms + biases and sum(counts.values()) < 25 * layers


def test_a_token_is_one_launch_and_waits_for_nothing(counts, monkeypatch):
    """The first step compiles the kernels and one more is recorded; then there is one launch a token."""
    monkeypatch.setattr(CUDAGraph, "replay", lambda graph: counts.update(["replay"]))
    model = GPTModel(CONFIG | {"drop_rate": 0.0}).cuda()
    ids = tg.ones(2, 3, dtype=tg.int64, device="cuda")
    drawn = {"temperature": 1.0, "top_k": 5, "top_p": 0.9}
    penalized = {"temperature": 0.5, "repetition_penalty": 1.2}
    for options, chosen, more in (({}, "likeliest", 0), (drawn, "sample", 0), (penalized, "sample", 1)):
        pretend.waits.clear()
        counts.clear()
        generate(model, ids, 21, **options)
        assert pretend.waits == ["get"] * 2  # the prompt and the first token; the others come meanwhile
        layers, penalize = CONFIG["n_layers"], counts.pop("penalize", 0)
        assert counts.pop("replay") == 19 and counts.pop(chosen) == 3 and penalize == 2 * more
        assert counts.pop("survey", 0) == (3 if chosen == "sample" else 0)
        assert counts.pop("embedding_step") == 2 and counts.pop("attention_step") == 2 * layers
        assert counts.pop("few_rows") == 2 * (4 * layers + 1)
        prompt = {"layer_norm": 2 * layers + 1, "attention": layers, "activate": layers, "check_index": 2}
        assert counts == prompt


def test_a_few_tokens_are_not_recorded(counts, monkeypatch):
    monkeypatch.setattr(CUDAGraph, "capture_begin", None)
    generate(GPTModel(CONFIG | {"drop_rate": 0.0}).cuda(), tg.ones(1, 3, dtype=tg.int64, device="cuda"), 5)
    assert counts["embedding_step"] == 4


@pytest.mark.cuda
def test_a_step_is_given_to_the_gpu_while_it_is_busy():
    """A kernel that spins for a while still runs when a step, asked for after it, has been handed over."""
    spin = pytest.importorskip("cupy").RawKernel(
        'extern "C" __global__ void spin(long long cycles)'
        "{ long long start = clock64(); while (clock64() - start < cycles) {} }",
        "spin",
    )
    model = GPTModel(CONFIG | {"drop_rate": 0.0}).cuda()
    optimizer = two_groups(model)
    ids = tg.ones(2, 21, dtype=tg.int64, device="cuda")
    for _ in range(2):  # compiles, and fills the pool
        step(model, optimizer, ids).item()
    done = tg.cuda.Event()
    spin((1,), (1,), (np.int64(4_000_000_000),))  # two seconds or more
    done.record()
    loss = step(model, optimizer, ids)
    assert not done.query()
    assert np.isfinite(loss.item()) and done.query()
