"""Two GPUs, the first of them current: what lies on the second is worked on there, and what comes of it lies there."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.cuda import emulated, pretend
from tests.cuda.kinds import second
from tests.cuda.test_captured import RECIPE
from tests.cuda.test_ops import run
from tests.cuda.test_training import losses
from tests.ops.samples import SAMPLES
from tinygrad_llm import kernels
from tinygrad_llm.autograd.registry import OPS
from tinygrad_llm.data import Windows
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import Trainer


@pytest.mark.parametrize("name", sorted(OPS))
@given(data=st.data(), seed=st.integers(0, 1000))
@settings(max_examples=2, suppress_health_check=list(HealthCheck))
def test_ops(name, data, seed):
    sample = data.draw(SAMPLES[name]).to(np.float64)
    with second():
        for ours, theirs in zip(run(name, sample, True, seed), run(name, sample, False, seed), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("changes", [{}, {"drop_rate": 0.1, "checkpoint": True}, {"tie_weights": True}])
def test_training(changes):
    with second():
        there, model = losses("cuda:1", 3, **changes)
        assert {str(p.device) for p in model.parameters()} == {"cuda:1"}
    with pretend.gpu(), kernels.use("reference"):
        assert there == losses("cuda", 3, **changes)[0]


def test_what_makes_tensors_of_others():
    """Functions beside the ops: in place, by index, drawn, counted."""
    with second():
        x = tg.tensor([[1.0, 5.0, 3.0], [4.0, 2.0, 6.0]], device="cuda:1")
        i, mask = tg.tensor([1, 0], device="cuda:1"), x > 2
        y = x.clone()
        y[0] = 1.0
        y[1, :2] = tg.tensor([2.0, 3.0], device="cuda:1")
        y[i, i] = 4.0
        y[mask] = -1.0
        y[1].copy_(tg.arange(3.0))
        y += x
        made = [
            y, x[i], x[mask], x[:, [0, 2]], x.long(), x.int().float(), x.bool(), x.double().half().float(),
            tg.zeros_like(x), tg.ones_like(x), tg.full_like(x, 2.0), tg.rand_like(x), tg.randn_like(x), x.new_zeros(2),
            x.new_tensor([1]), x.clone().normal_(), x.clone().uniform_(), x.clone().zero_(), x.clone().fill_(3.0),
            tg.where(mask, 1.0, 2.0), tg.where(mask, x, y), x.unfold(1, 2, 1), x.repeat_interleave(2), x.sort().values,
            x.sort().indices, x.median(), x.nonzero(), x.diag(), x.argmax(), x.argmax(1), x.max(1).indices,
            x.topk(2).values, x.cumsum(1), x.masked_fill(mask, 0.0), x.gather(1, i[:, None]), x.index_select(1, i),
            x.index_add(0, i, x),
            x.scatter(1, i[:, None], 1.0), x.clip(1, 2), x.flip(0), x.roll(1), x.tril(), tg.cat([x, y]),
            tg.stack([x, y]), tg.einsum("ij,kj->ik", x, y), x @ y.T, x.softmax(-1), tg.nn.functional.one_hot(i),
            x.quantile(0.5), x.std(),
            tg.isin(x, tg.tensor([1.0])), tg.bucketize(x, tg.arange(3.0, device="cuda:1")), x.count_nonzero(), x.all(),
            x == y, x.bernoulli_(0.5), tg.multinomial(x + 1, 2), tg.nn.functional.dropout(x, 0.5), x.round(), -x, x**2,
            2 / (x + 1), x % 2, x // 2, tg.maximum(x, y), tg.logical_and(mask, mask), x.unique(),
            tg.randperm(3, device="cuda:1"), tg.tensor(1.0) * x, x.to("cuda:0").to("cuda:1"), copy.deepcopy(x),
            x.detach(), x.abs().clamp_(max=1),
            tg.nn.functional.cross_entropy(x, i), tg.nn.functional.nll_loss(x, i), tg.nn.functional.embedding(i, x),
            tg.nn.functional.mse_loss(x, y), tg.nn.functional.scaled_dot_product_attention(x[None], y[None], x[None]),
            tg.nn.functional.gelu(x), tg.nn.functional.layer_norm(x, (3,)), tg.linspace(0, 1, 3, device="cuda:1"),
        ]  # fmt: skip
        for j, made_here in enumerate(made):
            assert str(made_here.device) == "cuda:1", j
        assert tg.equal(x, x.clone()) and 1e9 not in x and tg.allclose(x, x) and (x.isfinite()).all()
        assert x.to("cuda:0").device == tg.device("cuda:0") and str(x)
        with pytest.raises(RuntimeError, match="at least two devices, cuda:1 and cuda:0"):
            x + x.to("cuda:0")


@pytest.mark.parametrize("graph", [False, True])
def test_a_trainer(graph):
    """With the kernels of the .cu files, captured and not: the numbers of the first GPU, to the last bit."""

    def trained(device: str) -> Any:
        tg.manual_seed(0)
        windows, rng = Windows(np.arange(99) % 11, RECIPE.context), np.random.default_rng(0)
        model = GPTModel(RECIPE.model_config(11)).to(device)
        trainer = Trainer(model, RECIPE, windows, windows, rng, device, graph=graph, warn=pytest.fail)
        found = [trainer.train_step() for _ in range(5)]
        return found, [p.tolist() for p in model.parameters()], {str(p.device) for p in model.parameters()}

    with second("auto"):
        there = trained("cuda:1")
    with emulated.gpu():
        assert there == (*trained("cuda")[:2], {"cuda:1"})


def test_which_gpu_is_meant():
    with pretend.gpu(2):
        assert tg.cuda.device_count() == 2 and tg.ones(1, device="cuda").get_device() == 0
        with tg.cuda.device(1):
            assert tg.cuda.current_device() == 1 and tg.ones(1, device="cuda").get_device() == 1
            with tg.cuda.device("cuda:0"), tg.cuda.device(None), tg.cuda.device(-1):
                assert tg.cuda.current_device() == 0
        assert tg.cuda.current_device() == 0
        with pytest.raises(RuntimeError, match=r"cuda:7: .* the last is cuda:1"), tg.cuda.device(7):
            pass
        with pytest.raises(AssertionError, match=r"arrays of GPUs \[1\] are used while GPU 0 is current"):
            np.exp(tg.ones(1, device="cuda:1").array)  # what the other tests would see


def test_a_graph_takes_work_of_its_own_gpu_alone():
    with emulated.gpu(2):
        x = tg.ones(8, device="cuda:1")
        with pytest.raises(RuntimeError, match=r"captured on cuda:0.* for cuda:1"), tg.cuda.graph(tg.cuda.CUDAGraph()):
            tg.nn.functional.gelu(x)
        graph = tg.cuda.CUDAGraph()
        with tg.cuda.device(1), tg.cuda.graph(graph):
            y = tg.nn.functional.gelu(x)
        graph.replay()
        assert y.get_device() == 1 and y.tolist() == tg.nn.functional.gelu(x).tolist()


def test_a_stream_brings_its_gpu():
    with pretend.gpu(2):
        side = tg.cuda.Stream("cuda:1")
        tg.cuda.current_stream().wait_stream(side)
        with tg.cuda.stream(side):
            assert tg.cuda.current_device() == 1 and tg.cuda.current_stream() == side
        assert tg.cuda.current_device() == 0


@pytest.mark.cuda
def test_a_second_gpu():
    if tg.cuda.device_count() < 2:
        pytest.skip("only one GPU")
    there, model = losses("cuda:1", 5, drop_rate=0.1)
    assert tg.cuda.current_device() == 0 and {str(p.device) for p in model.parameters()} == {"cuda:1"}
    assert there == losses("cuda:0", 5, drop_rate=0.1)[0]
