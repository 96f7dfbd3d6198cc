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


def test_a_row_taken_before_a_recorded_write_shows_it(lib: Any) -> None:
    w = lib.tensor([1.0, 2.0], requires_grad=True)
    table = lib.zeros(3, 2)
    row, column = table[1], table[:, 0]
    table[1] = w * 3
    assert row.tolist() == [3.0, 6.0] and row.requires_grad
    (row.sum() + 10 * column.sum()).backward()
    assert w.grad.tolist() == [33.0, 3.0]


def test_a_recorded_write_into_a_view_reaches_its_base(lib: Any) -> None:
    x = lib.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    y[1:].mul_(5)
    y.view(2, 1)[0] += x[:1]
    assert y.tolist() == [3.0, 20.0]
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 10.0]


def test_a_recorded_write_that_captured_its_memory_keeps_what_was_there(lib: Any) -> None:
    x, w = lib.tensor([1.0, 2.0], requires_grad=True), lib.tensor([3.0, 4.0], requires_grad=True)
    y = x * 1
    y.mul_(w).sin_()
    y.sum().backward()
    t = lib.tensor([3.0, 8.0]).cos()
    assert x.grad.tolist() == (t * w.detach()).tolist() and w.grad.tolist() == (t * x.detach()).tolist()


def test_a_detached_tensor_shows_recorded_writes_and_stays_outside(lib: Any) -> None:
    x = lib.ones(2, requires_grad=True)
    y = x * 1
    outside, memory = y.detach(), y.detach().numpy()
    y.mul_(x * 4)
    assert outside.tolist() == memory.tolist() == [4.0, 4.0] and not outside.requires_grad


def test_a_view_taken_under_no_grad_takes_no_recorded_value(lib: Any) -> None:
    x, base = lib.ones(1, requires_grad=True), lib.zeros(3)
    with lib.no_grad():
        view = base[:1]
    with pytest.raises(RuntimeError, match="no_grad"):
        view.add_(x)
    assert base.tolist() == [0.0] * 3


def test_a_view_is_not_detached_in_place(lib: Any) -> None:
    view = (lib.ones(3, requires_grad=True) * 2)[1:]
    with pytest.raises(RuntimeError, match="Can't detach views in-place"):
        view.detach_()
    assert view._is_view() and view._base.shape == (3,) and not view.detach()._is_view()


def test_a_gradient_that_was_to_be_retained_is_that_of_the_tensor_after_the_write(lib: Any) -> None:
    x = lib.ones(2, requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.mul_(3)
    (y * 5).sum().backward()
    assert y.grad.tolist() == [5.0, 5.0] and x.grad.tolist() == [30.0, 30.0]


def test_a_write_through_data_is_not_noticed(lib: Any) -> None:
    """PyTorch's way to change values behind the graph's back: for those who know what they do."""
    x = lib.zeros(2, requires_grad=True)
    y = x.sin()
    x.data[0] = 4.0
    x.data.add_(1)
    y.sum().backward()
    assert x.grad.tolist() == lib.tensor([5.0, 1.0]).cos().tolist()


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


VIEWS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda x: x,
    "the first": lambda x: x[:1],
    "the last row": lambda x: x[-1],
    "turned round": lambda x: x.transpose(0, -1),
    "every other": lambda x: x[..., ::2],
    "one row": lambda x: x.reshape(-1),
    "with an axis more": lambda x: x.unsqueeze(0),
    "the diagonal": lambda x: x.diagonal() if x.ndim == 2 else x,
    "detached": lambda x: x.detach(),
}
WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "mul_": lambda x, w: x.mul_(3.0),
    "add_": lambda x, w: x.add_(w),
    "mul_ by w": lambda x, w: x.mul_(w),
    "fill_": lambda x, w: x.fill_(2.0),
    "copy_": lambda x, w: x.copy_(w),
    "sin_": lambda x, w: x.sin_(),
    "x[0] = w": lambda x, w: x.__setitem__(0, w),
    "x[[0]] = w": lambda x, w: x.__setitem__([0], w),
    "x[x > 1] = 5": lambda x, w: x.__setitem__(x > 1, 5.0),
    "a product": lambda x, w: x * w,
}
STEP = st.tuples(st.integers(0, 9), st.sampled_from(sorted(VIEWS)), st.integers(0, 9), st.sampled_from(sorted(WRITES)))


def run_with_views(lib: Any, steps: Any, recorded: bool) -> Any:
    """Take views of views and write through them, then ask for every value, and for the gradient of all of them."""
    a = lib.linspace(0.5, 1.5, 6).requires_grad_()
    w = lib.tensor(1.25, requires_grad=True)
    known = [(a * 1).reshape(2, 3) if recorded else lib.linspace(0.5, 1.5, 6).reshape(2, 3)]
    products = []
    for i, view, j, write in steps:
        known.append(VIEWS[view](known[i % len(known)]))
        made = WRITES[write](known[j % len(known)], w)
        if write == "a product":
            products.append(made)
    values = [x.tolist() for x in known]
    flags = [x.requires_grad for x in known]
    total = w * 0
    for i, x in enumerate([*known, *products]):
        total = total + (i + 1) * x.sum()
    total.backward()
    return values, flags, [] if a.grad is None else a.grad.tolist(), w.grad.tolist()


@pytest.mark.torch
@given(st.lists(STEP, min_size=1, max_size=5), st.booleans())
def test_programs_of_views_and_writes_agree(steps: Any, recorded: bool) -> None:
    """Where PyTorch gives numbers, ours are the same. Where it refuses, ours may know the answer."""
    torch = pytest.importorskip("torch")
    try:
        expected = run_with_views(torch, steps, recorded)
    except (RuntimeError, IndexError):
        return
    assert_close(run_with_views(ours, steps, recorded), expected)


def assert_close(a: Any, b: Any) -> None:
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_close(x, y)
    else:
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


def test_a_tensor_takes_another_shape_in_place() -> None:
    x = ours.arange(6).reshape(2, 3)
    row = x[0]
    assert row.unsqueeze_(0) is row and row.shape == (1, 3) and x.t_() is x and x.tolist() == [[0, 3], [1, 4], [2, 5]]
    row += 10  # the memory is still shared
    assert x.tolist() == [[10, 3], [11, 4], [12, 5]] and row.squeeze_().shape == (3,)
    w = ours.ones(2, 3, requires_grad=True)
    y = (w * 2).transpose_(0, 1)
    y[0] = 0
    y.sum().backward()
    assert w.grad.tolist() == [[0, 2, 2], [0, 2, 2]]
    with pytest.raises(RuntimeError, match="leaf Variable"):
        w.unsqueeze_(0)
