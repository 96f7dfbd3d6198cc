"""Functions that make tensors: the same values, dtypes, shapes and exceptions as PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest

import tinygrad_llm as ours
from tests.parity.judge import same, told

pytestmark = pytest.mark.torch

CALLS = [
    "zeros(2, 3)", "zeros((2, 3))", "zeros([2])", "zeros(())", "zeros(0)", "zeros(2, dtype=lib.int64)", "zeros(-1)",
    "ones(2, 3)",
    "ones((2,), dtype=lib.bool)", "ones(2, requires_grad=True)", "ones(2, dtype=lib.int64, requires_grad=True)",
    "full((2, 3), 7)",
    "full((2,), 0.5)", "full((2,), True)", "full((), 3)", "full((2,), 7, dtype=lib.float64)",
    "full((2,), lib.tensor(2.5))",
    "empty(2, 3) * 0", "zeros_like(lib.ones(2, 3, dtype=lib.int32))", "ones_like(lib.zeros(2), dtype=lib.float64)",
    "full_like(lib.ones(2), 3)", "full_like(lib.ones(2, dtype=lib.int64), 3.7)", "zeros_like(lib.ones(3, 2).T)",
    "zeros_like(lib.ones(2, requires_grad=True))", "ones_like(lib.ones(2), requires_grad=True)",
    "arange(5)", "arange(2, 5)", "arange(1, 10, 3)", "arange(5, 0, -2)", "arange(0)", "arange(0.5, 3)",
    "arange(0, 1, 0.1)", "arange(3.0)",
    "arange(0, 5, dtype=lib.float64)", "arange(5, 2)", "arange(1, 5, 0)", "arange(2, 5, -1)", "arange(-3, 3)",
    "arange(0, 1, 0.3)",
    "arange(10, dtype=lib.uint8)", "arange(end=4)", "arange(start=1, end=4)", "arange(lib.tensor(4))",
    "arange(1, 2.5, 0.5)",
    "linspace(0, 1, 5)", "linspace(3, -2, 4)", "linspace(0, 1, 1)", "linspace(0, 1, 0)",
    "linspace(0, 10, 4, dtype=lib.float64)",
    "linspace(0, 1, -1)", "linspace(0, 9, 4, dtype=lib.int64)", "eye(3)", "eye(2, 4)", "eye(3, dtype=lib.int64)",
    "eye(0)", "eye(-1)",
    "tril_indices(3, 3)", "tril_indices(2, 4, 1)", "tril_indices(4, 2, -1)", "triu_indices(3, 3)",
    "triu_indices(3, 4, 1)",
    "triu_indices(3, 4, -2)", "tensor([[1, 2], [3, 4]])", "tensor(5)", "tensor([1.0], dtype=lib.float64)",
    "tensor([1.7], dtype=lib.int64)",
    "tensor([lib.tensor(1.0), lib.tensor(2.0)])", "tensor([1.0], requires_grad=True)", "tensor(lib.ones(2))",
    "tensor((1, 2.0))",
    "tensor([[True], [False]])", "as_tensor([1, 2])", "as_tensor([1, 2], dtype=lib.float32)", "as_tensor(np.ones(2))",
    "as_tensor(3.5)",
    "asarray([1.0])", "from_numpy(np.arange(3))", "from_numpy(np.arange(6.0).reshape(2, 3).T)", "from_numpy([1])",
    "from_numpy(3)",
    "frombuffer(bytearray(b'abcdefgh'), dtype=lib.int32)", "frombuffer(bytearray(9), dtype=lib.float32, offset=1)",
    "frombuffer(bytearray(b'abcdefgh'), dtype=lib.uint8, count=3, offset=2)", "frombuffer(b'', dtype=lib.float32)",
    "frombuffer(b'abc', dtype=lib.float32)", "frombuffer(bytearray(8), dtype=lib.float32, count=3)",
    "frombuffer(bytearray(8), dtype=lib.float32, offset=8)", "frombuffer(bytearray(8), dtype=lib.bfloat16, count=0)",
    "frombuffer(bytearray(8), dtype=lib.float32, offset=-1)", "frombuffer(5, dtype=lib.float32)",
    "frombuffer(bytearray(8), dtype=lib.float32, requires_grad=True)", "frombuffer(bytearray(4), dtype=lib.float16)",
    "frombuffer(np.arange(3.0), dtype=lib.float64)", "frombuffer(bytearray(8))",
    "is_tensor(lib.ones(1))", "is_tensor(3)", "numel(lib.ones(2, 3))", "Tensor([1, 2])", "Tensor([[1.0]])",
    "tensor([])", "tensor([[]])",
    "ones(2, 3).new_zeros((4,))", "ones(2).new_tensor([1, 2])", "arange(6).reshape(2, 3).T.contiguous()",
    "Size([2, 3]).numel()",
    "tensor(2**40)", "tensor([1, 2.5, True])", "tensor(1e10)", "ones(2.5)", "zeros('a')",
]  # fmt: skip


@pytest.mark.parametrize("code", CALLS)
def test_makes_what_pytorch_makes(code: str) -> None:
    torch = pytest.importorskip("torch")
    assert same(torch, f"lib.{code}"), (told(ours, f"lib.{code}"), told(torch, f"lib.{code}"))


def test_a_buffer_is_shared_where_it_may_be_written() -> None:
    for lib in (ours, pytest.importorskip("torch")):
        buffer = bytearray(8)
        lib.frombuffer(buffer, dtype=lib.int32)[1] = 7
        assert buffer == b"\0\0\0\0\7\0\0\0"
    buffer = bytes(4)
    ours.frombuffer(buffer, dtype=ours.uint8).fill_(1)
    assert buffer == bytes(4)


def test_made_tensors_take_a_device() -> None:
    for make in (ours.zeros, ours.ones, ours.empty, ours.rand, ours.randn):
        made: Any = make(2, device="cpu")
        assert made.device == ours.device("cpu")
