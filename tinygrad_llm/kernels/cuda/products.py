"""Matrix products for CuPy's arrays: plans in BLAS' order, handed to cublasLt, or to the cuBLAS that CuPy has.

BLAS stores matrices column by column, so it sees each of ours transposed, and is asked for y^T = b^T a^T. An array
whose rows or columns lie side by side in memory is a factor as it is; another is copied first.

cublasLt, through nvmath-python, adds a bias, applies GELU and sums bias gradients within a product, and can be called
while a stream is captured, which CuPy's own functions refuse. Without it those are passes of their own.
"""

from __future__ import annotations

import importlib
import math
import warnings
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.kernels.cuda import capture, cublaslt
from tinygrad_llm.kernels.half import is_half
from tinygrad_llm.kernels.reference import REFERENCE

KINDS = {  # cudaDataType
    np.dtype(np.float32): 0, np.dtype(np.float16): 2, np.dtype(dtypes.bfloat16.numpy): 14
}  # fmt: skip
FLOAT32, FAST_TF32 = 68, 77  # cublasComputeType: what products are summed in
ANY_ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT


class Factor(NamedTuple):
    """A matrix, or a batch of them, as BLAS reads it: columns `step` elements apart, transposed or as it is."""

    array: Any
    transposed: bool
    step: int
    batch_step: int


class Plan(NamedTuple):
    """y^T = first second: y^T is (m, n) in BLAS' order, k the inner size, `batch` such products."""

    m: int
    n: int
    k: int
    batch: int
    first: Factor
    second: Factor
    out: Factor

    def kinds(self) -> tuple[int, int]:
        """The types of the factors and of the result."""
        return KINDS[self.first.array.dtype], KINDS[self.out.array.dtype]

    def compute(self) -> int:
        """What it is summed in."""
        return FAST_TF32 if devices.tf32 and self.first.array.dtype == np.float32 else FLOAT32


def plan(a: Any, b: Any, out: Any) -> Plan:
    """The product out = a @ b, of matrices or of batches (B, m, k), (B, k, n) -> (B, m, n); out in order in memory."""
    *_, rows, k = a.shape
    columns = b.shape[-1]
    count = out.shape[0] if out.ndim == 3 else 1
    written = Factor(out, False, max(1, _step(out, -2)), rows * columns if out.ndim == 3 else 0)
    return Plan(columns, rows, k, count, factor(b), factor(a), written)


def factor(x: Any) -> Factor:
    """How BLAS reads a matrix (r, c) or a batch (B, r, c) that is to be its transpose, (c, r)."""
    *_, rows, columns = x.shape
    down, across = _step(x, -2), _step(x, -1)
    batch_step = _step(x, 0) if x.ndim == 3 and x.shape[0] > 1 else 0
    if batch_step < 0:
        return factor(x.copy())
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):
        return Factor(x, False, max(columns, 1) if rows == 1 else down, batch_step)
    if (down == 1 or rows == 1) and (across >= rows or columns == 1):
        return Factor(x, True, max(rows, 1) if columns == 1 else across, batch_step)
    return factor(x.copy())


def _step(x: Any, axis: int) -> int:
    """Elements from one to the next along an axis; -1 where that is no whole number of them."""
    steps, rest = divmod(x.strides[axis], x.itemsize)
    return steps if not rest else -1


def batch_of(x: Any, lead: tuple[int, ...]) -> Any:
    """(..., r, c) -> (B, r, c) with the leading axes broadcast to `lead`: a view where they have one step."""
    whole = np.broadcast_to(x, (*lead, *x.shape[-2:]))
    axes = [(n, step) for n, step in zip(lead, whole.strides, strict=False) if n > 1]
    even = all(outer == inner * n for (_, outer), (n, inner) in pairwise(axes))
    if even:
        step = axes[-1][1] if axes else 0
        xp = devices.array_module(x)
        return xp.lib.stride_tricks.as_strided(whole, (math.prod(lead), *x.shape[-2:]), (step, *whole.strides[-2:]))
    return whole.copy().reshape(math.prod(lead), *x.shape[-2:])


def matmul(a: Any, b: Any, out: Any = None, add: bool = False) -> Any:
    """a @ b, or out + a @ b in out: of 16-bit floats summed in float32, into out of the factors' dtype or float32."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*lead, a.shape[-2], b.shape[-1])
    fits = a.dtype == b.dtype and a.dtype in KINDS and 0 not in (*shape, a.shape[-1])
    if out is not None:
        fits = fits and out.flags.c_contiguous and out.dtype in (a.dtype, np.float32)
    if not fits:
        return _by_reference(a, b, out, add)
    y = np.empty_like(a, order="C", shape=shape) if out is None else out
    if lead:
        flat = y.reshape(math.prod(lead), *shape[-2:])
        task = plan(batch_of(a, lead), batch_of(b, lead), flat)
    else:
        task = plan(a, b, y)
    if not run(task, add=add):
        if is_half(a):
            _gemm_ex(task, add)
        else:
            return _by_reference(a, b, y, add)
    return y


def _by_reference(a: Any, b: Any, out: Any, add: bool) -> Any:
    if not add:
        return REFERENCE.matmul(a, b, out)
    out += REFERENCE.matmul(a, b)
    return out


# --- who computes them ---


def run(task: Plan, *, add: bool = False, epilogue: str = "DEFAULT", bias: Any = None, aux: Any = None) -> bool:
    """Let cublasLt compute a product; False where it is missing, or has no algorithm for it."""
    number = task.out.array.device.id
    return works(number) and cublaslt.run(task, number, add, epilogue, bias, aux)


def can_be_captured() -> bool:
    """Whether products can be captured in a CUDA graph on the current device."""
    return works(devices.current())


@lru_cache
def works(number: int) -> bool:
    """Whether cublasLt is there and computes a small product on a GPU as NumPy does; warns once where it does not.

    Raises: RuntimeError while a graph is captured, before it is known.
    """
    problem = cublaslt.problem()
    if problem is None:
        if capture.at_work() is not None:
            raise RuntimeError("the first product on a GPU cannot be captured: take a step before")
        try:
            problem = _tried(number)
        except Exception as error:  # a library of another version fails in its own ways
            problem = f"cublasLt fails ({' '.join(str(error).split())})"
    if problem is not None:
        warnings.warn(
            f"{problem}; products take CuPy's cuBLAS, without fused biases and outside of CUDA graphs. "
            "pip install 'tinygrad_llm[cublaslt]' brings what is missing",
            stacklevel=2,
        )
    return problem is None


def _tried(number: int) -> str | None:
    """What is wrong with cublasLt on a GPU: a product with a bias, of small whole numbers, has one right answer."""
    device = devices.device("cuda", number)
    a, b = (np.arange(n * 16, dtype=np.float32).reshape(n, 16) % 5 for n in (8, 24))
    bias = np.arange(24, dtype=np.float32)
    there = [devices.move(x, device).astype(np.float16) for x in (a, b, bias)]
    y = np.empty_like(there[0], shape=(8, 24))
    task = plan(there[0], there[1].T, y)
    if not cublaslt.run(task, number, False, "BIAS", there[2], None):
        return "cublasLt has no algorithm for a small product"
    return None if (y.get() == a @ b.T + bias).all() else "cublasLt gives a wrong result"


def _gemm_ex(task: Plan, add: bool) -> None:
    """The product by CuPy's cuBLAS, in float32."""
    cublas = importlib.import_module("cupy_backends.cuda.libs.cublas")
    handle = devices.module_of(devices.device("cuda")).cuda.get_cublas_handle()
    one, beta = np.array(1, np.float32), np.array(add, np.float32)
    first, second, out = task.first, task.second, task.out
    (kind, kind_out), numbers = task.kinds(), (task.m, task.n, task.k, one.ctypes.data)
    how = (task.compute(), ANY_ALGORITHM)
    transposed = (int(first.transposed), int(second.transposed))
    given = [(x.array.data.ptr, of, x.step, x.batch_step) for x, of in ((first, kind), (second, kind), (out, kind_out))]
    if task.batch == 1:
        a, b, c = (place[:3] for place in given)
        cublas.gemmEx(handle, *transposed, *numbers, *a, *b, beta.ctypes.data, *c, *how)
        return
    factors, written = (*given[0], *given[1]), given[2]
    cublas.gemmStridedBatchedEx(
        handle, *transposed, *numbers, *factors, beta.ctypes.data, *written, task.batch, *how
    )  # fmt: skip
