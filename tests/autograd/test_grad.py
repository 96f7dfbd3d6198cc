"""autograd.grad: gradients returned instead of added up."""

from __future__ import annotations

from typing import Any

import pytest

import tinygrad_llm as ours


def leaf(lib: Any, *values: float) -> Any:
    return lib.tensor(values, requires_grad=True)


def test_returns_and_leaves_grad_alone(lib: Any) -> None:
    x, w = leaf(lib, 2.0), leaf(lib, 3.0)
    dx, dw = lib.autograd.grad((x * w * w).sum(), [x, w])
    assert (dx.tolist(), dw.tolist()) == ([9.0], [12.0])
    assert x.grad is None and w.grad is None
    assert not dx.requires_grad


def test_one_input_still_returns_a_tuple(lib: Any) -> None:
    x = leaf(lib, 2.0)
    result = lib.autograd.grad((x * x).sum(), x)
    assert isinstance(result, tuple) and result[0].tolist() == [4.0]


def test_of_a_result(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = x * 3
    z = (y * y).sum()
    dy, dx = lib.autograd.grad(z, (y, x))
    assert (dy.tolist(), dx.tolist()) == ([12.0], [36.0])


def test_of_the_output_itself(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = (x * 3).sum()
    (dy,) = lib.autograd.grad(y, y)
    assert dy.tolist() == 1.0


def test_the_same_input_twice(lib: Any) -> None:
    x = leaf(lib, 2.0)
    a, b = lib.autograd.grad((x * x).sum(), [x, x])
    assert a.tolist() == b.tolist() == [4.0]


def test_grad_outputs_and_several_outputs(lib: Any) -> None:
    x = leaf(lib, 1.0, 2.0)
    (dx,) = lib.autograd.grad(x * x, x, grad_outputs=lib.tensor([1.0, 10.0]))
    assert dx.tolist() == [2.0, 40.0]
    (dx,) = lib.autograd.grad([x * 2, (x * x).sum()], x, [lib.ones(2), None])
    assert dx.tolist() == [4.0, 6.0]
    with pytest.raises(RuntimeError, match="scalar outputs"):
        lib.autograd.grad(x * x, x)
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        lib.autograd.grad(x * x, x, lib.ones(3))


def test_more_gradients_than_outputs() -> None:
    x = leaf(ours, 1.0, 2.0)
    with pytest.raises(RuntimeError, match="1 tensors and 2 gradients"):
        ours.autograd.grad([x * 2], x, [ours.ones(2), ours.ones(2)])


def test_an_unused_input(lib: Any) -> None:
    x, other = leaf(lib, 1.0), leaf(lib, 1.0, 2.0)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        lib.autograd.grad((x * 2).sum(), [x, other])
    dx, none = lib.autograd.grad((x * 2).sum(), [x, other], allow_unused=True)
    assert dx.tolist() == [2.0] and none is None
    dx, zeros = lib.autograd.grad((x * 2).sum(), [x, other], materialize_grads=True)
    assert dx.tolist() == [2.0] and zeros.tolist() == [0.0, 0.0]


def test_allow_unused_false_with_materialize_grads_is_a_contradiction(lib: Any) -> None:
    x, other = leaf(lib, 1.0), leaf(lib, 1.0)
    with pytest.raises(ValueError, match="allow_unused"):
        lib.autograd.grad((x * 2).sum(), [x, other], allow_unused=False, materialize_grads=True)


def test_an_input_outside_the_graph(lib: Any) -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        lib.autograd.grad((leaf(lib, 1.0) * 2).sum(), lib.ones(1))
    with pytest.raises(RuntimeError, match="does not require grad"):
        lib.autograd.grad(lib.ones(1), leaf(lib, 1.0))


def test_retain_graph(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = (x * x).sum()
    assert lib.autograd.grad(y, x, retain_graph=True)[0].tolist() == [4.0]
    assert lib.autograd.grad(y, x)[0].tolist() == [4.0]
    with pytest.raises(RuntimeError, match="a second time"):
        lib.autograd.grad(y, x)


def test_what_was_not_on_the_way_is_not_freed(lib: Any) -> None:
    x, w = leaf(lib, 2.0), leaf(lib, 3.0)
    a, b = x.exp() * 0, w * w
    y = (a + b).sum()
    lib.autograd.grad(y, w, retain_graph=False)
    assert lib.autograd.grad(a.sum(), x)[0].tolist() == [0.0]


def test_hooks_are_called(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = x * 3
    y.register_hook(lambda g: g * 10)
    (dx,) = lib.autograd.grad((y * 2).sum(), x)
    assert dx.tolist() == [60.0]


def test_two_results_never_share_memory() -> None:
    x, y = leaf(ours, 1.0, 2.0), leaf(ours, 3.0, 4.0)
    gradient = ours.ones(2)
    z = x + y
    dz, dx, dy = ours.autograd.grad(z, [z, x, y], gradient)
    dx.add_(100)
    dz.add_(10)
    assert dy.tolist() == [1.0, 1.0] and dz.tolist() == [11.0, 11.0] and dx.tolist() == [101.0, 101.0]
    assert gradient.tolist() == [1.0, 1.0]
