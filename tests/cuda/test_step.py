"""The kernels of a token's step, in every dtype, against the reference in float64."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cuda import emulated, pretend_cublas
from tests.cuda.kinds import back, moved
from tests.cuda.step_cases import CASES, STEPS, check, results
from tinygrad_llm.kernels import CUDA, REFERENCE
from tinygrad_llm.kernels.cuda import cublaslt, launch


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


@pytest.mark.parametrize("real", [1, 2])
@pytest.mark.parametrize("name", [name for name in STEPS if name.startswith("linear by cublasLt")])
def test_by_cublaslt_where_it_is_there(name, real):
    """And by our kernel where it is not, or has no algorithm."""
    wanted = results(name, REFERENCE, None, lambda x: x)
    with emulated.gpu():
        for missing in (False, True):
            if missing:
                cublaslt._library().refused |= set(pretend_cublas.EPILOGUES)
                cublaslt._known.cache_clear()
            cublaslt._library().calls.clear()
            with launch.counted() as launches:
                check(name, real, found(name, real), wanted)
            assert (len(cublaslt._library().calls), launches["many_rows"]) == (not missing, missing)


def test_rows_that_start_anywhere_are_read_one_by_one():
    """On a GPU 16 bytes are loaded from a multiple of 16 alone."""
    with emulated.gpu():
        weight, out = moved(np.ones((3, 64), np.float32)), moved(np.zeros((2, 3), np.float32))
        for start, vec in ((0, 4), (1, 1)):
            x = moved(np.ones(132, np.float32))[start : start + 128].reshape(2, 64)
            with pytest.MonkeyPatch.context() as patch:
                given, run = [], launch.start
                patch.setattr(launch, "start", lambda *a, run=run, given=given: (given.append(dict(a[2])), run(*a)))
                CUDA.linear_step(x, weight, None, out)
            assert given[0]["VEC"] == vec
            np.testing.assert_array_equal(back(out), 64)


@pytest.mark.cuda
@pytest.mark.parametrize(("name", "real"), CASES)
def test_on_a_gpu(name, real):
    first = found(name, real)
    check(name, real, first, results(name, REFERENCE, None, lambda x: x))
    for y, z in zip(found(name, real), first, strict=True):
        np.testing.assert_array_equal(y, z)
