"""All kernels compiled on all cores at once, which on a GPU that is lent for minutes is worth doing first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cuda.test_sources import launches  # noqa: F401 (a fixture)
from tinygrad_llm.kernels.cuda import launch


@pytest.mark.cuda
def test_every_kernel_compiles_for_this_gpu(launches):  # noqa: F811
    """The results stay in CuPy's cache on the disk, where the other tests, in their own processes, find them."""
    files: dict[Any, list[str]] = {}
    here = [item for item in launches if launch.is_hopper(0) or "HOPPER" not in dict(item[2])]
    for file, name, definitions in here:
        files.setdefault((file, definitions), []).append(name)

    def compile_all(item: Any) -> int:
        (file, definitions), names = item
        return sum(launch.compiled(file, name, definitions).num_regs > 0 for name in names)

    with ThreadPoolExecutor() as pool:
        assert sum(pool.map(compile_all, files.items())) == len(here)
