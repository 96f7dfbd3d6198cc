"""Regions of mixed precision: products in 16 bits around weights of float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd import autocast as regions
from tinygrad_llm.warning import warn

KINDS = ("cuda", "cpu")


class autocast:
    """Inside, functions on PyTorch's lists cast their floating tensors: products to dtype, losses to float32, ...

    A context manager and a decorator, for one kind of device and this thread; regions nest, and enabled=False makes a
    hole. Weights stay as they are; the cast of one is kept until the outermost region is left or the weight is
    written to (cache_enabled). Gradients come in float32. dtype: bfloat16, the default on the CPU, or float16, the
    default on a GPU, whose gradients need a `GradScaler`.

    On the CPU everything is computed in float32 from rounded factors and rounded once: it gives the numbers of 16-bit
    products, not their speed.

    Raises:
        RuntimeError: an unknown kind of device. A dtype of other than 16 bits, or a GPU that is not there, is warned of
        and disables the region, as in PyTorch.
    Source: Micikevicius et al., Mixed precision training (2018).
    """

    def __init__(
        self,
        device_type: str,
        dtype: dtypes.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ):
        if device_type not in KINDS:
            raise RuntimeError(f"User specified an unsupported autocast device_type {device_type!r}: cuda or cpu")
        self.device_type, self.cache_enabled = device_type, cache_enabled
        self.dtype = get_autocast_dtype(device_type) if dtype is None else dtypes.argument(dtype)
        problem = None
        if self.dtype not in (dtypes.bfloat16, dtypes.float16):
            problem = f"{self.dtype} is not supported, only bfloat16 and float16"
        elif device_type == "cuda" and (missing := devices.cuda_problem()):
            problem = f"CUDA is not available: {missing}"
        if enabled and problem:
            warn(f"In {device_type.upper()} autocast, {problem}. Disabling autocast.")
        self.enabled = enabled and not problem
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> autocast:
        narrow = {kind: dtype for kind, dtype in regions.state.narrow.items() if kind != self.device_type}
        if self.enabled:
            narrow[self.device_type] = self.dtype
        cache = regions.state.cache_enabled if self.cache_enabled is None else self.cache_enabled
        region = regions.region(narrow, cache)
        region.__enter__()
        self._entered.append(region)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._entered.pop().__exit__(*exc)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def cast(*args: Any, **kwargs: Any) -> Any:
            with self._same():  # of its own, so that threads do not share what is entered
                return function(*args, **kwargs)

        return cast

    def _same(self) -> autocast:
        same = object.__new__(autocast)
        same.__dict__.update(self.__dict__, _entered=[])
        return same


def is_autocast_available(device_type: str) -> bool:
    """Whether autocast knows this kind of device."""
    return device_type in KINDS


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether this thread is in a region for this kind of device."""
    return device_type in regions.state.narrow


def get_autocast_dtype(device_type: str) -> dtypes.dtype:
    """The dtype of products in this thread's region, or the one that a region takes by default."""
    return regions.state.narrow.get(device_type, regions.DEFAULTS[device_type])


def is_autocast_cache_enabled() -> bool:
    """Whether the casts of weights are kept within a region."""
    return regions.state.cache_enabled
