"""An op with two results: each gradient finds its way, whichever of the results are used."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as torch
from tests.cuda.kinds import each_gpu, gpu
from tinygrad_llm.autograd import gradcheck
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn.functional.common import keep_mask_like
from tinygrad_llm.nn.functional.layers import add_norm, dropout_add, dropout_add_norm
from tinygrad_llm.profiler import profile


def leaves(*shape: int, dtype: Any = torch.float64, device: str = "cpu") -> list[torch.Tensor]:
    """x, shortcut, weight and bias."""
    shapes = (shape, shape, shape[-1:], shape[-1:])
    return [torch.randn(*s, dtype=dtype).to(device).requires_grad_() for s in shapes]


def one_op(x: Any, shortcut: Any, weight: Any, bias: Any, p: float = 0.0) -> Any:
    torch.manual_seed(5)
    return add_norm(x, keep_mask_like(x, p) if p else None, shortcut, weight, bias, p=p, eps=1e-5)


def two_ops(x: Any, shortcut: Any, weight: Any, bias: Any, p: float = 0.0) -> Any:
    torch.manual_seed(5)
    s = dropout_add(x, shortcut, p, True)
    return s, F.layer_norm(s, s.shape[-1:], weight, bias)


@given(shape=st.sampled_from([(3,), (2, 4), (2, 1, 5)]), p=st.sampled_from([0.0, 0.4]), seed=st.integers(0, 99))
def test_gradients(shape, p, seed):
    torch.manual_seed(seed)
    inputs = leaves(*shape)
    a, b = torch.randn(*shape, dtype=torch.float64), torch.randn(*shape, dtype=torch.float64)

    def both(*args: Any) -> torch.Tensor:
        s, y = one_op(*args, p)
        return s * a + (s * y).sin() * b

    assert gradcheck(both, inputs)


@given(
    uses=st.sampled_from(["both", "sum", "norm", "sum twice"]), p=st.sampled_from([0.0, 0.4]),
    wanted=st.lists(st.booleans(), min_size=4, max_size=4).filter(any),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_the_bits_of_two_ops(uses, p, wanted, dtype):
    """Whatever is used, and whichever gradients are wanted; a weight that only an unused norm has gets zeros."""
    torch.manual_seed(1)
    start = [t.detach() for t in leaves(3, 8, dtype=dtype)]
    found = []
    for way in (one_op, two_ops):
        given = [t.clone().requires_grad_(w) for t, w in zip(start, wanted, strict=True)]
        s, y = way(*given, p)
        used = {"both": lambda s=s, y=y: s.sin() + y.cos(), "sum": lambda s=s: s.sin(), "norm": lambda y=y: y.cos(),
                "sum twice": lambda s=s, y=y: s.sin() + s * y}[uses]()  # fmt: skip
        if used.requires_grad:
            used.sum().backward()
        found.append([s.detach(), y.detach(), *(t.grad for t in given)])
    for a, b in zip(*found, strict=True):
        if b is None:
            assert a is None or not a.any()
        else:
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_gradients_that_share_memory_are_not_written_into():
    """Without dropout both arguments get one gradient; what is added to one later must not show in the other."""
    x, shortcut, weight, bias = leaves(2, 3)
    twice_x, twice_shortcut = x * 1.0, shortcut * 1.0
    s, y = one_op(twice_x, twice_shortcut, weight, bias)
    (s + y + 10 * twice_x + 10 * twice_x.sin() + 100 * twice_shortcut + 100 * twice_shortcut.sin()).sum().backward()
    ours = [t.grad.clone() for t in (x, shortcut)]
    x.grad = shortcut.grad = None
    twice_x, twice_shortcut = x * 1.0, shortcut * 1.0
    s, y = two_ops(twice_x, twice_shortcut, weight, bias)
    (s + y + 10 * twice_x + 10 * twice_x.sin() + 100 * twice_shortcut + 100 * twice_shortcut.sin()).sum().backward()
    for a, b in zip(ours, (x.grad, shortcut.grad), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_the_graph_is_swept_once_unless_it_is_retained():
    inputs = leaves(2, 3)
    s, y = one_op(*inputs)
    total = (s * y).sum()
    total.backward(retain_graph=True)
    once = [t.grad.clone() for t in inputs]
    total.backward()
    for t, g in zip(inputs, once, strict=True):
        np.testing.assert_allclose(t.grad.numpy(), 2 * g.numpy())
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_what_each_result_says_of_itself():
    inputs = leaves(2, 3)
    s, y = one_op(*inputs)
    assert repr(s.grad_fn) == "<AddBackward0>" and repr(y.grad_fn) == "<NativeLayerNormBackward0>"
    seen = []
    s.register_hook(lambda g: seen.append(g.clone()))
    y.retain_grad()
    (s.sum() + 2 * y.sum()).backward()
    assert seen[0].tolist() == [[1.0] * 3] * 2 and y.grad.tolist() == [[2.0] * 3] * 2
    with torch.no_grad():
        assert not any(t.requires_grad for t in one_op(*inputs))
    with profile() as p:
        s, y = one_op(*inputs)
        (s + y).sum().backward()
    assert {row.kind for row in p.rows() if row.name == "dropout_add_norm"} == {"forward", "backward"}


def test_a_gradient_of_one_argument_alone():
    inputs = leaves(2, 3)
    s, y = one_op(*inputs, 0.5)
    (g,) = torch.autograd.grad((s * y).sum(), [inputs[1]])
    s, y = two_ops(*inputs, 0.5)
    (h,) = torch.autograd.grad((s * y).sum(), [inputs[1]])
    np.testing.assert_array_equal(g.numpy(), h.numpy())


@each_gpu
@pytest.mark.parametrize(("training", "p"), list(product([True, False], [0.0, 0.5, 1.0])))
def test_on_a_gpu_it_is_one_op_and_the_numbers_of_two(training, p, kind):
    with gpu(kind):
        given = [t.detach().cuda().requires_grad_() for t in leaves(4, 6, dtype=torch.float32)]
        torch.manual_seed(0)
        s, y = dropout_add_norm(given[0], given[1], p, training, given[2], given[3], 1e-5)
        torch.manual_seed(0)
        expected = given[1] + F.dropout(given[0], p, training)
        normed = F.layer_norm(expected, (6,), given[2], given[3])
        assert (s.node.parents[0] is y.node.parents[0]) == (p < 1)
        for a, b in ((s, expected), (y, normed)):
            np.testing.assert_allclose(a.detach().cpu().numpy(), b.detach().cpu().numpy(), atol=1e-6)


@each_gpu
def test_what_does_not_fit_is_said_by_the_ops_it_is_made_of(kind):
    with gpu(kind):
        x, shortcut, weight, bias = (t.cuda() for t in leaves(4, 6))
        with pytest.raises(RuntimeError, match=r"layer_norm|normalized_shape"):
            dropout_add_norm(x, shortcut, 0.1, True, weight[:5], bias, 1e-5)
        s, y = dropout_add_norm(x, shortcut[:1], 0.0, True, weight, None, 1e-5)  # a shortcut that broadcasts
        assert s.shape == y.shape == (4, 6)
        empty = torch.zeros(0, 6, device="cuda")
        assert dropout_add_norm(empty, empty, 0.1, True, None, None, 1e-5)[1].shape == (0, 6)
