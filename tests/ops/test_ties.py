"""Where finite differences cannot judge: ties, kinks and zeros, with the gradients that PyTorch defines there."""

from __future__ import annotations

import math

import pytest

import tinygrad_llm as tg

INF = math.inf

# what -> function of (torch, its argument), the argument, the gradient of the sum of the result
CASES = {
    "relu at 0": (lambda m, x: m.relu(x), [-1.0, 0.0, 2.0], [0.0, 0.0, 1.0]),
    "abs at 0": (lambda m, x: m.abs(x), [-1.0, 0.0, 2.0], [-1.0, 0.0, 1.0]),
    "sign": (lambda m, x: m.sign(x), [-1.0, 0.0, 2.0], [0.0, 0.0, 0.0]),
    "leaky relu at 0": (lambda m, x: m.nn.functional.leaky_relu(x, 0.5), [-1.0, 0.0, 2.0], [0.5, 0.5, 1.0]),
    "softplus at its threshold": (lambda m, x: m.nn.functional.softplus(x, 1.0, 2.0), [2.0, 3.0], [0.880797078, 1.0]),
    "clamp at its bounds": (lambda m, x: m.clamp(x, -1, 1), [-2.0, -1.0, 0.0, 1.0, 2.0], [0.0, 1.0, 1.0, 1.0, 0.0]),
    "clamp with crossed bounds": (lambda m, x: m.clamp(x, 1, -1), [-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]),
    "maximum of equals": (lambda m, x: m.maximum(x, m.ones_like(x)), [0.0, 1.0, 2.0], [0.0, 0.5, 1.0]),
    "minimum of equals": (lambda m, x: m.minimum(x, m.ones_like(x)), [0.0, 1.0, 2.0], [1.0, 0.5, 0.0]),
    "maximum with itself": (lambda m, x: m.maximum(x, x), [0.0, 1.0], [1.0, 1.0]),
    "amax of equals": (lambda m, x: m.amax(x, 0), [3.0, 1.0, 3.0], [0.5, 0.0, 0.5]),
    "amin of equals": (lambda m, x: m.amin(x, 0), [3.0, 1.0, 1.0], [0.0, 0.5, 0.5]),
    "max over all of equals": (lambda m, x: m.max(x), [3.0, 1.0, 3.0], [0.5, 0.0, 0.5]),
    "max along a dim of equals": (lambda m, x: m.max(x, 0).values, [3.0, 1.0, 3.0], [1.0, 0.0, 0.0]),
    "sort of equals": (
        lambda m, x: m.sort(x, stable=True).values * m.tensor([1.0, 2.0, 3.0]),
        [2.0, 1.0, 1.0],
        [3.0, 1.0, 2.0],
    ),
    "norm 2 at 0": (lambda m, x: m.norm(x), [0.0, 0.0], [0.0, 0.0]),
    "norm 1 at 0": (lambda m, x: m.norm(x, 1), [0.0, -2.0], [0.0, -1.0]),
    "norm 3 at 0": (lambda m, x: m.norm(x, 3), [0.0, 0.0], [0.0, 0.0]),
    "norm inf of equals": (lambda m, x: m.norm(x, INF), [-2.0, 1.0, 2.0], [-0.5, 0.0, 0.5]),
    "norm -inf of equals": (lambda m, x: m.norm(x, -INF), [-1.0, 2.0, 1.0], [-0.5, 0.0, 0.5]),
    "std of equals": (lambda m, x: m.std(x), [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
    "prod with a zero": (lambda m, x: m.prod(x), [2.0, 0.0, 3.0], [0.0, 6.0, 0.0]),
    "prod with two zeros": (lambda m, x: m.prod(x), [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]),
    "pow 0 at 0": (lambda m, x: x**0, [0.0, 2.0], [0.0, 0.0]),
    "pow 1 at 0": (lambda m, x: x**1, [0.0, 2.0], [1.0, 1.0]),
    "pow 2 at 0": (lambda m, x: x**2, [0.0, 2.0], [0.0, 4.0]),
    "pow by a tensor at 0": (lambda m, x: x ** m.tensor([0.0, 1.0, 2.0]), [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
    "0 to a power": (lambda m, x: m.zeros_like(x) ** x, [0.0, 1.0, 2.0], [0.0, 0.0, 0.0]),
    "where does not mix": (lambda m, x: m.where(x > 0, x * x, x), [-1.0, 2.0], [1.0, 4.0]),
    "masked -inf in softmax": (
        lambda m, x: m.softmax(x.masked_fill(x > 1, -INF), 0)[0],
        [0.0, 0.0, 2.0],
        [0.25, -0.25, 0.0],
    ),
    "masked -inf in logsumexp": (
        lambda m, x: m.logsumexp(x.masked_fill(x > 1, -INF), 0),
        [0.0, 0.0, 2.0],
        [0.5, 0.5, 0.0],
    ),
    "logsumexp of -inf alone": (lambda m, x: m.logsumexp(x.masked_fill(x > -1, -INF), 0), [0.0, 0.0], [0.0, 0.0]),
}


def gradient(m, function, values):
    x = m.tensor(values, requires_grad=True)
    function(m, x).sum().backward()
    return x.grad.tolist()


@pytest.mark.parametrize("what", CASES)
def test_gradient_at_a_kink(what):
    function, values, expected = CASES[what]
    assert gradient(tg, function, values) == pytest.approx(expected, rel=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("what", CASES)
def test_pytorch_says_so_too(what):
    torch = pytest.importorskip("torch")
    function, values, expected = CASES[what]
    assert gradient(torch, function, values) == pytest.approx(expected, rel=1e-6)
