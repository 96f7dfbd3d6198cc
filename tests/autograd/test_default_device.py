"""Where tensors are made that are given no device: set for a thread, or for a block. The GPU is a pretended one."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda import pretend
from tinygrad_llm import kernels, nn
from tinygrad_llm.models import GPTModel

CPU, GPU = tg.device("cpu"), tg.device("cuda:0")
MAKERS = [
    lambda: tg.tensor([1, 2]), lambda: tg.as_tensor([1.0]), lambda: tg.as_tensor(np.ones(2)), lambda: tg.zeros(2),
    lambda: tg.as_tensor(tg.ones(2, device="cpu")), lambda: tg.ones(2), lambda: tg.empty(2), lambda: tg.full((2,), 3),
    lambda: tg.arange(3), lambda: tg.linspace(0, 1, 3), lambda: tg.logspace(0, 1, 3), lambda: tg.eye(2),
    lambda: tg.rand(2), lambda: tg.randn(2), lambda: tg.randint(3, (2,)), lambda: tg.randperm(3),
    lambda: tg.normal(0.0, 1.0, (2,)), lambda: tg.tril_indices(2, 2), lambda: tg.triu_indices(2, 2),
    lambda: tg.asarray([1]), lambda: nn.Linear(2, 2).weight, lambda: nn.BatchNorm1d(2).running_mean,
    lambda: nn.Embedding(2, 2).weight,
]  # fmt: skip


@pytest.fixture
def gpu():
    with pretend.gpu(), kernels.use("reference"):
        yield
        tg.set_default_device(None)


@pytest.mark.parametrize("make", MAKERS)
def test_whatever_makes_tensors_makes_them_there(gpu, make):
    assert make().device == CPU
    tg.set_default_device("cuda")
    assert make().device == GPU
    with tg.device("cpu"):
        assert make().device == CPU


def test_what_says_or_has_its_place_keeps_it(gpu):
    here = tg.ones(2)
    with tg.device("cuda"):
        made = [
            tg.ones(2, device="cpu"), tg.zeros_like(here), here.new_ones(2), here + 1, here.clone(), here.cumsum(0),
            tg.from_numpy(np.ones(2)), tg.frombuffer(bytearray(4), dtype=tg.float32), tg.Tensor([1.0]),
            tg.rand_like(here), tg.bernoulli(here), tg.multinomial(here, 1),
        ]  # fmt: skip
    assert {x.device for x in made} == {CPU}


def test_blocks_nest_and_end_with_what_was_before(gpu):
    assert tg.get_default_device() == CPU
    with tg.device("cuda"):
        assert tg.get_default_device() == GPU
        with tg.device("cpu") as inner:
            assert inner == CPU and tg.ones(1).device == CPU
            tg.set_default_device("cuda:0")  # the block goes before
            assert tg.get_default_device() == CPU
        assert tg.ones(1).device == GPU
    assert tg.get_default_device() == GPU
    with pytest.raises(ZeroDivisionError), tg.device("cpu"):
        1 / 0  # noqa: B018
    assert tg.get_default_device() == GPU
    tg.set_default_device(None)
    assert tg.get_default_device() == CPU


def test_it_holds_for_its_thread_alone(gpu):
    tg.set_default_device("cuda")
    found = []
    thread = threading.Thread(target=lambda: found.append(tg.ones(1).device))
    thread.start()
    thread.join()
    assert found == [CPU] and tg.ones(1).device == GPU


def test_a_model_is_made_trained_and_loaded_there(gpu, tmp_path):
    config = {"vocab_size": 7, "context_length": 4, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    tg.manual_seed(0)
    here = GPTModel(config)
    here.save_pretrained(tmp_path)
    with tg.device("cuda"):
        tg.manual_seed(0)
        there = GPTModel(config)
        assert {p.device for p in there.parameters()} == {GPU}
        assert all(tg.equal(p.cpu(), q) for p, q in zip(there.parameters(), here.parameters(), strict=True))
        ids = tg.tensor([[1, 2, 3]])
        there.loss(ids, ids).backward()
        tg.optim.AdamW(there.parameters(), lr=0.1).step()
        again = GPTModel.from_pretrained(tmp_path)
        assert {p.device for p in again.parameters()} == {GPU}
        assert tg.allclose(again(ids).cpu(), here(ids.cpu()), atol=1e-6)


def test_a_gpu_that_is_not_there_is_told_when_it_is_used():
    if tg.cuda.is_available():
        pytest.skip("there is a GPU")
    tg.set_default_device("cuda")
    try:
        with pytest.raises(RuntimeError, match="device cuda: "):
            tg.ones(2)
    finally:
        tg.set_default_device(None)
    with pytest.raises(RuntimeError, match="expected cpu or cuda"):
        tg.set_default_device("tpu")
    assert tg.ones(2).device == CPU


@pytest.mark.torch
def test_its_names_are_pytorchs():
    torch = pytest.importorskip("torch")
    for lib in (tg, torch):
        with lib.device("cpu") as place:
            assert repr(place) == "device(type='cpu')" and lib.get_default_device() == place
        assert lib.set_default_device("cpu") is None
        lib.set_default_device(None)
