"""Clipping of gradients, and parameters as a vector."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.nn import utils


def parameters(lib, arrays):
    """Parameters with these gradients, and one without."""
    found = []
    for array in arrays:
        p = lib.nn.Parameter(lib.zeros(*array.shape))
        p.grad = lib.tensor(array)
        found.append(p)
    return [*found, lib.nn.Parameter(lib.zeros(2))]


@pytest.mark.torch
@given(
    seed=st.integers(0, 1000),
    max_norm=st.sampled_from([1e-5, 1e-3, 0.7, 3.0, 1e5]),
    norm_type=st.sampled_from([2.0, math.inf, 1.0, 3.0, 0.5]),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_clip_norm_is_pytorchs(seed, max_norm, norm_type, scale):
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(seed)
    arrays = [(draw.standard_normal(s) * scale).astype(np.float32) for s in [(3, 4), (5,), (1,), (0, 2)]]
    if norm_type == math.inf:
        arrays = arrays[:3]  # PyTorch has no largest element of an empty gradient
    ours, theirs = parameters(tg, arrays), parameters(torch, arrays)
    a = utils.clip_grad_norm_(ours, max_norm, norm_type)
    b = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    assert a.shape == () and a.dtype is tg.float32
    np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)
    for p, q in zip(ours[:-1], theirs, strict=False):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=2e-5, atol=0)
    assert ours[-1].grad is None


def test_clip_norm_of_nothing_and_of_what_is_not_finite():
    assert utils.clip_grad_norm_([], 1.0).item() == 0.0
    p = nn.Parameter(tg.zeros(2))
    assert utils.clip_grad_norm_(p, 1.0).item() == 0.0
    p.grad = tg.tensor([3.0, 4.0])
    assert utils.clip_grad_norm_(iter([p]), 10.0).item() == 5.0 and p.grad.tolist() == [3.0, 4.0]
    for bad in (math.nan, math.inf):
        p.grad = tg.tensor([bad, 1.0])
        with pytest.raises(RuntimeError, match=r"total norm of order 2\.0 .* is non-finite, so it cannot be clipped"):
            utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
        assert p.grad.tolist()[1] == 1.0
    with pytest.raises(ValueError, match="norm_type must be a positive number or inf, not 0"):
        utils.clip_grad_norm_([p], 1.0, norm_type=0)
    p.grad = tg.tensor([math.nan, 1.0])
    assert math.isnan(utils.clip_grad_norm_([p], 1.0).item()) and all(map(math.isnan, p.grad.tolist()))


@pytest.mark.torch
def test_clip_value_is_pytorchs():
    torch = pytest.importorskip("torch")
    array = np.linspace(-3, 3, 13, dtype=np.float32)
    (p, _), (q, _) = parameters(tg, [array]), parameters(torch, [array])
    utils.clip_grad_value_([p, nn.Parameter(tg.zeros(1))], 1.5)
    torch.nn.utils.clip_grad_value_(q, 1.5)
    np.testing.assert_array_equal(p.grad.numpy(), q.grad.numpy())


@given(sizes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=5))
def test_vector_round_trip(sizes):
    one = [nn.Parameter(tg.randn(*size)) for size in sizes]
    two = [nn.Parameter(tg.zeros(*size)) for size in sizes]
    vector = utils.parameters_to_vector(one)
    assert vector.shape == (sum(p.numel() for p in one),)
    utils.vector_to_parameters(vector, iter(two))
    for p, q in zip(one, two, strict=True):
        assert np.array_equal(p.array, q.array) and not np.shares_memory(p.array, q.array)


def test_vector_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"vec \(5,\) must have the parameters' 4 elements"):
        utils.vector_to_parameters(tg.zeros(5), [nn.Parameter(tg.zeros(4))])
    with pytest.raises(TypeError, match=r"expected torch\.Tensor, but got: list"):
        utils.vector_to_parameters([0.0], [nn.Parameter(tg.zeros(1))])
