"""What all tests of the GPU's part share."""

import importlib
import os
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


@pytest.fixture(autouse=True)
def a_gpu_that_has_failed_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After an illegal address nothing runs on a GPU in this process any more: the other tests need another one.

    pytest-xdist starts one for those that a process leaves; without it the run ends here.
    """
    yield
    if request.node.get_closest_marker("cuda"):
        try:
            importlib.import_module("cupy").cuda.runtime.deviceSynchronize()
        except Exception as error:
            if "PYTEST_XDIST_WORKER" in os.environ:
                os._exit(1)
            pytest.exit(f"the GPU has failed, and no test could run on it any more: {error}", 1)
