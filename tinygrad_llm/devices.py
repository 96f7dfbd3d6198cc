"""Devices, and the one place that knows CuPy.

An array says by its type where it lives; `array_module(array)` is numpy or cupy accordingly, and most NumPy
functions dispatch to CuPy by themselves when they are given its arrays. CuPy is imported on first use only.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np


class device:
    """`device("cpu")`, `device("cuda")`, `device("cuda:1")` or `device("cuda", 1)`.

    `with device("cuda"):` makes it the device of new tensors inside, in this thread.
    """

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

    def __enter__(self) -> device:
        default.within.append(self)
        default.now = self
        return self

    def __exit__(self, *exc: object) -> None:
        default.within.pop()
        default.now = default.within[-1] if default.within else default.given


_device = device  # where an argument has its name


class _Default(threading.local):
    """Where this thread makes tensors that nobody gives a device; None is main memory."""

    def __init__(self) -> None:
        self.now: device | None = None
        self.given: device | None = None  # by set_default_device
        self.within: list[device] = []  # whose blocks it is in, outermost first


default = _Default()


def set_default_device(device: Any) -> None:
    """Let new tensors be made on a device where none is given, in this thread; None is main memory again.

    A block `with device(...):` has its own inside.
    """
    default.given = None if device is None else _device(device)
    if not default.within:
        default.now = default.given


def get_default_device() -> device:
    """The device of new tensors; of a GPU with its number."""
    now = CPU if default.now is None else default.now
    return device("cuda", current()) if now.type == "cuda" and now.index is None else now


CPU = device("cpu")

in_use = False  # whether somebody asked for a GPU and there is one: until then every array lies in main memory
several = False  # GPUs: then CuPy must be told which one, or it would compute on the current one
deterministic = False  # whether a GPU may do nothing that gives other last bits in another run
tf32 = False  # whether products of float32 may round their factors to TF32

TOO_OLD, NO_DEVICE = 35, 100  # cudaErrorInsufficientDriver, cudaErrorNoDevice
TF32_MODE = 3  # CUBLAS_TF32_TENSOR_OP_MATH


@lru_cache
def _cupy() -> Any:
    return importlib.import_module("cupy")


@lru_cache
def cuda_problem() -> str | None:
    """Why CUDA cannot be used here, in a sentence that says how to go on, or None if it can."""
    global in_use, several
    try:
        runtime = _cupy().cuda.runtime
    except ImportError as error:
        reason = " ".join(str(error).split())
        return f"CuPy cannot be imported ({reason}); pip install 'tinygrad_llm[cuda]', or use device cpu"
    try:
        count = runtime.getDeviceCount()
    except Exception as error:  # the driver's own exception type lives in the module that may not load
        status = getattr(error, "status", None)
        if status == TOO_OLD:
            return _driver_problem(runtime)
        if status != NO_DEVICE:
            return f"CuPy finds no usable GPU ({error}); check the NVIDIA driver with nvidia-smi, or use device cpu"
        count = 0
    if not count:
        return "this machine has no CUDA device; use device cpu"
    in_use, several = True, count > 1
    if tf32:
        _set_product_precision()
    return None


def _driver_problem(runtime: Any) -> str:
    """What to do about a driver that is missing or older than CuPy's CUDA."""
    try:
        version = runtime.driverGetVersion()
    except Exception:
        version = 0
    if not version:
        return "there is no NVIDIA driver; install one (nvidia-smi shows it), or use device cpu"
    needed = runtime.runtimeGetVersion() // 1000
    return (
        f"the NVIDIA driver knows CUDA {version // 1000}.{version % 1000 // 10} and CuPy needs {needed}; update the "
        "driver, pip install 'tinygrad_llm[cuda12]' in place of [cuda], or use device cpu"
    )


def array_module(array: Any) -> Any:
    """numpy for NumPy arrays and Python scalars, cupy for CuPy's arrays."""
    return np if isinstance(array, np.ndarray) or type(array).__module__ != "cupy" else _cupy()


def of(array: Any) -> device:
    """The device that a raw array lives on."""
    return CPU if isinstance(array, (np.ndarray, np.generic)) else device("cuda", array.device.id)


def module_of(target: device) -> Any:
    """The array module that makes arrays on a device.

    Raises:
        RuntimeError: target is a CUDA device and none is usable, or it has a number that is not there.
    """
    if target.type == "cpu":
        return np
    problem = cuda_problem()
    if problem:
        raise RuntimeError(f"device {target}: {problem}")
    count = cuda_count()
    if target.index is not None and target.index >= count:
        raise RuntimeError(
            f"device {target}: CUDA error: invalid device ordinal: this machine has {count} CUDA device(s), numbered "
            f"from 0; the last is cuda:{count - 1}"
        )
    return _cupy()


def on(target: device) -> contextlib.AbstractContextManager[Any]:
    """Inside, new arrays of `module_of(target)` are made on the target device."""
    if target.type == "cpu" or target.index is None:
        return contextlib.nullcontext()
    return _cupy().cuda.Device(target.index)


def move(array: Any, target: device, blocking: bool = True) -> Any:
    """The same values on the target device; the array itself if it is there already.

    "cuda" without a number is the device that an array of the GPU is on, else the current one. Without blocking the
    copy may still be under way: from pinned memory, which nobody may write to then; into it, where nothing can be read
    before the current stream was waited for. All other memory is copied first, so that there is nothing to wait for.
    """
    here = of(array)
    if here.type == target.type and target.index in (None, here.index):
        return array
    if target.type == "cpu":
        return waited(array.get()) if blocking else array.get(out=pinned(array.shape, array.dtype), blocking=False)
    cupy = module_of(target)
    with on(target):
        return run(cupy.asarray, [], array, blocking=blocking and is_pinned(array))


def waited(value: Any) -> Any:
    """What was waited for. Raises: what the GPU has found wrong on the way."""
    after_wait()
    return value


def _nothing() -> None:
    pass


after_wait: Callable[[], None] = _nothing  # raises what a GPU has found: `kernels.cuda.outside` puts its own here


def pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array in main memory that stays where it is, so that a GPU copies from and to it by itself."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, module_of(device("cuda")).cuda.alloc_pinned_memory(max(1, size)))


def outlasts(owner: Any, *copies: tuple[Any, Any]) -> None:
    """Let memory that an owner holds be given to others only when copies from or to it are done: (memory, event) each.

    The owner may go while they are under way: then their events are waited for.
    """
    weakref.finalize(owner, _waited_for, copies).atexit = False  # a process that ends gives nothing to anybody


def _waited_for(copies: Iterable[tuple[Any, Any]]) -> None:
    for _, event in copies:
        event.synchronize()


def is_pinned(array: Any) -> bool:
    """Whether an array lies in such memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return type(array).__name__ == "PinnedMemoryPointer"


def together(name: str, arrays: list[Any], lend: bool) -> list[Any]:
    """The arguments of an operation, all on one device; numbers and None as they are.

    lend: an array of one element without dimensions, in main memory, is lent to the GPU, as in PyTorch.

    Raises:
        RuntimeError: the arrays are on several devices.
    """
    places = [of(a) if hasattr(a, "dtype") and not isinstance(a, np.generic) else None for a in arrays]
    found = dict.fromkeys(p for p in places if p is not None)
    if len(found) > 1 and lend and len(found.keys() - {CPU}) == 1:
        (gpu,) = found.keys() - {CPU}
        arrays = [move(a, gpu) if p == CPU and a.ndim == 0 else a for a, p in zip(arrays, places, strict=True)]
        found = dict.fromkeys(of(a) for a, p in zip(arrays, places, strict=True) if p is not None)
    if len(found) > 1:
        first, second = sorted(map(str, found), reverse=True)[:2]
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {first} and {second}! "
            f"({name}: move one with .to())"
        )
    return arrays


def run(function: Callable[..., Any], near: list[Any], /, *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), computed on the device of the arrays `near`.

    Raises:
        MemoryError: the GPU's memory is full; says what holds it and what to change.
    """
    if not in_use:
        return function(*args, **kwargs)
    try:
        if several:
            with near_to(near):
                return function(*args, **kwargs)
        return function(*args, **kwargs)
    except MemoryError as error:
        if type(error).__module__.partition(".")[0] != "cupy":
            raise
        with near_to(near if several else []):
            raise _full(error) from error


def near_to(arrays: Iterable[Any]) -> contextlib.AbstractContextManager[Any]:
    """Inside, the first GPU that one of the arrays is on is the current one, for CuPy computes and allocates there."""
    return next((a.device for a in arrays if type(a).__module__ == "cupy"), contextlib.nullcontext())


out_of_memory = 0  # how often a GPU was full


def _full(error: MemoryError) -> MemoryError:
    """What CuPy raised where a GPU is full, with who holds its memory and what to change."""
    global out_of_memory
    out_of_memory += 1
    pool, number = _cupy().get_default_memory_pool(), current()
    free, total = _cupy().cuda.runtime.memGetInfo()
    used, reserved, limit = pool.used_bytes(), pool.total_bytes(), pool.get_limit()
    capped = f" The limit set for this process is {limit:,} bytes." if limit else ""
    return MemoryError(
        f"CUDA out of memory: {error}. Of the GPU's {total:,} bytes arrays hold {used:,}, CuPy keeps "
        f"{reserved - used:,} for reuse and {free:,} are free.{capped} {describe_held(device('cuda', number))}"
        "Use a smaller batch or context, activation checkpoints (--checkpoint, GPTModel(..., checkpoint=True)), "
        "weights stored in 16 bits (.to(torch.bfloat16)), or torch.cuda.empty_cache()"
    )


def _unknown(target: device) -> str:
    return ""


describe_held: Callable[[device], str] = _unknown  # who holds a device's memory: `autograd.held` puts its own here


def may_share_memory(a: Any, b: Any) -> bool:
    """Whether two arrays may show the same memory; on two devices they never do."""
    here = isinstance(a, np.ndarray)
    return here == isinstance(b, np.ndarray) and bool(np.may_share_memory(a, b))


def filled(like: Any, shape: int | tuple[int, ...], value: Any, dtype: Any = None) -> Any:
    """An array of another's kind and dtype that has one number throughout.

    Of any shape: to CuPy's `full_like` and its neighbours the shapes () and 0 mean that of `like`.
    """
    return array_module(like).full(shape, value, like.dtype if dtype is None else dtype)


def special(name: str) -> Any:
    """A special function for CuPy's arrays, which CuPy keeps apart from its copy of NumPy: erf, erfc."""
    return getattr(importlib.import_module("cupyx.scipy.special"), name)


# --- the GPU itself ---


@lru_cache
def cuda_count() -> int:
    """The number of usable CUDA devices."""
    return 0 if cuda_problem() else _cupy().cuda.runtime.getDeviceCount()


def current() -> int:
    """The number of the current CUDA device."""
    module_of(device("cuda"))
    return _cupy().cuda.runtime.getDevice()


def make_current(number: int) -> None:
    """Let new arrays of "cuda" without a number be made on this device."""
    module_of(device("cuda", number))
    _cupy().cuda.Device(number).use()


def properties(number: int | None) -> dict[str, Any]:
    """What the driver says of a CUDA device, the current one by default: name, totalGlobalMem, major, minor, ..."""
    number = current() if number is None else number
    module_of(device("cuda", number))
    return _cupy().cuda.runtime.getDeviceProperties(number)


def synchronize(number: int | None = None) -> None:
    """Wait until a CUDA device, the current one by default, has nothing left to do."""
    with on(device("cuda", number)):
        waited(_cupy().cuda.runtime.deviceSynchronize())


def event(timing: bool) -> Any:
    """CuPy's event on the current device."""
    return module_of(device("cuda")).cuda.Event(disable_timing=not timing)


def milliseconds(start: Any, end: Any) -> float:
    """The time between two of CuPy's events."""
    return _cupy().cuda.get_elapsed_time(start, end)


def allow_tf32(allowed: bool) -> None:
    """Whether products of float32 may round their factors to 10 bits, which the tensor cores multiply faster."""
    global tf32
    tf32 = allowed
    if in_use:
        _set_product_precision()


def _set_product_precision() -> None:
    """Tell cuBLAS: the compute type of CuPy's two-dimensional products, and the mode of all others."""
    cupy = _cupy()
    core = importlib.import_module("cupy._core._routines_linalg")
    cublas = importlib.import_module("cupy_backends.cuda.libs.cublas")
    core.set_compute_type(np.float32, core.COMPUTE_TYPE_TF32 if tf32 else core.COMPUTE_TYPE_DEFAULT)
    for number in range(cupy.cuda.runtime.getDeviceCount()):  # each has a handle of its own
        with cupy.cuda.Device(number):
            cublas.setMathMode(cupy.cuda.get_cublas_handle(), TF32_MODE if tf32 else 0)
