"""dtypes: one object each, PyTorch's names, the promotion lattice, limits, the default."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as ours
from tinygrad_llm import dtypes

ALL = st.sampled_from(dtypes.ALL)


def test_names() -> None:
    assert [repr(d) for d in dtypes.ALL] == [f"torch.{d.name}" for d in dtypes.ALL]
    assert (ours.float, ours.double, ours.half) == (ours.float32, ours.float64, ours.float16)
    assert (ours.long, ours.int, ours.short) == (ours.int64, ours.int32, ours.int16)
    assert repr(ours.bool) == "torch.bool"


@given(ALL)
def test_there_is_one_object_of_each(d: Any) -> None:
    assert pickle.loads(pickle.dumps(d)) is d and copy.copy(d) is d and copy.deepcopy(d) is d
    assert dtypes.of(np.zeros(1, d.numpy)) is d and dtypes.of(np.zeros(1, d.numpy.newbyteorder())) is d
    assert hash(d) == hash(copy.copy(d)) and {d: 1}[d] == 1


@given(ALL)
def test_what_a_dtype_says_of_itself(d: Any) -> None:
    assert d.itemsize == np.zeros(1, d.numpy).itemsize
    assert d.is_floating_point == ("float" in d.name) and not d.is_complex
    assert d.is_signed == (d.name not in ("bool", "uint8"))


@pytest.mark.parametrize(
    "use",
    [
        lambda d: ours.ones(2, dtype=d), lambda d: ours.ones(2).to(d), lambda d: ours.ones(2, 2).view(d),
        lambda d: ours.tensor([1.0], dtype=d), lambda d: ours.nn.Linear(2, 2).to(d), ours.finfo, ours.iinfo,
        lambda d: ours.promote_types(d, ours.float32), lambda d: ours.promote_types(d, d), ours.set_default_dtype,
        lambda d: ours.ones(2).sum(dtype=d), lambda d: ours.ones(2).type(d), lambda d: ours.softmax(ours.ones(2), 0, d),
        lambda d: ours.ones(2).new_zeros(2, dtype=d), lambda d: ours.frombuffer(bytearray(8), dtype=d),
    ],
)  # fmt: skip
def test_complex64_has_a_name_and_refuses_to_be_used(use: Any) -> None:
    d = ours.complex64
    assert isinstance(d, ours.dtype) and d.is_complex and not d.is_floating_point and repr(d) == "torch.complex64"
    assert pickle.loads(pickle.dumps(d)) is d
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        use(d)


# --- promotion: a join ---


@given(ALL, ALL)
def test_promotion_is_symmetric_and_keeps_itself(a: Any, b: Any) -> None:
    assert ours.promote_types(a, b) is ours.promote_types(b, a)
    assert ours.promote_types(a, a) is a
    joined = ours.promote_types(a, b)
    assert ours.promote_types(joined, a) is joined  # nothing above the join is needed for either


@given(ALL, ALL)
def test_promotion_never_lowers_the_category(a: Any, b: Any) -> None:
    assert ours.promote_types(a, b).category == max(a.category, b.category)


@pytest.mark.parametrize(
    ("a", "b", "result"),
    [
        ("bool", "uint8", "uint8"), ("uint8", "int8", "int16"), ("int32", "int64", "int64"),
        ("int64", "float16", "float16"),
        ("bool", "bfloat16", "bfloat16"), ("float16", "bfloat16", "float32"), ("float32", "float64", "float64"),
        ("float16", "float32", "float32"), ("uint8", "int64", "int64"),
    ],
)  # fmt: skip
def test_promotion_of(a: str, b: str, result: str) -> None:
    assert ours.promote_types(getattr(ours, a), getattr(ours, b)) is getattr(ours, result)


def test_a_number_lifts_only_the_category() -> None:
    assert ours.result_type(ours.ones(2, dtype=ours.int8), 1000) is ours.int8
    assert ours.result_type(ours.ones(2, dtype=ours.int8), 0.5) is ours.float32
    assert ours.result_type(ours.ones(2, dtype=ours.float16), 0.5) is ours.float16
    assert ours.result_type(ours.ones(2, dtype=ours.bool), 2) is ours.int64
    assert ours.result_type(ours.ones(2), ours.ones((), dtype=ours.float64)) is ours.float32
    assert ours.result_type(ours.ones((), dtype=ours.int64), ours.ones((), dtype=ours.int8)) is ours.int64
    assert ours.result_type(1, 2.0) is ours.float32 and ours.result_type(True, 2) is ours.int64


@given(ALL, ALL)
def test_an_op_computes_in_the_promoted_dtype(a: Any, b: Any) -> None:
    x, y = ours.ones(3, dtype=a), ours.ones(3, dtype=b)
    assert (x + y).dtype is ours.promote_types(a, b)
    assert (x / y).dtype.is_floating_point


@given(st.sampled_from([d for d in dtypes.ALL if d.is_floating_point]), st.floats(-100, 100))
def test_a_python_or_numpy_scalar_keeps_the_dtype(d: Any, v: float) -> None:
    x = ours.ones(2, dtype=d)
    for scalar in (v, np.float64(v), np.float32(v), int(v), np.int64(int(v))):
        assert (x * scalar).dtype is d and (scalar + x).dtype is d and (x - scalar).dtype is d


# --- limits and the default ---


@given(st.sampled_from([d for d in dtypes.ALL if d.is_floating_point]))
def test_finfo(d: Any) -> None:
    info, known = ours.finfo(d), ml_dtypes.finfo(d.numpy)
    assert info.eps == float(known.eps) and info.max == float(known.max) and info.min == -info.max
    assert info.tiny == info.smallest_normal == float(known.smallest_normal) and info.bits == 8 * d.itemsize
    one = np.ones((), d.numpy)
    assert one + d.numpy.type(info.eps) > one
    with pytest.raises(TypeError):
        ours.iinfo(d)


@given(st.sampled_from([d for d in dtypes.ALL if "int" in d.name]))
def test_iinfo(d: Any) -> None:
    info = ours.iinfo(d)
    assert (info.min, info.max) == (np.iinfo(d.numpy).min, np.iinfo(d.numpy).max) and info.bits == 8 * d.itemsize
    with pytest.raises(TypeError):
        ours.finfo(d)


@pytest.mark.torch
def test_limits_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    for name in ("float32", "float64", "float16", "bfloat16"):
        mine, theirs = ours.finfo(getattr(ours, name)), torch.finfo(getattr(torch, name))
        for key in ("eps", "max", "min", "tiny", "bits", "smallest_normal", "resolution", "dtype"):
            assert getattr(mine, key) == getattr(theirs, key), (name, key)
    for name in ("uint8", "int8", "int16", "int32", "int64"):
        mine, theirs = ours.iinfo(getattr(ours, name)), torch.iinfo(getattr(torch, name))
        assert (mine.min, mine.max, mine.bits, mine.dtype) == (theirs.min, theirs.max, theirs.bits, theirs.dtype)
    assert (ours.finfo().dtype, ours.finfo().eps) == (torch.finfo().dtype, torch.finfo().eps)


def test_the_default_dtype() -> None:
    assert ours.get_default_dtype() is ours.float32
    try:
        ours.set_default_dtype(ours.float64)
        made = [ours.tensor(1.5), ours.zeros(2), ours.rand(2), ours.randn(2), ours.arange(0, 1, 0.5), ours.eye(2)]
        made += [ours.full((2,), 1.5), ours.linspace(0, 1, 3), ours.ones(2, dtype=ours.int64) / 2, ours.ones(2).mean()]
        made += [ours.nn.Linear(2, 3).weight, ours.tensor([]), ours.tensor([1, 2]).exp()]
        assert [x.dtype for x in made] == [ours.float64] * len(made)
        assert ours.tensor([1, 2]).dtype is ours.int64 and ours.tensor(np.float32(1)).dtype is ours.float32
    finally:
        ours.set_default_dtype(ours.float32)
    for wrong in (ours.int64, "float64", np.float64):
        with pytest.raises(TypeError):
            ours.set_default_dtype(wrong)


# --- 16-bit floats are storage ---


@pytest.mark.parametrize("d", [ours.float16, ours.bfloat16])
def test_16_bit_arithmetic_is_rounded_once(d: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = (ours.tensor(rng.standard_normal(1000).astype(np.float32)).to(d) for _ in range(2))
    for function in (ours.mul, ours.div, ours.add, lambda a, b: a.exp()):
        exact = function(x.float(), y.float())
        assert function(x, y).tolist() == exact.to(d).tolist()
    assert abs(x.sum().item() - x.double().sum().item()) <= 0.01 * abs(x.double()).sum().item()


@pytest.mark.parametrize("d", [ours.float16, ours.bfloat16])
def test_16_bit_gradients(d: Any) -> None:
    x = ours.tensor([0.5, -1.5, 2.0]).to(d).requires_grad_()
    (x * x).sum().backward()
    assert x.grad.dtype is d and x.grad.tolist() == [1.0, -3.0, 4.0]


# --- numbers and names ---

INTEGERS = st.sampled_from([d for d in dtypes.ALL if "int" in d.name])
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.integers(-400, 400)


@given(INTEGERS, NUMBERS)
def test_an_integer_in_arithmetic_keeps_its_lowest_bits(d: Any, value: int) -> None:
    kept = dtypes.wrapped(value, d)
    assert (kept - value) % 2 ** (8 * d.itemsize) == 0 and ours.iinfo(d).min <= kept <= ours.iinfo(d).max


@given(INTEGERS, NUMBERS | st.floats(-1e20, 1e20))
def test_a_number_that_fills_fits_or_is_refused(d: Any, value: Any) -> None:
    low, high = ours.iinfo(d).min, ours.iinfo(d).max
    if low <= value <= high:
        assert dtypes.fill_value("f", value, d) == int(value)
    elif not (d is ours.uint8 and isinstance(value, int) and -255 <= value < 0):
        with pytest.raises(RuntimeError, match=f"cannot be converted to type {d.name} without overflow: f: "):
            dtypes.fill_value("f", value, d)


def test_numbers_that_are_none() -> None:
    for wrong in ("1", None, [1], 1j):
        with pytest.raises(TypeError, match="full: expected a number or a bool, not "):
            ours.full((2,), wrong, dtype=ours.float32)


def test_python_types_name_dtypes() -> None:
    assert (ours.zeros(1, dtype=float).dtype, ours.ones(1).to(int).dtype) == (ours.float64, ours.int64)
    assert ours.ones(2).sum(dtype=bool).dtype is ours.bool and ours.finfo(float).bits == 64
    for wrong in (np.float32, np.dtype("float32"), "float32", complex, 3, [float]):
        for function in (ours.zeros, ours.ones, ours.rand, ours.eye, ours.arange):
            with pytest.raises(TypeError, match=r"argument 'dtype' must be torch\.dtype, not "):
                function(2, dtype=wrong)


def test_lists_are_read_in_the_dtype_asked_for() -> None:
    assert ours.tensor([0.1], dtype=ours.float64).item() == 0.1  # not rounded to float32 on the way
    assert ours.tensor(2**62 + 1).item() == 2**62 + 1


def test_every_pair_converts() -> None:
    for a, b in itertools.product(dtypes.ALL, repeat=2):
        x = ours.tensor([0, 1]).to(a)
        assert x.to(b).dtype is b and x.to(b).tolist() == ours.tensor([0, 1]).to(b).tolist()
