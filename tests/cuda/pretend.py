"""NumPy's arrays in CuPy's clothes, so that code for the GPU runs where there is none.

They refuse what CuPy's refuse: arrays in main memory beside them, being turned into one unasked, functions and
arguments that CuPy does not have, and to be waited for or moved while a graph is captured (recorded.py). What they
compute is NumPy's; whether CuPy computes the same only a GPU can tell.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.cuda import pretend_cublas, recorded
from tinygrad_llm import devices, dtypes
from tinygrad_llm.kernels.cuda import cublaslt, launch, products

bfloat16 = np.dtype(dtypes.bfloat16.numpy)
waits: list[str] = []  # what was asked of arrays that a real GPU must first have computed
NOT_ON_THE_GPU = "Implicit conversion to a NumPy array is not allowed. Please use `.get()`"


def real() -> Any:
    """CuPy itself, which can be imported without a GPU: it is asked which functions and arguments it has."""
    return pytest.importorskip("cupy")


def wait(name: str) -> None:
    """Somebody asked for what the GPU must first have computed."""
    if recorded.recording is not None:
        raise RuntimeError(f"{recorded.NOT_WHILE_CAPTURING}: {name}")
    recorded.arrived(recorded._current[-1])
    waits.append(name)


def compute(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What a function makes of pretended arrays, which it does not write to."""
    numbers = gpus_of([args, list(kwargs.values())])
    args, kwargs = inside(args), {name: inside(value) for name, value in kwargs.items()}
    if recorded.recording is None:
        return _outside_of(numbers, function(*args, **kwargs), args)
    if getattr(function, "__name__", "") in PRODUCTS:
        raise RuntimeError("calling cuBLAS API during stream capture is currently unsupported")
    return _outside_of(numbers, recorded.recording.compute(function, args, kwargs), args)


def gpus_of(value: Any) -> set[int]:
    """The numbers of the GPUs that the arrays among arguments are on."""
    if isinstance(value, ndarray):
        return {value.device.id}
    return set().union(*map(gpus_of, value)) if isinstance(value, (list, tuple)) else set()


def check_current(numbers: set[int]) -> None:
    """Raise where arrays are worked on while another GPU than theirs is current."""
    if numbers - {DEVICES[-1].id}:
        raise AssertionError(f"arrays of GPUs {sorted(numbers)} are used while GPU {DEVICES[-1].id} is current")


def _outside_of(numbers: set[int], found: Any, args: Any) -> Any:
    """A result in CuPy's clothes: a view is where its array is, anything else where it was computed."""
    given = [a for a in args if isinstance(a, np.ndarray)]
    if isinstance(found, np.ndarray) and any(np.may_share_memory(found, a) for a in given):
        return ndarray(found, *numbers)
    if isinstance(found, (bool, np.dtype)):
        return found  # a fact about arrays, whatever they hold
    check_current(numbers)
    return outside(found)


def write(function: Any, *args: Any, **kwargs: Any) -> None:
    """Let a function write into pretended arrays among its arguments."""
    check_current(gpus_of([args, list(kwargs.values())]))
    args, kwargs = inside(args), {name: inside(value) for name, value in kwargs.items()}
    if recorded.recording is None:
        function(*args, **kwargs)
    elif getattr(function, "__name__", "") in PRODUCTS:
        raise RuntimeError("calling cuBLAS API during stream capture is currently unsupported")
    else:
        recorded.recording.write(function, args, kwargs)


PRODUCTS = ("matmul", "dot", "tensordot", "einsum", "inner")


def inside(value: Any) -> Any:
    """The NumPy arrays of arguments. Refuses one that was no pretended array."""
    if isinstance(value, ndarray):
        return value._array
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: an array in main memory beside one of the GPU's")
    if isinstance(value, (list, tuple)):
        return type(value)(inside(v) for v in value)
    return value


def outside(value: Any) -> Any:
    """Results as pretended arrays; numbers that a reduction gave have no dimensions."""
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value))
    if isinstance(value, (list, tuple)):
        return type(value)(outside(v) for v in value)
    return value


def check_added(array: Any) -> None:
    """Raise TypeError where CuPy cannot add at places."""
    if array.dtype.name not in ("int32", "int64", "uint32", "uint64", "float16", "float32", "float64"):
        raise TypeError("cupy.add.at only supports int32, int64, float16, float32 and float64")


def check_arguments(function: Any, args: Any, kwargs: Any) -> None:
    """Raise TypeError for arguments that a function of CuPy's does not take."""
    with contextlib.suppress(ValueError):  # a function without a signature
        inspect.signature(function).bind(*args, **kwargs)


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that says it is CuPy's."""

    __array_priority__ = 100

    def __init__(self, array: np.ndarray, number: int | None = None):
        self._array = array
        self.device = DEVICES[-1] if number is None else _Device(number)

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    itemsize = property(lambda self: self._array.itemsize)
    nbytes = property(lambda self: self._array.nbytes)
    strides = property(lambda self: self._array.strides)
    T = property(lambda self: ndarray(self._array.T, self.device.id))
    data = property(lambda self: types.SimpleNamespace(ptr=self._array.ctypes.data))
    __cuda_array_interface__ = property(lambda self: {})

    @property
    def base(self) -> Any:
        """The array that this one shows a part of."""
        return ndarray(self._array.base, self.device.id) if isinstance(self._array.base, np.ndarray) else None

    @property
    def flags(self) -> Any:
        """CuPy's flags, which do not tell whether an array may be written to."""
        own = self._array.flags
        return types.SimpleNamespace(c_contiguous=own.c_contiguous, f_contiguous=own.f_contiguous, owndata=own.owndata)

    def get(self, out: Any = None, blocking: bool = True) -> np.ndarray:
        """A copy in main memory; one that is not waited for needs memory that stays where it is."""
        if blocking:
            wait("get")
        elif type(out.base).__name__ != "PinnedMemoryPointer":
            raise TypeError("a copy to memory of the usual kind waits")
        if out is None:
            return self._array.copy()
        out[...] = self._array
        recorded.copying(out)
        return out

    def set(self, array: np.ndarray) -> None:
        """Values from main memory."""
        if recorded.recording is not None:
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        assert array.dtype == self.dtype and array.shape == self.shape
        self._array[...] = array
        recorded.copying(array)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(NOT_ON_THE_GPU)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if not hasattr(real(), ufunc.__name__):
            return NotImplemented
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        if method == "at":
            check_added(inputs[0])
            return write(function, *inputs)
        if "out" in kwargs:
            (out,) = kwargs.pop("out")
            write(function, *inputs, out=out, **kwargs)
            return out
        return compute(function, *inputs, **kwargs)

    def __array_function__(self, function: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        path = [*function.__module__.split(".")[1:], function.__name__]  # numpy.linalg.norm is cupy.linalg.norm
        theirs = functools.reduce(lambda place, name: getattr(place, name, None), path, real())
        if theirs is None:
            return NotImplemented
        check_arguments(theirs, args, kwargs)
        if function.__name__.endswith("_like") and kwargs.get("shape") in ((), 0):
            raise AssertionError(f"cupy.{function.__name__} takes shape {kwargs['shape']} for that of the array")
        if function.__name__ in ("nonzero", "flatnonzero", "unique", "repeat"):
            wait(function.__name__)
        if function.__name__ == "copyto" or kwargs.get("out") is not None:
            write(function, *args, **kwargs)
            return kwargs.get("out")
        found = compute(function, *args, **kwargs)
        if function.__name__ in ("where", "tril", "triu") and getattr(found, "dtype", None) == bfloat16:
            return found.astype(np.float32)  # CuPy's `where` has no loop of its own for bfloat16
        return found

    def __getitem__(self, key: Any) -> Any:
        if any(hasattr(k, "dtype") and k.dtype.kind == "b" for k in (key if isinstance(key, tuple) else (key,))):
            wait("boolean index")
        _check_no_list(key)
        return compute(operator.getitem, self, self._around(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        _check_no_list(key)
        write(operator.setitem, self, self._around(key), value)

    def _around(self, key: Any) -> Any:
        """A key whose numbers wrap round, as CuPy's do in place of an error; one with a mask or None as it is."""
        keys = key if isinstance(key, tuple) else (key,)
        if any(k is None or k is Ellipsis or (hasattr(k, "dtype") and k.dtype.kind == "b") for k in keys):
            return key
        around = tuple(k % n if isinstance(k, ndarray) else k for k, n in zip(keys, self.shape, strict=False))
        return around if isinstance(key, tuple) else around[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(real().ndarray, name):
            raise AttributeError(f"cupy.ndarray has no attribute {name}")
        method = getattr(self._array, name)
        again = functools.partial(_of_array, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if {"initial", "where"} & kwargs.keys():
                raise TypeError(f"cupy.ndarray.{name} takes no {' or '.join(kwargs)}")
            if name == "take":
                args = (args[0] % self.shape[kwargs["axis"]], *args[1:])
            if name in ("fill", "sort"):
                return write(again, self, *args, **kwargs)
            if name == "diagonal":
                view = method(*args)
                view.flags.writeable = True  # CuPy does not lock it
                return outside(view)
            return compute(again, self, *args, **kwargs)

        def read(*args: Any, **kwargs: Any) -> Any:
            wait(name)
            return method(*args, **kwargs)

        return read if name in ("item", "tolist", "tobytes", "nonzero") else call

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Any]:
        return iter(outside(list(self._array)))

    def __bool__(self) -> bool:
        wait("bool")
        return bool(self._array)

    def __int__(self) -> int:
        wait("int")
        return int(self._array)

    def __float__(self) -> float:
        wait("float")
        return float(self._array)

    def __index__(self) -> int:
        wait("index")
        return self._array.__index__()

    def __repr__(self) -> str:
        return f"pretended {self._array!r}"


def _check_no_list(key: Any) -> None:
    """Raise where a graph is captured and an index has a list of numbers, which would be moved to the GPU first."""
    if recorded.recording is not None and any(isinstance(k, list) for k in (key if isinstance(key, tuple) else (key,))):
        raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")


def _of_array(name: str, array: np.ndarray, *args: Any, **kwargs: Any) -> Any:
    return getattr(array, name)(*args, **kwargs)


ndarray.__module__ = "cupy"  # by which an array of the GPU is known


class _Device:
    """A GPU; inside its context it is the current one."""

    compute_capability = "80"  # no Hopper

    def __init__(self, number: int):
        self.id = number

    def __enter__(self) -> None:
        DEVICES.append(self)

    def __exit__(self, *error: object) -> None:
        assert DEVICES.pop().id == self.id

    def use(self) -> None:
        DEVICES[-1] = self


DEVICES = [_Device(0)]  # the last is the current one


class _CuPy(types.ModuleType):
    """A module that pretends to be CuPy: NumPy's functions, their arrays dressed up."""

    ndarray = ndarray
    float32, float64, int32, int64, uint8, bool_ = np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_

    def __getattr__(self, name: str) -> Any:
        if not hasattr(real(), name):
            raise AttributeError(f"cupy has no {name}")
        function = getattr(np, name)
        if name == "ogrid":
            return _Grid(function)
        if name == "lib":
            strided = function.stride_tricks.as_strided
            return types.SimpleNamespace(
                stride_tricks=types.SimpleNamespace(as_strided=lambda x, *args: compute(strided, x, *args))
            )
        if name == "add":
            return types.SimpleNamespace(at=lambda a, key, b: (check_added(a), write(np.add.at, a, a._around(key), b)))

        def call(*args: Any, **kwargs: Any) -> Any:
            check_arguments(getattr(real(), name), args, kwargs)
            return compute(function, *args, **kwargs)

        return call

    def asarray(self, a: Any, dtype: Any = None, blocking: bool = False) -> Any:
        """To the GPU."""
        if isinstance(a, ndarray) and a.device.id != DEVICES[-1].id:
            return ndarray(a._array.astype(a.dtype if dtype is None else dtype))
        if isinstance(a, ndarray):
            return a if dtype in (None, a.dtype) else a.astype(dtype)
        if recorded.recording is not None and np.ndim(a):
            raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
        if blocking:
            wait("asarray")
        if isinstance(a, np.ndarray) and not blocking:
            recorded.copying(a)
        a = np.array(a, dtype)
        return ndarray(a) if a.ndim else compute(np.full, (), a[()])  # a number is filled in

    array = asarray


class _Grid:
    def __init__(self, grid: Any):
        self.grid = grid

    def __getitem__(self, key: Any) -> Any:
        return compute(lambda: list(self.grid[key]))


def module(gpus: int = 1) -> Any:
    """The pretended CuPy, on a machine with so many GPUs."""
    cupy = _CuPy("cupy")
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: gpus, getDevice=lambda: DEVICES[-1].id, deviceSynchronize=recorded.arrived,
        memGetInfo=lambda: (2**34, 2**35), getDeviceProperties=lambda number: {"major": 9, "minor": 0},
    )  # fmt: skip
    cupy.cuda = types.SimpleNamespace(  # type: ignore[attr-defined]
        runtime=runtime, Device=_Device, Stream=recorded.Stream, Event=recorded.Event,
        MemoryPool=recorded.MemoryPool, using_allocator=recorded.using_allocator, Memory=recorded.Memory,
        MemoryPointer=lambda memory, offset: types.SimpleNamespace(mem=memory),
        alloc_pinned_memory=recorded.PinnedMemoryPointer, get_cublas_handle=lambda: 1,
        get_current_stream=lambda number=None: recorded._current[-1],
    )  # fmt: skip
    nothing = dict.fromkeys(("used_bytes", "total_bytes", "get_limit", "free_all_blocks", "malloc"), lambda: 0)
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(**nothing)  # type: ignore[attr-defined]
    return cupy


def special(name: str) -> Any:
    """erf and erfc, which NumPy lacks."""
    import math

    each = np.frompyfunc(getattr(math, name), 1, 1)
    return lambda x: outside(np.asarray(each(inside(x))).astype(x.dtype))


@contextlib.contextmanager
def gpu(gpus: int = 1) -> Iterator[None]:
    """Inside, device "cuda" exists: its arrays are pretended ones."""
    real()
    cupy = module(gpus)
    patch = pytest.MonkeyPatch()
    patch.setattr(devices, "_cupy", lambda: cupy)
    patch.setattr(devices, "in_use", True)
    patch.setattr(devices, "several", gpus > 1)
    patch.setattr(devices, "cuda_problem", lambda: None)
    patch.setattr(devices, "cuda_count", lambda: gpus)
    patch.setattr("tinygrad_llm.kernels.cuda.memory._hook", "a pretended one")
    patch.setattr(devices, "special", special)
    patch.setattr("tinygrad_llm.kernels.reference.special", special)
    patch.setattr("tinygrad_llm.autograd.functions.elementary.special", special)
    library = pretend_cublas.Library()
    patch.setattr(cublaslt, "_library", lambda: library)
    patch.setattr(products, "works", lambda number: True)
    forget_gpu()
    recorded.too_early.clear()
    try:
        yield
        assert not recorded.too_early, "memory in use by a copy was given to others"
    finally:
        patch.undo()
        forget_gpu()


def forget_gpu() -> None:
    """What was made for one library and one kind of GPU is nothing to another."""
    for known in (cublaslt._known, cublaslt._handle, cublaslt._workspace, launch.is_hopper):
        known.cache_clear()
