"""What scripts ask of a GPU before they use one, as `torch.cuda`."""

from __future__ import annotations

from tinygrad_llm import devices


def is_available() -> bool:
    """Whether tensors can be moved to device "cuda": CuPy is installed and finds a GPU."""
    return devices.cuda_problem() is None


def device_count() -> int:
    """The number of GPUs."""
    return devices.cuda_count()


def manual_seed(seed: int) -> None:
    """Random numbers are drawn on the CPU for every device; there is nothing to seed beside manual_seed."""


def manual_seed_all(seed: int) -> None:
    """As manual_seed."""


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """bfloat16 is a storage format on every device; what is computed is float32."""
    return is_available()


def empty_cache() -> None:
    """Give unused memory of the GPU back to the system."""
    if is_available():
        devices.free_unused()


def synchronize(device: object = None) -> None:
    """Wait until the GPU has finished what it was given."""
    if is_available():
        devices.synchronize()


__all__ = [
    "device_count",
    "empty_cache",
    "is_available",
    "is_bf16_supported",
    "manual_seed",
    "manual_seed_all",
    "synchronize",
]
