"""Ways to fill a tensor before training, in place: the formulae and the order of draws are PyTorch's.

fan_in is the number of inputs that one output of a weight (out, in) adds up, fan_out the number of outputs that one
input reaches. A weight whose variance is gain^2 / fan keeps the size of what passes through it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from tinygrad_llm import devices
from tinygrad_llm.autograd import Tensor, no_grad
from tinygrad_llm.random import Generator

_skipping: ContextVar[bool] = ContextVar("skipping random initialisation", default=False)


@contextmanager
def skip_random() -> Iterator[None]:
    """Within it the random functions here leave their tensor as it is, for weights that are about to be overwritten.

    Building a large model only to load its weights, or to fill them by a rule of its own, then costs no draws.
    Constants (zeros, ones) are still filled in.
    """
    token = _skipping.set(True)
    try:
        yield
    finally:
        _skipping.reset(token)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """tensor ~ U[a, b)."""
    if _skipping.get():
        return tensor
    with no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """tensor ~ N(mean, std^2)."""
    if _skipping.get():
        return tensor
    with no_grad():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """tensor ~ N(mean, std^2) restricted to [a, b], by drawing again what is refused.

    Where [a, b] holds much of the distribution the candidates are normal, and refused outside [a, b]. Elsewhere they
    are uniform in [a, b], and kept with the probability that the density has relative to its peak there.

    Raises: ValueError unless a < b and std > 0.
    """
    if not (a < b and std > 0):
        raise ValueError(f"trunc_normal_: needs a < b and std > 0, not a={a}, b={b}, std={std}")
    if _skipping.get():
        return tensor
    inside = 0.5 * (math.erf((b - mean) / std / math.sqrt(2.0)) - math.erf((a - mean) / std / math.sqrt(2.0)))
    peak = (min(max(mean, a), b) - mean) / std
    blank = tensor.detach().clone()

    def candidates() -> np.ndarray:
        if inside > 0.3:
            return blank.clone().normal_(mean, std, generator=generator).array
        return blank.clone().uniform_(a, b, generator=generator).array

    def refused(x: np.ndarray) -> np.ndarray:
        if inside > 0.3:
            return (x < x.dtype.type(a)) | (x > x.dtype.type(b))
        u = blank.clone().uniform_(generator=generator).array
        return np.log(u) > 0.5 * (peak * peak - ((x - mean) / std) ** 2)

    with no_grad(), np.errstate(divide="ignore"):  # log 0 = -inf is a draw like any other
        x = candidates()
        again = refused(x)
        while again.any():
            x = np.where(again, candidates(), x)
            again &= refused(x)
        return tensor.copy_(Tensor(x))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """tensor = val."""
    with no_grad():
        return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """tensor = 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """tensor = 1."""
    return constant_(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """tensor (n, m) = 1 on the diagonal, 0 elsewhere: a linear layer that keeps its input."""
    if tensor.ndim != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    with no_grad():
        tensor.zero_()
        for i in range(min(tensor.shape)):
            tensor[i, i] = 1.0
    return tensor


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which weights must be larger so that values keep their size through a nonlinearity.

    Raises: ValueError for an unknown nonlinearity; `param` is the negative slope of leaky_relu (default 0.01).
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4}
    if nonlinearity not in gains:
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}")
    return gains[nonlinearity]


def _fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, ...); further axes are a receptive field that counts in both."""
    if tensor.ndim < 2:
        raise ValueError("Fan in and fan out can not be computed for tensor with fewer than 2 dimensions")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """tensor ~ U[-a, a), a = gain sqrt(6 / (fan_in + fan_out)).

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010), eq. 16.
    """
    a = gain * math.sqrt(2.0 / sum(_fans(tensor))) * math.sqrt(3.0)
    return uniform_(tensor, -a, a, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """tensor ~ N(0, std^2), std = gain sqrt(2 / (fan_in + fan_out)).

    Source: Glorot and Bengio (2010), eq. 12.
    """
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """tensor ~ U[-b, b), b = gain sqrt(3 / fan); `a` is the negative slope of leaky_relu.

    Source: He et al., Delving deep into rectifiers (2015), eq. 10 and 14.
    """
    if 0 in tensor.shape:
        return tensor
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """tensor ~ N(0, std^2), std = gain / sqrt(fan); `a` is the negative slope of leaky_relu.

    Source: He et al. (2015), eq. 10 and 14.
    """
    if 0 in tensor.shape:
        return tensor
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """tensor (n, ...) = gain times a random matrix (n, m) whose rows, or columns if fewer, are orthonormal.

    Q of a normal matrix's QR factorisation, with the signs of R's diagonal, which makes it uniform over such matrices.
    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning (2013); Mezzadri (2006), section 5.
    """
    if tensor.ndim < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if _skipping.get() or 0 in tensor.shape:
        return tensor
    with no_grad():
        normal = tensor.detach().clone().normal_(0, 1, generator=generator).array.reshape(tensor.shape[0], -1)
        tall = normal if normal.shape[0] >= normal.shape[1] else normal.T
        xp = devices.array_module(tall)
        q, r = xp.linalg.qr(tall)
        q = q * xp.sign(xp.diagonal(r)) * gain
        return tensor.copy_(Tensor((q if tall is normal else q.T).reshape(tensor.shape)))
