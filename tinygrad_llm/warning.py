"""Warnings that name the line of the user's program, however deep in this package they arise."""

from __future__ import annotations

import os
import sys
import warnings
from types import FrameType

PACKAGE = os.path.dirname(__file__) + os.sep


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of what the innermost line outside of this package has asked for."""
    warnings.warn(message, category, stacklevel=_outside(sys._getframe(1))[1] + 1)


def outside() -> FrameType | None:
    """The innermost frame that is not of this package; None where all of them are."""
    return _outside(sys._getframe(1))[0]


def _outside(frame: FrameType | None) -> tuple[FrameType | None, int]:
    """That frame, and how far it is from the one given, which is 1 away from what calls it."""
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    return frame, level
