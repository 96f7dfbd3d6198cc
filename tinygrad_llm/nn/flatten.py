"""Flatten: a run of axes into one."""

from __future__ import annotations

from tinygrad_llm.autograd import Tensor

from .module import Module


class Flatten(Module):
    """x (d0, ..., dn) -> the axes start_dim to end_dim merged into one; the default keeps the batch axis."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
