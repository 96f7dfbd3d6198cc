"""Models trained on a GPU: the losses of the CPU, and runs that move from one device to the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda.kinds import each_gpu, gpu
from tinygrad_llm.models import GPTModel, generate
from tinygrad_llm.models.checkpoint import load, save_pretrained
from tinygrad_llm.nn.utils import clip_grad_norm_

ROOT = Path(__file__).parents[2]
SMALL = {"vocab_size": 61, "context_length": 40, "emb_dim": 48, "n_heads": 3, "n_layers": 2, "qkv_bias": True}


def losses(device: str, steps: int, drop_rate: float = 0.0, **changes: object) -> tuple[list[float], GPTModel]:
    """The losses of a few steps on the same tokens, and the model."""
    tg.manual_seed(0)
    model = GPTModel(SMALL | {"drop_rate": drop_rate} | changes).to(device)
    optimizer = tg.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    rng, found = np.random.default_rng(0), []
    for _ in range(steps):
        ids = tg.from_numpy((SMALL["vocab_size"] * rng.random((4, 41)) ** 3).astype(np.int64)).to(device)
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found, model


@each_gpu
@pytest.mark.parametrize("changes", [{}, {"drop_rate": 0.1}, {"tie_weights": True}])
def test_the_losses_are_those_of_the_cpu(kind, changes):
    with gpu(kind):
        steps = 20 if kind == "real" else 3
        theirs, _ = losses("cuda", steps, **changes)
        ours, _ = losses("cpu", steps, **changes)
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
        assert theirs[-1] < theirs[0]


@pytest.mark.cuda
def test_a_run_is_the_same_every_time():
    assert losses("cuda", 5)[0] == losses("cuda", 5)[0]


@each_gpu
def test_a_model_moves_between_devices(kind, tmp_path):
    with gpu(kind):
        _, model = losses("cuda", 1)
        ids = tg.tensor([[1, 2, 3]], device="cuda")
        save_pretrained(model, tmp_path)
        here = load(tmp_path)
        assert {str(p.device) for p in here.parameters()} == {"cpu"}
        expected = model(ids).cpu()
        np.testing.assert_allclose(here(ids.cpu()).detach().numpy(), expected.detach().numpy(), atol=1e-5)
        there = here.cuda()
        np.testing.assert_allclose(there(ids).cpu().detach().numpy(), expected.detach().numpy(), atol=1e-6)
        written = generate(model, ids, 4)
        assert written.is_cuda and written.shape == (1, 7)


@pytest.mark.cuda
def test_pretrain_on_a_gpu(tmp_path):
    options = ["--device", "cuda", "--steps", "20", "--samples", "1", "--out", str(tmp_path / "run")]
    program = [sys.executable, "examples/pretrain.py", *options]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout and (tmp_path / "run" / "model.safetensors").exists()
