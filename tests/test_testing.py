"""The strategies that users test their layers with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.autograd import gradcheck
from tinygrad_llm.testing import broadcastable_shapes, shapes, tensors, token_ids

SEARCH = settings(max_examples=300, database=None, suppress_health_check=list(HealthCheck))


def exists(strategy, condition) -> bool:
    try:
        find(strategy, condition, settings=SEARCH)
    except NoSuchExample:
        return False
    return True


@given(tensors())
def test_tensors_are_apart_from_each_other_and_from_zero(x):
    values = np.sort(np.append(x.array.ravel(), 0.0))
    assert x.dtype is tg.float64
    assert x.requires_grad
    assert (np.abs(values) < 2).all()
    assert x.numel() == 0 or np.diff(values).min() > 4 / (6 * x.numel() + 16)


@given(
    tensors((3, 4), min_value=-1.0, max_value=3.0, kinks=(-0.5, 0.0, 2.0), requires_grad=False),
    st.sampled_from([-0.5, 2.0]),
)
def test_tensors_keep_to_limits_and_kinks(x, kink):
    assert not x.requires_grad
    assert x.shape == (3, 4)
    assert -1 < x.array.min() <= x.array.max() < 3
    assert np.abs(x.array - kink).min() > 0.05


@pytest.mark.parametrize("n", [1, 2, 3, 1000])
def test_there_are_enough_numbers_whatever_the_kinks(n):
    @settings(max_examples=5)
    @given(tensors((n,), kinks=(-1.9, -1.0, 0.0, 0.1, 1.0)))
    def check(x):
        assert len(np.unique(x.array)) == n

    check()


def test_tensors_have_all_layouts_when_asked():
    any_layout = tensors((3, 4), contiguous=False)
    assert exists(any_layout, lambda x: x.is_contiguous())
    assert exists(any_layout, lambda x: x.stride() == (1, 3))
    assert exists(any_layout, lambda x: x.stride(1) < 0)
    assert exists(any_layout, lambda x: x.stride() == (8, 2))
    assert not exists(tensors((3, 4)), lambda x: not x.is_contiguous())


@given(tensors(contiguous=False))
def test_views_hold_no_gaps(x):
    assert np.isfinite(x.array).all()


@given(
    tensors((2, 3), dtype=tg.float32), tensors((50,), dtype=tg.int64, min_value=-3, max_value=2, requires_grad=False)
)
def test_dtypes(x, i):
    assert x.dtype is tg.float32
    assert i.dtype is tg.int64
    assert set(i.tolist()) <= {-3, -2, -1, 0, 1}


def test_shapes_go_from_nothing_to_their_bounds():
    assert exists(shapes(), lambda s: s == ())
    assert exists(shapes(), lambda s: len(s) == 3 and 0 in s)
    assert not exists(shapes(min_dims=1, max_dims=2, min_side=1, max_side=3), lambda s: not s or len(s) > 2 or 0 in s)
    assert exists(tensors(shapes(min_dims=2, max_dims=2)), lambda x: x.ndim == 2)


@given(broadcastable_shapes(3))
def test_shapes_broadcast(found):
    assert len(found) == 3
    np.broadcast_shapes(*found)


@given(token_ids(7, shape=(4, 6)))
def test_ids_are_in_the_vocabulary(ids):
    assert ids.dtype is tg.int64
    assert ids.shape == (4, 6)
    assert 0 <= ids.array.min() <= ids.array.max() < 7


def test_ids_reach_both_ends():
    assert exists(token_ids(3), lambda ids: 0 in ids.array and 2 in ids.array)


# --- the promise: a layer of one's own in three lines ---


class Gate(nn.Module):
    """x times the sigmoid of a linear function of x."""

    def __init__(self, channels: int, lost: bool = False):
        super().__init__()
        self.proj, self.lost = nn.Linear(channels, channels), lost

    def forward(self, x):
        gate = self.proj(x).sigmoid()
        return x * (gate.detach() if self.lost else gate)


@settings(max_examples=5)
@given(tensors(shape=(2, 2, 3)))
def test_my_layer(x):
    assert gradcheck(Gate(3).double(), x)


@settings(max_examples=5)
@given(tensors(shape=(2, 2, 3)))
def test_my_wrong_layer_is_caught(x):
    assert not gradcheck(Gate(3, lost=True).double(), x, raise_exception=False)


@settings(max_examples=5)
@given(token_ids(5))
def test_my_embedding(ids):
    assert gradcheck(nn.Embedding(5, 2).double(), ids)
