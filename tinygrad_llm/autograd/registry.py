"""The op form: one function, arrays in, an array and its pullbacks out.

An op's positional arguments are arrays, Python scalars or None; its keyword-only arguments are static. It returns
`(out, pullbacks)`: a tuple with one callable or None per positional argument, each turning the gradient of out
into that argument's, or one callable `pull(g, needs) -> tuple` where the gradients share work. A pullback never
writes into g or into what it captured, and returns g, a view, a Partial or a fresh array of its own.

Ops can be called on plain arrays at a prompt: `y, (dx, dw) = matmul(x, w)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from tinygrad_llm import devices, kernels
from tinygrad_llm.kernels.memory import empty_again

OPS: dict[str, Op] = {}

watch: Callable[[str, str, Callable[[], Any]], Any] | None = None
"""While somebody measures: runs an op or its pullbacks, given its name, "forward" or "backward", and the call."""


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """A registered op.

    broadcasts: the arguments broadcast against each other, so the engine sums a gradient back to its argument's shape.
    moves: the op moves elements without computing, so 16-bit floats pass as they are and the result may be a view.
    half: 16-bit floats go in as they are, for kernels that know them, and the op gives its result in the right dtype.
    Other ops get them as float32, and the engine rounds what comes out.
    bare: the pullbacks capture no array, so there is nothing to free and a second backward may pass.
    prints: what the grad_fn of a result prints; by default the op's own name: MaskedFillBackward0.
    """

    name: str
    function: Callable[..., Any]
    broadcasts: bool
    moves: bool
    bare: bool = False
    prints: str = ""
    half: bool = False

    def __call__(self, *args: Any, **static: Any) -> tuple[Any, Any]:
        return self.function(*args, **static)

    def printing(self, prints: str) -> Op:
        """The same op for another function of PyTorch's, which prints another name: reshape is also unsqueeze."""
        return _printing(self, prints)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.function.__doc__


@cache
def _printing(op: Op, prints: str) -> Op:
    return replace(op, prints=prints)


def register(
    function: Callable[..., Any] | None = None,
    *,
    broadcasts: bool = False,
    moves: bool = False,
    bare: bool = False,
    prints: str = "",
    half: bool = False,
) -> Any:
    """Make a function an op and enter it into OPS under its name."""
    if function is None:
        return lambda f: register(f, broadcasts=broadcasts, moves=moves, bare=bare, prints=prints, half=half)
    name = function.__name__.rstrip("_")  # `abs_` and `sum_` avoid hiding the builtins
    assert name not in OPS, f"two ops are called {name}"
    OPS[name] = Op(name, function, broadcasts, moves, bare, prints, half)
    return OPS[name]


@dataclass(frozen=True, slots=True)
class Partial:
    """The gradient of an indexed part: zeros of `shape` but for `values` added at `index`.

    unique: no element is named twice by the index, so that plain `+=` adds everything.
    """

    shape: tuple[int, ...]
    index: Any
    values: Any
    unique: bool = True

    def add_into(self, buffer: Any) -> None:
        """buffer[index] += values, in place."""
        if self.unique:
            buffer[self.index] += self.values
        else:
            kernels.of(buffer).add_at(buffer, self.index, self.values)

    def dense(self, like: Any) -> Any:
        """The whole gradient as a fresh array of like's kind and dtype."""
        buffer = empty_again(like, self.shape)
        buffer.fill(0)
        if self.unique:
            buffer[self.index] = self.values  # cheaper than adding to zeros
        else:
            self.add_into(buffer)
        return buffer


class Later(Partial):
    """A gradient that is computed where it is wanted: fresh, or straight into what it is to be added to.

    compute: given None, returns the array, of `dtype`; given a buffer, adds to it. near: an array of the device.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, compute: Callable[[Any], Any], near: Any):
        super().__init__(shape, near, (dtype, compute))

    @property
    def dtype(self) -> Any:
        """Of the array that it becomes."""
        return self.values[0]

    def add_into(self, buffer: Any) -> None:
        """buffer += the gradient, in place."""
        devices.run(self.values[1], [self.index], buffer)

    def dense(self, like: Any) -> Any:
        """The gradient as a fresh array."""
        return devices.run(self.values[1], [self.index], None)
