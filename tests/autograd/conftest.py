"""The tests of the engine's rules run on PyTorch too, where it is installed: the rules are its own."""

import importlib
from typing import Any

import pytest


@pytest.fixture(params=["tinygrad_llm", pytest.param("torch", marks=pytest.mark.torch)])
def lib(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)
