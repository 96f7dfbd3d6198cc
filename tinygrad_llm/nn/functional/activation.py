"""Activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from tinygrad_llm import dtypes
from tinygrad_llm.autograd.autocast import autocasts
from tinygrad_llm.autograd.functions.elementary import expm1, logaddexp
from tinygrad_llm.autograd.functions.elementwise import relu as _relu
from tinygrad_llm.autograd.functions.elementwise import tanh, where
from tinygrad_llm.autograd.functions.reduce import log_softmax as _log_softmax
from tinygrad_llm.autograd.functions.reduce import softmax as _softmax
from tinygrad_llm.autograd.in_place import write
from tinygrad_llm.autograd.ops import elementwise as ops
from tinygrad_llm.autograd.tensor import Tensor, apply, printing
from tinygrad_llm.nn.functional.common import only_floating
from tinygrad_llm.warning import warn


def _maybe_in_place(input: Tensor, y: Tensor, name: str, inplace: bool) -> Tensor:
    return write(input, y, name + "_") if inplace else y


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Phi(x), with approximate="tanh" in the form 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu: approximate argument must be either none or tanh, not {approximate!r}")
    return apply(ops.gelu, only_floating("gelu", input), approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x)."""
    y = apply(ops.silu, only_floating("silu", input))
    return _maybe_in_place(input, y, "silu", inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope x."""
    y = apply(ops.leaky_relu, only_floating("leaky_relu", input), negative_slope=negative_slope)
    return _maybe_in_place(input, y, "leaky_relu", inplace)


@autocasts
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + e^(beta x)) / beta, x itself where beta x > threshold."""
    return apply(ops.softplus, only_floating("softplus", input), beta=beta, threshold=threshold)


def _implicit_dim(name: str, input: Tensor, dim: int | None) -> int:
    if dim is None:
        warn(
            f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X."
        )
        return 0 if input.ndim in (0, 1, 3) else 1
    return dim


@autocasts
def softmax(input: Tensor, dim: int | None = None, dtype: dtypes.dtype | None = None) -> Tensor:
    """e^x / sum e^x along dim."""
    return _softmax(input, _implicit_dim("softmax", input, dim), dtype)


@autocasts
def log_softmax(input: Tensor, dim: int | None = None, dtype: dtypes.dtype | None = None) -> Tensor:
    """x - ln sum e^x along dim."""
    return _log_softmax(input, _implicit_dim("log_softmax", input, dim), dtype)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0)."""
    return _maybe_in_place(input, _relu(input), "relu", inplace)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, else value."""
    y = printing(where(input <= threshold, value, input), "ThresholdBackward0")
    return _maybe_in_place(input, y, "threshold", inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x within [min_val, max_val], the nearer bound outside; no gradient flows from a bound on."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    inside = (input > min_val) & (input < max_val)
    y = printing(where(inside, input, input.detach().clamp(min_val, max_val)), "HardtanhBackward0")
    return _maybe_in_place(input, y, "hardtanh", inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x within [0, 6], the nearer bound outside."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6."""
    y = printing(relu6(only_floating("hardsigmoid", input) + 3) / 6, "HardsigmoidBackward0")
    return _maybe_in_place(input, y, "hardsigmoid", inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x relu6(x + 3) / 6."""
    y = printing(input * relu6(only_floating("hardswish", input) + 3) / 6, "HardswishBackward0")
    return _maybe_in_place(input, y, "hardswish", inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha (e^x - 1). Source: Clevert et al., Exponential linear units (2016), eq. 15."""
    x = only_floating("elu", input)
    y = printing(_relu(x) + alpha * expm1(x.clamp(max=0)), "EluBackward0")
    return _maybe_in_place(input, y, "elu", inplace)


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # from fixed-point equations, mean 0 and variance 1


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """1.0507 x where x > 0, else 1.0507 1.6733 (e^x - 1).

    Source: Klambauer et al., Self-normalizing neural networks (2017), eq. 2.
    """
    y = printing(SELU_SCALE * elu(only_floating("selu", input), SELU_ALPHA), "EluBackward0")
    return _maybe_in_place(input, y, "selu", inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, else alpha (e^(x / alpha) - 1)."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    x = only_floating("celu", input)
    y = printing(where(x > 0, x, alpha * expm1(where(x > 0, 0.0, x / alpha))), "CeluBackward0")
    return _maybe_in_place(input, y, "celu", inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x))."""
    y = printing(input * tanh(softplus(only_floating("mish", input))), "MishBackward0")
    return _maybe_in_place(input, y, "mish", inplace)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return input / (1 + abs(input))


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return input - tanh(input)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x where |x| > lambd, else 0."""
    x = only_floating("hardshrink", input)
    return printing(where((x >= -lambd) & (x <= lambd), 0.0, x), "HardshrinkBackward0")


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x - lambd where x > lambd, x + lambd where x < -lambd, else 0."""
    if lambd < 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd}.")
    x = only_floating("softshrink", input)
    y = where(x > lambd, x - lambd, where(x < -lambd, x + lambd, x * 0))
    return printing(y, "SoftshrinkBackward0")


def logsigmoid(input: Tensor) -> Tensor:
    """ln(1 / (1 + e^-x))."""
    x = only_floating("logsigmoid", input)
    return printing(-logaddexp(x.new_zeros(()), -x), "LogSigmoidBackward0")


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a sigmoid(b), a and b the halves of input along dim.

    Source: Dauphin et al., Language modeling with gated convolutional networks (2017), eq. 1.
    """
    if not input.ndim:
        raise RuntimeError("glu does not support 0-dimensional tensors")
    if input.size(dim) % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim} is size {input.size(dim)}")
    a, b = only_floating("glu", input).chunk(2, dim)
    return printing(a * b.sigmoid(), "GluBackward0")


def softmin(input: Tensor, dim: int | None = None, dtype: dtypes.dtype | None = None) -> Tensor:
    """softmax(-x) along dim."""
    return _softmax(-input, _implicit_dim("softmin", input, dim), dtype)


@autocasts
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, else weight x: weight (1,) or one number a channel, which is dimension 1."""
    if weight.ndim > 1:
        raise RuntimeError(f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.ndim}")
    if weight.numel() != 1:
        channels = input.size(1) if input.ndim > 1 else 1
        if not input.ndim or weight.numel() != channels:
            raise RuntimeError(
                f"Mismatch of parameter numbers and input channel size. Found parameter numbers = {weight.numel()} and "
                f"channel size = {channels}."
            )
    slopes = weight.reshape(-1, *(1,) * (input.ndim - 2)) if input.ndim > 1 else weight.reshape(())
    return printing(where(input > 0, input, slopes * input), "PreluKernelBackward0")


def _in_place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The form of an activation that writes into its input."""

    @wraps(function)
    def written(*args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs, inplace=True)

    written.__name__ += "_"
    return written


relu_ = _in_place(relu)
leaky_relu_ = _in_place(leaky_relu)
elu_ = _in_place(elu)
selu_ = _in_place(selu)
celu_ = _in_place(celu)
hardtanh_ = _in_place(hardtanh)
threshold_ = _in_place(threshold)
