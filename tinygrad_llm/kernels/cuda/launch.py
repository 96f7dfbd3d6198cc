"""Kernels of the .cu files beside this one: their signatures read from the source, compiled once, launched.

NVRTC compiles a file at its first launch with a given set of definitions, for the GPU at hand; CuPy keeps the result on
disk (in ~/.cupy/kernel_cache, by a hash of the text), so that the next process loads it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.kernels.cuda import capture

FOLDER = Path(__file__).parent
OPTIONS = ("--std=c++17",)
HOPPER = ("-arch=sm_90a",)  # for what defines HOPPER: instructions of this generation alone. CuPy adds -arch=sm_90,
TWICE = (12, 9)  # the first NVRTC that takes both, and goes by this one
FLOAT32 = np.dtype(np.float32)
REALS = (FLOAT32, np.dtype(dtypes.bfloat16.numpy), np.dtype(np.float16))  # what `real` is where REAL is 0, 1, 2
REAL_OF = {dtype: real for real, dtype in enumerate(REALS)}
DEFINED = {"real": "REAL", "param": "PARAM", "trunk": "TRUNK"}  # types that a definition decides
DTYPES: dict[str, np.dtype] = {
    "int": np.dtype(np.int32), "long long": np.dtype(np.int64), "float": FLOAT32, "double": np.dtype(np.float64),
    "bool": np.dtype(np.bool_), "bf16": REALS[1], "f16": REALS[2],
}  # fmt: skip
INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)
NUMBERS = (int, float, np.generic)
NULL = np.intp(0)  # some versions of CuPy make another address of None
FREE = 40 * 1024  # bytes of shared memory given unasked: 48 KiB, in which a kernel's own arrays lie, too
SIGNATURE = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\)\s+)?(?P<name>\w+)\((?P<parameters>[^)]*)\)'
)


class Parameter(NamedTuple):
    """One parameter of a kernel: its type without const and *, and whether it is a pointer."""

    kind: str
    pointer: bool
    name: str

    def dtype(self, definitions: Mapping[str, int]) -> np.dtype:
        """NumPy's name for the type, in a file that is compiled with these definitions."""
        return REALS[definitions.get(DEFINED[self.kind], 0)] if self.kind in DEFINED else DTYPES[self.kind]


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


NOTHING: Mapping[str, int] = {}
Expected = tuple[tuple[np.dtype, bool, str], ...]  # of each parameter: its dtype, whether it is a pointer, its name


def expected(parameters: Sequence[Parameter], definitions: Mapping[str, int] = NOTHING) -> Expected:
    """What `arguments` looks at, which is asked for at every launch."""
    return tuple((p.dtype(definitions), p.pointer, p.name) for p in parameters)


@cache
def _expected(file: str, name: str, definitions: tuple[tuple[str, int], ...]) -> Expected:
    return expected(signatures(source(file))[name], dict(definitions))


def options_of(definitions: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """What NVRTC is told, but for what CuPy adds."""
    hopper = HOPPER if "HOPPER" in dict(definitions) else ()
    return (*OPTIONS, *(f"-D{key}={value}" for key, value in definitions), *hopper)


@cache
def compiled(file: str, name: str, definitions: tuple[tuple[str, int], ...]) -> Any:
    """A kernel, compiled with these definitions.

    Raises:
        RuntimeError: it does not compile; NVRTC's log says why.
    """
    cupy = devices.module_of(devices.device("cuda"))
    options = options_of(definitions)
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
    if (captured := capture.at_work()) is not None:
        captured.check_here(args)
    defined = tuple(definitions.items())
    typed = arguments(name, _expected(file, name, defined), args)
    start(file, name, defined, tuple(grid), tuple(block), typed, shared)


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
    if shared > FREE and kernel.max_dynamic_shared_size_bytes < shared:  # never less: a graph may have a larger one
        kernel.max_dynamic_shared_size_bytes = shared
    kernel(grid, block, [NULL if a is None else a for a in args], shared_mem=shared)


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


def instead_of(
    reference: Callable[..., Any], real: str = "", param: str = "", trunk: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function over arrays in order in memory, not empty, of dtypes that it serves, a launcher of any arrays.

    real: its arguments that are of one dtype, float32, bfloat16 or float16; param: those that are of this dtype or of
    float32, all alike; trunk: the same of others; any other with a floating dtype is float32.
    Others take the reference's way: float64, other pairs of dtypes, arrays without elements, and those for which the
    function returns NotImplemented. Strides are undone by a copy, since a kernel does not see them. Nothing here looks
    at the arrays' elements, which would wait for the GPU.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = signature(function)
        places = {name: i for i, name in enumerate(parameters.parameters)}
        reals, *beside = ([places[name] for name in names.split()] for names in (real, param, trunk))

        @cache
        def served(kinds: tuple[np.dtype | None, ...]) -> bool:
            """Whether the function takes arguments of these dtypes, None for what is no array."""
            wanted = dict.fromkeys(range(len(kinds)), FLOAT32)
            for group in (reals, *beside):
                dtype = next((k for i in group if (k := kinds[i]) is not None), FLOAT32)
                if dtype not in (REALS if group is reals else (FLOAT32, wanted[reals[0]])):
                    return False
                wanted |= dict.fromkeys(group, dtype)
            return all(k is None or not is_floating(k) or k == wanted[i] for i, k in enumerate(kinds))

        @wraps(function)
        def launcher(*args: Any, **kwargs: Any) -> Any:
            if kwargs or len(args) < len(places):
                bound = parameters.bind(*args, **kwargs)
                bound.apply_defaults()
                args = bound.args
            arrays = [a for a in args if hasattr(a, "dtype")]
            found = NotImplemented
            if all(a.size for a in arrays) and served(tuple([getattr(a, "dtype", None) for a in args])):
                found = function(*(args if all(a.flags.c_contiguous for a in arrays) else map(in_order, args)))
            return reference(*args) if found is NotImplemented else found

        return launcher

    return wrap


def is_floating(dtype: np.dtype) -> bool:
    """Whether a dtype is one of floating-point numbers; bfloat16 is none of NumPy's own kinds."""
    return dtype.kind == "f" or dtype == REALS[1]


def kinds(**arrays: Sequence[Any]) -> dict[str, Any]:
    """The definitions that tell the compiler the dtypes, each that of the first array of a list that is not None."""
    return {name: next((REAL_OF[a.dtype] for a in some if a is not None), 0) for name, some in arrays.items()}


def in_order(a: Any) -> Any:
    """An array in order in memory, itself where it is; anything else as it is."""
    return a if not hasattr(a, "dtype") or a.flags.c_contiguous else a.copy()


def vector(columns: int, x: Any, *others: Any) -> int:
    """How many numbers a thread may load at once: 16 bytes of x where each row of so many starts at a multiple of that.

    The others' rows, which may hold wider numbers, must start there, too.
    """
    vec = 16 // x.itemsize
    return vec if columns % vec == 0 and all(a is None or a.data.ptr % 16 == 0 for a in (x, *others)) else 1


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


@cache
def is_hopper(number: int) -> bool:
    """Whether a GPU has wgmma, being of compute capability 9.0 and no other, and NVRTC may be told so."""
    cuda = devices.module_of(devices.device("cuda", number)).cuda
    return cuda.Device(number).compute_capability == "90" and cuda.nvrtc.getVersion() >= TWICE
