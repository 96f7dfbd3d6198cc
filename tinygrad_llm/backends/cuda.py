"""Switches for a GPU's matrix products."""

from tinygrad_llm import devices
from tinygrad_llm.cuda import is_available


class _Products:
    """`allow_tf32`: whether products of float32 may round their factors to TF32's 10 bits, several times as fast."""

    @property
    def allow_tf32(self) -> bool:
        return devices.tf32

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        devices.allow_tf32(bool(allowed))


matmul = _Products()


def is_built() -> bool:
    """Whether CuPy is installed and finds a GPU."""
    return is_available()
