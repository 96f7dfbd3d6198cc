"""Tensors on a GPU beside those in main memory: made, moved, never mixed; and machines that have no GPU."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda import pretend
from tests.cuda.kinds import each_gpu, gpu
from tinygrad_llm import devices, nn
from tinygrad_llm.commandline import Parser, add_device_flags, use_device
from tinygrad_llm.nn import functional as F

DIFFERENT = r"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"


@each_gpu
def test_moving_there_and_back(kind):
    with gpu(kind):
        x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        for y in (x.to("cuda"), x.cuda(), x.to("cuda:0"), x.to(device=tg.device("cuda", 0)), x.cuda(0)):
            assert y.device == tg.device("cuda:0") and y.is_cuda and not y.is_cpu and y.get_device() == 0
            assert y.to("cuda") is y and y.cpu().device == tg.device("cpu")
            assert y.tolist() == x.tolist()
        (x.cuda() * 3).sum().cpu().backward()
        assert x.grad.device == tg.device("cpu") and x.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]
        assert "device='cuda:0'" in repr(x.cuda())
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            x.detach().cuda().numpy()


@each_gpu
def test_everything_that_makes_tensors_makes_them_there(kind):
    with gpu(kind):
        x = tg.zeros(2, 3, device="cuda")
        made = [
            tg.tensor([1, 2], device="cuda"), tg.ones(2, device="cuda:0"), tg.full((2,), 3, device="cuda"),
            tg.arange(3, device="cuda"), tg.linspace(0, 1, 3, device="cuda"), tg.eye(2, device="cuda"),
            tg.rand(2, device="cuda"), tg.randn(20, device="cuda"), tg.randint(3, (2,), device="cuda"),
            tg.randperm(3, device="cuda"), tg.zeros_like(x), tg.ones_like(x), tg.full_like(x, 2.0), tg.rand_like(x),
            x.new_zeros(2), x.new_tensor([1]), tg.empty(2, device="cuda").normal_(), x.clone().uniform_(),
            tg.where(x > 0, 1.0, 2.0), x.unfold(1, 2, 1), x.repeat_interleave(2), tg.multinomial(x[0] + 1, 2),
            x[tg.tensor([0, 1])], x[:, [0, 2]], x.sort().indices, x.median(), x.nonzero(), tg.erfc(x), x.diag(),
            F.one_hot(tg.tensor([0, 1], device="cuda")), F.dropout(x, 0.5), x.bernoulli_(0.5), x.quantile(0.5),
            tg.isin(x, tg.tensor([0.0])), tg.bucketize(x, tg.arange(3.0, device="cuda")), x.count_nonzero(), x.all(),
        ]  # fmt: skip
        assert {str(y.device) for y in made} == {"cuda:0"}


@each_gpu
def test_the_numbers_drawn_are_those_of_the_cpu(kind):
    with gpu(kind):
        for draw in (tg.randn, tg.rand):
            tg.manual_seed(3)
            expected = draw(40)
            tg.manual_seed(3)
            assert draw(40, device="cuda").tolist() == expected.tolist()


@each_gpu
def test_tensors_of_two_devices_are_not_mixed(kind):
    with gpu(kind):
        x, y = tg.ones(2, 2), tg.ones(2, 2, device="cuda")
        ids, mask = tg.tensor([0, 1]), tg.tensor([[True, False], [True, True]])
        for mix in (
            lambda: x + y, lambda: y * x, lambda: x @ y, lambda: y @ x, lambda: tg.where(mask, y, y),
            lambda: tg.cat([x, y]), lambda: tg.stack([y, x]), lambda: x > y, lambda: y == x, lambda: tg.equal(x, y),
            lambda: F.linear(y, x), lambda: F.embedding(ids, y), lambda: F.cross_entropy(y, ids),
            lambda: F.layer_norm(y, (2,), x[0]), lambda: y.gather(1, ids[None]), lambda: y.masked_fill(mask, 0.0),
            lambda: tg.einsum("ij,jk->ik", x, y), lambda: y.add_(x), lambda: tg.isclose(x, y), lambda: tg.maximum(x, y),
            lambda: y.index_select(0, ids), lambda: F.scaled_dot_product_attention(y[None], x[None], y[None]),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match=DIFFERENT):
                mix()
        with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device as the indexed"):
            x[tg.tensor([0], device="cuda")]


@each_gpu
def test_a_number_in_a_tensor_may_stay_in_main_memory(kind):
    with gpu(kind):
        y, factor = tg.ones(2, device="cuda"), tg.tensor(3.0, requires_grad=True)
        product = y * factor
        assert product.device == y.device and product.tolist() == [3.0, 3.0]
        product.sum().backward()
        assert factor.grad.device == tg.device("cpu") and factor.grad.item() == 2.0
        y += factor.detach()
        assert y.tolist() == [4.0, 4.0] and (y > factor).all() and (y + np.float32(1)).tolist() == [5.0, 5.0]


@each_gpu
def test_writing_in_place(kind):
    with gpu(kind):
        x = tg.zeros(3, 4, device="cuda")
        x[0] = 1.0
        x[1, :2] = tg.tensor([2.0, 3.0], device="cuda")
        x[tg.tensor([2, 2]), tg.tensor([0, 1])] = 4.0
        x[x == 0] = -1.0
        x[2].copy_(tg.arange(4.0))
        expected = [[1.0, 1.0, 1.0, 1.0], [2.0, 3.0, -1.0, -1.0], [0.0, 1.0, 2.0, 3.0]]
        assert x.tolist() == expected and x.device.type == "cuda"
        assert copy.deepcopy(x).tolist() == expected
        with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
            tg.zeros(1, device="cuda").expand(3).fill_(1.0)
        y = tg.ones(2, device="cuda", requires_grad=True)
        z = y * y
        w = y.detach()
        w += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


@each_gpu
def test_a_module_and_its_state_move(kind):
    with gpu(kind):
        layer = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)).cuda()
        assert {str(p.device) for p in layer.parameters()} == {"cuda:0"}
        optimizer = tg.optim.AdamW(layer.parameters())
        layer(tg.ones(5, 3, device="cuda")).sum().backward()
        optimizer.step()
        here = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2))
        here.load_state_dict(layer.state_dict())
        again = tg.optim.AdamW(here.parameters())
        again.load_state_dict(optimizer.state_dict())
        assert {str(p.device) for p in here.parameters()} == {"cpu"}
        assert {str(s["exp_avg"].device) for s in again.state.values()} == {"cpu"}
        for ours, theirs in zip(here.parameters(), layer.parameters(), strict=True):
            assert ours.tolist() == theirs.tolist()


@each_gpu
def test_what_has_no_dimensions_has_none_on_the_gpu(kind):
    """CuPy's full_like(x, value, shape=()) has x's shape."""
    with gpu(kind):
        x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], device="cuda")
        found = (
            x.new_zeros(()), x.new_full((), 2), x[:0].median(), tg.where(x[0, 0] > 0, 1.0, 2.0), 2.0 ** x[0, 0],
            tg.xlogy(x, 2.0)[0, 0], x[0, 0].clamp(min=x[1, 1]), x[:0].logsumexp((0, 1)),
        )  # fmt: skip
        assert {y.shape for y in found} == {()} and all(y.is_cuda for y in found)
        assert x.new_zeros((0, 2)).shape == (0, 2) and x.new_full((0,), 1.0).shape == (0,)
        y = tg.tensor(3.0, device="cuda", requires_grad=True)
        y[None].sum().backward()
        assert y.grad.shape == () and y.grad.item() == 1


@each_gpu
def test_clipping_leaves_the_norm_on_the_gpu(kind):
    with gpu(kind):
        p = tg.zeros(2, device="cuda", requires_grad=True)
        for limit, expected in ((1.0, [0.6, 0.8]), (10.0, [3.0, 4.0]), (float("inf"), [3.0, 4.0])):
            p.grad = tg.tensor([3.0, 4.0], device="cuda")
            norm = nn.utils.clip_grad_norm_([p], limit)
            assert norm.is_cuda and norm.item() == pytest.approx(5.0)
            assert p.grad.tolist() == pytest.approx(expected, rel=1e-5)
        p.grad = tg.tensor([float("nan"), 4.0], device="cuda")
        assert nn.utils.clip_grad_norm_([p], 1.0).isnan()


@each_gpu
def test_files_move_between_devices(kind, tmp_path):
    with gpu(kind):
        x = tg.arange(6.0, device="cuda").reshape(2, 3)
        tg.save({"x": x}, tmp_path / "x.pt")
        assert tg.load(tmp_path / "x.pt")["x"].is_cuda
        assert tg.load(tmp_path / "x.pt", map_location="cpu")["x"].tolist() == x.tolist()
        tg.save({"x": x.cpu()}, tmp_path / "y.pt")
        assert tg.load(tmp_path / "y.pt", map_location="cuda")["x"].tolist() == x.tolist()


@pytest.mark.cuda
def test_the_queries_of_a_gpu():
    assert tg.cuda.is_available() and tg.cuda.device_count() >= 1 and tg.cuda.current_device() == 0
    assert tg.cuda.get_device_name() and tg.cuda.get_device_capability()[0] >= 7
    free, total = tg.cuda.mem_get_info()
    assert 0 < free <= total
    before = tg.cuda.memory_allocated()
    tg.cuda.reset_peak_memory_stats()
    x = tg.zeros(1 << 20, device="cuda")
    assert tg.cuda.memory_allocated() - before == x.nbytes <= tg.cuda.memory_reserved()
    del x
    tg.cuda.synchronize()
    tg.cuda.empty_cache()
    assert tg.cuda.memory_allocated() == before and tg.cuda.max_memory_allocated() == before + (4 << 20)
    with pytest.raises(RuntimeError, match=r"device cuda:99: .*numbered from 0"):
        tg.zeros(1, device="cuda:99")
    with pytest.raises(MemoryError, match=r"CUDA out of memory: .* Use a smaller batch"):
        tg.zeros(1, device="cuda").expand(1 << 50).clone()


@pytest.mark.cuda
def test_tf32_is_a_switch_that_is_off():
    a, b = tg.rand(256, 256, device="cuda"), tg.rand(256, 256, device="cuda")
    exact = a.double() @ b.double()
    for product in (lambda: a @ b, lambda: (a[None].expand(2, -1, -1) @ b[None].expand(2, -1, -1))[0]):
        assert not tg.backends.cuda.matmul.allow_tf32
        errors = [(product().double() - exact).abs().max().item()]
        tg.set_float32_matmul_precision("high")
        try:
            assert tg.backends.cuda.matmul.allow_tf32
            errors.append((product().double() - exact).abs().max().item())
        finally:
            tg.backends.cuda.matmul.allow_tf32 = False
        assert tg.get_float32_matmul_precision() == "highest"
        assert errors[0] < 1e-3 < errors[1] < 1


def test_the_same_bits_in_every_run_are_asked_for(monkeypatch):
    monkeypatch.setattr(devices, "deterministic", devices.deterministic)
    assert not tg.are_deterministic_algorithms_enabled()
    tg.use_deterministic_algorithms(True, warn_only=True)
    assert tg.are_deterministic_algorithms_enabled() and devices.deterministic
    page = Parser(prog="a run")
    add_device_flags(page)
    for flags, wanted in ([], False), (["--deterministic"], True), (["--no-deterministic"], False):
        use_device(page.parse_args(flags))
        assert tg.are_deterministic_algorithms_enabled() == wanted


# --- machines where something is missing ---


def error_of_cuda(monkeypatch, cupy):
    """What "cuda" raises where CuPy is this module, or cannot be imported."""

    def imported():
        if isinstance(cupy, Exception):
            raise cupy
        return cupy

    monkeypatch.setattr(devices, "_cupy", imported)
    monkeypatch.setattr(devices, "cuda_problem", devices.cuda_problem.__wrapped__)
    monkeypatch.setattr(devices, "cuda_count", devices.cuda_count.__wrapped__)
    with pytest.raises(RuntimeError) as caught:
        tg.ones(1, device="cuda")
    assert tg.ones(2).sum().item() == 2.0 and not tg.cuda.is_available() and tg.cuda.device_count() == 0
    return str(caught.value)


class DriverError(RuntimeError):
    """As CuPy's runtime raises."""

    def __init__(self, status):
        super().__init__(f"cudaError {status}")
        self.status = status


def broken(status, driver=0):
    def count():
        if status:
            raise DriverError(status)
        return 0

    calls = {"getDeviceCount": count, "driverGetVersion": lambda: driver, "runtimeGetVersion": lambda: 13020}
    return types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=types.SimpleNamespace(**calls)))


@pytest.mark.parametrize(
    ("cupy", "words"),
    [
        (ImportError("No module named 'cupy'"), "pip install 'tinygrad_llm[cuda]', or use device cpu"),
        (broken(35), "there is no NVIDIA driver; install one"),
        (broken(35, 12040), "the NVIDIA driver knows CUDA 12.4 and CuPy needs 13; update the driver, pip install"),
        (broken(100), "this machine has no CUDA device; use device cpu"),
        (broken(0), "this machine has no CUDA device; use device cpu"),
        (broken(999), "cudaError 999); check the NVIDIA driver with nvidia-smi, or use device cpu"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, cupy, words):
    assert words in error_of_cuda(monkeypatch, cupy)


def test_a_device_that_is_not_there():
    with pretend.gpu(), pytest.raises(RuntimeError, match=r"device cuda:3: .*1 CUDA device\(s\).*the last is cuda:0"):
        tg.ones(1, device="cuda:3")


def test_cupy_is_imported_on_first_use_only():
    program = "import sys, tinygrad_llm as t; t.ones(2).sum(); assert not {'cupy', 'cupyx'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


@each_gpu
@pytest.mark.parametrize("dtype", [tg.bfloat16, tg.float16, tg.float32])
def test_a_gradient_around_what_was_written_over(kind, dtype):
    with gpu(kind):
        x = tg.ones(4, dtype=dtype, device="cuda", requires_grad=True)
        y = x * 2
        y[1] = 5.0
        y.backward(tg.tensor([1.0, math.nan, 3.0, 4.0], dtype=dtype, device="cuda"))
        assert x.grad.dtype is dtype and x.grad.tolist() == [2.0, 0.0, 6.0, 8.0]
