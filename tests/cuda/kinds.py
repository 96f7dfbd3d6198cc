"""The two GPUs that tests run on: a pretended one, which is everywhere, and a real one where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.cuda import emulated, pretend
from tinygrad_llm import devices, kernels

GPU = devices.device("cuda")
each_gpu = pytest.mark.parametrize("kind", ["pretended", pytest.param("real", marks=pytest.mark.cuda)])


@contextlib.contextmanager
def gpu(kind: str) -> Iterator[None]:
    """Inside, device "cuda" is a pretended GPU with the reference's kernels, or one with its own: emulated, or real."""
    if kind == "real":
        yield
    elif kind == "emulated":
        with emulated.gpu():
            yield
    else:
        with pretend.gpu(), kernels.use("reference"):
            yield


@contextlib.contextmanager
def second(kernels_of: str = "reference") -> Iterator[None]:
    """Inside, there are two pretended GPUs, the first is current, and "cuda" means the second.

    Their kernels are the reference's, or with "auto" those of the .cu files, run on the processor.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr(devices.device, "__init__", _numbered)
    patch.setattr("tests.cuda.kinds.GPU", devices.device("cuda"))
    try:
        with pretend.gpu(2) if kernels_of == "reference" else emulated.gpu(2), kernels.use(kernels_of):
            yield
            assert devices.current() == 0
    finally:
        patch.undo()


def _numbered(self: devices.device, kind: Any, index: int | None = None, init: Any = devices.device.__init__) -> None:
    init(self, kind, index)
    if self.type == "cuda" and self.index is None:
        self.index = 1


def moved(value: Any) -> Any:
    """Arrays, also in tuples, on the GPU; anything else as it is."""
    if isinstance(value, np.ndarray):
        return devices.move(value, GPU)
    return type(value)(map(moved, value)) if isinstance(value, (tuple, list)) else value


def back(value: Any) -> Any:
    """An array in main memory."""
    return devices.move(value, devices.CPU)
