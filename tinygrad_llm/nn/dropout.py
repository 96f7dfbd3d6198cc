"""Dropout."""

from __future__ import annotations

from tinygrad_llm.autograd import Tensor

from . import functional as F
from .module import Module


class Dropout(Module):
    """In training each element is zeroed with probability p and the others divided by 1 - p; in evaluation y = x.

    Source: Srivastava et al., Dropout: a simple way to prevent neural networks from overfitting (2014), section 4.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
