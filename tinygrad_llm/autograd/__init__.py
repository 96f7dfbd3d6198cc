"""Reverse-mode automatic differentiation over NumPy and CuPy arrays.

To be read in this order, beside docs/autograd.md: `registry` (what an op is), `ops/` (the ops), `graph` (the sweep
back), `tensor` (arrays with a place in the graph, and `apply`, which records), `views` and `in_place` (memory that is
shared and written to), `functions/` (what users call).
"""

import warnings

from tinygrad_llm.autograd import functions, return_types  # attaches Tensor's methods
from tinygrad_llm.autograd.derivatives import backward, grad
from tinygrad_llm.autograd.function import Function
from tinygrad_llm.autograd.grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from tinygrad_llm.autograd.gradcheck import gradcheck
from tinygrad_llm.autograd.held import held as held
from tinygrad_llm.autograd.size import Size
from tinygrad_llm.autograd.tensor import Tensor

__all__ = [
    "Function",
    "Size",
    "Tensor",
    "backward",
    "enable_grad",
    "functions",
    "grad",
    "gradcheck",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "return_types",
    "set_grad_enabled",
]

# As in PyTorch, log(0) is -inf and 0 / 0 nan without a word: NumPy's warnings from inside the ops would only be noise.
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"tinygrad_llm\.(autograd|kernels|nn|optim)\.")
