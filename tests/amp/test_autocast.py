"""Regions of autocast: where they hold, what is cast, what is kept, and where gradients are rounded."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda import pretend
from tinygrad_llm import kernels, nn
from tinygrad_llm.autograd import autocast, registry
from tinygrad_llm.autograd.graph import captured, newest_first
from tinygrad_llm.models import GPTModel
from tinygrad_llm.nn import functional as F
from tinygrad_llm.utils.checkpoint import checkpoint

HALF = pytest.mark.parametrize("half", [tg.bfloat16, tg.float16])
SMALL = {"vocab_size": 61, "context_length": 16, "emb_dim": 32, "n_heads": 2, "n_layers": 2, "drop_rate": 0.0}


def product(x: tg.Tensor | None = None) -> tg.dtype:
    x = tg.ones(2, 2) if x is None else x
    return (x @ x).dtype


def test_regions_nest_and_end():
    assert product() is tg.float32 and not tg.is_autocast_enabled("cpu")
    with tg.autocast("cpu"):
        assert product() is tg.bfloat16 and tg.is_autocast_enabled("cpu") and not tg.is_autocast_enabled("cuda")
        with tg.autocast("cpu", tg.float16):
            assert product() is tg.float16 and tg.get_autocast_dtype("cpu") is tg.float16
            with tg.autocast("cpu", enabled=False):
                assert product() is tg.float32
            assert product() is tg.float16
        assert product() is tg.get_autocast_dtype("cpu") is tg.bfloat16
        with pytest.raises(ZeroDivisionError), tg.autocast("cpu", tg.float16):
            raise ZeroDivisionError
        assert product() is tg.bfloat16
    assert product() is tg.float32 and autocast.regions == 0 and not autocast.state.kept
    assert product(tg.ones(2, 2, dtype=tg.float64)) is tg.float64


def test_a_decorated_function_has_a_region_of_its_own():
    @tg.autocast("cpu", tg.float16)
    def count(n):
        return [product(), *(count(n - 1) if n else [])]

    assert count(3) == [tg.float16] * 4 and product() is tg.float32 and count.__name__ == "count"


def test_a_region_is_its_threads_alone():
    seen = []
    with tg.autocast("cpu"):
        thread = threading.Thread(target=lambda: seen.append(product()))
        thread.start()
        thread.join()
    assert seen == [tg.float32]


def test_what_cannot_be_is_said():
    with pytest.warns(UserWarning, match="float32 is not supported"), tg.autocast("cpu", tg.float32):
        assert product() is tg.float32
    with pytest.raises(RuntimeError, match="device_type 'tpu'"):
        tg.autocast("tpu")
    with pytest.raises(TypeError):
        tg.autocast("cpu", np.float16)


def test_every_listed_function_casts():
    """Each name on a list is that of a function here, and it carries the decorator."""
    names = {name for lists in autocast.LISTS.values() for some in lists.values() for name in some}
    for name in names:
        function = getattr(tg, name, None) or getattr(F, name, None) or getattr(F.layers, name, None)
        function = function or F.attention.attention_of_packed
        assert hasattr(function, "__wrapped__"), name


def test_a_weight_is_cast_once_a_region_and_again_when_it_was_written_to():
    layer, x = nn.Linear(3, 3), tg.ones(1, 3)
    casts: list[int] = []

    def arrays() -> list[int]:
        with registry_of_casts(casts):
            return [layer(x).array.tolist()[0][0]]

    with tg.autocast("cpu"):
        first = arrays()
        assert arrays() == first and casts.count(9) == 1
        with tg.no_grad(), tg.autocast("cpu"):
            assert arrays() == first and casts.count(9) == 1
            layer.weight.fill_(2.0)
        assert arrays() != first and casts.count(9) == 2
        layer.weight.data = tg.zeros(3, 3)
        arrays()
        assert casts.count(9) == 3
    with tg.autocast("cpu", cache_enabled=False):
        arrays(), arrays()
        assert casts.count(9) == 5


class registry_of_casts:
    """Notes the sizes of the arrays that are cast."""

    def __init__(self, sizes: list[int]):
        self.sizes = sizes

    def __enter__(self) -> None:
        self.before = autocast._as
        autocast._as = lambda array, to: self.sizes.append(array.size) or self.before(array, to)

    def __exit__(self, *exc: object) -> None:
        autocast._as = self.before


@HALF
def test_a_weights_gradient_is_a_float32_sum_of_rounded_factors(half):
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(shape).astype(np.float32) for shape in ((50, 7), (5, 7), (50, 5)))
    weight, bias = tg.tensor(w, requires_grad=True), tg.zeros(5, requires_grad=True)
    with tg.autocast("cpu", half):
        y = F.linear(tg.tensor(x), weight, bias)
    y.backward(tg.tensor(g).to(half))
    narrow = [a.astype(half.numpy).astype(np.float32) for a in (x, g)]
    assert weight.grad.dtype is tg.float32
    np.testing.assert_allclose(weight.grad.numpy(), narrow[1].T @ narrow[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bias.grad.numpy(), narrow[1].sum(0), rtol=1e-5, atol=1e-5)
    assert (weight.grad.numpy() != weight.grad.to(half).float().numpy()).any()


def recorded(act):
    """The names of the ops that run, forward."""
    names = []
    registry.watch, before = lambda name, way, run: (way == "forward" and names.append(name)) or run(), registry.watch
    try:
        act()
    finally:
        registry.watch = before
    return names


def batch() -> tuple[tg.Tensor, tg.Tensor]:
    ids = tg.from_numpy(np.random.default_rng(0).integers(0, 61, (3, 17)))
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.parametrize("drop_rate", [0.0, 0.1])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fused_ops_stay_fused(device, drop_rate):
    with pretend.gpu(), kernels.use("reference"):
        model = GPTModel(SMALL | {"drop_rate": drop_rate}).to(device)
        ids = [x.to(device) for x in batch()]
        with tg.autocast(device, tg.bfloat16):
            narrow = recorded(lambda: model.loss(*ids).backward())
    assert {"attention_of_packed", "linear_cross_entropy"} <= set(narrow)
    assert {"gelu", "matmul", "cross_entropy", "attention"}.isdisjoint(narrow)
    if device == "cuda":
        assert {"feed_forward", "dropout_add_norm"} <= set(narrow)
        assert narrow.count("add") <= 2  # of the embeddings, and behind the last block
    else:
        assert "activated_linear" in narrow and ("dropout_add" in narrow) == (drop_rate > 0)


@HALF
def test_activations_are_kept_in_16_bits(half):
    model = GPTModel(SMALL)
    with tg.autocast("cpu", half):
        loss = model.loss(*batch())
    assert loss.dtype is tg.float32
    for node in newest_first(loss.node):
        for array in captured(node.pull):
            if node.op.name in ("linear", "activated_linear") and array.size >= 3 * 16 * 32:
                assert array.dtype == half.numpy, node.op.name


@HALF
@pytest.mark.parametrize("way", ["checkpoint", "parts side by side"])
def test_what_is_computed_elsewhere_is_in_the_region_too(half, way, monkeypatch):
    model = GPTModel(SMALL)
    with tg.autocast("cpu", half):
        model.loss(*batch()).backward()
    expected = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    model.checkpoint = way == "checkpoint"
    if way != "checkpoint":
        monkeypatch.setattr("tinygrad_llm.models.gpt.parts_of_batch", lambda *args: 3)
    with tg.autocast("cpu", half):
        loss = model.loss(*batch())
    loss.backward()
    for p, e in zip(model.parameters(), expected, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), e, rtol=0, atol=(0 if model.checkpoint else 0.02) * np.abs(e).max())


def test_a_checkpoint_inside_a_region_runs_again_in_it():
    seen = []

    def act(x):
        seen.append(product(x))
        return (x @ x).sum()

    x = tg.ones(2, 2, requires_grad=True)
    with tg.autocast("cpu", tg.float16):
        y = checkpoint(act, x, use_reentrant=False)
    y.backward()
    assert seen == [tg.float16] * 2
    y = checkpoint(act, x, use_reentrant=False)
    with tg.autocast("cpu", tg.float16):
        y.backward()
    assert seen[2:] == [tg.float32] * 2


def test_a_gpus_lists_are_its_own():
    with pretend.gpu(), kernels.use("reference"):
        here, there = tg.ones(2, 2), tg.ones(2, 2, device="cuda")
        with tg.autocast("cuda"):
            assert product(there) is tg.float16 and product(here) is tg.float32
            assert there.half().softmax(-1).dtype is there.half().exp().dtype is tg.float32
            assert F.layer_norm(there.half(), (2,)).dtype is (there.half() ** 2).dtype is tg.float32
            assert F.gelu(there.half()).dtype is tg.float16 and there.half().sum().dtype is tg.float32
            assert tg.dot(there[0], there[0].half()).dtype is tg.float32
            with pytest.raises(RuntimeError, match="unsafe to autocast"):
                F.binary_cross_entropy(there, there)
        with tg.autocast("cpu"):
            assert product(there) is tg.float32 and here.bfloat16().softmax(-1).dtype is tg.bfloat16
