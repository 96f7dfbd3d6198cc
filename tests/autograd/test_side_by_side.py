import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm.autograd.side_by_side import sum_side_by_side
from tinygrad_llm.kernels import threads


@pytest.fixture(params=[1, 2, 4])
def count(request, monkeypatch):
    """So many threads."""
    monkeypatch.setattr(threads, "_count", request.param)


def floats(*shape, seed=0):
    return tg.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def product_terms(parts, w, v):
    return [lambda x=x: (x @ w).tanh().sum() * v for x in parts]


@given(rows=st.lists(st.integers(1, 5), min_size=1, max_size=5), frozen=st.booleans())
def test_the_sum_and_its_gradients_are_those_of_plain_addition(rows, frozen):
    parts = [floats(n, 3, seed=i) for i, n in enumerate(rows)]
    w, v = floats(3, 4, seed=7).requires_grad_(), floats(seed=8).requires_grad_(not frozen)
    plain = sum(term() for term in product_terms(parts, w, v))
    expected = tg.autograd.grad(plain, [w] if frozen else [w, v])
    total = sum_side_by_side(product_terms(parts, w, v), [w] if frozen else [w, v])
    (total * 2).backward()
    np.testing.assert_allclose(total.item(), plain.item(), rtol=1e-5)
    np.testing.assert_allclose(w.grad.numpy(), 2 * expected[0].numpy(), rtol=1e-4, atol=1e-5)
    assert (v.grad is None) == frozen


@pytest.mark.usefixtures("count")
def test_the_bits_are_the_same_whatever_the_number_of_threads():
    w, v = floats(64, 64, seed=1).requires_grad_(), tg.tensor(1.5, requires_grad=True)
    total = sum_side_by_side(product_terms([floats(50, 64, seed=i) for i in range(5)], w, v), [w, v])
    total.backward()
    found = total.array.tobytes() + w.grad.array.tobytes() + v.grad.array.tobytes()
    assert SEEN.setdefault("bits", found) == found


SEEN: dict[str, bytes] = {}


@pytest.mark.usefixtures("count")
def test_a_second_backward_is_refused_or_kept_ready_as_asked():
    w, v = floats(3, 4).requires_grad_(), tg.tensor(1.0, requires_grad=True)
    total = sum_side_by_side(product_terms([floats(2, 3), floats(2, 3)], w, v), [w, v])
    total.backward(retain_graph=True)
    first = w.grad.clone()
    total.backward()
    np.testing.assert_array_equal(w.grad.numpy(), 2 * first.numpy())
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        total.backward()


@pytest.mark.usefixtures("count")
def test_nothing_is_recorded_where_nothing_is_to_be():
    w, v = floats(3, 4).requires_grad_(), tg.tensor(1.0, requires_grad=True)
    with tg.no_grad():
        total = sum_side_by_side(product_terms([floats(2, 3), floats(2, 3)], w, v), [w, v])
    assert total.grad_fn is None and not total.requires_grad


@pytest.mark.usefixtures("count")
def test_a_leaf_that_no_term_uses_gets_zeros():
    w, v, other = floats(3, 4).requires_grad_(), tg.tensor(1.0, requires_grad=True), floats(2).requires_grad_()
    sum_side_by_side(product_terms([floats(2, 3), floats(2, 3)], w, v), [w, v, other]).backward()
    assert other.grad.tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("count")
def test_an_error_in_a_term_is_raised():
    def bad():
        raise IndexError("no such token")

    with pytest.raises(IndexError, match="no such token"):
        sum_side_by_side([lambda: floats(), bad, lambda: floats()], [])


@pytest.mark.usefixtures("count")
def test_a_write_between_forward_and_backward_is_noticed():
    w, v = floats(3, 4).requires_grad_(), tg.tensor(1.0, requires_grad=True)
    total = sum_side_by_side(product_terms([floats(2, 3), floats(2, 3)], w, v), [w, v])
    with tg.no_grad():
        v.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
