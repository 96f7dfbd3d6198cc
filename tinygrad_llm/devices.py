"""Devices, and the one place that knows CuPy.

An array says by its type where it lives; `array_module(array)` is numpy or cupy accordingly, and most NumPy
functions dispatch to CuPy by themselves when they are given its arrays. CuPy is imported on first use only.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import numpy as np


class device:
    """`device("cpu")`, `device("cuda")`, `device("cuda:1")` or `device("cuda", 1)`."""

    __slots__ = ("index", "type")
    type: str
    index: int | None

    def __init__(self, type: str | device, index: int | None = None):
        if isinstance(type, device):
            self.type, self.index = type.type, type.index
            return
        kind, _, number = type.partition(":")
        if kind not in ("cpu", "cuda"):
            raise RuntimeError(f"device: expected cpu or cuda, optionally with a number (cuda:0), not {type!r}")
        if number:
            if not number.isdecimal() or index is not None:
                raise RuntimeError(f"device: invalid device string {type!r}; write for example cuda:0")
            index = int(number)
        self.type, self.index = kind, index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __repr__(self) -> str:
        return (
            f"device(type={self.type!r})" if self.index is None else f"device(type={self.type!r}, index={self.index})"
        )

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"


CPU = device("cpu")


@lru_cache
def _cupy() -> Any:
    return importlib.import_module("cupy")


def cuda_problem() -> str | None:
    """Why CUDA cannot be used here, in a sentence that says how to go on, or None if it can."""
    try:
        cupy = _cupy()
    except ImportError as error:
        return f"CuPy cannot be imported ({error}); pip install 'tinygrad_llm[cuda]', or use device cpu"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # the driver's own exception type lives in the module that may not load
        return f"CuPy finds no usable GPU ({error}); check the NVIDIA driver with nvidia-smi, or use device cpu"
    return None if count else "this machine has no CUDA device; use device cpu"


def array_module(array: Any) -> Any:
    """numpy for NumPy arrays and Python scalars, cupy for CuPy's arrays."""
    return np if isinstance(array, np.ndarray) or type(array).__module__ != "cupy" else _cupy()


def of(array: Any) -> device:
    """The device that a raw array lives on."""
    return CPU if isinstance(array, np.ndarray) else device("cuda", array.device.id)


def module_of(target: device) -> Any:
    """The array module that makes arrays on a device.

    Raises:
        RuntimeError: target is a CUDA device and none is usable.
    """
    if target.type == "cpu":
        return np
    problem = cuda_problem()
    if problem:
        raise RuntimeError(f"device {target}: {problem}")
    return _cupy()


def move(array: Any, target: device) -> Any:
    """The same values on the target device; the array itself if it is there already."""
    here = of(array)
    if here.type == target.type and target.index in (None, here.index):
        return array
    if target.type == "cpu":
        return array.get()
    cupy = module_of(target)
    count = cupy.cuda.runtime.getDeviceCount()
    index = target.index or 0
    if index >= count:
        raise RuntimeError(f"device {target}: this machine has {count} CUDA device(s), numbered from 0")
    with cupy.cuda.Device(index):
        return cupy.asarray(array)


def erf_on_gpu(array: Any) -> Any:
    """The error function of a CuPy array, elementwise, which CuPy keeps apart from its copy of NumPy."""
    return importlib.import_module("cupyx.scipy.special").erf(array)


def cuda_count() -> int:
    """The number of usable CUDA devices."""
    return 0 if cuda_problem() else _cupy().cuda.runtime.getDeviceCount()


def free_unused() -> None:
    """Give memory that CuPy keeps for later back to the system."""
    _cupy().get_default_memory_pool().free_all_blocks()


def synchronize() -> None:
    """Wait until the current CUDA device has nothing left to do."""
    _cupy().cuda.get_current_stream().synchronize()
