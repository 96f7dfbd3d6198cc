"""Who holds a device's memory, the limit, the numbers that torch.cuda tells, and what a full GPU says."""

from __future__ import annotations

import gc
import math
import re
import types

import pytest

import tinygrad_llm as tg
from tests.cuda import pretend
from tests.cuda.kinds import each_gpu, gpu
from tinygrad_llm import devices, kernels, nn
from tinygrad_llm.autograd import held
from tinygrad_llm.models import GPTModel
from tinygrad_llm.models.cache import Reader

SMALL = {"vocab_size": 61, "context_length": 40, "emb_dim": 48, "n_heads": 3, "n_layers": 2, "drop_rate": 0.0}
FULL = type("OutOfMemoryError", (MemoryError,), {"__module__": "cupy.cuda.memory"})


def counted(device):
    gc.collect()  # of tests before
    kinds, activations = held(tg.device(device))
    return dict(kinds), activations


@each_gpu
def test_who_holds_what(kind):
    with gpu(kind):
        before, _ = counted("cuda")
        model = GPTModel(SMALL).cuda()
        weights = sum(p.nbytes for p in model.parameters())
        kinds, activations = counted("cuda")
        assert kinds["weights"] - before.get("weights", 0) == weights and not activations
        ids = tg.ones(2, 40, dtype=tg.int64, device="cuda")
        loss = model.loss(ids, ids)
        _, activations = counted("cuda")
        names = {name.partition(" ")[0] for name in activations}
        assert names >= {"layer_norm", "attention_of_packed", "activated_linear"}
        ffn = [count for name, count in activations.items() if name.startswith("activated_linear")]
        assert sum(ffn) >= 2 * 2 * 40 * 4 * 48 * 4  # two blocks keep (2, 40, 4 C) floats
        loss.backward()
        optimizer = tg.optim.AdamW(model.parameters())
        optimizer.step()
        kinds, activations = counted("cuda")
        assert kinds["gradients"] == weights and kinds["moments"] == 2 * weights and not activations
        optimizer.zero_grad()
        reader = Reader(model, most=20)
        with tg.no_grad():
            reader([[1, 2, 3]])
        kinds, _ = counted("cuda")
        assert kinds["keys and values"] == 2 * 2 * 20 * 48 * 4 and "gradients" not in kinds
        del model, optimizer, loss, reader
        assert counted("cuda")[0].get("moments", 0) == 0


def test_memory_that_several_hold_counts_once():
    x = tg.zeros(1000, 1000)
    before = counted("cpu")[0]["tensors"]
    views = [x[:10], x.T, x.detach()]
    assert counted("cpu")[0]["tensors"] == before and views
    y = nn.Parameter(tg.zeros(500, 500))
    kept = y * y.detach()
    assert not [name for name in counted("cpu")[1] if name == "mul (500, 500)"]  # its factors count as weights
    assert kept.shape == (500, 500)


def full_gpu(monkeypatch, limit=0):
    """A pretended GPU on which nothing more fits."""
    cupy = devices._cupy()
    pool = types.SimpleNamespace(used_bytes=lambda: 700, total_bytes=lambda: 900, get_limit=lambda: limit)
    monkeypatch.setattr(cupy, "get_default_memory_pool", lambda: pool, raising=False)
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (50, 1000), raising=False)


def raise_full(*args, **kwargs):
    raise FULL("Out of memory allocating 512 bytes")


@pytest.mark.parametrize("limit", [0, 950])
def test_a_full_gpu_says_who_holds_it_and_what_to_change(monkeypatch, limit):
    with pretend.gpu(), kernels.use("reference"):
        full_gpu(monkeypatch, limit)
        model = GPTModel(SMALL).cuda()
        ids = tg.ones(2, 40, dtype=tg.int64, device="cuda")
        optimizer = tg.optim.AdamW(model.parameters())
        model.loss(ids, ids).backward()
        words = [
            r"CUDA out of memory: Out of memory allocating 512 bytes", r"Of the GPU's 1,000 bytes arrays hold 700",
            r"200 for reuse and 50 are free", r"weights \d+\.\d MB", r"gradients \d+\.\d MB", "--checkpoint",
            r"kept for backward \d+\.\d MB \(most by ",
        ]  # fmt: skip
        words += ["The limit set for this process is 950 bytes"] if limit else []
        loss, before = model.loss(ids, ids), devices.out_of_memory
        monkeypatch.setattr(devices._cupy(), "asarray", raise_full, raising=False)
        monkeypatch.setattr(pretend.ndarray, "__array_ufunc__", raise_full)
        for act in (lambda: loss * 2, optimizer.step, loss.backward, lambda: tg.ones(3).cuda()):
            with pytest.raises(MemoryError) as caught:
                act()
            assert type(caught.value) is MemoryError
            assert [word for word in words if not re.search(word, str(caught.value))] == [], str(caught.value)
        assert devices.out_of_memory == before + 4


def test_a_full_main_memory_is_told_as_it_is(monkeypatch):
    def full():
        raise MemoryError("Unable to allocate")

    with pretend.gpu(), pytest.raises(MemoryError, match=r"^Unable to allocate$"):
        devices.run(full, [])


@pytest.mark.cuda
def test_the_limit_holds_and_the_numbers_are_told():
    tg.cuda.reset_peak_memory_stats()
    _, total = tg.cuda.mem_get_info()
    x = tg.zeros(1 << 20, device="cuda")
    stats = tg.cuda.memory_stats()
    assert stats["allocated_bytes.all.current"] == tg.cuda.memory_allocated() >= x.nbytes
    assert stats["reserved_bytes.all.peak"] == tg.cuda.max_memory_reserved() >= tg.cuda.memory_reserved()
    tg.cuda.empty_cache()
    peak = tg.cuda.max_memory_reserved()
    assert peak >= tg.cuda.memory_reserved() and "tensors" in tg.cuda.memory_summary()
    tg.cuda.set_per_process_memory_fraction((tg.cuda.memory_reserved() + (64 << 20)) / total)
    try:
        with pytest.raises(MemoryError, match=r"The limit set for this process is .* It is held by .*tensors"):
            tg.zeros(1, device="cuda").expand(1 << 26).clone()
        assert tg.cuda.memory_stats()["num_ooms"] == stats["num_ooms"] + 1
    finally:
        tg.cuda.set_per_process_memory_fraction(1.0)
    assert tg.zeros(1, device="cuda").expand(1 << 26).clone().sum().item() == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="Invalid fraction value"):
        tg.cuda.set_per_process_memory_fraction(fraction)


def test_without_a_gpu_there_is_nothing_to_tell(monkeypatch):
    monkeypatch.setattr(tg.cuda, "is_available", lambda: False)
    assert tg.cuda.memory_stats() == {} and tg.cuda.max_memory_reserved() == 0
