"""The kinds of sample inputs that PyTorch's own tests use, as calls free of either library."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.parity.judge import Call, X, call

SHAPES = [(), (1,), (3,), (2, 3), (0,), (2, 0, 3), (2, 3, 4)]
BROADCASTS = [
    ((3, 4), (3, 4)), ((3, 4), (4,)), ((4,), (3, 4)), ((3, 1), (1, 4)), ((), (3,)), ((3,), ()), ((), ()),
    ((2, 1, 3), (4, 1)), ((0, 3), (1, 3)), ((0,), (1,)), ((2, 0), (1,)),
]  # fmt: skip
SPECIAL = [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0, 0.5, -2.5]
INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
NOT_FLOATS = (*INTEGERS, "bool")

_rng = np.random.default_rng(20)


def normal(*shape: int) -> X:
    """Numbers around 0, none of them near a kink."""
    values = _rng.standard_normal(shape)
    return X(np.round(values + 0.05 * np.sign(values), 4))


def positive(*shape: int) -> X:
    return X(np.round(_rng.uniform(0.2, 3.0, shape), 4))


def unit(*shape: int) -> X:
    """Probabilities away from 0 and 1."""
    return X(np.round(_rng.uniform(0.05, 0.95, shape), 4))


def ties(*shape: int) -> X:
    """A few different numbers, so that many are equal."""
    return X(_rng.integers(-1, 2, shape).astype(float))


def special() -> X:
    """nan, inf, signed zeros. The gradient at nan and inf is nobody's business."""
    return X(np.array(SPECIAL), grad=False)


def extremes() -> X:
    """Signed zeros, large and small numbers, with their gradient."""
    return X(np.array([0.0, -0.0, 1.0, -1.0, 30.0, -30.0, 1e-9, -1e-9]))


def ints(*shape: int, low: int = -3, high: int = 4, dtype: str = "int64") -> X:
    return X(_rng.integers(0 if dtype == "uint8" else low, high, shape), dtype)


def bools(*shape: int) -> X:
    return X(_rng.integers(0, 2, shape).astype(bool), "bool")


def ids(below: int, *shape: int, dtype: str = "int64") -> X:
    return X(_rng.integers(0, below, shape), dtype)


def expanded(values: Any, *shape: int) -> X:
    """A tensor whose elements share memory."""
    return X(np.asarray(values, float), layout="expanded", shape=shape)


def constant(x: X) -> X:
    """The same tensor without a gradient."""
    return X(x.values, x.dtype, x.layout, False, x.shape)


def any_dtype(*shape: int) -> list[X]:
    """One tensor of each dtype that is no float."""
    return [ints(*shape, dtype=d) for d in INTEGERS] + [bools(*shape)]


def unary(values: Any = normal, *, with_special: bool = True, other_dtypes: bool = True, **kwargs: Any) -> list[Call]:
    """One tensor: every shape, expanded memory, nan and inf, integers and bools."""
    inputs = [values(*s) for s in SHAPES] + [expanded([[0.7], [1.3]], 2, 3)]
    inputs += [special(), extremes()] if with_special else []
    inputs += any_dtype(2, 3) if other_dtypes else []
    return [call(x, **kwargs) for x in inputs]


def binary(values: Any = normal, *, second: Any = None, other_dtypes: bool = True) -> list[Call]:
    """Two tensors that broadcast, numbers on either side of the category, mixed dtypes, nan and inf."""
    second = second or values
    samples = [call(values(*a), second(*b)) for a, b in BROADCASTS]
    samples += [call(ties(4, 5), ties(4, 5)), call(ties(3), X(np.array(0.0)))]
    samples += [call(expanded([[0.7], [1.3]], 2, 3), second(2, 3))]
    grid = np.array([[a, b] for a in SPECIAL for b in SPECIAL])
    samples += [call(X(grid[:, 0], grad=False), X(grid[:, 1], grad=False))]
    if other_dtypes:
        nonzero = [X(np.array([[1, 2, 3], [1, 1, 2]]), d) for d in INTEGERS] + [X(np.array([[True] * 3] * 2), "bool")]
        samples += [call(values(2, 3), x) for x in nonzero] + [call(x, values(2, 3)) for x in nonzero]
        samples += [call(a, b) for a in nonzero[::2] for b in nonzero]
    return samples


def with_numbers(values: Any = normal, numbers: tuple[Any, ...] = (2, 0.5, -1.5, True)) -> list[Call]:
    """A tensor and a Python number: floats, integers, bools."""
    inputs = [values(2, 3), values(), X(np.array([[1, 2], [3, 1]]), "int64"), X(np.array([1, 2]), "uint8"), bools(3)]
    return [call(x, n) for x in inputs for n in numbers]


def over_dims(
    values: Any = normal, *, several: bool = True, required: bool = False, keepdim: bool = True
) -> list[Call]:
    """A reduction over no dim, each dim from both ends, several dims, with and without keepdim."""
    x3, x2 = values(2, 3, 4), values(3, 4)
    samples = [] if required else [call(values(*s)) for s in SHAPES]
    samples += [call(x3, d) for d in (0, 1, 2, -1, -3)] + [call(x2, 1), call(values(3), 0)]
    samples += [call(values(), 0), call(values(), -1)]
    samples += [call(expanded([[0.7], [1.3]], 2, 3), 0), call(expanded([[0.7, 1.3, 0.2]], 2, 3), 1)]
    if keepdim:
        samples += [call(x3, 1, True), call(x2, dim=-1, keepdim=True), call(values(), 0, True)]
    if several:
        samples += [call(x3, (0, 2)), call(x3, (-1, 0), True), call(x3, [1]), call(x3, dim=(0, 1, 2))]
    return samples
