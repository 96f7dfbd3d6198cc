"""Which kernels attention on a GPU may use, as in `backends.cuda`: ours (flash), cuDNN's, the reference's (math).

Of ours those by a Hopper's own products (wgmma) are asked for apart: they have not run on a GPU, and what a GPU refuses
or hangs in would end the process, which no comparison of numbers can see.
"""

from __future__ import annotations

from tinygrad_llm.kernels.cuda import cudnn

allowed = {"flash": True, "wgmma": False, "mem_efficient": True, "cudnn": True, "math": True}


def may(kind: str) -> bool:
    """Whether kernels of a kind are allowed."""
    return allowed[kind] and (kind != "wgmma" or allowed["flash"])


def enable(kind: str, enabled: bool) -> None:
    """Allow kernels or not. cuDNN's, if they are asked for and cannot be used, are a line of warning."""
    allowed[kind] = enabled
    problem = cudnn.problem() if enabled and kind == "cudnn" else None
    if problem:
        cudnn.warn(problem)
