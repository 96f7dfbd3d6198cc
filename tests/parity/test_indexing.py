"""x[key] and x[key] = value for keys of every kind: values, gradients and exceptions are PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.parity.judge import X, call, difference

pytestmark = pytest.mark.torch

SHAPES = st.lists(st.sampled_from([3, 2, 4, 1, 0]), max_size=4).map(tuple)


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def counted(shape: tuple[int, ...], start: float = 1.0) -> np.ndarray:
    return np.arange(start, start + np.prod(shape)).reshape(shape)


@st.composite
def slices(draw: Any, n: int) -> slice:
    place = st.none() | st.integers(-n - 2, n + 2)
    return slice(draw(place), draw(place), draw(st.none() | st.integers(1, 3)))


@st.composite
def places(draw: Any, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """Indices into a dimension of n, from both ends."""
    count = int(np.prod(shape))
    return np.array(draw(st.lists(st.integers(-n, max(n - 1, 0)), min_size=count, max_size=count)), int).reshape(shape)


@st.composite
def keys(draw: Any, shape: tuple[int, ...]) -> Any:
    """An index of a tensor of that shape: its components take dimension by dimension, up to all of them."""
    together = draw(st.sampled_from([(2,), (3, 2), (1, 2), (0,), ()]))  # index arrays broadcast to this
    parts: list[Any] = []
    axis = 0
    arrays = draw(st.booleans())
    kinds = ["int", "slice", "slice", "none", "stop"]
    kinds += ["list", "tensor", "tensor", "mask", "mask2", "bool"] if arrays else []
    while axis < len(shape) or draw(st.integers(0, 4)) == 4:
        kind = draw(st.sampled_from(kinds))
        n = shape[axis] if axis < len(shape) else 1
        if kind == "stop":
            break
        if n == 0 and kind in ("list", "tensor"):
            kind = "slice"
        if kind == "none":
            parts.append(None)
        elif kind == "bool":
            parts.append(draw(st.sampled_from([True, False, X(np.array(True), "bool")])))
        elif kind == "int":
            parts.append(draw(st.integers(-n, max(n - 1, 0))))
        elif kind == "slice":
            parts.append(draw(slices(n)))
        elif kind == "list":
            parts.append(draw(places(n, together[-1:] or (1,))).tolist())
        elif kind == "tensor":
            dtype = draw(st.sampled_from(["int64", "int64", "int32"]))
            parts.append(X(draw(places(n, draw(st.sampled_from([together, together[-1:]])))), dtype))
        else:
            covered = shape[axis : axis + (2 if kind == "mask2" else 1)]
            mask = draw(st.lists(st.booleans(), min_size=int(np.prod(covered)), max_size=int(np.prod(covered))))
            parts.append(X(np.array(mask, bool).reshape(covered), "bool"))
            axis += len(covered) - 1
        axis += kind not in ("none", "bool")
    if draw(st.booleans()):  # where dimensions are left over, only at the end: each component keeps its dimension
        parts.insert(draw(st.integers(0 if axis >= len(shape) else len(parts), len(parts))), Ellipsis)
    return parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


@st.composite
def gets(draw: Any) -> Any:
    shape = draw(SHAPES)
    return call(X(counted(shape)), draw(keys(shape)))


def get(x: Any, key: Any) -> Any:
    return x[key]


@settings(max_examples=5 * settings.default.max_examples)
@given(sample=gets())
@example(sample=call(X(counted((2, 3, 4))), (0, slice(None), [0, 1])))
@example(sample=call(X(counted((2, 3, 4))), ([0, 1], slice(None), [0, 1])))
@example(sample=call(X(counted((2, 3, 4))), (slice(None), [0, 1], None, [0, 1])))
@example(sample=call(X(counted((3,))), X(np.array([0, 1, 1]), "int8")))
@example(sample=call(X(counted((3,))), X(np.array([0.0, 1.0]), grad=False)))
@example(sample=call(X(counted((3,))), X(np.array([0, 3]), "int64")))
@example(sample=call(X(counted((3,))), [0, -4]))
@example(sample=call(X(counted((3,))), 3))
@example(sample=call(X(counted((3,))), 1.0))
@example(sample=call(X(counted((3,))), "a"))
@example(sample=call(X(counted((3,))), slice(None, None, -1)))
@example(sample=call(X(counted((3,))), slice(None, None, 0)))
@example(sample=call(X(counted((3, 2))), (0, 0, 0)))
@example(sample=call(X(counted((3, 2))), X(np.array([True, False]), "bool")))
@example(sample=call(X(counted((3, 2))), ([0, 1], [0, 1, 1])))
@example(sample=call(X(counted((3, 2))), [[0, 1], [1, 0]]))
@example(sample=call(X(counted((3, 2))), []))
@example(sample=call(X(counted((3, 2))), [True, False, True]))
@example(sample=call(X(counted((3, 2))), ([True, False, True], 1)))
@example(sample=call(X(counted(())), 0))
@example(sample=call(X(counted(())), None))
@example(sample=call(X(counted(())), X(np.array(True), "bool")))
@example(sample=call(X(counted((3, 2))), X(np.array(1), "int64")))
@example(sample=call(X(counted((3, 2))), (slice(X(np.array(1), "int64"), None), 0)))
def test_getitem(torch: Any, sample: Any) -> None:
    assert difference(torch, get, get, sample) is None


def put(x: Any, key: Any, value: Any) -> Any:
    """A write into a copy, so that gradients flow to what is left of x and to value."""
    y = x.clone()
    y[key] = value
    return y


def _names_twice(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return any(isinstance(k, list) or (isinstance(k, X) and k.dtype != "bool") for k in parts)


@st.composite
def puts(draw: Any, torch: Any) -> Any:
    """A key and a value that fits it, is broadcast into it, or now and then does not fit."""
    shape = draw(SHAPES)
    key = draw(keys(shape))
    parts = key if isinstance(key, tuple) else (key,)
    assume(not any(k is False for k in parts))  # of such a write PyTorch records nothing
    try:
        target = tuple(torch.empty(shape)[call(key).map(lambda x: x.build(torch)).args[0]].shape)
    except (IndexError, RuntimeError, ValueError, TypeError):
        target = (2,)
    cut = draw(st.integers(0, len(target)))
    fit = tuple(draw(st.sampled_from([n, n, 1])) for n in target[cut:])
    fit = draw(st.sampled_from([target, fit, (1, *fit), (*fit, 2)]))
    values = counted(fit, 100.0)
    if _names_twice(key):  # two writes to one place: which stays is open, unless they agree
        values = np.full(fit, 100.0)
    value = draw(st.sampled_from([X(values), X(values, grad=False), 7.5, 7, True]))
    return call(X(counted(shape), grad=draw(st.booleans())), key, value)


@settings(max_examples=5 * settings.default.max_examples)
@given(data=st.data())
def test_setitem(torch: Any, data: Any) -> None:
    sample = data.draw(puts(torch))
    assert difference(torch, put, put, sample) is None


@given(data=st.data())
def test_setitem_with_places_named_once(torch: Any, data: Any) -> None:
    n, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    rows = np.array(data.draw(st.permutations(range(n)))[: data.draw(st.integers(0, n))], int)
    key = (X(rows, "int64"), slice(None, None, data.draw(st.integers(1, 2))))
    value = counted((len(rows), len(range(m)[key[1]])), 100.0)
    sample = call(X(counted((n, m))), key, X(value))
    assert difference(torch, put, put, sample) is None


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float32", "bfloat16"])
@pytest.mark.parametrize("value", [3, 2.75, True, X(np.array(2.75), "float64", grad=False), X(np.array(7), "int64")])
def test_setitem_casts_the_value(torch: Any, dtype: str, value: Any) -> None:
    assert difference(torch, put, put, call(X(np.ones((2, 3)), dtype, grad=False), (0, slice(1, None)), value)) is None


@pytest.mark.parametrize("value", ["a", None, [1.0, 2.0], object()])
def test_setitem_refuses_what_is_no_number(torch: Any, value: Any) -> None:
    assert difference(torch, put, put, call(X(np.ones(2)), slice(None), value)) is None


DISTINCT = [[[2, 0]], [[1, 1, 0], [0, 1, 1]], [[3]], [[0], [0], [0]]]  # the last two name no place


@pytest.mark.parametrize(
    ("indices", "accumulate"), [*((i, a) for i in DISTINCT for a in (False, True)), ([[1, 1, 1]], True)]
)
def test_index_put_(torch: Any, indices: list[list[int]], accumulate: bool) -> None:
    """Into a copy, so that gradients flow to what it was and to the values; a place named thrice is added to thrice."""

    def put(x: Any, values: Any, *indices: Any) -> Any:
        return x.clone().index_put_(indices, values, accumulate=accumulate)

    places = [X(np.array(i), "int64") for i in indices]
    shape = (len(indices[0]), 2) if len(indices) == 1 else (len(indices[0]),)
    assert difference(torch, put, put, call(X(counted((3, 2))), X(counted(shape, 10.0)), *places)) is None


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (0, 2)])
def test_fill_diagonal_(torch: Any, shape: tuple[int, ...]) -> None:
    """Into a copy, so that the gradient is seen to pass the diagonal by."""

    def fill(x: Any) -> Any:
        return x.clone().fill_diagonal_(7.0)

    assert difference(torch, fill, fill, call(X(counted(shape)))) is None
