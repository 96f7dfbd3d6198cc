"""What all tests of the GPU's part share."""

from collections.abc import Iterator

import pytest

from tinygrad_llm.kernels.cuda import sdp


@pytest.fixture(scope="module", autouse=True)
def ours_alone() -> Iterator[None]:
    """Our kernels are what is tested, and not cuDNN's where they happen to be faster."""
    before = sdp.allowed["cudnn"]
    sdp.allowed["cudnn"] = False
    yield
    sdp.allowed["cudnn"] = before
