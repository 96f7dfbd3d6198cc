"""Sequences of unequal length as one batch, and small names that scripts ask for."""

import pytest

import tinygrad_llm as tg


@pytest.mark.torch
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_pytorchs(first, side):
    torch = pytest.importorskip("torch")
    found = []
    for lib in (tg, torch):
        x = lib.arange(12.0, requires_grad=True)
        parts = [x[:2].reshape(1, 2), x[2:8].reshape(3, 2), x[8:].reshape(2, 2)]
        y = lib.nn.utils.rnn.pad_sequence(parts, first, -1.0, side)
        (y * y).sum().backward()
        ids = lib.nn.utils.rnn.pad_sequence([lib.tensor([1, 2]), lib.tensor([3])], batch_first=first)
        found.append([y.tolist(), x.grad.tolist(), ids.tolist(), str(ids.dtype)])
    assert found[0] == found[1]


def test_what_cannot_be_padded():
    with pytest.raises(RuntimeError, match="empty list"):
        tg.nn.utils.rnn.pad_sequence([])
    with pytest.raises(RuntimeError, match="padding_side"):
        tg.nn.utils.rnn.pad_sequence([tg.ones(2)], padding_side="top")


@pytest.mark.torch
def test_small_names():
    torch = pytest.importorskip("torch")
    found = []
    for lib in (tg, torch):
        lib.manual_seed(1)
        x = lib.tensor([0.2, 0.8])
        found.append([x.multinomial(1).tolist(), lib.is_floating_point(x), lib.is_complex(x), x.is_pinned()])
        found[-1] += lib.logspace(-2, 3, 6, dtype=lib.float64).tolist() + lib.logspace(0, 3, 4, base=2).tolist()
    assert found[0][:4] == found[1][:4] and found[0][4:] == pytest.approx(found[1][4:], rel=1e-6)
    assert x.pin_memory is not None and tg.ones(1).pin_memory().tolist() == [1]
