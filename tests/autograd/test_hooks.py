"""Hooks on tensors: when they are called, in which order, and what a return value does."""

from __future__ import annotations

from typing import Any

import pytest


def leaf(lib: Any, *values: float) -> Any:
    return lib.tensor(values, requires_grad=True)


def test_a_hook_sees_the_whole_gradient_once(lib: Any) -> None:
    x = leaf(lib, 2.0)
    seen = []
    x.register_hook(lambda g: seen.append((g.tolist(), g.requires_grad, x.grad)))
    (x * x + x).sum().backward()
    assert seen == [([5.0], False, None)]  # before it is added to grad


def test_a_returned_tensor_takes_the_gradients_place(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = x * 3
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    (y * 2).sum().backward()
    assert x.grad.tolist() == [61.0]


def test_hooks_are_called_in_the_order_of_registration(lib: Any) -> None:
    x = leaf(lib, 2.0)
    x.register_hook(lambda g: g + 1)
    x.register_hook(lambda g: g * 10)
    (x * 1).sum().backward()
    assert x.grad.tolist() == [20.0]


def test_remove(lib: Any) -> None:
    x = leaf(lib, 2.0)
    calls = []
    handle = x.register_hook(lambda g: calls.append("removed"))
    x.register_hook(lambda g: calls.append("kept"))
    handle.remove()
    handle.remove()
    (x * 1).sum().backward()
    assert calls == ["kept"]


def test_a_handle_is_a_context(lib: Any) -> None:
    x = leaf(lib, 2.0)
    with x.register_hook(lambda g: g * 0):
        (x * 1).sum().backward()
    (x * 1).sum().backward()
    assert x.grad.tolist() == [1.0]


def test_a_hook_may_remove_itself(lib: Any) -> None:
    x = leaf(lib, 2.0)
    calls = []

    def once(g: Any) -> None:
        calls.append(1)
        handle.remove()

    handle = x.register_hook(once)
    (x * 1).sum().backward()
    (x * 1).sum().backward()
    assert calls == [1]


def test_no_hook_without_a_gradient(lib: Any) -> None:
    with pytest.raises(RuntimeError, match="cannot register a hook on a tensor that doesn't require gradient"):
        lib.ones(1).register_hook(lambda g: g)


def test_a_hook_on_what_is_not_reached_is_not_called(lib: Any) -> None:
    x, other = leaf(lib, 2.0), leaf(lib, 3.0)
    other.register_hook(lambda g: pytest.fail("not part of the graph"))
    (x * 1).sum().backward()


def test_what_a_hook_kept_does_not_change_later(lib: Any) -> None:
    x = leaf(lib, 2.0, 3.0)
    kept = []
    x.register_hook(kept.append)
    (x * x).sum().backward()
    (x * x).sum().backward()
    x.grad.mul_(100)
    assert [k.tolist() for k in kept] == [[4.0, 6.0], [4.0, 6.0]]


def test_what_a_hook_returned_is_not_the_leafs_buffer(lib: Any) -> None:
    x = leaf(lib, 2.0)
    mine = lib.full((1,), 7.0)
    x.register_hook(lambda g: mine)
    (x * x).sum().backward()
    (x * x).sum().backward()
    assert x.grad.tolist() == [14.0] and mine.tolist() == [7.0]


def test_retained_gradients_are_those_after_the_hooks(lib: Any) -> None:
    x = leaf(lib, 2.0)
    y = x * 1
    y.register_hook(lambda g: g * 5)
    y.retain_grad()
    (y * 2).sum().backward()
    assert y.grad.tolist() == [10.0] and x.grad.tolist() == [10.0]


def test_a_hook_must_return_a_gradient_that_fits(lib: Any) -> None:
    x = leaf(lib, 2.0)
    x.register_hook(lambda g: lib.ones(3))
    with pytest.raises(RuntimeError):
        (x * 1).sum().backward()


def test_a_hook_must_return_a_tensor(lib: Any) -> None:
    x = leaf(lib, 2.0)
    x.register_hook(lambda g: 3.0)
    with pytest.raises(TypeError):
        (x * 1).sum().backward()
