"""Functions whose gradient the user writes, beside PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest

import tinygrad_llm as ours


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def functions(lib: Any) -> dict[str, Any]:
    """Some functions in a library, each with its arguments."""

    class Exp(lib.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (y,) = ctx.saved_tensors
            return g * y

    class Scaled(lib.autograd.Function):
        @staticmethod
        def forward(x: Any, factor: float, bias: Any) -> Any:
            return x * factor + bias

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.factor = inputs[1]

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            assert ctx.needs_input_grad == (True, False, True)
            return g * ctx.factor, None, g.sum()

    class Straight(lib.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return (x > 0).float()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g.clamp(-1, 1)

    class Parts(lib.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            places = x.argsort()
            ctx.mark_non_differentiable(places)
            return x.sin(), x.cos(), places

        @staticmethod
        def backward(ctx: Any, g_sin: Any, g_cos: Any, _: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g_sin * x.cos() - g_cos * x.sin()

    class Unused(lib.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.set_materialize_grads(False)
            return x * 2, x * 3

        @staticmethod
        def backward(ctx: Any, first: Any, second: Any) -> Any:
            return second * 3 if first is None else first * 2

    class Short(lib.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            return x * y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g

    return {f.__name__: f for f in (Exp, Scaled, Straight, Parts, Unused, Short)}


def told(lib: Any) -> list[Any]:
    made, found = functions(lib), []
    x = lib.tensor([0.3, -0.8, 1.5], requires_grad=True)
    bias = lib.tensor(0.5, requires_grad=True)

    def note(y: Any, *wanted: Any) -> None:
        found.append([y.tolist(), [g.tolist() for g in lib.autograd.grad((y * y).sum(), wanted or (x,))]])

    note(made["Exp"].apply(x) * 2)
    note(made["Exp"].apply(made["Exp"].apply(x)))
    note(made["Scaled"].apply(x, 3.0, bias), x, bias)
    note(made["Straight"].apply(x) + 0.1)
    sine, cosine, places = made["Parts"].apply(x)
    found.append([places.tolist(), places.requires_grad])
    note(sine + 2 * cosine)
    note(made["Parts"].apply(x)[1])
    note(made["Unused"].apply(x)[1])
    found.append([made["Exp"].apply(y).grad_fn is None for y in (x, x.detach())])
    with lib.no_grad():
        found.append(made["Exp"].apply(x).requires_grad)
    with pytest.raises(RuntimeError, match="incorrect number of gradients"):
        made["Short"].apply(x, x).sum().backward()
    y = made["Exp"].apply(x).sum()
    y.backward(retain_graph=True)
    y.backward()
    found.append(x.grad.tolist())
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()
    return found


@pytest.mark.torch
def test_equals_pytorchs(torch: Any) -> None:
    for mine, theirs in zip(told(ours), told(torch), strict=True):
        assert flat(mine) == pytest.approx(flat(theirs), rel=1e-5)


def flat(value: Any) -> list[Any]:
    return [x for part in value for x in flat(part)] if isinstance(value, list) else [value]


def test_a_write_into_what_was_saved_is_noticed() -> None:
    exp = functions(ours)["Exp"]
    x = ours.tensor([1.0, 2.0], requires_grad=True)
    y = exp.apply(x)
    with ours.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_what_is_no_function() -> None:
    class Empty(ours.autograd.Function):
        pass

    class Wrong(ours.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.tolist()

    x = ours.ones(2, requires_grad=True)
    with pytest.raises(NotImplementedError):
        Empty.apply(x)
    with pytest.raises(TypeError, match="expected to return Tensors"):
        Wrong.apply(x)


def test_it_prints_its_name() -> None:
    x = ours.ones(1, requires_grad=True)
    assert repr(functions(ours)["Exp"].apply(x)) == "tensor([2.7183], grad_fn=<ExpBackward>)"
