"""Warnings that name the line of the user's program, however deep in this package they arise."""

from __future__ import annotations

import os
import sys
import warnings
from types import FrameType

PACKAGE = os.path.dirname(__file__) + os.sep


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of what the innermost line outside of this package has asked for."""
    frame: FrameType | None = sys._getframe(1)
    level = 2  # of the frame that calls this one
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
