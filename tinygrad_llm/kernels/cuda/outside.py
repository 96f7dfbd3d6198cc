"""Numbers that pick places and lie on a GPU: they are checked there, and what is wrong is raised at the next wait.

To ask whether an id lies in range would wait for the GPU. So a kernel asks, and writes what it finds to pinned main
memory. Python looks there whenever it has waited anyway: for `item()`, `cpu()`, `synchronize()`. What was computed in
between is of no use, but touched nothing outside of its arrays: kernels and CuPy wrap numbers round, or clamp them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.kernels.cuda.launch import in_order, launch

_checks: list[str] = []  # what each number in a report stands for


@cache
def _number(what: str) -> int:
    _checks.append(what)
    return len(_checks)


@cache
def _report() -> np.ndarray:
    """Where kernels write: which check failed (0: none), the number, and the bounds."""
    report = devices.pinned((4,), np.int64)
    report[:] = 0
    devices.after_wait = look
    return report


def check_index(ids: Any, low: int, high: int, what: str, allowed: int | None = None) -> None:
    """Let the GPU check that whole numbers lie in [low, high), or are `allowed`; what: the op, for the message."""
    if not ids.size:
        return
    ids = in_order(ids if ids.dtype == np.int64 else ids.astype(np.int64))
    grid, report = (-(-ids.size // 256),), _report().ctypes.data
    allowed = high - 1 if allowed is None else allowed  # a number that is in range anyway
    launch("index", "check_index", grid, (256,), ids, ids.size, low, high, allowed, _number(what), report)


def look() -> None:
    """Raise IndexError for what a check has found so far. What is found is forgotten, so that work can go on."""
    report = _report()
    check, number, low, high = report.tolist()
    if check:
        report[0] = 0
        raise IndexError(
            f"{_checks[check - 1]}: index {number} is out of range for {high} places ({low} to {high - 1} are "
            "allowed); the GPU found it a while ago, and results since then mean nothing"
        )
