"""Which kernels attention on a GPU may use, as in `backends.cuda`: ours (flash), cuDNN's, the reference's (math)."""

from __future__ import annotations

from tinygrad_llm.kernels.cuda import cudnn

allowed = {"flash": True, "mem_efficient": True, "cudnn": True, "math": True}


def enable(kind: str, enabled: bool) -> None:
    """Allow kernels or not. cuDNN's, if they are asked for and cannot be used, are a line of warning."""
    allowed[kind] = enabled
    problem = cudnn.problem() if enabled and kind == "cudnn" else None
    if problem:
        cudnn.warn(problem)
