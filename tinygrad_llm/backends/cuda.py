"""Switches for a GPU's matrix products, and for the kernels of its attention."""

from collections.abc import Iterator
from contextlib import contextmanager

from tinygrad_llm import devices
from tinygrad_llm.cuda import is_available
from tinygrad_llm.kernels.cuda import sdp


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


def enable_flash_sdp(enabled: bool) -> None:
    """Let attention on a GPU use this package's own kernels, or not."""
    sdp.enable("flash", enabled)


def enable_cudnn_sdp(enabled: bool) -> None:
    """Let it use cuDNN's where they serve and are faster: 16 bits, no mask, no dropout, `tinygrad_llm[cudnn]`.

    Where both are allowed, a few runs decide when a kind of call comes for the third time, forward and backward apart;
    who gives other numbers is left alone. Sums are then added in another order, so that two runs of a program may
    differ in their last bits if their choices do; `use_deterministic_algorithms(True)` makes them equal.
    """
    sdp.enable("cudnn", enabled)


def enable_wgmma_sdp(enabled: bool) -> None:
    """Let it use, on a Hopper, this package's kernels by `wgmma`, where they are faster: an addition, and off.

    They have run on the processor alone; `benchmarks/attention.py --device cuda --dtype bfloat16` measures them, and
    `pytest -m cuda tests/cuda/test_attention.py` holds them against the reference. 16 bits, with masks and dropout.
    """
    sdp.enable("wgmma", enabled)


def enable_math_sdp(enabled: bool) -> None:
    """Let it use the reference's kernels, with the array of all scores, where nothing else serves."""
    sdp.enable("math", enabled)


def enable_mem_efficient_sdp(enabled: bool) -> None:
    """PyTorch's third kind, which is not here: our own kernels are of flash attention's kind."""
    sdp.enable("mem_efficient", enabled)


def flash_sdp_enabled() -> bool:
    """Whether attention may use this package's own kernels."""
    return sdp.allowed["flash"]


def wgmma_sdp_enabled() -> bool:
    """Whether it may use those by a Hopper's own products."""
    return sdp.may("wgmma")


def cudnn_sdp_enabled() -> bool:
    """Whether it may use cuDNN's."""
    return sdp.allowed["cudnn"]


def math_sdp_enabled() -> bool:
    """Whether it may use the reference's."""
    return sdp.allowed["math"]


def mem_efficient_sdp_enabled() -> bool:
    """What `enable_mem_efficient_sdp` was told."""
    return sdp.allowed["mem_efficient"]


@contextmanager
def sdp_kernel(
    enable_flash: bool = True, enable_math: bool = True, enable_mem_efficient: bool = True, enable_cudnn: bool = True
) -> Iterator[None]:
    """Inside, attention on a GPU uses the kernels named and no others. Backward looks at them when it runs, too."""
    before = sdp.allowed.copy()
    sdp.allowed |= {
        "flash": enable_flash, "math": enable_math, "mem_efficient": enable_mem_efficient, "cudnn": enable_cudnn
    }  # fmt: skip
    try:
        yield
    finally:
        sdp.allowed |= before
