"""Every function, on every sample of its row, gives what PyTorch gives: values, dtype, shape, gradients, exceptions."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import tinygrad_llm as ours
from tests.parity import (
    rows_composed,
    rows_elementwise,
    rows_fused,
    rows_index,
    rows_linalg,
    rows_nn,
    rows_reduce,
    rows_shape,
)
from tests.parity.judge import Call, X, difference, in_dtype, in_layouts, resolve
from tinygrad_llm.autograd import functions
from tinygrad_llm.nn import functional

pytestmark = pytest.mark.torch

ROWS: dict[str, list[Call]] = {
    **rows_elementwise.ROWS,
    **rows_reduce.ROWS,
    **rows_shape.ROWS,
    **rows_index.ROWS,
    **rows_linalg.ROWS,
    **rows_fused.ROWS,
    **rows_composed.ROWS,
    **rows_nn.ROWS,
}
# a gradient that is a difference of nearly equal numbers says nothing in 16 bits
ROUNDING_DECIDES = {"std", "nn.functional.group_norm"}


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def check(torch: Any, mine: Any, theirs: Any, samples: list[Call]) -> None:
    found = [(s, d) for s in samples if (d := difference(torch, mine, theirs, s)) is not None]
    shown = "\n".join(f"{s!r}: {d}" for s, d in found[:12])
    assert not found, f"{len(found)} of {len(samples)} samples differ:\n{shown}"


@pytest.mark.parametrize("name", ROWS)
def test_equals_pytorch_in_every_memory_layout(torch: Any, name: str) -> None:
    check(torch, resolve(ours, name), resolve(torch, name), in_layouts(ROWS[name]))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ROWS)
def test_equals_pytorch_in_the_other_floating_dtypes(torch: Any, name: str, dtype: str) -> None:
    if dtype != "float32" and name in ROUNDING_DECIDES:
        pytest.skip("rounding decides the result")
    samples = [in_dtype(s, dtype) for s in ROWS[name] if any(x.is_float for x in s.tensors())]
    part = {"float32": slice(None), "float16": slice(0, None, 2), "bfloat16": slice(1, None, 2)}[dtype]
    check(torch, resolve(ours, name), resolve(torch, name), samples[part])


NOT_THERE = {"asinh", "acosh", "atanh", "arcsinh", "arccosh", "arctanh"}  # PyTorch knows no derivative in place
IN_PLACE = [n for n in ROWS if "." not in n and hasattr(ours.Tensor, f"{n}_") and n not in NOT_THERE]


@pytest.mark.parametrize("name", IN_PLACE)
def test_the_in_place_method_equals_pytorch(torch: Any, name: str) -> None:
    """On a copy of the first argument, which is recorded where the argument is: so gradients flow through the write."""

    def write(x: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x.clone(), f"{name}_")(*args, **kwargs)

    samples = [s for s in ROWS[name] if isinstance(s.args[0], X)]
    check(torch, write, write, samples)


def public_functions() -> list[tuple[str, Any]]:
    """Every function that users call, by its name in PyTorch's namespaces."""
    return [
        *((name, getattr(functions, name)) for name in functions.__all__),
        *((function.__name__, function) for function in functions.ELSEWHERE),
        *((f"nn.functional.{name}", getattr(functional, name)) for name in functional.__all__),
    ]


def test_every_public_function_has_a_row() -> None:
    covered = {name.rsplit(".", 1)[-1] for name in ROWS}
    missing = [name for name, f in public_functions() if callable(f) and name.rsplit(".", 1)[-1] not in covered]
    assert not missing


def test_a_method_is_its_function() -> None:
    """So the rows of functions speak for the methods too."""
    other = {"where", "tile", "numel"}  # another order of arguments, another spelling, a method of its own
    for name, function in public_functions():
        attached = getattr(ours.Tensor, name, None)
        assert attached is None or attached is function or name in other, name


def test_methods_exist_where_pytorch_has_them(torch: Any) -> None:
    theirs = [n for n, f in public_functions() if callable(f) and hasattr(torch.Tensor, n)]
    assert [n for n in theirs if not hasattr(ours.Tensor, n)] == []


def test_public_names_are_pytorchs(torch: Any) -> None:
    own = {"dtypes", "kernels"}  # modules of this package
    assert [n for n in ours.__all__ if not hasattr(torch, n) and n not in own] == []
    assert [n for n in functional.__all__ if not hasattr(torch.nn.functional, n)] == []


@pytest.mark.parametrize("name", functional.__all__)
def test_arguments_of_functional_are_named_as_in_pytorch(torch: Any, name: str) -> None:
    try:
        theirs = inspect.signature(getattr(torch.nn.functional, name)).parameters
    except ValueError:
        pytest.skip("PyTorch does not tell this signature")
    if any(p.kind is p.VAR_POSITIONAL for p in theirs.values()):
        pytest.skip("PyTorch does not tell this signature")
    for argument, mine in inspect.signature(getattr(functional, name)).parameters.items():
        assert argument in theirs, f"{name} has no argument {argument} in PyTorch"
        assert mine.default == theirs[argument].default or mine.default is mine.empty, f"{name}: default of {argument}"
