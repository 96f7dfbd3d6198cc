"""Tensors as Python objects: copies, pickles, hashes, conversions, arguments of NumPy functions."""

from __future__ import annotations

import copy
import operator
import pickle
from typing import Any

import numpy as np
import pytest

import tinygrad_llm as ours


def test_deepcopy_of_a_leaf(lib: Any) -> None:
    x = lib.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    y = copy.deepcopy(x)
    assert y.requires_grad and y.is_leaf and y.tolist() == [1.0, 2.0] and y.grad.tolist() == [2.0, 4.0]
    with lib.no_grad():
        y.mul_(5)
        y.grad.zero_()
    assert x.tolist() == [1.0, 2.0] and x.grad.tolist() == [2.0, 4.0]
    (y * 3).sum().backward()
    assert y.grad.tolist() == [3.0, 3.0] and x.grad.tolist() == [2.0, 4.0]


def test_deepcopy_keeps_sharing(lib: Any) -> None:
    x = lib.ones(2)
    a, b = copy.deepcopy([x, x])
    assert a is b and a is not x


def test_deepcopy_of_a_result_is_refused(lib: Any) -> None:
    y = lib.ones(2, requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
        copy.deepcopy(y)
    assert copy.deepcopy(y.detach()).tolist() == [2.0, 2.0]


def test_deepcopy_of_a_parameter(lib: Any) -> None:
    p = lib.nn.Parameter(lib.ones(2))
    q = copy.deepcopy(p)
    assert type(q) is type(p) and q.requires_grad and q is not p


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int64", "bool"])
def test_pickle(lib: Any, dtype: str) -> None:
    x = lib.tensor([[1.0, 0.0], [1.0, 1.0]]).to(getattr(lib, dtype))
    y = pickle.loads(pickle.dumps(x))
    assert y.tolist() == x.tolist() and y.dtype is x.dtype and not y.requires_grad


def test_pickle_keeps_requires_grad_and_class(lib: Any) -> None:
    x = lib.ones(2, requires_grad=True)
    assert pickle.loads(pickle.dumps(x)).requires_grad
    assert type(pickle.loads(pickle.dumps(lib.nn.Parameter(lib.ones(1))))) is lib.nn.Parameter


def test_pickle_of_a_result_is_refused() -> None:
    with pytest.raises(RuntimeError, match="detach"):
        pickle.dumps(ours.ones(2, requires_grad=True) * 2)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_dtypes_are_pickled_as_themselves(lib: Any, dtype: str) -> None:
    d = getattr(lib, dtype)
    assert pickle.loads(pickle.dumps(d)) is d and copy.deepcopy(d) is d


def test_a_tensor_is_a_key_by_identity(lib: Any) -> None:
    x, y = lib.ones(1), lib.ones(1)
    table = {x: "x", y: "y"}
    assert table[x] == "x" and table[y] == "y" and len(table) == 2


def test_shape_is_a_tuple_with_a_name(lib: Any) -> None:
    x = lib.ones(2, 3)
    assert x.shape == (2, 3) and isinstance(x.shape, tuple) and repr(x.shape) == "torch.Size([2, 3])"
    assert x.shape.numel() == 6 and x.shape[-1] == 3 and repr(x.shape[1:]) == "torch.Size([3])"
    assert x.size() == x.shape and x.size(0) == 2 and x.ndim == x.dim() == 2 and x.numel() == x.nelement() == 6
    assert repr(lib.Size([2, 3])) == "torch.Size([2, 3])" and lib.Size([2, 3]) == x.shape


def test_sizes_in_bytes(lib: Any) -> None:
    x = lib.ones(2, 3, dtype=lib.float64)
    assert (x.element_size(), x.itemsize, x.nbytes) == (8, 8, 48)
    assert lib.ones(1, dtype=lib.bfloat16).element_size() == 2


def test_numpy_arrays_become_tensors_and_back(lib: Any) -> None:
    a = np.arange(6.0).reshape(2, 3)
    x = lib.from_numpy(a)
    x[0, 0] = 9.0
    assert a[0, 0] == 9.0 and x.dtype is lib.float64
    b = x.numpy()
    b[1, 2] = 7.0
    assert x[1, 2].item() == 7.0
    with pytest.raises(TypeError, match="ndarray"):
        lib.from_numpy([1.0])
    with pytest.raises(RuntimeError, match="requires grad"):
        lib.ones(1, requires_grad=True).numpy()
    assert lib.ones(1, requires_grad=True).numpy(force=True).tolist() == [1.0]
    with pytest.raises(TypeError):
        lib.ones(1, dtype=lib.bfloat16).numpy()


def test_a_tensor_that_gets_a_strange_array() -> None:
    for strange in (np.array([1j]), np.array(["a"]), np.array([object()])):
        with pytest.raises((TypeError, RuntimeError, ValueError)):
            ours.tensor(strange)
        with pytest.raises(TypeError):
            ours.from_numpy(strange)


def test_an_unknown_operand_is_refused_by_both_sides(lib: Any) -> None:
    x = lib.ones(2)
    for strange in ("a", None, [1], object()):
        for operation in (operator.add, operator.sub, operator.mul, operator.matmul, operator.lt, operator.pow):
            for a, b in ((x, strange), (strange, x)):
                with pytest.raises(TypeError):
                    operation(a, b)


def test_comparing_with_something_else(lib: Any) -> None:
    x = lib.ones(2)
    assert (x == "a") is False and (x != "a") is True
    assert (x == None) is False  # noqa: E711  # as a reader of old programs will find it


def test_the_other_operand_may_take_over(lib: Any) -> None:
    class Unit:
        def __radd__(self, other: Any) -> str:
            return "mine"

    assert lib.ones(2) + Unit() == "mine"


def test_an_attribute_that_does_not_exist(lib: Any) -> None:
    with pytest.raises(AttributeError):
        _ = lib.ones(1).colour


def test_devices(lib: Any) -> None:
    x = lib.ones(1)
    assert x.device == lib.device("cpu") and x.device.type == "cpu" and str(x.device) == "cpu" and not x.is_cuda
    assert lib.device("cuda", 1) == lib.device("cuda:1")
    assert repr(lib.device("cuda:1")) == "device(type='cuda', index=1)"
    assert x.to("cpu") is x and x.to(lib.device("cpu")) is x
    with pytest.raises(RuntimeError):
        lib.device("abacus")
    with pytest.raises(RuntimeError):
        lib.device("cuda:x")


def test_a_device_that_is_not_there() -> None:
    from tinygrad_llm.devices import cuda_problem

    if cuda_problem() is None:
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="cpu"):
        ours.ones(1).to("cuda")
    with pytest.raises(RuntimeError, match="cpu"):
        ours.ones(1, device="cuda")


# --- Size ---


def test_a_size_joined_repeated_or_cut_is_a_size(lib: Any) -> None:
    shape = lib.ones(2, 3).shape
    for result, expected in (
        (shape + (1,), (2, 3, 1)),
        ((1,) + shape, (1, 2, 3)),
        (shape + lib.Size([4]), (2, 3, 4)),
        (shape * 2, (2, 3, 2, 3)),
        (2 * shape, (2, 3, 2, 3)),
        (shape[1:], (3,)),
        (lib.Size([lib.tensor(2), True]), (2, 1)),
        (copy.copy(shape), (2, 3)),
        (copy.deepcopy(shape), (2, 3)),
        (pickle.loads(pickle.dumps(shape)), (2, 3)),
        (sum([shape, shape], ()), (2, 3, 2, 3)),
    ):
        assert type(result) is lib.Size and result == expected and hash(result) == hash(expected)
    assert lib.Size([]).numel() == 1 and lib.Size([0, 3]).numel() == 0


def test_a_size_holds_integers(lib: Any) -> None:
    for wrong in ([2.5], ["a"], 3, "ab", [None]):
        with pytest.raises(TypeError):
            lib.Size(wrong)
    for join in (lambda s: s + ("a",), lambda s: ("a",) + s, lambda s: s + [1], lambda s: [1] + s, lambda s: s * 2.0):
        with pytest.raises(TypeError):
            join(lib.Size([2]))


KINDS = ("Float", "Double", "Half", "BFloat16", "Byte", "Char", "Short", "Int", "Long", "Bool")


@pytest.mark.torch
@pytest.mark.parametrize("kind", KINDS)
def test_the_older_classes_are_pytorchs(kind):
    torch = pytest.importorskip("torch")
    made = []
    for lib in (ours, torch):
        cls = getattr(lib, f"{kind}Tensor")
        x = lib.tensor([1.0, 0.0, 3.0])
        found = [cls([1, 0, 2]), x.type(f"torch.{kind}Tensor"), x.type(cls), cls(2, 3), cls()]
        made.append(
            [repr(found[:3]), [(t.type(), list(t.shape)) for t in found], [isinstance(t, cls) for t in (*found, x, 3)]]
            + [lib.typename(found[0]), cls.__name__]
        )
    assert made[0] == made[1]


@pytest.mark.torch
def test_a_tensor_of_a_size_and_tensors_like_one():
    torch = pytest.importorskip("torch")
    shapes = []
    for lib in (ours, torch):
        x = lib.ones(2, dtype=lib.int16)
        made = [lib.Tensor(2, 3), lib.Tensor(4), lib.Tensor(), lib.Tensor([5, 6]), x.new_empty(3, 1), x.new(2, 2)]
        made += [x.new([7, 8]), x.type_as(lib.ones(1)), x.type(lib.float64)]
        shapes.append([(list(t.shape), str(t.dtype)) for t in made])
        with pytest.raises(ValueError, match="invalid type"):
            x.type("torch.WideTensor")
    assert shapes[0] == shapes[1]


def test_where_a_tensor_is():
    x = ours.ones(2, 3)
    assert x.is_cpu and x.get_device() == -1 and x.ndimension() == 2 and not x.is_complex()
