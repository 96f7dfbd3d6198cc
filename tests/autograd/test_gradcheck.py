"""The checker itself: what is right passes, and every kind of wrong gradient is caught and named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.autograd import gradcheck
from tinygrad_llm.autograd.gradcheck import GradcheckError
from tinygrad_llm.autograd.registry import Op
from tinygrad_llm.autograd.tensor import apply
from tinygrad_llm.nn import functional as F

both_modes = pytest.mark.parametrize("fast_mode", [False, True], ids=["every element", "fast"])


def numbers(*shape: int, requires_grad: bool = True) -> tg.Tensor:
    array = np.random.default_rng(0).uniform(0.5, 2, shape)
    return tg.tensor(array, dtype=tg.float64, requires_grad=requires_grad)


def op_of(function: Any, broadcasts: bool = False) -> Any:
    """A function of tensors that runs an op which is not registered."""
    op = Op("bad", function, broadcasts, moves=False)
    return lambda *tensors: apply(op, *tensors)


# --- what is right ---


@both_modes
def test_functions_of_one_and_several_tensors(fast_mode):
    x, y = numbers(2, 3), numbers(3)
    assert gradcheck(tg.exp, x, fast_mode=fast_mode)
    assert gradcheck(lambda a, b: a * b + b.log(), (x, y), fast_mode=fast_mode)
    assert gradcheck(lambda a: (a * a).sum(), [x], fast_mode=fast_mode)
    assert gradcheck(lambda a: a, x, fast_mode=fast_mode)


@both_modes
def test_several_outputs_however_deep(fast_mode):
    def function(x, k):
        return x * k, {"sum": x.sum(), "more": [x.exp(), x.detach(), x > 1, "text"]}

    assert gradcheck(function, (numbers(2, 2), 3), fast_mode=fast_mode)


@both_modes
def test_shapes_without_dimensions_and_without_elements(fast_mode):
    assert gradcheck(tg.tanh, numbers(), fast_mode=fast_mode)
    assert gradcheck(tg.tanh, numbers(0, 3), fast_mode=fast_mode)
    assert gradcheck(lambda x: x[:0], numbers(3), fast_mode=fast_mode)
    assert gradcheck(lambda x: x.sum(), numbers(0, 3), fast_mode=fast_mode)


def test_the_same_tensor_twice_and_a_result_as_input():
    x = numbers(3)
    assert gradcheck(lambda a, b: a * b, (x, x))
    assert gradcheck(tg.sin, x * 2)


@both_modes
def test_a_module_with_its_parameters(fast_mode):
    layer = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4), nn.GELU()).double()
    assert gradcheck(layer, numbers(2, 3), fast_mode=fast_mode)
    assert gradcheck(layer, numbers(2, 3, requires_grad=False), fast_mode=fast_mode)


def test_a_layer_of_the_users_own():
    class Scale(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.factor = nn.Parameter(tg.ones(n, dtype=tg.float64))

        def forward(self, x):
            return x * self.factor

    assert gradcheck(Scale(3), numbers(2, 3))


def test_an_embedding_checks_its_table_alone():
    assert gradcheck(nn.Embedding(4, 3).double(), tg.tensor([[0, 2], [2, 1]]))


def test_frozen_parameters_are_left_out():
    layer = nn.Linear(3, 2).double()
    layer.weight.requires_grad_(False)
    assert gradcheck(layer, numbers(2, 3))


def test_it_leaves_everything_as_it_was():
    x, layer = numbers(2, 3), nn.Linear(3, 2).double()
    before = [t.clone() for t in (x, *layer.parameters())]
    tg.manual_seed(7)
    drawn = tg.rand(3)
    tg.manual_seed(7)
    arrays = [t.array for t in (x, *layer.parameters())]
    with tg.no_grad():
        gradcheck(layer, x)
        gradcheck(layer, x, fast_mode=True)
    for t, was, array in zip((x, *layer.parameters()), before, arrays, strict=True):
        assert tg.equal(t, was)
        assert t.array is array
        assert t.grad is None
    assert tg.equal(tg.rand(3), drawn)


# --- what is wrong ---


@both_modes
def test_a_wrong_gradient(fast_mode):
    square = op_of(lambda x: (x * x, (lambda g: g * x,)))
    with pytest.raises(GradcheckError, match=r"input 0.* by backward and .* by finite differences"):
        gradcheck(square, numbers(2, 3), fast_mode=fast_mode)
    assert gradcheck(square, numbers(2, 3), fast_mode=fast_mode, raise_exception=False) is False


def test_the_message_names_the_place_and_the_values():
    def dx(g):
        d = 2 * g
        d[1, 2] = 5 * g[1, 2]
        return d

    double = op_of(lambda x: (2 * x, (dx,)))
    message = r"d output 1\[1, 2\] / d input 1\[1, 2\] is 5 by backward and 2 by finite differences; 1 of 36 such"
    with pytest.raises(GradcheckError, match=message):
        gradcheck(lambda k, x: (x, double(x)), (3, numbers(2, 3)))


@both_modes
def test_a_wrong_gradient_of_one_of_two(fast_mode):
    product = op_of(lambda a, b: (a * b, (lambda g: g * b, lambda g: g * b)))
    a, b = numbers(3), numbers(3) + 1
    with pytest.raises(GradcheckError, match="input 1"):
        gradcheck(product, (a, b), fast_mode=fast_mode)


@both_modes
def test_a_wrong_gradient_of_a_parameter(fast_mode):
    class Layer(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight, self.bias.detach() + 0.5 * (self.bias - self.bias.detach()))

    with pytest.raises(GradcheckError, match=r"parameter '0\.bias'"):
        gradcheck(nn.Sequential(Layer(3, 2)).double(), numbers(2, 3), fast_mode=fast_mode)


@both_modes
def test_a_sign_that_differs_between_elements(fast_mode):
    """Errors that cancel along a direction of equal numbers do not along this one."""
    flipped = op_of(lambda x: (x.copy(), (lambda g: np.flip(g),)))
    with pytest.raises(GradcheckError):
        gradcheck(flipped, numbers(6), fast_mode=fast_mode)


@both_modes
def test_a_gradient_that_is_lost_on_the_way(fast_mode):
    with pytest.raises(GradcheckError, match=r"No gradient arrives at input 1: is it detached"):
        gradcheck(lambda a, b: a * b.detach(), (numbers(3), numbers(3)), fast_mode=fast_mode)
    with pytest.raises(GradcheckError, match="No gradient arrives"):
        gradcheck(lambda a: a.detach() * 2, numbers(3), fast_mode=fast_mode)


def test_a_missing_pullback():
    forgetful = op_of(lambda a, b: (a * b, (lambda g: g * b, None)))
    with pytest.raises(GradcheckError, match="no pullback for an argument"):
        gradcheck(forgetful, (numbers(3), numbers(3)))


def test_a_pullback_of_the_wrong_shape():
    total = op_of(lambda x: (x.sum(axis=1), (lambda g: g[:, None],)))
    with pytest.raises(GradcheckError, match=r"a gradient of shape \(2, 1\) for an argument of shape \(2, 3\)"):
        gradcheck(total, numbers(2, 3))


def test_a_pullback_that_fails():
    broken = op_of(lambda x: (x * 2, (lambda g: g @ np.ones(99),)))
    with pytest.raises(GradcheckError, match="backward from output 0 failed: ValueError"):
        gradcheck(broken, numbers(2, 3))


def test_a_pullback_that_writes_into_its_gradient():
    def dx(g):
        g *= 2
        return g

    with pytest.raises(GradcheckError, match="backward writes into the gradient of output 0"):
        gradcheck(op_of(lambda x: (2 * x, (dx,))), numbers(3))


def test_a_pullback_that_writes_into_an_input():
    def function(x, k):
        def dx(g):
            d = g * k
            k[...] = 0
            return d

        return x * k, (dx, None)

    with pytest.raises(GradcheckError, match=r"backward (writes into input 1|is not repeatable)"):
        gradcheck(op_of(function), (numbers(3), numbers(3, requires_grad=False)))


def test_a_backward_that_writes_into_an_input_it_does_not_use():
    def function(x, scratch):
        def dx(g):
            scratch[...] = 7
            return 2 * g

        return 2 * x, (dx, None)

    with pytest.raises(GradcheckError, match="backward writes into input 1"):
        gradcheck(op_of(function), (numbers(3), numbers(3, requires_grad=False)))


def test_a_pullback_that_writes_into_what_it_captured():
    def function(x):
        y = np.exp(x)

        def dx(g):
            nonlocal y
            d = g * y
            y = y * 1.5
            return d

        return y, (dx,)

    with pytest.raises(GradcheckError, match="backward is not repeatable: a second run gives input 0"):
        gradcheck(op_of(function), numbers(3))


def test_a_function_that_writes_into_its_input():
    def function(x, k):
        y = x * k
        k.array[0] = 5.0
        return y

    with pytest.raises(GradcheckError, match=r"not deterministic|func writes into input 1"):
        gradcheck(function, (numbers(3), numbers(3, requires_grad=False)))


def test_a_layer_that_writes_into_its_parameter():
    class Layer(nn.Linear):
        def forward(self, x):
            with tg.no_grad():
                self.bias.array[...] = 0.25
            return x @ self.weight.T

    with pytest.raises(GradcheckError, match="func writes into parameter 'bias'"):
        gradcheck(Layer(3, 2).double(), numbers(2, 3))


def test_randomness():
    with pytest.raises(GradcheckError, match="not deterministic"):
        gradcheck(nn.Dropout(0.5).double(), numbers(20))
    assert gradcheck(nn.Dropout(0.5).eval(), numbers(20))


def test_nondet_tol_allows_for_small_differences():
    random = np.random.default_rng(0)

    def noisy(x):
        return x + tg.tensor(1e-12 * random.standard_normal(3), dtype=tg.float64)

    with pytest.raises(GradcheckError, match="not deterministic"):
        gradcheck(noisy, numbers(3))
    assert gradcheck(noisy, numbers(3), nondet_tol=1e-10)


def test_a_kink_and_a_nan_are_not_passed_over():
    at_kink = tg.zeros(2, dtype=tg.float64, requires_grad=True)
    with pytest.raises(GradcheckError, match=r"is 0 by backward and 0.5"):
        gradcheck(tg.relu, at_kink)
    with pytest.raises(GradcheckError, match="nan by finite differences"):
        gradcheck(tg.sqrt, at_kink)


def test_a_function_without_a_floating_result():
    with pytest.raises(GradcheckError, match="returns no floating tensor"):
        gradcheck(lambda x: x > 0, numbers(2))


# --- what cannot be judged ---


def test_nothing_requires_a_gradient():
    with pytest.raises(ValueError, match="at least one input tensor to require gradient"):
        gradcheck(tg.exp, numbers(2, requires_grad=False))


def test_float32_warns_and_says_what_to_do():
    layer = nn.Linear(3, 2)
    with pytest.warns(UserWarning, match=r"float64, see .double\(\): parameter 'weight' is torch.float32"):
        passed = gradcheck(layer, numbers(2, 3).float().detach(), eps=1e-2, atol=1e-2, rtol=1e-2)
    assert passed
    with pytest.warns(UserWarning), pytest.raises(GradcheckError, match=r"try again in float64"):
        gradcheck(lambda x: x * x + 1000, tg.ones(2, requires_grad=True))


@pytest.mark.torch
@pytest.mark.parametrize("function", ["exp", "detached", "half"])
def test_verdicts_equal_pytorch(function):
    torch = pytest.importorskip("torch")
    functions = {
        "exp": lambda x: x.exp(),
        "detached": lambda x: x * x.detach(),
        "half": lambda x: 0.5 * x + 0.5 * x.detach(),
    }
    array = np.random.default_rng(1).standard_normal((2, 3))
    verdicts = [
        m.autograd.gradcheck(
            functions[function], m.tensor(array, dtype=m.float64, requires_grad=True), raise_exception=False
        )
        for m in (tg, torch)
    ]
    assert verdicts[0] == verdicts[1] == (function == "exp")
