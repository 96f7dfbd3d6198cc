"""cublasLt through nvmath-python: an algorithm is asked for once for each kind of product, and kept.

Source: NVIDIA, cuBLAS library user guide, chapter 3 (Using the cuBLASLt API).
"""

from __future__ import annotations

import importlib
import threading
import warnings
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.kernels.cuda import memory

if TYPE_CHECKING:
    from tinygrad_llm.kernels.cuda.products import Plan

WORKSPACE = 32 * 1024 * 1024  # bytes, what NVIDIA advises for its newest
NOTHING_FOUND = (7, 15)  # CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_NOT_SUPPORTED
_lock = threading.Lock()  # a description is changed, then used


class Known(NamedTuple):
    """What a product of some kind takes: its description, the layouts of its arrays, and an algorithm."""

    description: int
    layouts: tuple[int, int, int]
    algorithm: Any
    one: np.ndarray
    beta: np.ndarray


@lru_cache
def _library() -> Any:
    return importlib.import_module("nvmath.bindings.cublasLt")


def problem() -> str | None:
    """Why there is no cublasLt here, or None."""
    try:
        _library()
    except Exception as error:  # it looks for CUDA's libraries when it is imported
        return f"nvmath-python cannot be imported ({' '.join(str(error).split())})"
    return None


@lru_cache
def _handle(number: int) -> int:
    with devices.on(devices.device("cuda", number)):
        return _library().create()


@cache
def _workspace(number: int, stream: int) -> Any:
    """Memory that products on a stream may use: one after the other, so that they may share it.

    It stays, and so lies in no graph's own memory, also where it is made while one is captured.
    """
    with devices.on(devices.device("cuda", number)):
        return memory.lasting(WORKSPACE, np.uint8)


def run(task: Plan, number: int, add: bool, epilogue: str, bias: Any, aux: Any) -> bool:
    """Compute a product on a GPU; False where there is no algorithm for it, or it is refused all the same.

    epilogue: DEFAULT; BIAS adds bias, of the result's dtype, to each row; GELU, GELU_BIAS apply GELU by tanh after
    that, GELU_AUX, GELU_AUX_BIAS too, and keep in aux what they are applied to; BGRADB sums the columns of the first
    factor's transpose, a gradient, into bias. DGELU_BGRAD, GELU's slope in the product before it, is a kernel of its
    own behind the product, and takes longer than ours: 0.35 ms of (16,384, 3,072) on an H100.
    """
    library = _library()
    arrays = (task.first.array, task.second.array, task.out.array)
    shapes = (task.m, task.n, task.k, task.batch, *(x[1:] for x in (task.first, task.second, task.out)))
    even = tuple(_alignment(x.data.ptr) for x in arrays)
    known = _known(number, shapes, task.kinds(), task.compute(), even, add, epilogue, aux is not None)
    if known is None:
        return False
    cupy = devices.module_of(devices.device("cuda", number))
    stream = cupy.cuda.get_current_stream().ptr
    workspace = _workspace(number, stream)
    first, second, out = (x.data.ptr for x in arrays)
    with _lock, devices.on(devices.device("cuda", number)):
        if bias is not None:
            _set("matmul_desc", known.description, "BIAS_POINTER", bias.data.ptr)
        if aux is not None:
            _set("matmul_desc", known.description, "EPILOGUE_AUX_POINTER", aux.data.ptr)
        try:
            library.matmul(
                _handle(number), known.description, known.one.ctypes.data, first, known.layouts[0], second,
                known.layouts[1], known.beta.ctypes.data, out, known.layouts[2], out, known.layouts[2],
                known.algorithm.ctypes.data, workspace.data.ptr, WORKSPACE, stream,
            )  # fmt: skip
        except library.cuBLASLtError as error:
            warnings.warn(f"cublasLt refuses a product ({error}), which is then computed in steps", stacklevel=2)
            return False
    return True


@lru_cache(maxsize=4096)
def _known(
    number: int, shapes: Any, kinds: tuple[int, int], compute: int, even: tuple[int, ...], add: bool, epilogue: str,
    keeps: bool,
) -> Known | None:  # fmt: skip
    """What a kind of product takes; None where no algorithm serves it. even: the alignment of each array, in bytes."""
    library = _library()
    m, n, k, count, first, second, out = shapes
    description = library.matmul_desc_create(compute, 0)  # scaled by numbers of float32
    for name, factor in (("TRANSA", first), ("TRANSB", second)):
        _set("matmul_desc", description, name, int(factor[0]))
    _set("matmul_desc", description, "EPILOGUE", int(getattr(library.Epilogue, epilogue)))
    if keeps:
        _set("matmul_desc", description, "EPILOGUE_AUX_LD", m)
    layouts = (
        _layout(kinds[0], (m, k), first, count), _layout(kinds[0], (k, n), second, count),
        _layout(kinds[1], (m, n), out, count),
    )  # fmt: skip
    preference = library.matmul_preference_create()
    _set("matmul_preference", preference, "MAX_WORKSPACE_BYTES", WORKSPACE)
    for name, bytes_ in zip("ABCD", (*even, even[2]), strict=True):
        _set("matmul_preference", preference, f"MIN_ALIGNMENT_{name}_BYTES", bytes_)
    found, number_found = np.zeros(1, library.matmul_heuristic_result_dtype), np.zeros(1, np.int32)
    try:
        library.matmul_algo_get_heuristic(
            _handle(number), description, *layouts, layouts[2], preference, 1, found.ctypes.data,
            number_found.ctypes.data,
        )  # fmt: skip
    except library.cuBLASLtError as error:
        if getattr(error, "status", None) not in NOTHING_FOUND:
            raise
        return None
    finally:
        library.matmul_preference_destroy(preference)
    if not number_found[0] or found["state"][0]:
        return None
    return Known(description, layouts, found, np.ones(1, np.float32), np.full(1, add, np.float32))


def _layout(kind: int, shape: tuple[int, int], factor: Any, count: int) -> int:
    """How a matrix lies in memory: factor is whether it is transposed, and its steps."""
    transposed, step, batch_step = factor
    rows, columns = reversed(shape) if transposed else shape
    layout = _library().matrix_layout_create(kind, rows, columns, step)
    if count > 1:
        _set("matrix_layout", layout, "BATCH_COUNT", count)
        _set("matrix_layout", layout, "STRIDED_BATCH_OFFSET", batch_step)
    return layout


ATTRIBUTES = {
    "matmul_desc": "MatmulDescAttribute", "matrix_layout": "MatrixLayoutAttribute",
    "matmul_preference": "MatmulPreferenceAttribute",
}  # fmt: skip


def _set(of: str, place: int, name: str, value: int) -> None:
    """Set an attribute of a description, a layout or a preference."""
    library = _library()
    attribute = int(getattr(getattr(library, ATTRIBUTES[of]), name))
    held = np.array(value, getattr(library, f"get_{of}_attribute_dtype")(attribute))
    getattr(library, f"{of}_set_attribute")(place, attribute, held.ctypes.data, held.nbytes)


def _alignment(address: int) -> int:
    """The largest power of two, 256 at most, that an address is a multiple of."""
    return min(256, address & -address) or 256
