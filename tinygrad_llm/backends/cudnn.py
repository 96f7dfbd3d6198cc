"""cuDNN, which attention in 16 bits may use: `backends.cuda.enable_cudnn_sdp`."""

import sys
import types

from tinygrad_llm.cuda import is_available as _gpu
from tinygrad_llm.kernels.cuda import cudnn as _cudnn

enabled = True  # changes nothing, nor does the next one
benchmark = False


class _Switches(types.ModuleType):
    """This module, so that to set its `deterministic` is to tell the kernels."""

    @property
    def deterministic(self) -> bool:
        """Whether cuDNN adds gradients in one order: the same bits every time, in more time and memory."""
        return _cudnn.deterministic

    @deterministic.setter
    def deterministic(self, wanted: bool) -> None:
        _cudnn.deterministic = bool(wanted)


sys.modules[__name__].__class__ = _Switches


def is_available() -> bool:
    """Whether there is a GPU, nvidia-cudnn-frontend, and a cuDNN that is new enough."""
    return _gpu() and _cudnn.problem() is None


def version() -> int | None:
    """cuDNN's version as it counts itself, 91002 for 9.10.2; None where it cannot be used."""
    return _cudnn.version() if _cudnn.problem() is None else None
