"""NumPy's arrays in CuPy's clothes, so that code for the GPU runs where there is none.

They refuse what CuPy's refuse: arrays in main memory beside them, being turned into one unasked, functions and
arguments that CuPy does not have. What they compute is NumPy's; whether CuPy computes the same only a GPU can tell.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.cuda import pretend_cublas
from tinygrad_llm import devices
from tinygrad_llm.kernels.cuda import cublaslt, products

waits: list[str] = []  # what was asked of arrays that a real GPU must first have computed
NOT_ON_THE_GPU = "Implicit conversion to a NumPy array is not allowed. Please use `.get()`"


def real() -> Any:
    """CuPy itself, which can be imported without a GPU: it is asked which functions and arguments it has."""
    return pytest.importorskip("cupy")


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


def check_arguments(function: Any, args: Any, kwargs: Any) -> None:
    """Raise TypeError for arguments that a function of CuPy's does not take."""
    with contextlib.suppress(ValueError):  # a function without a signature
        inspect.signature(function).bind(*args, **kwargs)


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that says it is CuPy's."""

    __array_priority__ = 100

    def __init__(self, array: np.ndarray):
        self._array = array

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    itemsize = property(lambda self: self._array.itemsize)
    nbytes = property(lambda self: self._array.nbytes)
    strides = property(lambda self: self._array.strides)
    T = property(lambda self: ndarray(self._array.T))
    device = property(lambda self: DEVICE)
    data = property(lambda self: types.SimpleNamespace(ptr=self._array.ctypes.data))
    __cuda_array_interface__ = property(lambda self: {})

    @property
    def base(self) -> Any:
        """The array that this one shows a part of."""
        return ndarray(self._array.base) if isinstance(self._array.base, np.ndarray) else None

    @property
    def flags(self) -> Any:
        """CuPy's flags, which do not tell whether an array may be written to."""
        own = self._array.flags
        return types.SimpleNamespace(c_contiguous=own.c_contiguous, f_contiguous=own.f_contiguous, owndata=own.owndata)

    def get(self) -> np.ndarray:
        """A copy in main memory."""
        waits.append("get")
        return self._array.copy()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(NOT_ON_THE_GPU)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if not hasattr(real(), ufunc.__name__):
            return NotImplemented
        if method == "at":
            return getattr(ufunc, method)(*inside(inputs))
        if "out" in kwargs:
            (out,) = kwargs.pop("out")
            getattr(ufunc, method)(*inside(inputs), out=inside(out), **inside(kwargs))
            return out
        return outside(getattr(ufunc, method)(*inside(inputs), **inside(kwargs)))

    def __array_function__(self, function: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        path = [*function.__module__.split(".")[1:], function.__name__]  # numpy.linalg.norm is cupy.linalg.norm
        theirs = functools.reduce(lambda place, name: getattr(place, name, None), path, real())
        if theirs is None:
            return NotImplemented
        check_arguments(theirs, args, kwargs)
        if function.__name__ in ("nonzero", "flatnonzero", "unique", "repeat"):
            waits.append(function.__name__)
        found = function(*inside(args), **{name: inside(value) for name, value in kwargs.items()})
        return outside(found)

    def __getitem__(self, key: Any) -> Any:
        if any(hasattr(k, "dtype") and k.dtype.kind == "b" for k in (key if isinstance(key, tuple) else (key,))):
            waits.append("boolean index")
        return outside(self._array[self._key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._array[self._key(key)] = inside(value)

    def _key(self, key: Any) -> Any:
        return tuple(map(inside, key)) if isinstance(key, tuple) else inside(key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(real().ndarray, name):
            raise AttributeError(f"cupy.ndarray has no attribute {name}")
        method = getattr(self._array, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if {"initial", "where"} & kwargs.keys():
                raise TypeError(f"cupy.ndarray.{name} takes no {' or '.join(kwargs)}")
            if name == "diagonal":
                view = method(*args)
                view.flags.writeable = True  # CuPy does not lock it
                return outside(view)
            return outside(method(*inside(args), **{key: inside(value) for key, value in kwargs.items()}))

        def read(*args: Any, **kwargs: Any) -> Any:
            waits.append(name)
            return method(*args, **kwargs)

        return read if name in ("item", "tolist", "tobytes", "nonzero") else call

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Any]:
        return iter(outside(list(self._array)))

    def __bool__(self) -> bool:
        waits.append("bool")
        return bool(self._array)

    def __int__(self) -> int:
        waits.append("int")
        return int(self._array)

    def __float__(self) -> float:
        waits.append("float")
        return float(self._array)

    def __index__(self) -> int:
        waits.append("index")
        return self._array.__index__()

    def __repr__(self) -> str:
        return f"pretended {self._array!r}"


ndarray.__module__ = "cupy"  # by which an array of the GPU is known


class _Device:
    id = 0

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


DEVICE = _Device()


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
                stride_tricks=types.SimpleNamespace(as_strided=lambda x, *args: outside(strided(inside(x), *args)))
            )
        if name == "add":
            return types.SimpleNamespace(at=lambda a, key, b: np.add.at(inside(a), a._key(key), inside(b)))

        def call(*args: Any, **kwargs: Any) -> Any:
            check_arguments(getattr(real(), name), args, kwargs)
            return outside(function(*inside(args), **{key: inside(value) for key, value in kwargs.items()}))

        return call

    def asarray(self, a: Any, dtype: Any = None) -> Any:
        """To the GPU."""
        return a if isinstance(a, ndarray) and dtype is None else ndarray(np.array(inside_or_host(a), dtype))

    array = asarray


class _Grid:
    def __init__(self, grid: Any):
        self.grid = grid

    def __getitem__(self, key: Any) -> Any:
        return outside(list(self.grid[key]))


def inside_or_host(a: Any) -> Any:
    """The array to be moved: CuPy's own or one of NumPy's."""
    return a._array if isinstance(a, ndarray) else a


def module() -> Any:
    """The pretended CuPy, on a machine with one GPU."""
    cupy = _CuPy("cupy")
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1, getDevice=lambda: 0, deviceSynchronize=lambda: None,
        memGetInfo=lambda: (2**34, 2**35), getDeviceProperties=lambda number: {"major": 9, "minor": 0},
    )
    cupy.cuda = types.SimpleNamespace(runtime=runtime, Device=lambda number: DEVICE)  # type: ignore[attr-defined]
    cupy.cuda.get_cublas_handle, cupy.cuda.get_current_stream = lambda: 1, lambda: types.SimpleNamespace(ptr=0)  # type: ignore[attr-defined]
    nothing = dict.fromkeys(("used_bytes", "total_bytes", "get_limit"), lambda: 0)
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(**nothing)  # type: ignore[attr-defined]
    return cupy


def special(name: str) -> Any:
    """erf and erfc, which NumPy lacks."""
    import math

    each = np.frompyfunc(getattr(math, name), 1, 1)
    return lambda x: outside(np.asarray(each(inside(x))).astype(x.dtype))


@contextlib.contextmanager
def gpu() -> Iterator[None]:
    """Inside, device "cuda" exists: its arrays are pretended ones."""
    real()
    cupy = module()
    patch = pytest.MonkeyPatch()
    patch.setattr(devices, "_cupy", lambda: cupy)
    patch.setattr(devices, "in_use", True)
    patch.setattr(devices, "cuda_problem", lambda: None)
    patch.setattr(devices, "cuda_count", lambda: 1)
    patch.setattr("tinygrad_llm.kernels.cuda.memory._hook", "a pretended one")
    patch.setattr(devices, "special", special)
    patch.setattr("tinygrad_llm.kernels.reference.special", special)
    patch.setattr("tinygrad_llm.autograd.functions.elementary.special", special)
    library = pretend_cublas.Library()
    patch.setattr(cublaslt, "_library", lambda: library)
    patch.setattr(products, "works", lambda number: True)
    forget_products()
    try:
        yield
    finally:
        patch.undo()
        forget_products()


def forget_products() -> None:
    """What was made for one library and one kind of GPU is nothing to another."""
    for known in (cublaslt._known, cublaslt._handle, cublaslt._workspace):
        known.cache_clear()
