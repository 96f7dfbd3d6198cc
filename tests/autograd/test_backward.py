"""backward: what is a leaf, where gradients go, how they add up, when the graph is gone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as ours

AGAIN = "backward through the graph a second time"


def leaf(lib: Any, *values: float) -> Any:
    return lib.tensor(values, requires_grad=True)


# --- leaves ---


def test_a_tensor_that_the_user_makes_is_a_leaf(lib: Any) -> None:
    x, plain = leaf(lib, 1.0), lib.ones(2)
    assert x.is_leaf and x.requires_grad and x.grad_fn is None
    assert plain.is_leaf and not plain.requires_grad
    assert plain.requires_grad_() is plain and plain.is_leaf
    assert (plain.detach() * 2).is_leaf  # nothing recorded


def test_a_result_is_no_leaf_and_requires_a_gradient(lib: Any) -> None:
    x = leaf(lib, 1.0)
    y = x * 2
    assert y.requires_grad and not y.is_leaf and y.grad_fn is not None
    assert not (lib.ones(1) * 2).requires_grad
    assert not (x > 0).requires_grad and not x.argmax().requires_grad


def test_only_leaves_get_a_gradient(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = x * 3
    (y * y).sum().backward()
    assert x.grad.tolist() == [36.0]
    assert not y.retains_grad


def test_requires_grad_of_a_result_cannot_be_switched_off(lib: Any) -> None:
    y = leaf(lib, 1.0) * 2
    with pytest.raises(RuntimeError, match="you can only change requires_grad flags of leaf variables"):
        y.requires_grad_(False)
    with pytest.raises(RuntimeError, match="you can only change requires_grad flags of leaf variables"):
        y.requires_grad = False


def test_integers_cannot_require_a_gradient(lib: Any) -> None:
    with pytest.raises(RuntimeError, match="floating point"):
        lib.ones(2, dtype=lib.int64).requires_grad_()
    with pytest.raises(RuntimeError, match="floating point"):
        lib.tensor([1, 2], requires_grad=True)


def test_a_leaf_can_be_frozen_again(lib: Any) -> None:
    x = leaf(lib, 1.0)
    x.requires_grad_(False)
    assert not (x * 2).requires_grad
    x.requires_grad = True
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2.0]


def test_detach_leaves_the_graph_and_shares_the_memory(lib: Any) -> None:
    x = leaf(lib, 1.0, 2.0)
    y = (x * 2).detach()
    assert not y.requires_grad and y.is_leaf and y.grad_fn is None
    z = x * y
    z.sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]  # y counts as a constant
    shared = x.detach()
    shared[0] = 5.0
    assert x.tolist() == [5.0, 2.0]


def test_detach_in_place(lib: Any) -> None:
    x = leaf(lib, 1.0)
    y = x * 2
    assert y.detach_() is y
    assert y.is_leaf and not y.requires_grad


# --- sums of gradients ---


def test_gradients_add_up_from_call_to_call(lib: Any) -> None:
    x = leaf(lib, 1.0, 2.0)
    (x * 3).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [5.0, 7.0]
    assert x.grad is first  # in place, so that an optimizer may hold on to it
    x.grad = None
    (x * 3).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0] and first.tolist() == [5.0, 7.0]


def test_a_tensor_used_twice_gets_both_gradients(lib: Any) -> None:
    x = leaf(lib, 3.0)
    (x * x + x).sum().backward()
    assert x.grad.tolist() == [7.0]
    y = leaf(lib, 2.0)
    lib.cat([y, y, y * y]).sum().backward()
    assert y.grad.tolist() == [6.0]


def test_a_diamond_is_swept_once(lib: Any) -> None:
    x = leaf(lib, 2.0)
    calls = []
    y = x * 1
    y.register_hook(lambda g: calls.append(g.tolist()))
    ((y * 3) * (y + 1)).sum().backward()
    assert calls == [[15.0]]  # both ways arrive before the hook is called
    assert x.grad.tolist() == [15.0]


def test_two_leaves_never_share_a_gradient_buffer() -> None:
    """PyTorch shares the gradient that the user gave, and some that it expands; here nothing is shared."""
    x, y = leaf(ours, 1.0, 2.0), leaf(ours, 3.0, 4.0)
    (x + y).sum().backward()
    x.grad.add_(100)
    assert y.grad.tolist() == [1.0, 1.0]
    given_gradient = ours.ones(2)
    for out in (x + y, x - 0 * y, x.reshape(2), x.clone(), x.flip(0).flip(0)):
        x.grad = y.grad = None
        out.backward(given_gradient)
        x.grad.add_(100)
        assert given_gradient.tolist() == [1.0, 1.0]
        assert y.grad is None or max(y.grad.tolist()) <= 1.0


def test_a_retained_gradient_is_not_the_leafs(lib: Any) -> None:
    x = leaf(lib, 1.0, 2.0)
    y = x + 0
    y.retain_grad()
    (y + 0).sum().backward()
    y.grad.mul_(50)
    assert x.grad.tolist() == [1.0, 1.0]


def test_gradients_have_the_dtype_and_shape_of_their_leaf(lib: Any) -> None:
    x = lib.ones(3, 1, dtype=lib.float64, requires_grad=True)
    y = lib.ones(4, requires_grad=True)
    h = lib.ones(4, dtype=lib.bfloat16, requires_grad=True)
    (x * y * h).sum().backward()
    assert (x.grad.dtype, tuple(x.grad.shape)) == (lib.float64, (3, 1))
    assert (y.grad.dtype, tuple(y.grad.shape)) == (lib.float32, (4,))
    assert (h.grad.dtype, h.grad.tolist()) == (lib.bfloat16, [3.0] * 4)


# --- the arguments of backward ---


def test_only_one_element_needs_no_gradient(lib: Any) -> None:
    x = leaf(lib, 1.0, 2.0)
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
        (x * 2).backward()
    (x[:1] * 2).backward()  # one element, though not 0-d
    assert x.grad.tolist() == [2.0, 0.0]


def test_gradient_weights_the_outputs(lib: Any) -> None:
    x = leaf(lib, 1.0, 2.0)
    (x * x).backward(lib.tensor([1.0, 10.0]))
    assert x.grad.tolist() == [2.0, 40.0]
    (x * x).backward(gradient=lib.tensor([1.0, 0.0]))
    assert x.grad.tolist() == [4.0, 40.0]


def test_gradient_must_fit(lib: Any) -> None:
    x = leaf(lib, 1.0, 2.0)
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        (x * 2).backward(lib.ones(3))


def test_backward_of_a_constant_is_refused(lib: Any) -> None:
    with pytest.raises(RuntimeError, match="does not require grad and does not have a grad_fn"):
        lib.ones(1).backward()


def test_backward_of_a_leaf(lib: Any) -> None:
    x = leaf(lib, 5.0)
    x.backward()
    x.backward()
    assert x.grad.tolist() == [2.0]


def test_a_second_backward_is_refused(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = x * x
    y.sum().backward()
    with pytest.raises(RuntimeError, match=AGAIN):
        y.sum().backward()
    assert x.grad.tolist() == [4.0]


def test_a_retained_graph_can_be_swept_again(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [12.0]
    with pytest.raises(RuntimeError, match=AGAIN):
        y.backward()


BARE = [
    lambda lib, x: x + 1,
    lambda lib, x: 1 - x,
    lambda lib, x: -x,
    lambda lib, x: x.sum(0),
    lambda lib, x: x.mean(1),
    lambda lib, x: x.view(4),
    lambda lib, x: x.T,
    lambda lib, x: x[0],
    lambda lib, x: x[:, None, 1:],
    lambda lib, x: x.split(1)[1],
    lambda lib, x: x.expand(3, 2, 2),
    lambda lib, x: x.clone(),
    lambda lib, x: x.double(),
    lambda lib, x: lib.cat([x, x]),
    lambda lib, x: lib.stack([x, x]),
    lambda lib, x: x.repeat(2, 1),
    lambda lib, x: x.tril(),
    lambda lib, x: x.cumsum(0),
    lambda lib, x: x.round(),
]


@pytest.mark.parametrize("function", BARE)
def test_a_second_backward_passes_where_nothing_was_kept(lib: Any, function: Any) -> None:
    x = lib.tensor([[0.5, 1.5], [2.5, 3.5]], requires_grad=True)
    y = function(lib, x)
    y.sum().backward()
    once = x.grad.tolist()
    y.sum().backward()
    assert x.grad.tolist() == [[2 * g for g in row] for row in once]


def test_a_part_that_was_freed_is_found_out_from_elsewhere(lib: Any) -> None:
    x = leaf(lib, 2.0)
    shared = (x * x).exp()
    shared.sum().backward()
    with pytest.raises(RuntimeError, match=AGAIN):
        (shared * 2).sum().backward()


def test_inputs_restricts_what_receives(lib: Any) -> None:
    x, w = leaf(lib, 2.0), leaf(lib, 3.0)
    y = x * w
    (y * y).sum().backward(inputs=[w])
    assert x.grad is None and w.grad.tolist() == [24.0]
    (x * w).sum().backward(inputs=w)
    assert w.grad.tolist() == [26.0]


def test_inputs_may_be_results(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = x * 3
    y.retain_grad()
    (y * y).sum().backward(inputs=[y])
    assert y.grad.tolist() == [12.0] and x.grad is None


def test_inputs_must_not_be_empty(lib: Any) -> None:
    with pytest.raises(RuntimeError, match="empty"):
        (leaf(lib, 2.0) * 2).sum().backward(inputs=[])


def test_backward_of_several_tensors(lib: Any) -> None:
    x = leaf(lib, 1.0, 2.0)
    a, b = x * 2, (x * x).sum()
    lib.autograd.backward([a, b], [lib.tensor([1.0, 10.0]), None])
    assert x.grad.tolist() == [4.0, 24.0]


def test_a_root_that_is_also_on_the_way(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = x * 3
    z = y * y
    lib.autograd.backward([y.sum(), z.sum()])
    assert x.grad.tolist() == [39.0]


def test_a_higher_derivative_is_refused() -> None:
    y = (leaf(ours, 2.0) ** 3).sum()
    with pytest.raises(NotImplementedError, match="create_graph=True"):
        y.backward(create_graph=True)
    with pytest.raises(NotImplementedError, match="create_graph=True"):
        ours.autograd.grad(y, leaf(ours, 2.0), create_graph=True)


# --- retain_grad, grad_fn, errors ---


def test_retain_grad(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = x * 3
    y.retain_grad()
    y.retain_grad()  # twice is once
    assert y.retains_grad and not x.retains_grad
    (y * y).sum().backward()
    assert y.grad.tolist() == [12.0] and x.grad.tolist() == [36.0]
    x.retain_grad()  # a leaf retains anyway
    with pytest.raises(RuntimeError, match="can't retain_grad on Tensor that has requires_grad=False"):
        lib.ones(1).retain_grad()


def test_the_graph_can_be_read(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = (x * x).sum()
    assert y.grad_fn.name() == "SumBackward0"
    (product, _), *_ = y.grad_fn.next_functions
    assert product.name() == "MulBackward0"
    assert [f.name() for f, _ in product.next_functions] == ["AccumulateGrad"] * 2 or lib is not ours


def test_an_error_in_a_pullback_names_the_op() -> None:
    x = leaf(ours, 1.0)
    y = x.exp()

    def broken(g: Any) -> Any:
        raise ZeroDivisionError("by hand")

    y.node.pull = (broken,)
    with pytest.raises(ZeroDivisionError, match="by hand") as caught:
        y.backward(ours.ones(1))
    assert any("exp" in note and "(1,)" in note for note in caught.value.__notes__)


def test_an_error_in_a_hook_comes_through_as_it_is(lib: Any) -> None:
    x = leaf(lib, 1.0)

    def hook(g: Any) -> None:
        raise ValueError("by hand")

    x.register_hook(hook)
    with pytest.raises(ValueError, match="by hand"):
        (x * 2).sum().backward()


@st.composite
def expressions(draw: Any) -> Any:
    """A random graph over three leaves: each step combines two earlier tensors."""
    return [
        (draw(st.sampled_from("+-*")), draw(st.integers(0, 2 + i)), draw(st.integers(0, 2 + i)))
        for i in range(draw(st.integers(1, 12)))
    ]


@given(expressions())
def test_any_graph_of_sums_and_products_is_swept_right(steps: Any) -> None:
    """Against forward-mode differentiation, done here with plain numbers."""
    start = [0.5, -1.25, 2.0]
    leaves = [leaf(ours, v).double().detach().requires_grad_() for v in start]
    tensors: list[Any] = list(leaves)
    duals = [(v, [float(i == j) for j in range(3)]) for i, v in enumerate(start)]
    for sign, i, j in steps:
        (a, da), (b, db) = duals[i], duals[j]
        if sign == "+":
            tensors.append(tensors[i] + tensors[j])
            duals.append((a + b, [p + q for p, q in zip(da, db, strict=True)]))
        elif sign == "-":
            tensors.append(tensors[i] - tensors[j])
            duals.append((a - b, [p - q for p, q in zip(da, db, strict=True)]))
        else:
            tensors.append(tensors[i] * tensors[j])
            duals.append((a * b, [p * b + a * q for p, q in zip(da, db, strict=True)]))
    tensors[-1].backward()
    for x, expected in zip(leaves, duals[-1][1], strict=True):
        assert (0.0 if x.grad is None else x.grad.item()) == pytest.approx(expected, rel=1e-9, abs=1e-9)
