"""Parameter: a tensor that a module trains."""

from __future__ import annotations

from tinygrad_llm.autograd import Tensor


class Parameter(Tensor):
    """A leaf over the memory of `data` that requires a gradient; the module it is assigned to registers it."""

    __slots__ = ()
    holds = "weights"

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        if data is not None and not isinstance(data, Tensor):
            raise TypeError(f"Parameter: data must be a Tensor, not {type(data).__name__}; make one with tensor(...)")
        super().__init__(() if data is None else data, requires_grad=requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"
