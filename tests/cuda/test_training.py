"""Models trained on a GPU: the losses of the CPU, and runs that move from one device to the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda.kinds import each_gpu, gpu
from tinygrad_llm import random
from tinygrad_llm.kernels import REFERENCE
from tinygrad_llm.models import GPTModel, generate
from tinygrad_llm.models.checkpoint import load, save_pretrained
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn.utils import clip_grad_norm_

ROOT = Path(__file__).parents[2]
SMALL = {"vocab_size": 61, "context_length": 40, "emb_dim": 48, "n_heads": 3, "n_layers": 2, "qkv_bias": True}


def losses(
    device: str, steps: int, drop_rate: float = 0.0, checkpoint: bool = False, **changes: object
) -> tuple[list[float], GPTModel]:
    """The losses of a few steps on the same tokens, and the model."""
    tg.manual_seed(0)
    model = GPTModel(SMALL | {"drop_rate": drop_rate} | changes, checkpoint=checkpoint).to(device)
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
def test_the_losses_are_those_of_the_cpu(kind, changes, monkeypatch):
    """Given the same masks of dropout: the CPU's are made here from the keys that it draws for a GPU."""
    with gpu(kind):
        steps = 20 if kind == "real" else 3
        theirs, _ = losses("cuda", steps, **changes)
        monkeypatch.setattr(random.Generator, "keep_mask", lambda self, shape, p: made_of(self.key(), shape, p))
        ours, _ = losses("cpu", steps, **changes)
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
        assert theirs[-1] < theirs[0]


def made_of(key: int, shape: tuple[int, ...], p: float) -> np.ndarray:
    return REFERENCE.keep_mask(key, p, shape, np.empty(0))


@each_gpu
def test_a_mask_is_made_again_by_the_seed_and_by_a_checkpoint(kind):
    with gpu(kind):
        first, second, again = (losses("cuda", 2, 0.3, checkpoint)[0] for checkpoint in (False, False, True))
        assert first == second and first != losses("cuda", 2)[0]
        np.testing.assert_allclose(again, first, rtol=1e-6)
        x = tg.ones(4, 5, device="cuda", requires_grad=True)
        state = tg.get_rng_state()
        a, b = F.dropout(x, 0.5), F.dropout(x, 0.5)
        tg.set_rng_state(state)
        assert a.tolist() != b.tolist() and F.dropout(x, 0.5).tolist() == a.tolist()
        a.sum().backward()
        assert x.grad.tolist() == a.tolist()  # the way back drops the same


@pytest.mark.cuda
def test_a_run_is_the_same_every_time():
    assert losses("cuda", 5, 0.1)[0] == losses("cuda", 5, 0.1)[0]


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
