"""What shares memory with what, and what may be written in place, is as in PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_llm as ours

pytestmark = pytest.mark.torch

Scenario = Callable[[Any], Any]  # a short program over either library, which returns lists and numbers


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def agree(torch: Any, scenario: Scenario) -> None:
    """Both libraries return the same, or raise the same class."""
    outcomes = []
    for lib in (ours, torch):
        lib.manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcomes.append(_rounded(scenario(lib)))
            except Exception as error:
                outcomes.append(type(error).__name__)
    assert outcomes[0] == outcomes[1]


def _rounded(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_rounded, value))
    return round(value, 4) if isinstance(value, float) else value


def base(lib: Any) -> Any:
    return lib.arange(12.0).reshape(3, 4)


DERIVED: dict[str, Callable[[Any, Any], Any]] = {
    "x[0]": lambda lib, x: x[0],
    "x[1:, ::2]": lambda lib, x: x[1:, ::2],
    "x[..., None, 1]": lambda lib, x: x[..., None, 1],
    "x[[0, 1]]": lambda lib, x: x[[0, 1]],
    "x[mask]": lambda lib, x: x[x > 3],
    "x[0, 0]": lambda lib, x: x[0, 0],
    "transpose": lambda lib, x: x.transpose(0, 1),
    "T": lambda lib, x: x.T,
    "mT": lambda lib, x: x.mT,
    "permute": lambda lib, x: x.permute(1, 0),
    "movedim": lambda lib, x: x.movedim(0, 1),
    "swapaxes": lambda lib, x: x.swapaxes(0, 1),
    "view": lambda lib, x: x.view(4, 3),
    "reshape": lambda lib, x: x.reshape(2, 6),
    "reshape of a transpose": lambda lib, x: x.T.reshape(12),
    "view of a transpose": lambda lib, x: x.T.view(12),
    "view of a slice": lambda lib, x: x[1:].view(8),
    "view that splits a dimension of a transpose": lambda lib, x: x.T.view(2, 2, 3),
    "flatten": lambda lib, x: x.flatten(),
    "unflatten": lambda lib, x: x.unflatten(1, (2, 2)),
    "squeeze": lambda lib, x: x.squeeze(),
    "unsqueeze": lambda lib, x: x.unsqueeze(1),
    "narrow": lambda lib, x: x.narrow(1, 1, 2),
    "select": lambda lib, x: x.select(1, 2),
    "split": lambda lib, x: x.split(2)[0],
    "chunk": lambda lib, x: x.chunk(2, 1)[1],
    "unbind": lambda lib, x: x.unbind(1)[3],
    "diagonal": lambda lib, x: x.diagonal(),
    "diagonal above": lambda lib, x: x.diagonal(1),
    "detach": lambda lib, x: x.detach(),
    "data": lambda lib, x: x.data,
    "contiguous": lambda lib, x: x.contiguous(),
    "contiguous of a transpose": lambda lib, x: x.T.contiguous(),
    "to the same dtype": lambda lib, x: x.to(lib.float32),
    "to another dtype and back": lambda lib, x: x.double().float(),
    "clone": lambda lib, x: x.clone(),
    "flip": lambda lib, x: x.flip(0),
    "roll": lambda lib, x: x.roll(1, 0),
    "repeat": lambda lib, x: x.repeat(1, 1),
    "expand to itself": lambda lib, x: x.expand(3, 4),
    "cat of one": lambda lib, x: lib.cat([x]),
    "numpy and back": lambda lib, x: lib.from_numpy(x.numpy()),
    "tensor of numpy": lambda lib, x: lib.tensor(x.numpy()),
    "as_tensor": lambda lib, x: lib.as_tensor(x),
    "as_tensor of numpy": lambda lib, x: lib.as_tensor(x.numpy()),
    "tril": lambda lib, x: x.tril(),
    "gather": lambda lib, x: x.gather(1, lib.zeros(3, 1, dtype=lib.int64)),
    "relu": lambda lib, x: x.relu(),
    "clamp that changes nothing": lambda lib, x: x.clamp(-100.0, 100.0),
    "where": lambda lib, x: lib.where(x > -1, x, x),
}


@pytest.mark.parametrize("name", DERIVED)
def test_a_write_shows_where_memory_is_shared(torch: Any, name: str) -> None:
    def write_into_the_base(lib: Any) -> Any:
        x = base(lib)
        y = DERIVED[name](lib, x)
        x.mul_(10)
        return y.tolist()

    def write_into_what_was_derived(lib: Any) -> Any:
        x = base(lib)
        y = DERIVED[name](lib, x)
        y += 100
        return x.tolist(), y.tolist()

    def write_through_brackets(lib: Any) -> Any:
        x = base(lib)
        y = DERIVED[name](lib, x)
        y[...] = 5
        return x.tolist()

    for scenario in (write_into_the_base, write_into_what_was_derived, write_through_brackets):
        agree(torch, scenario)


@pytest.mark.parametrize("name", DERIVED)
def test_strides_and_contiguity(torch: Any, name: str) -> None:
    if "None" in name:
        pytest.skip("the stride of a dimension of 1 means nothing")

    def layout(lib: Any) -> Any:
        y = DERIVED[name](lib, base(lib))
        return tuple(y.shape), y.stride(), y.is_contiguous()

    agree(torch, layout)


IN_PLACE: dict[str, Callable[[Any, Any], Any]] = {
    "add_": lambda lib, x: x.add_(1),
    "+=": lambda lib, x: x.__iadd__(2),
    "sub_": lambda lib, x: x.sub_(1),
    "*=": lambda lib, x: x.__imul__(2),
    "/=": lambda lib, x: x.__itruediv__(2),
    "pow_": lambda lib, x: x.pow_(2),
    "copy_": lambda lib, x: x.copy_(lib.ones(3)),
    "zero_": lambda lib, x: x.zero_(),
    "fill_": lambda lib, x: x.fill_(3),
    "normal_": lambda lib, x: x.normal_(),
    "uniform_": lambda lib, x: x.uniform_(),
    "clamp_": lambda lib, x: x.clamp_(0, 1),
    "relu_": lambda lib, x: x.relu_(),
    "exp_": lambda lib, x: x.exp_(),
    "masked_fill_": lambda lib, x: x.masked_fill_(x > 0, 2.0),
    "x[0] =": lambda lib, x: x.__setitem__(0, 5.0),
    "x[mask] =": lambda lib, x: x.__setitem__(x > 0, 5.0),
    "x[[0]] =": lambda lib, x: x.__setitem__([0], 5.0),
    "add_ of a larger shape": lambda lib, x: x.add_(lib.ones(2, 3)),
    "add_ of another shape": lambda lib, x: x.add_(lib.ones(4)),
    "copy_ of another shape": lambda lib, x: x.copy_(lib.ones(4)),
    "add_ that needs another dtype": lambda lib, x: x.long().add_(0.5),
    "div_ of integers": lambda lib, x: x.long().div_(2),
    "mul_ of bools by integers": lambda lib, x: (x > 0).mul_(2),
    "add_ of float64": lambda lib, x: x.add_(lib.ones(3, dtype=lib.float64)),
    "scatter_": lambda lib, x: x.scatter_(0, lib.tensor([0, 2]), 9.0),
    "index_add_": lambda lib, x: x.index_add_(0, lib.tensor([0, 0]), lib.ones(2)),
    "requires_grad_ of integers": lambda lib, x: x.long().requires_grad_(),
}
LEAVES: dict[str, Callable[[Any], Any]] = {
    "a tensor outside the graph": lambda lib: lib.tensor([1.0, -2.0, 3.0]),
    "a leaf": lambda lib: lib.tensor([1.0, -2.0, 3.0], requires_grad=True),
    "a view of a leaf": lambda lib: lib.tensor([[1.0, -2.0, 3.0]], requires_grad=True)[0],
    "a recorded result": lambda lib: lib.tensor([1.0, -2.0, 3.0], requires_grad=True) * 1,
    "an expanded tensor": lambda lib: lib.tensor([1.0]).expand(3),
}


PYTORCH_WRITES_INTO_SHARED_MEMORY = {"scatter_", "index_add_", "zero_", "fill_", "masked_fill_"}
PYTORCH_WRITES_INTO_SHARED_MEMORY |= {"x[0] =", "x[mask] =", "x[[0]] ="}


@pytest.mark.parametrize("kind", LEAVES)
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_rules(torch: Any, name: str, kind: str) -> None:
    if kind == "an expanded tensor" and name in PYTORCH_WRITES_INTO_SHARED_MEMORY:
        pytest.skip("PyTorch writes, with a warning at most; here it is an error")

    def run(lib: Any) -> Any:
        x = LEAVES[kind](lib)
        result = IN_PLACE[name](lib, x)
        return x.tolist(), x.requires_grad, x.is_leaf, None if result is None else result.tolist()

    agree(torch, run)
    if kind == "a view of a leaf":
        return  # made and written under no_grad, PyTorch calls it ambiguous

    def without_recording(lib: Any) -> Any:
        with lib.no_grad():
            return run(lib)

    agree(torch, without_recording)


PROGRAMS: dict[str, Scenario] = {}


def program(function: Scenario) -> Scenario:
    PROGRAMS[function.__name__] = function
    return function


@program
def identity_of_conversions(lib: Any) -> Any:
    x = lib.ones(2)
    others = [x.double(), x.to(lib.float32, copy=True), x.detach(), x.clone()]
    same = [x.to(lib.float32), x.float(), x.contiguous(), x.cpu(), lib.as_tensor(x), x.to(x), x.type_as(x)]
    return [y is x for y in (*same, *others)]


@program
def a_leaf_is_written_under_no_grad_and_trained_on(lib: Any) -> Any:
    w = lib.ones(2, requires_grad=True)
    (w * 3).sum().backward()
    with lib.no_grad():
        w -= 0.1 * w.grad
        w.grad.zero_()
    (w * w).sum().backward()
    return w.tolist(), w.grad.tolist()


@program
def recorded_writes_change_the_gradient(lib: Any) -> Any:
    x = lib.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2
    y[0] = 10.0
    y[1:] = y[1:] * 3
    y += x
    y.sum().backward()
    return x.grad.tolist(), y.tolist(), y.is_leaf


@program
def a_constant_tensor_takes_a_recorded_value(lib: Any) -> Any:
    x = lib.tensor([1.0, 2.0], requires_grad=True)
    buffer = lib.zeros(4)
    buffer[:2] = x * 3
    buffer[3] = x[0]
    buffer.sum().backward()
    return x.grad.tolist(), buffer.requires_grad, buffer.tolist()


@program
def augmented_assignment_keeps_the_object(lib: Any) -> Any:
    x = lib.ones(2)
    y = x
    y += 1
    y *= 2
    y -= 1
    y /= 2
    y **= 2
    return y is x, x.tolist()


@program
def augmented_matmul_is_out_of_place(lib: Any) -> Any:
    x = lib.ones(2, 2)
    y = x
    y @= x
    return x.tolist(), y.tolist()


@program
def data_is_assigned(lib: Any) -> Any:
    x = lib.ones(2, requires_grad=True)
    x.data = lib.zeros(3)
    (x + 1).sum().backward()
    return x.tolist(), x.grad.tolist(), x.requires_grad


@program
def data_is_written_through(lib: Any) -> Any:
    x = lib.ones(2, requires_grad=True)
    x.data.mul_(5)
    x.data[0] = 1
    return x.tolist()


@program
def grad_is_assigned(lib: Any) -> Any:
    x = lib.ones(2, requires_grad=True)
    x.grad = lib.full((2,), 7.0)
    (x * 2).sum().backward()
    return x.grad.tolist()


@program
def grad_of_another_shape_is_assigned(lib: Any) -> Any:
    x = lib.ones(2, requires_grad=True)
    x.grad = lib.ones(3)


@program
def grad_of_another_dtype_is_assigned(lib: Any) -> Any:
    x = lib.ones(2, requires_grad=True)
    x.grad = lib.ones(2, dtype=lib.float64)


@program
def grad_that_is_no_tensor_is_assigned(lib: Any) -> Any:
    x = lib.ones(2, requires_grad=True)
    x.grad = 3


@program
def numpy_of_a_tensor_that_requires_grad(lib: Any) -> Any:
    return lib.ones(2, requires_grad=True).numpy()


@program
def numpy_shares_memory(lib: Any) -> Any:
    x = lib.zeros(2)
    x.numpy()[0] = 5
    return x.tolist()


@program
def numpy_functions_of_tensors(lib: Any) -> Any:
    x = lib.tensor([1.0, 4.0])
    return np.asarray(x).tolist(), np.stack([x, x]).tolist(), np.array(x, dtype=np.int64).tolist()


@program
def numpy_array_on_the_left(lib: Any) -> Any:
    result = np.float64(2.0) * lib.tensor([1.0, 4.0])
    return result.tolist(), str(result.dtype).removeprefix("torch.")


@program
def iteration(lib: Any) -> Any:
    return [row.tolist() for row in base(lib)], [float(v) for v in lib.ones(2)]


@program
def iteration_keeps_the_graph(lib: Any) -> Any:
    x = lib.ones(3, requires_grad=True)
    total = sum(v * i for i, v in enumerate(x))
    total.backward()
    return x.grad.tolist()


@program
def unpacking_and_formatting(lib: Any) -> Any:
    a, b = lib.tensor([1.5, 2.0])
    return f"{a:.2f} {b.item():.1f} {int(b)} {round(float(a), 1)}", [5, 6, 7][lib.tensor(1)], list(range(lib.tensor(2)))


@program
def a_view_of_another_dtype(lib: Any) -> Any:
    return lib.tensor([1.0, -2.0]).view(lib.int32).tolist()


@program
def new_tensors(lib: Any) -> Any:
    x = lib.ones(2, dtype=lib.float64)
    made = [x.new_zeros(2, 3), x.new_ones((2,)), x.new_full((2,), 3), x.new_tensor([1, 2])]
    made += [lib.zeros_like(x), lib.full_like(x, 2), lib.ones_like(x, dtype=lib.int64), x.new_zeros(2, dtype=lib.int32)]
    return [(m.tolist(), str(m.dtype).removeprefix("torch.")) for m in made]


@program
def hashing_and_identity(lib: Any) -> Any:
    x = lib.ones(2)
    return x in {x}, {x: 1}[x], len({x, x, lib.ones(2)})


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(torch: Any, name: str) -> None:
    agree(torch, PROGRAMS[name])
