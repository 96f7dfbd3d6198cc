"""Settings every test shares: hypothesis profiles, and markers that skip where their library is missing."""

import os

import pytest
from hypothesis import settings

# A time limit per example says nothing on a busy machine, so there is none.
settings.register_profile("dev", deadline=None, max_examples=30)
settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)  # pytest --hypothesis-profile=thorough
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `torch` or `cuda` where there is no PyTorch, or no CuPy with a GPU."""
    if item.get_closest_marker("torch"):
        pytest.importorskip("torch")
    if item.get_closest_marker("cuda") and not pytest.importorskip("cupy").cuda.is_available():
        pytest.skip("no CUDA GPU")
