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


MANY = [
    ((300_000, 3), (0,)), ((300_000, 1), (0,)), ((2, 150_000, 3), (1,)), ((3, 50_000, 2), (0, 1)),
    ((2, 90_000, 3), (1, 0)), ((60_000, 2, 3), (0, 2)), ((600, 500, 2), (0,)),
    ((400_000,), None), ((200_000, 4), None), ((2, 200_000), (1,)),
    ((1000, 5), (0,)), ((0, 3), (0,)), ((5000, 0), (0,)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "axes"), MANY)
@pytest.mark.parametrize("layout", ["plain", "reversed axes", "every other column"])
def test_reductions_stay_right_over_many_numbers(shape, axes, layout):
    drawn = np.random.default_rng(0).random([2 * n if layout == "every other column" else n for n in shape], np.float32)
    x = {"plain": drawn, "reversed axes": np.asfortranarray(drawn), "every other column": drawn[..., ::2]}[layout]
    x = x[tuple(slice(n) for n in shape)]
    t, exact = tg.from_numpy(x), x.astype(np.float64)
    for keepdim in (False, True):
        total = t.sum(axes, keepdim)
        assert total.dtype is tg.float32 and total.is_contiguous()
        np.testing.assert_allclose(total.numpy(), exact.sum(axes, keepdims=keepdim), rtol=2e-6)
    if exact.size:
        np.testing.assert_allclose(t.mean(axes).numpy(), exact.mean(axes), rtol=2e-6)
        np.testing.assert_allclose(t.var(axes).numpy(), exact.var(axes, ddof=1), rtol=2e-6)
        np.testing.assert_allclose(t.norm(dim=axes).numpy(), np.sqrt((exact**2).sum(axes)), rtol=2e-6)
        np.testing.assert_allclose(t.logsumexp(axes or ()).numpy(), np.log(np.exp(exact).sum(axes)), rtol=2e-6)


def test_the_gradient_of_what_was_broadcast_stays_right_over_many_rows():
    x = np.random.default_rng(0).random((2, 100_000, 3), np.float32)
    for shape in ((3,), (1, 3), (1, 1, 3), (2, 1, 3), (2, 1, 1), ()):
        b = tg.ones(shape, requires_grad=True)
        (tg.from_numpy(x) * b).sum().backward()
        expected = x.sum(axis=tuple(range(3 - len(shape))), dtype=np.float64)
        expected = expected.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)
        np.testing.assert_allclose(b.grad.numpy(), expected.reshape(shape), rtol=2e-6)


def test_running_sums_of_many_probabilities_end_at_one():
    p = tg.full((50_257,), 1 / 50_257, requires_grad=True)
    total = p.cumsum(0)
    assert total.dtype is tg.float32 and abs(total[-1].item() - 1) < 1e-6
    total.sum().backward()
    np.testing.assert_array_equal(p.grad.numpy(), np.arange(50_257, 0, -1, dtype=np.float32))
