import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.data import Windows
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import PRESETS, Trainer, memory

CONFIGS = st.builds(
    lambda heads, width, **rest: {**rest, "n_heads": heads, "emb_dim": heads * width},
    heads=st.integers(1, 3),
    width=st.integers(1, 5),
    vocab_size=st.integers(1, 30),
    context_length=st.integers(1, 12),
    n_layers=st.integers(1, 3),
    drop_rate=st.sampled_from([0.0, 0.1]),
    qkv_bias=st.booleans(),
    tie_weights=st.booleans(),
)


@given(CONFIGS)
def test_parameters_are_counted_as_the_model_has_them(config):
    assert memory.parameter_count(config) == sum(p.numel() for p in GPTModel(config).parameters())


def test_the_known_counts():
    config = PRESETS["gpt2-124m"].recipe.replace(context=1024).model_config(50257)
    assert memory.parameter_count(config) == 163_009_536
    assert memory.parameter_count({**config, "tie_weights": True}) == 124_412_160
    assert memory.parameter_count({**config, "tie_weights": True, "qkv_bias": True}) == 124_439_808


@given(CONFIGS, st.integers(1, 50))
def test_the_estimate_grows_with_the_batch_and_holds_the_optimizers_arrays(config, batch):
    here = memory.training_bytes(config, batch)
    assert 16 * memory.parameter_count(config) < here < memory.training_bytes(config, batch + 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 64},
        {"batch": 2, "context": 512},
        {"batch": 16, "dropout": 0.1},
        {"batch": 4, "channels": 256},
        {"batch": 64, "layers": 6, "checkpoint": True},
    ],
    ids=str,
)
def test_the_estimate_is_near_what_a_step_takes(changes, monkeypatch):
    # what lies outside the heap is unseen by tracemalloc: a bytearray takes the place of each mapping
    monkeypatch.setattr("mmap.mmap", lambda descriptor, size, **flags: bytearray(size))
    monkeypatch.setattr("tinygrad_llm.kernels.threads._count", 2)  # with one, parts of a batch take turns, in less
    recipe = PRESETS["shakespeare-char"].recipe.replace(**{"layers": 2, "channels": 64, **changes})
    windows = Windows(np.arange(2000) % 65, recipe.context)
    tracemalloc.start()
    model = GPTModel(recipe.model_config(65), checkpoint=recipe.checkpoint)
    trainer = Trainer(model, recipe, windows, windows, np.random.default_rng(0))
    for _ in range(2):
        trainer.train_step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    estimate = memory.training_bytes(recipe.model_config(65), recipe.batch, recipe.checkpoint)
    assert estimate == pytest.approx(peak, rel=0.3)


def test_what_does_not_fit_is_refused_with_the_estimate(monkeypatch):
    config = PRESETS["shakespeare-char"].recipe.model_config(65)
    monkeypatch.setattr(memory, "machine_bytes", lambda: 2**28)
    memory.check_fits(config, 12)
    with pytest.raises(MemoryError, match=r"10000 windows of 64 tokens needs about .* has 256\.0 MiB; lower"):
        memory.check_fits(config, 10_000)


def test_a_machine_that_does_not_tell_is_trusted(monkeypatch):
    monkeypatch.setattr(memory, "machine_bytes", lambda: None)
    memory.check_fits(PRESETS["shakespeare-char"].recipe.model_config(65), 10**9)


def test_this_machine_has_some_memory():
    there = memory.machine_bytes()
    assert there is None or 2**24 < there < 2**50


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**30, "3.0 GiB"), (2**51, "2,048.0 TiB")],
)
def test_bytes_are_shown_in_a_fitting_unit(count, shown):
    assert memory.format_bytes(count) == shown
