"""What scripts ask of a GPU, as `torch.cuda`: which there are, their memory, and waiting for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinygrad_llm import devices
from tinygrad_llm.cuda.graphs import CUDAGraph, graph, graph_pool_handle, is_current_stream_capturing
from tinygrad_llm.cuda.streams import Event, Stream, current_stream, default_stream, number_of, stream
from tinygrad_llm.kernels.cuda import memory

OutOfMemoryError = MemoryError  # a full GPU raises it, with what holds its memory and what to change


def is_available() -> bool:
    """Whether tensors can be moved to device "cuda": CuPy is installed and finds a GPU."""
    return devices.cuda_problem() is None


def device_count() -> int:
    """The number of GPUs."""
    return devices.cuda_count()


def current_device() -> int:
    """The number of the GPU that "cuda" without a number means."""
    return devices.current()


def set_device(device: Any) -> None:
    """Let "cuda" without a number mean this GPU."""
    number = number_of(device)
    if number is not None:
        devices.make_current(number)


@contextmanager
def device(device: Any) -> Iterator[None]:
    """Inside, "cuda" without a number, streams and graphs mean this GPU; None, or a number below 0, changes nothing."""
    number = number_of(device)
    if number is None or number < 0:
        yield
        return
    target = devices.device("cuda", number)
    devices.module_of(target)
    with devices.on(target):
        yield


def get_device_name(device: Any = None) -> str:
    """The GPU's name."""
    return devices.properties(number_of(device))["name"].decode()


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability: (9, 0) for an H100."""
    properties = devices.properties(number_of(device))
    return properties["major"], properties["minor"]


def memory_allocated(device: Any = None) -> int:
    """Bytes that arrays hold on the GPU now."""
    return memory.used(number_of(device)) if is_available() else 0


def memory_reserved(device: Any = None) -> int:
    """Bytes that CuPy's pool has taken from the GPU, for arrays and for reuse."""
    return memory.reserved(number_of(device)) if is_available() else 0


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that arrays held at once since `reset_peak_memory_stats`; without that call, memory_reserved."""
    return memory.peak(number_of(device)) if is_available() else 0


def max_memory_reserved(device: Any = None) -> int:
    """The most bytes that CuPy's pool had taken from the GPU since `reset_peak_memory_stats`."""
    return memory.note_reserved(number_of(device)) if is_available() else 0


def reset_peak_memory_stats(device: Any = None) -> None:
    """From now on count the most memory that arrays hold at once."""
    if is_available():
        memory.count_anew(number_of(device))


def memory_stats(device: Any = None) -> dict[str, int]:
    """The numbers above under PyTorch's keys, and how often the GPU was full; {} where there is none."""
    if not is_available():
        return {}
    return {
        "allocated_bytes.all.current": memory_allocated(device),
        "allocated_bytes.all.peak": max_memory_allocated(device),
        "reserved_bytes.all.current": memory_reserved(device),
        "reserved_bytes.all.peak": max_memory_reserved(device),
        "num_ooms": devices.out_of_memory,
    }


def memory_summary(device: Any = None) -> str:
    """Who holds the GPU's memory: weights, gradients, moments, and what backward keeps, by op and shape."""
    return devices.describe_held(devices.device("cuda", number_of(device))).strip()


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    """Let this process take no more than a fraction of the GPU's memory; beyond it the GPU counts as full.

    Raises: ValueError for a fraction outside of 0 to 1.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
    memory.limit(fraction, number_of(device))


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Free and total bytes of the GPU's memory, whoever uses it."""
    return memory.free_and_total(number_of(device))


def empty_cache() -> None:
    """Give unused memory of the GPU back to the system."""
    if is_available():
        memory.free_unused()


def synchronize(device: Any = None) -> None:
    """Wait until the GPU has finished what it was given."""
    if is_available():
        devices.synchronize(number_of(device))


def manual_seed(seed: int) -> None:
    """Random numbers are drawn on the CPU for every device; there is nothing to seed beside manual_seed."""


def manual_seed_all(seed: int) -> None:
    """As manual_seed."""


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """bfloat16 is a storage format on every device; what is computed is float32."""
    return is_available()


__all__ = [
    "CUDAGraph",
    "Event",
    "OutOfMemoryError",
    "Stream",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "empty_cache",
    "get_device_capability",
    "get_device_name",
    "graph",
    "graph_pool_handle",
    "is_available",
    "is_bf16_supported",
    "is_current_stream_capturing",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "memory_summary",
    "reset_peak_memory_stats",
    "set_device",
    "set_per_process_memory_fraction",
    "stream",
    "synchronize",
]
