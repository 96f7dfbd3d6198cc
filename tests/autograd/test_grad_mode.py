"""no_grad, enable_grad, set_grad_enabled and inference_mode: as blocks, as decorators, nested, per thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest


def recorded(lib: Any) -> bool:
    """Whether an op on a leaf is recorded now."""
    return (lib.ones(1, requires_grad=True) * 2).requires_grad


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_nothing_is_recorded_inside(lib: Any, mode: str) -> None:
    with getattr(lib, mode)():
        assert not recorded(lib) and not lib.is_grad_enabled()
        assert lib.is_inference_mode_enabled() == (mode == "inference_mode")
    assert recorded(lib) and lib.is_grad_enabled() and not lib.is_inference_mode_enabled()


def test_leaves_made_under_no_grad_work_later(lib: Any) -> None:
    with lib.no_grad():
        w = lib.ones(1, requires_grad=True)
    assert (w * 2).requires_grad


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_the_switch_is_put_back_after_an_error(lib: Any, mode: str) -> None:
    with pytest.raises(KeyError), getattr(lib, mode)():
        raise KeyError
    assert recorded(lib)


def test_modes_nest(lib: Any) -> None:
    with lib.no_grad():
        with lib.enable_grad():
            assert recorded(lib)
            with lib.no_grad():
                assert not recorded(lib)
            assert recorded(lib)
        assert not recorded(lib)
    assert recorded(lib)


def test_one_mode_object_can_be_entered_again(lib: Any) -> None:
    mode = lib.no_grad()
    with mode:
        with lib.enable_grad(), mode:
            assert not recorded(lib)
        assert not recorded(lib)
    assert recorded(lib)


@pytest.mark.parametrize("brackets", [True, False])
def test_no_grad_as_a_decorator(lib: Any, brackets: bool) -> None:
    decorate = lib.no_grad() if brackets else lib.no_grad

    @decorate
    def inside(depth: int = 1) -> bool:
        """Its words."""
        return inside(depth - 1) if depth else recorded(lib)

    assert not inside(3)
    assert recorded(lib) and inside.__name__ == "inside" and inside.__doc__ == "Its words."


def test_enable_grad_as_a_decorator(lib: Any) -> None:
    inside = lib.enable_grad()(lambda: recorded(lib))
    with lib.no_grad():
        assert inside()
        assert not recorded(lib)


def test_inference_mode_as_a_decorator(lib: Any) -> None:
    assert not lib.inference_mode()(lambda: recorded(lib))()
    assert recorded(lib)


@pytest.mark.parametrize("decorator", ["no_grad", "enable_grad", "inference_mode"])
def test_a_decorated_generator_runs_in_the_mode_between_its_yields_only(lib: Any, decorator: str) -> None:
    expected = decorator == "enable_grad"

    @getattr(lib, decorator)()
    def generate() -> Any:
        try:
            got = yield recorded(lib)
            assert got == "sent"
            yield recorded(lib)
        except KeyError:
            yield recorded(lib)

    with lib.set_grad_enabled(not expected):
        steps = generate()
        assert next(steps) == expected and recorded(lib) != expected  # the caller is not in the mode
        assert steps.send("sent") == expected and recorded(lib) != expected
        assert steps.throw(KeyError()) == expected and recorded(lib) != expected
        with pytest.raises(StopIteration):
            next(steps)
        assert recorded(lib) != expected


def test_set_grad_enabled_acts_at_once_and_as_a_block(lib: Any) -> None:
    lib.set_grad_enabled(False)
    try:
        assert not recorded(lib)
    finally:
        lib.set_grad_enabled(True)
    with lib.set_grad_enabled(False):
        assert not recorded(lib)
        with lib.set_grad_enabled(True):
            assert recorded(lib)
        assert not recorded(lib)
    assert recorded(lib)


def test_set_grad_enabled_as_a_decorator(lib: Any) -> None:
    @lib.set_grad_enabled(False)
    def inside() -> bool:
        return recorded(lib)

    assert recorded(lib)  # decorating a function does not switch
    assert not inside() and recorded(lib)


def test_a_thread_starts_recording_and_keeps_its_own_switch(lib: Any) -> None:
    found = {}

    def work() -> None:
        found["at the start"] = recorded(lib)
        with lib.no_grad():
            inner.set()
            outer.wait(10)
            found["inside"] = recorded(lib)

    inner, outer = threading.Event(), threading.Event()
    with lib.no_grad():
        thread = threading.Thread(target=work)
        thread.start()
        inner.wait(10)
        found["here"] = recorded(lib)
    found["after"] = recorded(lib)
    outer.set()
    thread.join(10)
    assert found == {"at the start": True, "here": False, "after": True, "inside": False}


# --- inference mode ---


def test_results_of_inference_mode_stay_outside_every_graph(lib: Any) -> None:
    with lib.inference_mode():
        x = lib.ones(2) * 2
        assert x.is_inference() and not x.requires_grad
    assert not lib.ones(2).is_inference()
    with pytest.raises(RuntimeError, match="inference tensor"):
        x.requires_grad_()
    copy = x.clone().requires_grad_()
    (copy * 3).sum().backward()
    assert copy.grad.tolist() == [3.0, 3.0] and not copy.is_inference()


@pytest.mark.parametrize(
    "use",
    [
        lambda lib, w, a: w * a,
        lambda lib, w, a: a / w,
        lambda lib, w, a: a @ w,
        lambda lib, w, a: lib.nn.functional.linear(a, w),
        lambda lib, w, a: w * a[:1],
        lambda lib, w, a: w.masked_fill(a[0] > 5, 0) * a.T,
    ],
)
def test_what_backward_needs_must_not_be_an_inference_tensor(lib: Any, use: Any) -> None:
    w = lib.ones(2, 2, requires_grad=True)
    with lib.inference_mode():
        a = lib.ones(2, 2) * 2
    assert a.T.is_inference() and a[0].is_inference() and not (a * 1).is_inference()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        use(lib, w, a)
    use(lib, w, a.clone()).sum().backward()
    use(lib, w.detach(), a)


def test_an_inference_tensor_that_backward_does_not_need_is_taken(lib: Any) -> None:
    w = lib.ones(2, 2, requires_grad=True)
    with lib.inference_mode():
        a = lib.ones(2, 2)
    (w + a).sum().backward()
    lib.cat([w, a]).sum().backward()
    (w - a[0]).sum().backward()
    assert w.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_inference_mode_can_be_switched_off_inside(lib: Any) -> None:
    with lib.inference_mode():
        with lib.inference_mode(False):
            assert recorded(lib) and not lib.is_inference_mode_enabled()
        assert lib.is_inference_mode_enabled() and not recorded(lib)


def test_inference_mode_false_switches_recording_on(lib: Any) -> None:
    with lib.no_grad(), lib.inference_mode(False):
        assert recorded(lib) and not lib.is_inference_mode_enabled()
    with lib.inference_mode(False):
        assert recorded(lib)


def test_backward_under_no_grad_works(lib: Any) -> None:
    x = lib.tensor([2.0], requires_grad=True)
    y = (x * x).sum()
    with lib.no_grad():
        y.backward()
    assert x.grad.tolist() == [4.0] and not x.grad.requires_grad


def test_a_result_made_under_no_grad_can_become_a_leaf(lib: Any) -> None:
    x = lib.tensor([2.0], requires_grad=True)
    with lib.no_grad():
        y = x * 3
    assert y.is_leaf
    y.requires_grad_()
    (y * y).sum().backward()
    assert y.grad.tolist() == [12.0] and x.grad is None
