"""Kernels of the .cu files beside this one: their signatures read from the source, compiled once, launched.

NVRTC compiles a file at its first launch with a given set of definitions, for the GPU at hand; CuPy keeps the result on
disk (in ~/.cupy/kernel_cache, by a hash of the text), so that the next process loads it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm import devices, dtypes

FOLDER = Path(__file__).parent
OPTIONS = ("--std=c++17",)
FLOAT32 = np.dtype(np.float32)
REALS = (FLOAT32, np.dtype(dtypes.bfloat16.numpy), np.dtype(np.float16))  # what `real` is where REAL is 0, 1, 2
DTYPES: dict[str, np.dtype] = {
    "int": np.dtype(np.int32), "long long": np.dtype(np.int64), "float": FLOAT32, "double": np.dtype(np.float64),
    "bool": np.dtype(np.bool_), "bf16": REALS[1], "f16": REALS[2],
}  # fmt: skip
INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)
NUMBERS = (int, float, np.generic)
SIGNATURE = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\)\s+)?(?P<name>\w+)\((?P<parameters>[^)]*)\)'
)


class Parameter(NamedTuple):
    """One parameter of a kernel: its type without const and *, and whether it is a pointer."""

    kind: str
    pointer: bool
    name: str

    def dtype(self, real: int) -> np.dtype:
        """NumPy's name for the type, in a file that is compiled with this REAL."""
        return REALS[real] if self.kind == "real" else DTYPES[self.kind]


def source(file: str) -> str:
    """The text of a .cu file, with headers in the place of its #includes: CuPy's cache looks at the text alone."""
    return _whole((FOLDER / f"{file}.cu").read_text("utf-8"))


def _whole(text: str) -> str:
    return INCLUDE.sub(lambda match: _whole(header(match[1])), text)


def header(name: str) -> str:
    """The text of a header beside the .cu files."""
    return (FOLDER / name).read_text("utf-8")


def signatures(text: str) -> dict[str, list[Parameter]]:
    """The kernels of a source and their parameters."""
    found = {}
    for match in SIGNATURE.finditer(text):
        parameters = [" ".join(p.split()) for p in match["parameters"].split(",")]
        found[match["name"]] = [_parameter(p) for p in parameters]
    return found


def _parameter(text: str) -> Parameter:
    kind, _, name = text.removeprefix("const ").rpartition(" ")
    return Parameter(kind.rstrip(" *"), "*" in text, name.lstrip("*"))


Expected = tuple[tuple[np.dtype, bool, str], ...]  # of each parameter: its dtype, whether it is a pointer, its name


def expected(parameters: Sequence[Parameter], real: int = 0) -> Expected:
    """What `arguments` looks at, which is asked for at every launch."""
    return tuple((p.dtype(real), p.pointer, p.name) for p in parameters)


@cache
def _expected(file: str, name: str, real: int) -> Expected:
    return expected(signatures(source(file))[name], real)


@cache
def compiled(file: str, name: str, definitions: tuple[tuple[str, int], ...]) -> Any:
    """A kernel, compiled with these definitions.

    Raises:
        RuntimeError: it does not compile; NVRTC's log says why.
    """
    cupy = devices.module_of(devices.device("cuda"))
    options = (*OPTIONS, *(f"-D{key}={value}" for key, value in definitions))
    module = cupy.RawModule(code=source(file), options=options)
    try:
        return module.get_function(name)
    except cupy.cuda.compiler.CompileException as error:
        raise RuntimeError(f"{file}.cu does not compile with {' '.join(options)}: {error}") from error


def launch(
    file: str, name: str, grid: Sequence[int], block: Sequence[int], *args: Any, shared: int = 0, **definitions: int
) -> None:
    """Start a kernel of a file on a grid of blocks, with so many bytes of shared memory.

    Numbers are passed in the types of the parameters; None is a null pointer.
    """
    if _counts is not None:
        _counts[name] += 1
    typed = arguments(name, _expected(file, name, definitions.get("REAL", 0)), args)
    start(file, name, tuple(definitions.items()), tuple(grid), tuple(block), typed, shared)


def arguments(name: str, parameters: Expected, args: Sequence[Any]) -> list[Any]:
    """The arguments in the types of a kernel's parameters. A list that does not fit is a mistake of ours."""
    assert len(args) == len(parameters), f"{name} takes {len(parameters)} arguments, not {len(args)}"
    typed = []
    for (dtype, pointer, label), value in zip(parameters, args, strict=True):
        if pointer:
            assert value is None or value.dtype == dtype, f"{name}: {label} points to {dtype}"
        else:
            assert isinstance(value, NUMBERS), f"{name}: {label} takes a number"
            value = dtype.type(value)
        typed.append(value)
    return typed


def start(
    file: str, name: str, definitions: tuple[tuple[str, int], ...], grid: tuple[int, ...], block: tuple[int, ...],
    args: list[Any], shared: int,
) -> None:  # fmt: skip
    """Hand a kernel with its arguments to the GPU, which runs it when it has done what it was given before."""
    kernel = compiled(file, name, definitions)
    if shared > 48 * 1024 and kernel.max_dynamic_shared_size_bytes < shared:
        kernel.max_dynamic_shared_size_bytes = shared
    kernel(grid, block, args, shared_mem=shared)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Inside, count the launches of each kernel; those that CuPy and cuBLAS make are not seen."""
    global _counts
    outer, _counts = _counts, Counter()
    try:
        yield _counts
    finally:
        _counts = outer


_counts: Counter[str] | None = None  # launches of each kernel, while somebody counts


def instead_of(reference: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function over float32 arrays, in order in memory and not empty, a launcher of any arrays.

    Others take the reference's way: float64, 16-bit floats, arrays without elements. Strides are undone by a copy,
    since a kernel does not see them. Nothing here looks at the arrays' elements, which would wait for the GPU.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def launcher(*args: Any, **kwargs: Any) -> Any:
            names, given = tuple(kwargs), [*args, *kwargs.values()]
            for i, a in enumerate(given):
                dtype = getattr(a, "dtype", None)
                if dtype is None:
                    continue
                if not a.size or (dtype != FLOAT32 and dtype.kind == "f"):
                    return reference(*args, **kwargs)
                if not a.flags.c_contiguous:
                    given[i] = a.copy()
            if not names:
                return function(*given)
            return function(*given[: len(args)], **dict(zip(names, given[len(args) :], strict=True)))

        return launcher

    return wrap


def in_order(a: Any) -> Any:
    """An array in order in memory, itself where it is; anything else as it is."""
    return a if not hasattr(a, "dtype") or a.flags.c_contiguous else a.copy()


def vector(columns: int, *arrays: Any) -> int:
    """How many numbers a thread may load at once: 16 bytes where each row of so many starts at a multiple of that."""
    return 4 if columns % 4 == 0 and all(a is None or a.data.ptr % 16 == 0 for a in arrays) else 1


def a_key(key: Any) -> tuple[int, Any]:
    """A key of masks as two arguments, a number and an array (1,) that has it: where there is an array, it counts."""
    return (key, None) if isinstance(key, int) else (0, key)


def aligned(a: Any) -> Any:
    """An array that starts at a multiple of 16 bytes, as all do that are not views: a copy where it does not."""
    return a if a.data.ptr % 16 == 0 else a.copy()


@cache
def shared_memory(number: int) -> int:
    """Bytes of shared memory that a block may have on a GPU."""
    cupy = devices.module_of(devices.device("cuda", number))
    return cupy.cuda.Device(number).attributes["MaxSharedMemoryPerBlockOptin"]
