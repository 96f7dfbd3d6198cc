"""The two GPUs that tests run on: a pretended one, which is everywhere, and a real one where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.cuda import pretend
from tinygrad_llm import devices, kernels

GPU = devices.device("cuda")
each_gpu = pytest.mark.parametrize("kind", ["pretended", pytest.param("real", marks=pytest.mark.cuda)])


@contextlib.contextmanager
def gpu(kind: str) -> Iterator[None]:
    """Inside, device "cuda" is a pretended GPU with the reference's kernels, or the real one with its own."""
    if kind == "real":
        yield
    else:
        with pretend.gpu(), kernels.use("reference"):
            yield


def moved(value: Any) -> Any:
    """Arrays, also in tuples, on the GPU; anything else as it is."""
    if isinstance(value, np.ndarray):
        return devices.move(value, GPU)
    return type(value)(map(moved, value)) if isinstance(value, (tuple, list)) else value


def back(value: Any) -> Any:
    """An array in main memory."""
    return devices.move(value, devices.CPU)
