"""Tensors beside NumPy arrays, in either order; sums that stay exact over many rows."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.kernels import SUMMED_AT_ONCE, column_sums


@pytest.mark.parametrize("op", ["__add__", "__sub__", "__mul__", "__truediv__", "__eq__", "__lt__", "__ge__"])
def test_an_operator_with_an_array_gives_a_tensor_and_takes_the_gradient_along(op):
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    x = tg.tensor(a, requires_grad=True)
    for result, expected in ((getattr(x, op)(b), getattr(a, op)(b)), (getattr(tg.tensor(b), op)(a), getattr(b, op)(a))):
        assert isinstance(result, tg.Tensor)
        np.testing.assert_array_equal(result.detach().numpy(), expected)


def test_an_array_on_the_left_asks_the_tensor():
    x = tg.tensor([1.0, 2.0], dtype=tg.float64, requires_grad=True)
    y = np.array([3.0, 5.0]) * x
    assert isinstance(y, tg.Tensor)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 5.0])


def test_a_numpy_function_of_a_tensor_is_a_tensor():
    y = np.sin(tg.tensor([0.0, 1.0]))
    assert isinstance(y, tg.Tensor) and y.dtype is tg.float32
    np.testing.assert_array_equal(y.numpy(), np.sin(np.array([0, 1], np.float32)))


@pytest.mark.parametrize("rows", [SUMMED_AT_ONCE - 1, SUMMED_AT_ONCE, SUMMED_AT_ONCE + 1, 300_000])
def test_column_sums_stay_right_over_many_rows(rows):
    x = np.random.default_rng(rows).random((rows, 7), np.float32)
    np.testing.assert_allclose(column_sums(x), x.sum(axis=0, dtype=np.float64), rtol=1e-6)


def test_running_sums_of_many_probabilities_end_at_one():
    p = tg.full((50_257,), 1 / 50_257, requires_grad=True)
    total = p.cumsum(0)
    assert total.dtype is tg.float32 and abs(total[-1].item() - 1) < 1e-6
    total.sum().backward()
    np.testing.assert_array_equal(p.grad.numpy(), np.arange(50_257, 0, -1, dtype=np.float32))
