"""Products of vectors, matrices and more."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.autograd.autocast import autocasts, narrowed
from tinygrad_llm.autograd.functions.common import check_tensor, dimension
from tinygrad_llm.autograd.functions.elementwise import add, mul
from tinygrad_llm.autograd.functions.reduce import sum_
from tinygrad_llm.autograd.functions.shape import diagonal, expand, permute, reshape
from tinygrad_llm.autograd.methods import method
from tinygrad_llm.autograd.ops import linalg as ops
from tinygrad_llm.autograd.tensor import Tensor, apply, printing


def _check_same_dtype(name: str, *tensors: Tensor) -> None:
    first = tensors[0]
    for x in tensors[1:]:
        if x.array.dtype != first.array.dtype:
            raise RuntimeError(
                f"{name}: expected both operands to have the same dtype, but got {first.dtype} and {x.dtype}; convert "
                f"one with .to()"
            )


@method
@autocasts
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """(..., m, k) @ (..., k, n) -> (..., m, n); a vector counts as a row on the left and a column on the right.

    Raises:
        RuntimeError: the inner sizes differ, the leading ones do not broadcast, the dtypes differ, or one is 0-d.
    """
    return _product(input, other)


def _product(input: Tensor, other: Tensor) -> Tensor:
    a, b = check_tensor("matmul", input), check_tensor("matmul", other, "other")
    if not a.ndim or not b.ndim:
        raise RuntimeError(f"both arguments to matmul need to be at least 1D, but they are {a.ndim}D and {b.ndim}D")
    _check_same_dtype("matmul", a, b)
    if a.array.dtype == bool:
        raise NotImplementedError("matmul: not implemented for bool tensors; convert with .int() or .float()")
    m, n = a.array.shape, b.array.shape
    if m[-1] != n[-2 if len(n) > 1 else 0]:
        if len(m) <= 2 and len(n) == 2:
            raise RuntimeError(
                f"mat1 and mat2 shapes cannot be multiplied ({m[0] if len(m) > 1 else 1}x{m[-1]} and {n[0]}x{n[1]})"
            )
        raise RuntimeError(
            f"matmul: the last dimension of {list(m)} must match dimension {max(len(n) - 2, 0)} of {list(n)}"
        )
    try:
        np.broadcast_shapes(m[:-2], n[:-2])
    except ValueError:
        raise RuntimeError(f"matmul: the leading dimensions of {list(m)} and {list(n)} do not broadcast") from None
    if len(m) > 1 and len(n) > 1:
        return apply(ops.mm if len(m) == len(n) == 2 else ops.matmul, a, b)
    a2 = reshape(a, (1, -1)) if len(m) == 1 else a
    b2 = reshape(b, (-1, 1)) if len(n) == 1 else b
    y = apply(ops.matmul, a2, b2)
    shape = (
        y.array.shape[:-2]
        + (() if len(m) == 1 else (y.array.shape[-2],))
        + (() if len(n) == 1 else (y.array.shape[-1],))
    )
    last = "DotBackward0" if not shape else "SqueezeBackward4" if len(m) == 1 else "MvBackward0"
    return printing(reshape(y, shape), last)


def _of_rank(name: str, rank: int, *tensors: Tensor) -> None:
    for x in tensors:
        if check_tensor(name, x).ndim != rank:
            raise RuntimeError(f"{name}: expected {rank}-D tensors, but got one of shape {list(x.shape)}")


@method
@autocasts
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices: (m, k) @ (k, n) -> (m, n)."""
    _of_rank("mm", 2, input, mat2)
    return matmul(input, mat2)


@method
@autocasts
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two batches of matrices: (b, m, k) @ (b, k, n) -> (b, m, n)."""
    _of_rank("bmm", 3, input, mat2)
    if input.array.shape[0] != mat2.array.shape[0]:
        raise RuntimeError(
            f"bmm: batches of {input.array.shape[0]} and {mat2.array.shape[0]} matrices; they must be equal"
        )
    return printing(matmul(input, mat2), "BmmBackward0")


@method
@autocasts
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """A matrix times a vector: (m, k), (k,) -> (m,)."""
    _of_rank("mv", 2, input)
    _of_rank("mv", 1, vec)
    return _product(input, vec)


@method
@autocasts
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The sum of the products of two vectors: (k,), (k,) -> ()."""
    _of_rank("dot", 1, input, tensor)
    _check_same_dtype("dot", input, tensor)
    if input.array.shape != tensor.array.shape:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor {list(input.shape)} and src {list(tensor.shape)} to have the "
            f"same number of elements"
        )
    return printing(sum_(mul(input, tensor), dtype=input.dtype), "DotBackward0")


@method
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """Each product of an element of one vector and one of the other: (m,), (n,) -> (m, n)."""
    _of_rank("outer", 1, input, vec2)
    return mul(reshape(input, (-1, 1)), vec2)


@method
@autocasts
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta input + alpha mat1 @ mat2; input broadcasts to (m, n)."""
    _check_same_dtype("addmm", input, mat1, mat2)
    product = mm(mat1, mat2)
    product = product if alpha == 1 else mul(product, alpha)
    if beta == 0:
        return product  # input is not looked at: it may hold nan
    input = expand(input, product.array.shape)
    return printing(add(input if beta == 1 else mul(input, beta), product), "AddmmBackward0")


@autocasts
def einsum(equation: str, *operands: Any) -> Tensor:
    """The sum of products that letters describe: einsum("bij,bjk->bik", a, b). "..." is for the dimensions not named.

    Raises:
        RuntimeError: the equation and the operands do not fit.
    """
    tensors = list(operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands)
    inputs, output = _letters(equation.replace(" ", ""), tensors)
    if len(tensors) > 1 and not set("".join(inputs)) <= set(output):
        tensors = narrowed(*tensors)  # it is a matrix product then
    _check_same_dtype("einsum", *tensors)
    for i, letters in enumerate(inputs):
        inputs[i], tensors[i] = _without_repeats(letters, tensors[i])
    known: dict[str, int] = {}
    for letters, x in zip(inputs, tensors, strict=True):
        for c, n in zip(letters, x.array.shape, strict=True):
            if known.setdefault(c, n) == 1:
                known[c] = n
            elif n not in (1, known[c]):
                raise RuntimeError(
                    f"einsum(): operands do not broadcast: the letter {c!r} stands for both {known[c]} and {n}"
                )
    for i, letters in enumerate(inputs):  # a size of 1 broadcasts
        full = tuple([known[c] for c in letters])
        if tensors[i].array.shape != full:
            tensors[i] = expand(tensors[i], full)
    if len(set(output)) < len(output) or not set(output) <= set(known):
        raise RuntimeError(f"einsum(): the output {output!r} must name letters of the operands, each once")
    y = apply(ops.einsum, *tensors, inputs=tuple(inputs), output=output)
    summed = len(set(output)) < len(known)
    if len(tensors) == 1:  # as in PyTorch, which computes it by other ops
        return printing(y, "SumBackward1" if summed else "PermuteBackward0")
    return printing(y, "ViewBackward0" if summed else "MulBackward0")


def _letters(equation: str, tensors: list[Tensor]) -> tuple[list[str], str]:
    """The letters of each operand and of the output, "..." replaced by capital letters that are free."""
    left, arrow, output = equation.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(tensors):
        raise RuntimeError(f"einsum(): the equation has {len(inputs)} operands and {len(tensors)} were given")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    widest = max((x.ndim - len(s) + 3 for s, x in zip(inputs, tensors, strict=True) if "..." in s), default=0)
    if not arrow:  # the implicit output: "..." first, then the letters that occur once, in order
        names = left.replace("...", "").replace(",", "")
        output = ("..." if "..." in left else "") + "".join(sorted(c for c in set(names) if names.count(c) == 1))
    full = []
    for s, x in zip(inputs, tensors, strict=True):
        dots = x.ndim - len(s) + 3 if "..." in s else 0
        s = s.replace("...", "".join(free[widest - dots : widest]))
        if len(s) != x.ndim or (not s.replace(".", "?").isalpha() and s):
            raise RuntimeError(f"einsum(): the subscripts {s!r} do not fit an operand of shape {list(x.shape)}")
        full.append(s)
    return full, output.replace("...", "".join(free[:widest]))


def _without_repeats(letters: str, x: Tensor) -> tuple[str, Tensor]:
    """An operand whose repeated letters are taken along the diagonal, so that each letter names one axis."""
    for c in dict.fromkeys(letters):
        while letters.count(c) > 1:
            first = letters.index(c)
            second = letters.index(c, first + 1)
            if x.array.shape[first] != x.array.shape[second]:
                raise RuntimeError(
                    f"einsum(): the letter {c!r} is repeated in an operand of shape {list(x.shape)}, but stands for "
                    f"different sizes"
                )
            x = diagonal(x, 0, first, second)
            letters = letters[:first] + letters[first + 1 : second] + letters[second + 1 :] + c
    return letters, x


@method
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimension of both."""
    if input.ndim == 0 or other.ndim == 0:
        return mul(input, other)
    if input.array.shape[-1] != other.array.shape[-1]:
        raise RuntimeError(
            f"inner() the last dimension must match on both input tensors but got shapes {list(input.shape)} and "
            f"{list(other.shape)}"
        )
    return tensordot(input, other, ([-1], [-1]))


@autocasts
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over the last `dims` dimensions of a and the first of b, or over those that two lists name."""
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        left, right = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    else:
        left, right = ([dimension(d, x.ndim) for d in part] for part, x in zip(dims, (a, b), strict=True))
    if [a.array.shape[i] for i in left] != [b.array.shape[i] for i in right]:
        raise RuntimeError(
            f"contracted dimensions need to match, but shapes {list(a.shape)} and {list(b.shape)} have "
            f"{[a.array.shape[i] for i in left]} and {[b.array.shape[i] for i in right]} along them"
        )
    rows, columns = ([d for d in range(x.ndim) if d not in used] for x, used in ((a, left), (b, right)))
    outer = [a.array.shape[d] for d in rows] + [b.array.shape[d] for d in columns]
    count = int(np.prod([a.array.shape[d] for d in left]))
    first = reshape(permute(a, (*rows, *left)), (int(np.prod(outer[: len(rows)])), count))
    second = reshape(permute(b, (*right, *columns)), (count, int(np.prod(outer[len(rows) :]))))
    return reshape(mm(first, second), tuple(outer))


ger, vdot = outer, dot
Tensor.ger, Tensor.vdot = outer, dot  # type: ignore[attr-defined]
