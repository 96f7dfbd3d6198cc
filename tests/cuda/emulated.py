"""The CUDA kernels on the processor: .cu files built by a C++ compiler, their threads taking turns (emulated.h).

What they compute, which memory they read, and where they must wait for each other is then what it is on a GPU; rounding
may differ in the last bit, and how fast they are cannot be told. What only a GPU has instructions for, such as its
tensor cores, is written once more for the processor (emulated_ptx.h).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cuda import pretend
from tinygrad_llm.kernels.cuda import heads, heads_16, launch, losses, sdp

HERE = Path(__file__).parent
HEADER = (HERE / "emulated.h").read_text("utf-8")
FOLDER = tempfile.TemporaryDirectory(prefix="emulated-")
TYPES = {"int": ctypes.c_int, "long long": ctypes.c_longlong, "float": ctypes.c_float, "double": ctypes.c_double}
hopper = False  # whether the GPU is one
backwards = False  # whether the threads of a block take turns in the other order


def header(name: str) -> str:
    """In place of launch.header: what is written in a GPU's own instructions is written here for the processor."""
    written = HERE / f"emulated_{name.removesuffix('.cuh')}.h"
    return (written if written.exists() else launch.FOLDER / name).read_text("utf-8")


def translated(file: str) -> str:
    """A .cu file as C++, with a function after each kernel that runs it on a grid."""
    text = launch.source(file)
    text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1 *\2 = reinterpret_cast<\1 *>(emulated::dynamic);", text)
    for name, parameters in launch.signatures(text).items():
        given = ", ".join(f"*({p.kind} {'**' if p.pointer else '*'})args[{i}]" for i, p in enumerate(parameters))
        runner = f'extern "C" const char *run_{name}(const int *grid, const int *block, int step, int shared, '
        runner += f"void **args)\n{{ return emulated::run(grid, block, step, shared, [&] {{ {name}({given}); }}); }}\n"
        kernel = re.search(rf'extern "C" __global__ void [^;{{]*\b{name}\(', text)
        assert kernel is not None
        end = text.index("\n}\n", kernel.end()) + 3
        text = text[:end] + runner + text[end:]
    return HEADER + text


@cache
def built(file: str, definitions: tuple[tuple[str, int], ...]) -> ctypes.CDLL:
    """A file with its definitions as a library. Skips the test where there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to build the kernels with")
    text = "".join(f"#define {key} {value}\n" for key, value in definitions) + translated(file)
    stem = Path(FOLDER.name, f"{file}-{hashlib.sha256(text.encode()).hexdigest()}")  # a library is loaded once a name
    source, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    source.write_text(text, "utf-8")
    command = [compiler, "-std=c++17", "-O1", "-fno-tree-sra", "-w", "-shared", "-fPIC", source, "-o", library]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def start(
    file: str, name: str, definitions: tuple[tuple[str, int], ...], grid: Any, block: Any, args: list[Any], shared: int
) -> None:
    """In place of launch.start: run the kernel on pretended arrays, now."""
    parameters = launch.signatures(launch.source(file))[name]
    for parameter, value in zip(parameters, args, strict=True):
        assert not parameter.pointer or value is None or value.flags.c_contiguous or file.startswith("attention")
    sizes = [(ctypes.c_int * 3)(*numbers, *[1] * (3 - len(numbers))) for numbers in (grid, block)]
    library = built(file, definitions)

    def run(*args: Any) -> None:
        held = [
            ctypes.c_void_p(None if value is None else value.ctypes.data) if parameter.pointer
            else TYPES[parameter.kind](value.item())
            for parameter, value in zip(parameters, args, strict=True)
        ]  # fmt: skip
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(h) for h in held))
        runner = getattr(library, f"run_{name}")
        runner.restype = ctypes.c_char_p
        fault = runner(*sizes, -1 if backwards else 1, shared, pointers)
        assert fault is None, f"{file}.cu, {name}: {fault.decode()}"

    pretend.write(run, *args)


@contextlib.contextmanager
def gpu(gpus: int = 1) -> Iterator[None]:
    """Inside, device "cuda" has pretended arrays, and its kernels are those of the .cu files."""
    patch = pytest.MonkeyPatch()
    patch.setattr(launch, "start", start)
    patch.setattr(launch, "header", header)
    patch.setitem(sdp.allowed, "cudnn", False)
    patch.setattr(heads_16, "is_hopper", lambda number: hopper)
    for module in (heads, losses):
        patch.setattr(module, "shared_memory", lambda number: 160 * 1024)
    try:
        with pretend.gpu(gpus), np.errstate(all="ignore"):
            yield
    finally:
        patch.undo()
