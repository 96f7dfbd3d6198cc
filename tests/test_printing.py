"""How tensors print: as in PyTorch, character by character; and in fixed examples, where PyTorch is not installed."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_llm as ours

MANY = settings(max_examples=3 * settings.default.max_examples)


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def same(torch: Any, array: np.ndarray, dtype: str) -> None:
    mine, theirs = (lib.tensor(array).to(getattr(lib, dtype)) for lib in (ours, torch))
    assert repr(mine) == repr(theirs)


SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
ONE = st.integers(-99_999, 99_999).map(lambda i: i / 10_000)  # of one magnitude, more or less
SPREAD = st.integers(-12, 12).flatmap(lambda p: ONE.map(lambda v: v * 10.0**p))
NUMBERS = [
    ONE,
    SPREAD,  # many
    st.floats(width=32),  # all, with nan and inf
    st.integers(-2000, 2000).map(float),  # whole
    st.integers(-(10**9), 10**9).map(float),
    st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1e-4, 9.99e-5, 1e8, 1.1e8, 1000.0, 0.99999]),
]


@pytest.mark.torch
@MANY
@given(data=st.data())
def test_floats(torch: Any, data: Any) -> None:
    array = data.draw(hnp.arrays(np.float64, SHAPES, elements=data.draw(st.sampled_from(NUMBERS)), fill=st.nothing()))
    same(torch, array, data.draw(st.sampled_from(["float32", "float64", "float16", "bfloat16"])))


@pytest.mark.torch
@MANY
@given(data=st.data())
def test_integers_and_bools(torch: Any, data: Any) -> None:
    dtype = data.draw(st.sampled_from(["int64", "int32", "int16", "int8", "uint8", "bool"]))
    low, high = {"bool": (0, 1), "uint8": (0, 255), "int8": (-128, 127), "int16": (-(2**15), 2**15 - 1)}.get(
        dtype, (-(2**31), 2**31 - 1)
    )
    limit = data.draw(st.integers(low, high))
    elements = st.integers(min(limit, 0), max(limit, 0))
    same(torch, data.draw(hnp.arrays(np.int64, SHAPES, elements=elements, fill=st.nothing())), dtype)


LARGE = [(1001,), (2000,), (40, 40), (7, 150), (2, 600), (600, 2), (11, 10, 10), (10, 101), (3, 20, 20), (1, 1, 1001)]
LARGE += [(999,), (1000,), (8, 8, 8, 8), (500, 1, 3), (1001, 0), (0, 1001)]


@pytest.mark.torch
@given(
    shape=st.sampled_from(LARGE),
    scale=st.sampled_from([1.0, 100.0, 1e5, 1e-3, 1e-6]),
    kind=st.sampled_from(["float32", "float64", "bfloat16", "int64", "bool"]),
    seed=st.integers(0, 99),
)  # fmt: skip
@example(shape=(1001,), scale=1.0, kind="float32", seed=0)
def test_large_tensors_are_summarised(torch: Any, shape: Any, scale: float, kind: str, seed: int) -> None:
    same(torch, np.random.default_rng(seed).standard_normal(shape) * scale, kind)


@pytest.mark.torch
@pytest.mark.parametrize("width", range(1, 30))
def test_lines_break_where_pytorchs_do(torch: Any, width: int) -> None:
    same(torch, np.arange(width) * 10.0 ** (width % 5) + 0.5, "float32")
    same(torch, np.arange(3 * width).reshape(3, width) * 10 ** (width % 7), "int64")
    same(torch, np.arange(3 * width).reshape(3, 1, width) % 2, "bool")
    same(torch, np.zeros(2 * width), "float32")
    same(torch, np.where(np.arange(2 * width) % 3, 0.0, np.nan), "float32")
    same(torch, np.where(np.arange(2 * width) % 3, 5.0, -np.inf), "float32")


@pytest.mark.torch
@pytest.mark.parametrize("columns", range(1, 24))
def test_suffixes_break_where_pytorchs_do(torch: Any, columns: int) -> None:
    for requires_grad in (False, True):
        mine, theirs = (lib.ones(2, columns, dtype=lib.float64, requires_grad=requires_grad) for lib in (ours, torch))
        assert repr(mine) == repr(theirs)
        assert repr(mine * 2) == repr(theirs * 2)  # grad_fn=<MulBackward0>
        assert repr(mine[0].exp()) == repr(theirs[0].exp())


@pytest.mark.torch
def test_names_in_the_graph(torch: Any) -> None:
    x, y = (lib.tensor([1.0, 2.0], requires_grad=True) for lib in (ours, torch))
    names = ("exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "relu", "neg", "abs", "sin", "cos", "sum", "mean")
    for name in names:
        assert repr(getattr(x, name)()) == repr(getattr(y, name)())
    for mine, theirs in ((x + 1, y + 1), (x - 1, y - 1), (x * x, y * y), (x / 2, y / 2)):
        assert repr(mine) == repr(theirs)


@pytest.mark.torch
@pytest.mark.parametrize("default", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (2,), (0, 3), (2, 0)])
def test_the_dtype_is_told_where_it_is_not_the_default(torch: Any, default: str, shape: Any) -> None:
    for lib in (ours, torch):
        lib.set_default_dtype(getattr(lib, default))
    try:
        for dtype in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"):
            mine, theirs = (lib.ones(shape, dtype=getattr(lib, dtype)) for lib in (ours, torch))
            assert repr(mine) == repr(theirs)
    finally:
        for lib in (ours, torch):
            lib.set_default_dtype(lib.float32)


@pytest.mark.torch
def test_parameters_and_views(torch: Any) -> None:
    for make in (
        lambda lib: lib.nn.Parameter(lib.ones(2, 2)),
        lambda lib: lib.arange(6.0).reshape(2, 3).T,
        lambda lib: lib.arange(10)[::3],
        lambda lib: lib.ones(1).expand(5),
        lambda lib: lib.ones(2, requires_grad=True).detach(),
    ):
        assert repr(make(ours)) == repr(make(torch)) and str(make(ours)) == str(make(torch))


@pytest.mark.torch
def test_named_results(torch: Any) -> None:
    rows = [[1.0, 2.0], [4.0, 3.0]]
    for make in (
        lambda x: x.max(1),
        lambda x: x.min(dim=0, keepdim=True),
        lambda x: x.sort(descending=True),
        lambda x: x.topk(1),
        lambda x: x[0, 0].max(0),
        lambda x: copy.copy(x.max(1)),
        lambda x: pickle.loads(pickle.dumps(x.max(1))),
        lambda x: isinstance(x.max(1), tuple) and x.max(1)[1] is not None and len(x.max(1)),
    ):
        assert repr(make(ours.tensor(rows))) == repr(make(torch.tensor(rows)))
    assert type(ours.tensor(rows).max(1)) is ours.return_types.max


@pytest.mark.torch
def test_formatting_in_strings(torch: Any) -> None:
    for data, spec in ((1.23456, ".2f"), (7, "3d"), ([1.5], ""), (2.0, ""), (True, "")):
        assert format(ours.tensor(data), spec) == format(torch.tensor(data), spec)
    mine, theirs = (lib.tensor(2.0, requires_grad=True) * 2 for lib in (ours, torch))
    assert f"{mine} {mine:.3f}" == f"{theirs} {theirs:.3f}"
    for lib in (ours, torch):
        with pytest.raises(TypeError):
            format(lib.ones(2), ".2f")


# --- without PyTorch ---


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([1.0, 2.5], "tensor([1.0000, 2.5000])"),
        ([[0.1, -2.0]], "tensor([[ 0.1000, -2.0000]])"),
        ([1.0, 2.0], "tensor([1., 2.])"),
        ([1e-5, 1.0], "tensor([1.0000e-05, 1.0000e+00])"),
        ([1e9, 1.0], "tensor([1.0000e+09, 1.0000e+00])"),
        ([math.nan, math.inf, -1.0], "tensor([nan, inf, -1.])"),
        (3, "tensor(3)"),
        (0.5, "tensor(0.5000)"),
        ([True, False], "tensor([ True, False])"),
        ([], "tensor([])"),
        ([[], []], "tensor([], size=(2, 0))"),
        ([[1, 2], [3, 40]], "tensor([[ 1,  2],\n        [ 3, 40]])"),
        ([[[1], [2]], [[3], [4]]], "tensor([[[1],\n         [2]],\n\n        [[3],\n         [4]]])"),
        (list(range(1001)), "tensor([   0,    1,    2,  ...,  998,  999, 1000])"),
    ],
)
def test_examples(data: Any, text: str) -> None:
    assert repr(ours.tensor(data)) == text


def test_suffixes() -> None:
    x = ours.tensor([1.0], requires_grad=True)
    assert repr(x) == "tensor([1.], requires_grad=True)"
    assert repr(x * 2) == "tensor([2.], grad_fn=<MulBackward0>)"
    assert repr(x.detach().double()) == "tensor([1.], dtype=torch.float64)"
    assert repr(ours.ones(2, dtype=ours.bfloat16)) == "tensor([1., 1.], dtype=torch.bfloat16)"
    assert repr(ours.nn.Parameter(ours.ones(1))) == "Parameter containing:\ntensor([1.], requires_grad=True)"
