"""Weights in eight bits: how far they are from what they were, and what is special."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_llm.kernels import CPU, INT8_BLOCK, REFERENCE, tiling

NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
WEIGHTS = hnp.arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(0, 2 * INT8_BLOCK + 1)), elements=NUMBERS)
both = pytest.mark.parametrize("k", [REFERENCE, CPU], ids=["reference", "cpu"])


def largest(w):
    """The largest size in the block of each number."""
    found = np.zeros(w.shape)
    for start in range(0, w.shape[1], INT8_BLOCK):
        part = slice(start, start + INT8_BLOCK)
        found[:, part] = np.abs(w[:, part]).max(axis=1, keepdims=True, initial=0)
    return found


@both
@given(w=WEIGHTS)
def test_no_number_moves_farther_than_half_a_step_of_its_block(k, w):
    codes, scales = k.int8_pack(w)
    assert codes.dtype == np.int8 and scales.dtype == np.float32 and np.abs(codes.astype(int)).max(initial=0) <= 127
    again = k.int8_unpack(codes, scales).astype(np.float64)
    assert (np.abs(w - again) <= largest(w) / 254 * (1 + 1e-4) + 127 * np.finfo(np.float32).tiny).all()


@given(w=WEIGHTS)
def test_both_kernels_give_the_same_bits(w):
    for a, b in zip(CPU.int8_pack(w), REFERENCE.int8_pack(w), strict=True):
        assert a.tobytes() == b.tobytes()


@both
@given(w=WEIGHTS)
def test_packing_what_was_unpacked_changes_little_more(k, w):
    """The largest of a block is met exactly, so a second time finds the same steps."""
    codes, scales = k.int8_pack(w)
    again = k.int8_pack(k.int8_unpack(codes, scales))
    np.testing.assert_array_equal(again[0], codes)
    np.testing.assert_allclose(again[1], scales, rtol=1e-6)


@both
def test_zeros_stay_zeros_and_so_does_what_has_no_normal_scale(k):
    w = np.zeros((2, 70), np.float32)
    w[1] = 1e-44
    codes, scales = k.int8_pack(w)
    assert not codes.any() and not scales.any() and not k.int8_unpack(codes, scales).any()


def test_tiles_and_threads_change_no_bit(monkeypatch):
    w = np.random.default_rng(0).standard_normal((50, 100)).astype(np.float32)
    whole = CPU.int8_pack(w)
    monkeypatch.setattr(tiling, "TILE", 300)
    for a, b in zip(CPU.int8_pack(w), whole, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(CPU.int8_unpack(*whole), REFERENCE.int8_unpack(*whole))
