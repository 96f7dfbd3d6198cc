"""The kernels of a token's step, in every dtype, against the reference in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda import emulated
from tests.cuda.kinds import back, moved
from tests.cuda.step_cases import CASES, check, results
from tinygrad_llm.kernels import CUDA, REFERENCE


def found(name, real):
    return [np.asarray(back(y)) for y in results(name, CUDA, real, moved)]


@pytest.mark.parametrize(("name", "real"), CASES)
def test_as_the_reference(name, real, monkeypatch):
    """Also with the threads' turns in the other order: the same bits."""
    with emulated.gpu():
        first = found(name, real)
        monkeypatch.setattr(emulated, "backwards", True)
        for y, z in zip(found(name, real), first, strict=True):
            np.testing.assert_array_equal(y, z)
    check(name, real, first, results(name, REFERENCE, None, lambda x: x))


@pytest.mark.cuda
@pytest.mark.parametrize(("name", "real"), CASES)
def test_on_a_gpu(name, real):
    first = found(name, real)
    check(name, real, first, results(name, REFERENCE, None, lambda x: x))
    for y, z in zip(found(name, real), first, strict=True):
        np.testing.assert_array_equal(y, z)
