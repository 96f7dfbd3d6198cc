"""Writing in place: never a wrong gradient, an error only where the memory is needed, views and the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as ours

MODIFIED = "modified by an inplace operation"

OPS: dict[str, Callable[[Any, Any], Any]] = {
    **{
        n: (lambda lib, x, n=n: getattr(lib, n)(x))
        for n in ("exp", "log", "log1p", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "relu", "sin", "cos", "abs", "neg")
    },
    "square": lambda lib, x: lib.square(x),
    "reciprocal": lambda lib, x: lib.reciprocal(x),
    "add": lambda lib, x: x + x,
    "sub": lambda lib, x: 1 - x,
    "mul": lambda lib, x: x * x,
    "mul by a number": lambda lib, x: x * 3,
    "div": lambda lib, x: 1 / x,
    "pow": lambda lib, x: x**3,
    "power of a number": lambda lib, x: 2**x,
    "maximum": lambda lib, x: lib.maximum(x, x.flip(0)),
    "clamp": lambda lib, x: x.clamp(0.7, 1.5),
    "masked_fill": lambda lib, x: x.masked_fill(x > 1, 0.0),
    "where": lambda lib, x: lib.where(x > 1, x, 2 * x),
    "sum": lambda lib, x: x.sum(0),
    "mean": lambda lib, x: x.mean(),
    "var": lambda lib, x: x.var(1),
    "std": lambda lib, x: x.std(1),
    "prod": lambda lib, x: x.prod(0),
    "amax": lambda lib, x: x.amax(1),
    "max": lambda lib, x: x.max(1).values,
    "logsumexp": lambda lib, x: x.logsumexp(1),
    "softmax": lambda lib, x: x.softmax(0),
    "log_softmax": lambda lib, x: x.log_softmax(1),
    "cumsum": lambda lib, x: x.cumsum(0),
    "norm": lambda lib, x: x.norm(),
    "sort": lambda lib, x: x.sort(1).values,
    "matmul": lambda lib, x: x @ x.mT,
    "linear": lambda lib, x: lib.nn.functional.linear(x, x, x[:, 0]),
    "einsum": lambda lib, x: lib.einsum("ij,kj->ik", x, x),
    "reshape": lambda lib, x: x.reshape(4, 3),
    "transpose": lambda lib, x: x.T * 2,
    "index": lambda lib, x: x[1:, [0, 0]],
    "gather": lambda lib, x: x.gather(1, lib.zeros(3, 2, dtype=lib.int64)),
    "cat": lambda lib, x: lib.cat([x, x]),
    "clone": lambda lib, x: x.clone(),
    "repeat": lambda lib, x: x.repeat(2, 1),
    "tril": lambda lib, x: x.tril(),
    "layer_norm": lambda lib, x: lib.nn.functional.layer_norm(x, (4,), x[0], x[1]),
    "rms_norm": lambda lib, x: lib.nn.functional.rms_norm(x, (4,), x[0]),
    "gelu": lambda lib, x: lib.nn.functional.gelu(x),
    "silu": lambda lib, x: lib.nn.functional.silu(x),
    "softplus": lambda lib, x: lib.nn.functional.softplus(x),
    "attention": lambda lib, x: lib.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    "cross_entropy": lambda lib, x: lib.nn.functional.cross_entropy(x, lib.tensor([0, 1, 2])),
    "embedding": lambda lib, x: lib.nn.functional.embedding(lib.tensor([0, 2, 2]), x),
    "mse_loss": lambda lib, x: lib.nn.functional.mse_loss(x, x.flip(0)),
    "to float64": lambda lib, x: x.double(),
}


def gradient(lib: Any, name: str, write: str | None) -> list[Any]:
    """d sum(op(x * 1)) / dx, with a write into the op's argument or result before the sweep."""
    x = lib.linspace(0.5, 2.0, 12).reshape(3, 4).requires_grad_()
    argument = x * 1
    result = OPS[name](lib, argument)
    total = (result * 1).sum()
    with lib.no_grad():
        if write == "argument":
            argument.mul_(3).add_(1)
        elif write == "result":
            result.mul_(3).add_(1)
        elif write == "part of the result":
            (result[0] if result.ndim else result).fill_(9.0)
    total.backward()
    return x.grad.tolist()


@pytest.mark.parametrize("write", ["argument", "result", "part of the result"])
@pytest.mark.parametrize("name", OPS)
def test_a_write_gives_an_error_or_does_no_harm(lib: Any, name: str, write: str) -> None:
    """Which it is depends on what the op captured; a wrong gradient it is never."""
    expected = gradient(lib, name, None)
    try:
        assert gradient(lib, name, write) == expected
    except RuntimeError as error:
        assert MODIFIED in str(error)


@pytest.mark.parametrize("name", ["sin", "abs", "mul", "matmul", "pow", "layer_norm", "gelu", "attention", "logsumexp"])
def test_a_write_into_a_captured_argument_is_an_error(lib: Any, name: str) -> None:
    with pytest.raises(RuntimeError, match=MODIFIED):
        gradient(lib, name, "argument")


@pytest.mark.parametrize("name", ["exp", "sqrt", "tanh", "sigmoid", "softmax", "relu", "rsqrt"])
@pytest.mark.parametrize("write", ["result", "part of the result"])
def test_a_write_into_a_captured_result_is_an_error(lib: Any, name: str, write: str) -> None:
    with pytest.raises(RuntimeError, match=MODIFIED):
        gradient(lib, name, write)


CAPTURES_NOTHING = ["add", "sub", "neg", "sum", "mean", "mul by a number", "reshape", "cat", "clone", "cumsum"]


@pytest.mark.parametrize("name", [*CAPTURES_NOTHING, "repeat", "embedding", "index"])
@pytest.mark.parametrize("write", ["argument", "result"])
def test_a_write_into_memory_that_was_not_captured_is_none(lib: Any, name: str, write: str) -> None:
    assert gradient(lib, name, write) == gradient(lib, name, None)


def test_a_write_through_a_view_is_noticed(lib: Any) -> None:
    x = lib.ones(2, 3, requires_grad=True)
    y = x * 2
    z = y.sin()
    y.detach()[0, 1] = 7.0
    with pytest.raises(RuntimeError, match=MODIFIED):
        z.sum().backward()


def test_a_write_before_the_op_is_none(lib: Any) -> None:
    buffer = lib.ones(3)
    x = lib.ones(3, requires_grad=True)
    buffer.mul_(2)
    (x * buffer).sum().backward()
    assert x.grad.tolist() == [2.0] * 3


def test_a_constant_that_is_written_to_between_two_sweeps(lib: Any) -> None:
    """The ordinary life of a buffer: used, swept, overwritten, used again."""
    buffer, x = lib.ones(3), lib.ones(3, requires_grad=True)
    for step in range(3):
        buffer.fill_(float(step))
        (x * buffer).sum().backward()
    assert x.grad.tolist() == [3.0] * 3


def test_an_optimizers_step_after_backward_is_none(lib: Any) -> None:
    w, x = lib.ones(2, 2, requires_grad=True), lib.ones(1, 2)
    for _ in range(3):
        ((x @ w) ** 2).sum().backward()
        with lib.no_grad():
            w -= 0.01 * w.grad
        w.grad.zero_()


def test_an_optimizers_step_before_backward_is_an_error(lib: Any) -> None:
    w, x = lib.ones(2, 2, requires_grad=True), lib.ones(1, 2, requires_grad=True)
    loss = ((x @ w) ** 2).sum()
    with lib.no_grad():
        w -= 0.01
    with pytest.raises(RuntimeError, match=MODIFIED):
        loss.backward()


def test_a_leaf_that_wants_a_gradient_is_not_written(lib: Any) -> None:
    x = lib.ones(2, requires_grad=True)
    for write in (lambda: x.add_(1), lambda: x.zero_(), lambda: x.__setitem__(0, 1.0), lambda: x.copy_(lib.ones(2))):
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            write()
    with lib.no_grad():
        x.add_(1)
        x[0] = 5.0
    assert x.tolist() == [5.0, 2.0] and x.is_leaf and x.requires_grad


def test_what_was_computed_before_a_recorded_write_keeps_its_gradient(lib: Any) -> None:
    x = lib.tensor([1.0, 2.0], requires_grad=True)
    y = x * 1
    before = y + 1
    y.mul_(5)
    (before + y).sum().backward()
    assert x.grad.tolist() == [6.0, 6.0]


def test_a_recorded_write_into_a_constant_makes_it_a_result(lib: Any) -> None:
    x = lib.tensor([1.0, 2.0], requires_grad=True)
    total = lib.zeros(2)
    for _ in range(3):
        total += x
    total.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0] and not total.is_leaf


def test_a_recorded_write_into_a_view_is_refused() -> None:
    """PyTorch follows it through the view; here the message says how to go on, and nothing was written."""
    x = ours.tensor([1.0, 2.0], requires_grad=True)
    base = ours.zeros(3)
    with pytest.raises(RuntimeError, match=r"base\[index\] = value"):
        base[:2].add_(x)
    assert base.tolist() == [0.0] * 3
    base[:2] = base[:2] + x
    base.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_assigning_data_swaps_the_memory_under_the_leaf(lib: Any) -> None:
    x = lib.ones(2, requires_grad=True)
    fresh = lib.full((2,), 4.0)
    x.data = fresh
    assert x.requires_grad and x.is_leaf
    fresh[0] = 9.0
    assert x.tolist() == [9.0, 4.0]
    (x * x).sum().backward()
    assert x.grad.tolist() == [18.0, 8.0]


def test_data_writes_are_nobodys_business(lib: Any) -> None:
    x = lib.ones(2, requires_grad=True)
    x.data.add_(1)
    x.data -= 0.5
    assert x.tolist() == [1.5, 1.5] and x.is_leaf


@given(
    st.lists(st.tuples(st.sampled_from(["add_", "mul_", "sub_"]), st.integers(-3, 3)), max_size=6),
    st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=4),
)
def test_writing_in_place_is_computing_anew(steps: Any, values: Any) -> None:
    """On a recorded tensor name_(...) gives the values and gradients that name(...) gives."""
    a, b = (ours.tensor(values, requires_grad=True) for _ in range(2))
    in_place, anew = a * a, b * b
    for name, n in steps:
        getattr(in_place, name)(n)
        anew = getattr(anew, name[:-1])(n)
    in_place.sum().backward()
    anew.sum().backward()
    assert in_place.tolist() == anew.tolist() and a.grad.tolist() == b.grad.tolist()
