"""Which dtype an op computes in, over every pair of dtypes and every pair of ranks, is what PyTorch decides."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tinygrad_llm as ours
from tests.parity.judge import D, X, call, difference, resolve

pytestmark = pytest.mark.torch

DTYPES = ("float32", "float64", "float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "bool")
OPERANDS = [  # makers of an operand in a library: with dimensions, 0-d, Python numbers
    *((f"{d} with dimensions", lambda lib, d=d: lib.ones(2, dtype=getattr(lib, d))) for d in DTYPES),
    *((f"{d} 0-d", lambda lib, d=d: lib.ones((), dtype=getattr(lib, d))) for d in DTYPES),
    *((f"Python {type(n).__name__}", lambda lib, n=n: n) for n in (True, 2, 0.5)),
]


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def outcome(function: Any, *args: Any) -> str:
    """The name of the resulting dtype, or of the exception's class."""
    try:
        return name(function(*args).dtype)
    except Exception as error:
        return type(error).__name__


def test_promote_types(torch: Any) -> None:
    for a, b in itertools.product(DTYPES, repeat=2):
        mine = ours.promote_types(getattr(ours, a), getattr(ours, b))
        assert name(mine) == name(torch.promote_types(getattr(torch, a), getattr(torch, b))), (a, b)


def test_result_type(torch: Any) -> None:
    for (a, make_a), (b, make_b) in itertools.product(OPERANDS, repeat=2):
        mine, theirs = (name(lib.result_type(make_a(lib), make_b(lib))) for lib in (ours, torch))
        assert mine == theirs, (a, b)


@pytest.mark.parametrize("function", ["add", "mul", "sub", "div", "maximum", "eq", "bitwise_and"])
def test_functions_promote_so(torch: Any, function: str) -> None:
    for (a, make_a), (b, make_b) in itertools.product(OPERANDS, repeat=2):
        if "Python" in a and ("Python" in b or function in ("maximum", "eq", "sub", "div", "bitwise_and")):
            continue  # these want a tensor first in PyTorch
        mine, theirs = (outcome(resolve(lib, function), make_a(lib), make_b(lib)) for lib in (ours, torch))
        assert mine == theirs, (function, a, b)


@pytest.mark.parametrize("function", ["add_", "mul_", "div_", "copy_", "fill_"])
def test_in_place_functions_cast_or_refuse(torch: Any, function: str) -> None:
    for (a, make_a), (b, make_b) in itertools.product(OPERANDS[: 2 * len(DTYPES)], OPERANDS):
        if ("with dimensions" in b and "0-d" in a) or (function == "copy_" and "Python" in b):
            continue
        if function == "fill_" and "with dimensions" in b:
            continue
        mine, theirs = (outcome(getattr(make_a(lib), function), make_b(lib)) for lib in (ours, torch))
        assert mine == theirs, (function, a, b)


@pytest.mark.parametrize("default", ["float32", "float64"])
def test_integers_become_the_default_dtype(torch: Any, default: str) -> None:
    for lib in (ours, torch):
        lib.set_default_dtype(getattr(lib, default))
    try:
        for function in ("exp", "sqrt", "sigmoid", "tanh"):
            for dtype in ("int64", "bool", "uint8"):
                sample = call(X(np.ones(3), dtype))
                assert difference(torch, resolve(ours, function), resolve(torch, function), sample) is None
        made = [name(lib.tensor([1.0, 2.0]).dtype) for lib in (ours, torch)]
        made += [name((lib.ones(2, dtype=lib.int64) / 2).dtype) for lib in (ours, torch)]
        assert made == [default] * 4
    finally:
        for lib in (ours, torch):
            lib.set_default_dtype(lib.float32)


@pytest.mark.parametrize("source", DTYPES)
def test_conversions_keep_values_as_pytorch_does(torch: Any, source: str) -> None:
    values = [0.0, 1.0] if source == "bool" else [0.0, 1.0, 2.0, 100.0, 3.0, 127.0]
    values += [-1.0, -2.5, 0.1, 2.0**-20, 65519.0, 3.3e38] if source in ("float32", "float64") else []
    for target in DTYPES:
        kept = [v for v in values if "int" not in target or 0 <= v <= 127]  # beyond an integer's range C decides
        sample = call(X(np.array(kept), source, grad=False), D(target))
        assert difference(torch, ours.Tensor.to, torch.Tensor.to, sample) is None, target


PYTHON_DATA = [1, 1.5, True, [1, 2], [1, 2.5], [True, 2], [[1.0], [2.0]], [], [[], []], [True], (1, 2), range(3)]
NUMPY_DATA = [np.float32(1.5), np.float64(1.5), np.int32(2), np.arange(3), np.ones(2), np.ones(2, np.float16)]
NUMPY_IN_LISTS = [[np.float64(1.5)], [np.float32(1.5), np.float32(2)]]


@pytest.mark.parametrize("data", [*PYTHON_DATA, *NUMPY_DATA, *NUMPY_IN_LISTS])
def test_tensor_infers_its_dtype(torch: Any, data: Any) -> None:
    mine, theirs = ours.tensor(data), torch.tensor(data)
    assert name(mine.dtype) == name(theirs.dtype)
    assert mine.tolist() == theirs.tolist()


@pytest.mark.parametrize("data", [[[1], [2, 3]], "text", None, [None], ["a"], object(), {1: 2}, 1j])
def test_tensor_refuses(torch: Any, data: Any) -> None:
    if data == 1j:
        with pytest.raises(TypeError):
            ours.tensor(data)  # PyTorch has complex numbers
        return
    with pytest.raises(Exception) as theirs:
        torch.tensor(data)
    with pytest.raises(theirs.type):
        ours.tensor(data)
