"""What the functions share at their border: dimensions, promotion, sizes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes, kernels
from tinygrad_llm.autograd.methods import near
from tinygrad_llm.autograd.ops import elementwise as ops
from tinygrad_llm.autograd.tensor import Tensor, apply, on_one_device, wrap


@near
def cast(x: Tensor, dtype: dtypes.dtype) -> Tensor:
    """x in a dtype; x itself if it has that already. Only floats take their gradient along."""
    if type(dtype) is not dtypes.dtype:
        dtype = dtypes.argument(dtype)
    if x.array.dtype == dtype.numpy:
        return x
    if not dtype.is_floating_point:
        return wrap(x.array.astype(dtype.numpy))
    return apply(ops.cast, x, dtype=dtype.numpy)


def floating(x: Tensor) -> Tensor:
    """x, integers and bools turned into the default floating dtype."""
    if not isinstance(x, Tensor):
        raise TypeError(f"expected a Tensor, not {type(x).__name__}")
    return x if x.dtype.is_floating_point else cast(x, dtypes.get_default_dtype())


def result_type(*operands: Any) -> dtypes.dtype:
    """The dtype that an op on these tensors and numbers computes in.

    Tensors with dimensions decide; a 0-d tensor, and after it a number, only lifts the category (bool < integer <
    float).
    """
    ranks: list[dtypes.dtype | None] = [None, None, None]  # with dimensions, 0-d, numbers
    for operand in operands:
        if isinstance(operand, Tensor):
            rank, dtype = (0 if operand.array.ndim else 1), operand.dtype
        else:
            rank, dtype = 2, dtypes.of_scalar(operand)
        known = ranks[rank]
        ranks[rank] = dtype if known is None else dtypes.promote_types(known, dtype)
    result: dtypes.dtype | None = None
    for lower in ranks:
        if lower is not None and (result is None or lower.category > result.category):
            result = lower if result is None else dtypes.promote_types(result, lower)
    assert result is not None
    return result


def number(value: Any) -> Any:
    """A NumPy scalar as a Python number, which does not lift float32 to float64; all else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def raw(x: Any) -> Any:
    """A tensor's array; all else as it is."""
    return x.array if isinstance(x, Tensor) else x


def pair(a: Any, b: Any, at_least: int = dtypes.BOOL) -> tuple[Any, Any]:
    """Two operands in their common dtype, lifted to the default float where their category is below at_least.

    A Python number stays one, unless both are numbers: NumPy computes it in the other operand's dtype.
    """
    if type(b) is float and isinstance(a, Tensor) and a.array.dtype.kind == "f":
        return a, b  # the commonest cases first: recording an op must cost little
    if devices.in_use:
        (a, b), _ = on_one_device("pair", (a, b))
    if (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.array.dtype is b.array.dtype
        and a.dtype.category >= at_least
    ):
        return a, b
    a, b = _operand(a), _operand(b)
    dtype = result_type(a, b)
    if dtype.category < at_least:
        dtype = dtypes.get_default_dtype()
    return _in_dtype(a, dtype), _in_dtype(b, dtype)


def _operand(value: Any) -> Any:
    value = wrap(value) if isinstance(value, np.ndarray) else number(value)
    if not isinstance(value, (Tensor, bool, int, float)):
        raise TypeError(f"unsupported operand: expected a Tensor or a number, not {type(value).__name__}")
    return value


def _in_dtype(value: Any, dtype: dtypes.dtype) -> Any:
    if isinstance(value, Tensor):
        return cast(value, dtype)
    if dtype.category == dtypes.FLOAT:
        return float(value)
    return dtypes.wrapped(value, dtype) if dtype.category == dtypes.INTEGER else value


def common(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors cast to their common dtype."""
    dtype = result_type(*tensors)
    return [cast(t, dtype) for t in tensors]


def dimension(dim: int, ndim: int) -> int:
    """dim counted from the front. A 0-d tensor counts as having one dimension.

    Raises:
        IndexError: there is no such dimension.
    """
    n = max(ndim, 1)
    if not -n <= dim < n:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-n}, {n - 1}], but got {dim})")
    return dim % n


def dimensions(dim: Any, ndim: int) -> tuple[int, ...] | None:
    """One dim or several as a tuple counted from the front; None and () mean all, which is None."""
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return None
    dims = distinct([dim] if isinstance(dim, int) else dim, ndim)
    return None if not ndim else dims


def sizes(args: tuple[Any, ...], named: Any = None) -> tuple[int, ...]:
    """f(2, 3), f((2, 3)) and f(name=(2, 3)) alike -> (2, 3)."""
    if named is not None:
        return tuple(operator.index(n) for n in (named if isinstance(named, (tuple, list)) else (named,)))
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        args = tuple(args[0])
    return tuple(operator.index(n) for n in args)


def check_tensor(name: str, x: Any, argument: str = "input") -> Tensor:
    """x, if it is a tensor.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}(): argument '{argument}' must be Tensor, not {type(x).__name__}")
    return x


def distinct(dims: Sequence[int], ndim: int) -> tuple[int, ...]:
    """dims counted from the front.

    Raises:
        RuntimeError: one is named twice. IndexError: there is no such dimension.
    """
    axes = tuple(dimension(d, ndim) for d in dims)
    if len(set(axes)) < len(axes):
        raise RuntimeError(
            f"dim {next(d for d in axes if axes.count(d) > 1)} appears multiple times in the list of dims"
        )
    return axes


def outside(name: str, ids: Any, low: int, high: int) -> int | None:
    """An index that lies outside of [low, high), if there is one; on a GPU a kernel looks, and that is told later."""
    if not isinstance(ids, np.ndarray):
        devices.run(kernels.check_index, [ids], ids, low, high, name)
        return None
    if not ids.size:
        return None
    least, most = int(ids.min()), int(ids.max())
    return least if least < low else most if most >= high else None


def check_broadcast(name: str, *operands: Any) -> None:
    """Refuse shapes that do not broadcast, in PyTorch's words."""
    shapes = [x.array.shape for x in operands if isinstance(x, Tensor)]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        a, b = shapes[0], shapes[1]
        for axis in range(1, min(len(a), len(b)) + 1):
            m, n = a[-axis], b[-axis]
            if m != n and 1 not in (m, n):
                raise RuntimeError(
                    f"{name}: The size of tensor a ({m}) must match the size of tensor b ({n}) at non-singleton "
                    f"dimension {max(len(a), len(b)) - axis}"
                ) from None
        raise RuntimeError(f"{name}: shapes {', '.join(map(str, shapes))} do not broadcast") from None
