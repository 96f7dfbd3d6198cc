"""The ops: what is recorded in the graph, over plain arrays, family by family."""

from tinygrad_llm.autograd.ops import attention, elementwise, index, int8, linalg, loss, norm, reduce, shape

__all__ = ["attention", "elementwise", "index", "int8", "linalg", "loss", "norm", "reduce", "shape"]
