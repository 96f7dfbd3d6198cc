"""cuDNN, which attention in 16 bits may use: `backends.cuda.enable_cudnn_sdp`. The switches here change nothing."""

from tinygrad_llm.cuda import is_available as _gpu
from tinygrad_llm.kernels.cuda import cudnn as _cudnn

enabled = True
benchmark = False
deterministic = True  # the same bits from run to run, whatever it is set to


def is_available() -> bool:
    """Whether there is a GPU, nvidia-cudnn-frontend, and a cuDNN that is new enough."""
    return _gpu() and _cudnn.problem() is None


def version() -> int | None:
    """cuDNN's version as it counts itself, 91002 for 9.10.2; None where it cannot be used."""
    return _cudnn.version() if _cudnn.problem() is None else None
