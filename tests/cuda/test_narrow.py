"""The CUDA kernels on bfloat16 and float16: their own code on the processor, and on a GPU where there is one."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as torch
from tests.cuda import emulated
from tests.cuda.kinds import back, moved
from tests.cuda.narrow import DTYPES, EPS, Rounded, close, extremes, half_calls, half_choices
from tests.kernels.test_kernels import KEY, floats
from tinygrad_llm.kernels import CUDA, REFERENCE
from tinygrad_llm.kernels.cuda import losses, sdp
from tinygrad_llm.models import GPTModel
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn.functional.layers import dropout_add_norm

CALLS = half_calls(40, 64, "bfloat16") | half_calls(40, 64, "bfloat16", False) | half_calls(3, 31, "bfloat16", False)
CALLS |= {  # the kernels' text is the same: some of each file will do
    name: call for name, call in (half_calls(260, 6, "float16") | half_calls(40, 64, "float16")).items()
    if name.startswith(("column_sums", "softmax, 40", "cross_entropy", "layer_norm, 40", "activate, ", "add_at, 40"))
}  # fmt: skip
MORE = {  # on a GPU alone
    **half_calls(257, 768, "bfloat16"), **half_calls(257, 768, "bfloat16", False), **half_calls(5, 2056, "bfloat16"),
    **half_calls(65, 129, "float16"),
}  # fmt: skip
CHOICES = {name: (x, u) for name, x, u in half_choices()}
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
each_way = pytest.mark.parametrize("where", ["emulated", pytest.param("gpu", marks=pytest.mark.cuda)])


def on(where: str) -> contextlib.AbstractContextManager[None]:
    """Inside, device "cuda" is the processor or the GPU."""
    return emulated.gpu() if where == "emulated" else contextlib.nullcontext()


def outputs(result: Any) -> list[np.ndarray]:
    return [np.asarray(back(y)) for y in (result if isinstance(result, tuple) else (result,)) if y is not None]


def check(call: Any, arrays: list[np.ndarray]) -> None:
    with np.errstate(all="ignore"):
        wanted = outputs(call(Rounded(), *arrays))
    found = outputs(call(CUDA, *moved(arrays)))
    terms = max((n for a in arrays for n in a.shape), default=1)
    assert len(found) == len(wanted)
    for y, z in zip(found, wanted, strict=True):
        close(y, z, terms)


@pytest.mark.parametrize("name", CALLS)
def test_as_the_reference_rounded(name):
    with emulated.gpu():
        check(*CALLS[name])


@pytest.mark.cuda
@pytest.mark.parametrize("name", CALLS | MORE)
def test_as_the_reference_rounded_on_a_gpu(name):
    check(*(CALLS | MORE)[name])


@pytest.mark.parametrize("name", [name for name in CALLS if "3 x 31" in name])
def test_the_order_in_which_threads_run_changes_nothing(name, monkeypatch):
    call, arrays = CALLS[name]
    with emulated.gpu():
        there = moved(arrays)
        first = outputs(call(CUDA, *there))
        monkeypatch.setattr(emulated, "backwards", True)
        for y, z in zip(outputs(call(CUDA, *there)), first, strict=True):
            np.testing.assert_array_equal(y, z)


@each_way
@pytest.mark.parametrize("name", CHOICES)
def test_the_tokens_drawn_are_those_of_the_reference(name, where):
    x, u = CHOICES[name]
    with on(where):
        for options in ((0, None, None, None), (1.5, None, None, None), (0.7, 7, 0.9, 0.01)):
            found = back(CUDA.sample(moved(x), u, *options))
            np.testing.assert_array_equal(found, REFERENCE.sample(x.astype(np.float64), u, *options))


@each_way
@each_dtype
def test_extremes(dtype, where):
    """The largest numbers do not overflow on the way, nan and infinity stay in their rows, tiny ones are not lost."""
    x, weight = extremes(dtype), floats(40).astype(dtype)
    g = floats(6, 40).astype(dtype)
    with on(where):
        there, other, w = moved(x), moved(g), moved(weight)
        y, _, _ = (back(a) for a in CUDA.layer_norm(there, w, w, 1e-12))
        for found in (y, back(CUDA.softmax(there)), back(CUDA.cross_entropy(there, moved(np.zeros(6, np.int64)))[0])):
            lost = np.isnan(found.astype(np.float64)).reshape(6, -1).all(axis=1)
            assert lost[0] and lost[1] and not lost[3:].any()
        assert abs(y[3].astype(np.float64)).max() < 20  # the mean of squares is beyond float16, not beyond float32
        assert y[4].astype(np.float64).std() > 0.1
        for call in (lambda k, *a: k.activate(*a, None, "gelu_tanh"), lambda k, *a: k.dropout(*a, 7, 0.5)):
            with np.errstate(all="ignore"):
                wanted = call(Rounded(), x)
            np.testing.assert_allclose(back(call(CUDA, there)).astype(np.float64), wanted.astype(np.float64), rtol=0.01)
        s, _, _, _ = CUDA.dropout_add_norm(there, None, 0.0, there, w, w, 1e-5)
        assert np.isinf(back(s).astype(np.float64)[3, 11])  # twice the largest is infinity where it is stored
        s, _, _, _ = CUDA.dropout_add_norm(there, None, 0.0, moved(g.astype(np.float32)), w, w, 1e-5)
        assert np.isfinite(back(s)[3]).all()
        _, mean, rstd = CUDA.layer_norm(there, w, w, 1e-5)
        dx = back(CUDA.layer_norm_backward(other, there, w, mean, rstd, (True, True, True))[0])
        assert np.isfinite(dx[4:].astype(np.float64)).all()


@each_way
@each_dtype
@pytest.mark.parametrize("layout", ["transposed", "gaps", "reversed"])
def test_memory_layouts(dtype, layout, where):
    """Strides are undone, and rows that do not start at multiples of 16 bytes are read one by one."""
    x, weight = floats(8, 16).astype(dtype), floats(16).astype(dtype)
    with on(where):
        room = moved(np.zeros((16, 48), dtype))
        view = {"transposed": room[:, :8].T, "gaps": room[:8, ::3], "reversed": room[:8, 15::-1]}[layout]
        view[...] = moved(x)
        for call in (lambda k, x, w: k.layer_norm(x, w, None, 1e-5)[0], lambda k, x, w: k.activate(x, w, "gelu_tanh"),
                     lambda k, x, w: k.softmax(x), lambda k, x, w: k.column_sums(x)):  # fmt: skip
            close(np.asarray(back(call(CUDA, view, moved(weight)))), call(Rounded(), x, weight), 16)
        flat = moved(np.concatenate([weight[:1], x.reshape(-1)]))
        rows = flat[1:].reshape(8, 16)
        close(np.asarray(back(CUDA.softmax(rows))), Rounded().softmax(x), 16)
        close(np.asarray(back(CUDA.dropout(rows, 7, 0.5))), Rounded().dropout(x, 7, 0.5), 16)


@each_way
def test_pairs_of_dtypes_that_no_kernel_serves_take_the_way_of_the_reference(where):
    """In float32, and rounded once: also where a mask lies in memory, a row is too wide, or nothing is there."""
    half, other = DTYPES["bfloat16"], DTYPES["float16"]
    x, weight, keep = floats(4, 16), floats(16), floats(4, 16) > 0
    with on(where), emulated.launch.counted() as launches:
        for a, w in ((x.astype(half), weight.astype(other)), (x.astype(half)[:0], weight)):
            y, mean, _ = CUDA.layer_norm(moved(a), moved(w), None, 1e-5)
            assert mean.dtype == np.float32
            close(np.asarray(back(y)), Rounded().layer_norm(a, w, None, 1e-5)[0], 16)
        dropped = CUDA.dropout(moved(x.astype(half)), moved(keep), 0.5, moved(x))
        close(np.asarray(back(dropped)), Rounded().dropout(x.astype(half), keep, 0.5, x), 16)
        assert not launches
        wide = floats(2, 9001).astype(half)
        found = CUDA.dropout_add_norm(moved(wide), 7, 0.5, moved(wide), None, None, 1e-5)
        assert launches == {"dropout": 1, "layer_norm": 1}
        for y, z in zip(found, Rounded().dropout_add_norm(wide, 7, 0.5, wide, None, None, 1e-5), strict=True):
            close(np.asarray(back(y)), z, 9001)


@each_way
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), DTYPES["bfloat16"]], ids=str)
def test_logits_block_by_block(dtype, where, monkeypatch):
    """The loss and dx do not depend on how many rows have their logits at once; dweight is added up in float32."""
    x, weight, ids, g = floats(10, 8).astype(dtype), floats(70, 8), np.arange(10), floats(10)
    with on(where):
        given = moved([x, weight, ids, g])
        whole = outputs(CUDA.linear_cross_entropy(*given, (True, True)))
        monkeypatch.setattr(losses, "LOGITS", 3 * 128)
        parts = outputs(CUDA.linear_cross_entropy(*given, (True, True)))
        assert CUDA.linear_cross_entropy(*given, (False, False))[1:] == (None, None)
    assert [y.dtype for y in parts] == [np.float32, dtype, np.float32] and parts[2].shape == (70, 8)
    error = 8 * EPS[dtype] if where == "gpu" else 0.0  # cuBLAS may sum in another order where there are fewer rows
    for y, z in zip(parts, whole, strict=True):
        np.testing.assert_allclose(y.astype(np.float32), z.astype(np.float32), rtol=1e-5, atol=error + 1e-5)


@each_way
@pytest.mark.parametrize("trunk", ["float32", "bfloat16"])
def test_one_op_for_a_part_of_16_bits(trunk, where):
    """Beside a shortcut and weights in float32, as under autocast, or all in 16 bits."""
    torch.manual_seed(0)
    part, shortcut, weight, bias = torch.randn(6, 16), torch.randn(6, 16), torch.randn(16), torch.randn(16)
    there = []
    with on(where):
        for t, dtype in ((part, torch.bfloat16), *((t, getattr(torch, trunk)) for t in (shortcut, weight, bias))):
            there.append(t.to(dtype).cuda().requires_grad_())
        s, y = dropout_add_norm(there[0], there[1], 0.0, True, there[2], there[3], 1e-5)
        assert str(s.dtype) == f"torch.{trunk}" and y.dtype is torch.bfloat16
        ((s.float() * 2).sum() + (y.float() ** 2).sum()).backward()
        assert [t.grad.dtype for t in there] == [t.dtype for t in there]
        found = [np.asarray(back(t.grad.array)).astype(np.float64) for t in there]
    here = [t.detach().cpu().double().requires_grad_() for t in there]
    s = here[0] + here[1]
    y = F.layer_norm(s, (16,), here[2], here[3])
    ((s * 2).sum() + (y**2).sum()).backward()
    for d, t in zip(found, here, strict=True):
        np.testing.assert_allclose(d, t.grad.numpy(), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_a_step_under_autocast(rate, monkeypatch):
    """The kernels serve the dtypes that meet there: 16 bits between products, float32 weights and shortcut."""
    monkeypatch.setitem(sdp.allowed, "cudnn", False)
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "context_length": 8, "emb_dim": 48, "n_heads": 3, "n_layers": 2, "drop_rate": rate}
    model = GPTModel(sizes)
    ids = torch.randint(61, (2, 9))
    whole = model.eval().loss(ids[:, :-1], ids[:, 1:]).item()
    with emulated.gpu(), emulated.launch.counted() as launches:
        there, ids = model.train().cuda(), ids.cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = there.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        assert loss.dtype is torch.float32 and abs(loss.item() - whole) < (0.02 if rate == 0 else 0.5)
        assert all(p.grad.dtype is torch.float32 and np.isfinite(back(p.grad.array)).all() for p in there.parameters())
    names = ("dropout_add_norm", "dropout_add_norm_backward")
    assert {launches[name] for name in names} == {4} and launches["loss_then_gradient"] == 1
    assert launches["layer_norm"] == launches["layer_norm_backward"] == 1
    assert launches["activate"] == 0 and launches["activate_backward"] == 2  # GELU is a part of products


@given(data=st.data(), n=st.integers(1, 5), c=st.sampled_from([3, 32]), p=st.sampled_from([0.0, 0.25, 0.9]))
@settings(max_examples=15, deadline=None)
def test_one_kernel_gives_what_two_give(data, n, c, p):
    """The same bits as dropout added to the shortcut and the layer norm of that, forward and backward."""
    dtype = data.draw(st.sampled_from([np.dtype(np.float32), DTYPES["bfloat16"]]))
    keep = None if p == 0 else data.draw(st.integers(0, 2**63 - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x, shortcut, g, d = (rng.standard_normal((n, c)).astype(dtype) for _ in range(4))
    weight = rng.standard_normal(c).astype(dtype)
    with emulated.gpu():
        x, shortcut, g, d, weight = moved([x, shortcut, g, d, weight])
        s, y, mean, rstd = CUDA.dropout_add_norm(x, keep, p, shortcut, weight, weight, 1e-5)
        s2 = CUDA.dropout(x, KEY if keep is None else keep, p, shortcut)
        np.testing.assert_array_equal(back(s), back(s2))
        for a, b in zip((y, mean, rstd), CUDA.layer_norm(s2, weight, weight, 1e-5), strict=True):
            np.testing.assert_array_equal(back(a), back(b))
        needs = data.draw(st.tuples(*[st.booleans()] * 4))
        dx, ds, dweight, dbias = CUDA.dropout_add_norm_backward(g, d, s, weight, mean, rstd, keep, p, needs)
        assert [a is not None for a in (dx, ds, dweight, dbias)] == list(needs)
        alone = CUDA.layer_norm_backward(g, s, weight, mean, rstd, (True, True, True))
        for a, b in zip((dweight, dbias), alone[1:], strict=True):
            assert a is None or np.array_equal(back(a), back(b))
        if dx is not None and ds is not None and keep is None:
            assert dx is ds
