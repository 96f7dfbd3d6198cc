"""The same call here and in PyTorch, and where the two differ.

A call is written once, free of either library: tensors are `X` (values, dtype, layout in memory), dtypes are `D`.
The judge builds the arguments in both libraries, makes both calls and compares results, gradients and exceptions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import tinygrad_llm as ours

FLOATS = ("float64", "float32", "float16", "bfloat16")
TOLERANCE = {"float64": 1e-9, "float32": 3e-5, "float16": 4e-3, "bfloat16": 3e-2}  # of a result's largest number


@dataclass(frozen=True)
class X:
    """A tensor argument. layout: how it lies in memory; grad: whether its gradient is compared (floats only)."""

    values: Any
    dtype: str = "float64"
    layout: str = "plain"  # plain, transposed, stepped, or expanded (values hold 1 where `shape` is wider)
    grad: bool = True
    shape: tuple[int, ...] | None = None

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    def build(self, lib: Any) -> Any:
        """The tensor in a library."""
        values, dtype = np.asarray(self.values), getattr(lib, self.dtype)
        if self.layout == "transposed" and values.ndim > 1:
            t = _plain(lib, values.transpose(), dtype)
            t = t.permute(*reversed(range(values.ndim)))
        elif self.layout == "stepped" and values.ndim:
            t = _plain(lib, np.repeat(values, 2, axis=-1), dtype)[..., ::2]
        else:
            t = _plain(lib, values, dtype)
        if self.layout == "expanded":
            t = t.expand(self.shape)
        return t.requires_grad_() if self.is_float and self.grad else t


def _plain(lib: Any, values: np.ndarray, dtype: Any) -> Any:
    return lib.from_numpy(np.array(values, order="C")).to(dtype)


@dataclass(frozen=True)
class D:
    """A dtype argument, by name."""

    name: str


@dataclass(frozen=True)
class Call:
    """The arguments of one call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def map(self, change: Callable[[X], X]) -> Call:
        """The same call with every tensor changed."""
        return Call(_map(change, self.args), _map(change, self.kwargs))

    def tensors(self) -> list[X]:
        found: list[X] = []

        def note(x: X) -> X:
            found.append(x)
            return x

        self.map(note)
        return found

    def __repr__(self) -> str:
        keywords = [f"{k}={_text(v)}" for k, v in self.kwargs.items()]
        return f"({', '.join([_text(a) for a in self.args] + keywords)})"


def _text(value: Any) -> str:
    if isinstance(value, X):
        shape = value.shape or np.shape(value.values)
        small = f" {np.asarray(value.values).tolist()}" if np.size(value.values) <= 4 else ""
        return f"<{value.dtype} {shape} {value.layout}{small}>"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    return repr(value)


def call(*args: Any, **kwargs: Any) -> Call:
    return Call(args, kwargs)


def _map(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, (X, D)):
        return change(value) if isinstance(value, X) else value
    if isinstance(value, dict):
        return {k: _map(change, v) for k, v in value.items()}
    return type(value)(_map(change, v) for v in value) if type(value) in (list, tuple) else value


def _build(lib: Any, value: Any, made: list[Any]) -> Any:
    """Arguments in a library; the tensors whose gradient is wanted are appended to `made`."""
    if isinstance(value, X):
        tensor = value.build(lib)
        if tensor.requires_grad:
            made.append(tensor)
        return tensor
    if isinstance(value, D):
        return getattr(lib, value.name)
    if isinstance(value, dict):
        return {k: _build(lib, v, made) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_build(lib, v, made) for v in value)
    return value


def to_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "requires_grad")


def flat(result: Any) -> list[Any]:
    """The tensors and numbers of a result, in order."""
    if isinstance(result, (list, tuple)) and not hasattr(result, "numel"):
        return [leaf for part in result for leaf in flat(part)]
    return [result]


@dataclass
class Outcome:
    """What a call gave: tensors as arrays with their dtypes, gradients, or an exception."""

    results: list[tuple[Any, str]] = field(default_factory=list)
    gradients: list[tuple[Any, str]] = field(default_factory=list)
    error: Exception | None = None


def _describe(value: Any) -> tuple[Any, str]:
    if _is_tensor(value):
        name = str(value.dtype).removeprefix("torch.")
        return to_numpy(value), f"{name} requires_grad" if value.requires_grad else name
    return (tuple(value) if isinstance(value, tuple) else value), type(value).__name__


def outcome(lib: Any, function: Callable[..., Any], sample: Call) -> Outcome:
    """Make the call in one library, and the sweep back with a direction that is the same in both."""
    made: list[Any] = []
    args, kwargs = _build(lib, sample.args, made), _build(lib, sample.kwargs, made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = flat(function(*args, **kwargs))
            roots = [r for r in result if _is_tensor(r) and r.requires_grad]
            directions = [_plain(lib, _direction(tuple(r.shape)), r.dtype) for r in roots]
            gradients = lib.autograd.grad(roots, made, directions, materialize_grads=True) if roots and made else []
        except Exception as error:
            return Outcome(error=error)
    return Outcome([_describe(r) for r in result], [_describe(g) for g in gradients])


def _direction(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers between 0.5 and 1.5 that follow no simple pattern."""
    return 0.5 + np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape) * 0.618034 % 1


def _close(a: Any, b: Any, dtype: str) -> bool:
    if not isinstance(b, np.ndarray):
        return a == b or (isinstance(b, float) and bool(np.isclose(a, b, rtol=1e-9)))
    if a.shape != b.shape:
        return False
    if b.dtype.kind != "f":
        return bool((a == b).all())
    finite = np.abs(b[np.isfinite(b)])
    tolerance = TOLERANCE[dtype.split()[0]]
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, finite.max(initial=0.0)), equal_nan=True))


def _difference(kind: str, mine: list[tuple[Any, str]], theirs: list[tuple[Any, str]]) -> str | None:
    if len(mine) != len(theirs):
        return f"{len(mine)} {kind}s here, {len(theirs)} there"
    for i, ((a, a_type), (b, b_type)) in enumerate(zip(mine, theirs, strict=True)):
        if a_type != b_type:
            return f"{kind} {i}: {a_type} here, {b_type} there"
        if isinstance(b, np.ndarray) and a.shape != b.shape:
            return f"{kind} {i}: shape {a.shape} here, {b.shape} there"
        if not _close(a, b, b_type):
            return f"{kind} {i}:\n{a}\nhere,\n{b}\nthere"
    return None


def difference(torch: Any, mine: Callable[..., Any], theirs: Callable[..., Any], sample: Call) -> str | None:
    """How the two libraries differ on a call, or None."""
    here, there = outcome(ours, mine, sample), outcome(torch, theirs, sample)
    if there.error is not None or here.error is not None:
        if type(here.error) is type(there.error):
            return None
        return f"here {type(here.error).__name__} ({here.error}), there {type(there.error).__name__} ({there.error})"
    results = _difference("result", here.results, there.results)
    return results or _difference("gradient", here.gradients, there.gradients)


def told(lib: Any, code: str) -> tuple[Any, str]:
    """What statements, the last of which is an expression, give in a library `lib`: a value or an exception's class."""
    names: dict[str, Any] = {"lib": lib, "np": np, "F": lib.nn.functional}
    *statements, expression = code.split("; ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec("\n".join(statements), names)
            return _describe(eval(expression, names))
        except Exception as error:
            return type(error), "raised"


def same(torch: Any, code: str) -> bool:
    """Whether statements give the same here and in PyTorch."""
    (mine, my_type), (theirs, their_type) = told(ours, code), told(torch, code)
    if my_type != their_type or my_type == "raised":
        return my_type == their_type and mine is theirs
    return np.shape(mine) == np.shape(theirs) and _close(mine, theirs, their_type)


def resolve(lib: Any, name: str) -> Any:
    """A function by its dotted name below the library, e.g. nn.functional.gelu or Tensor.view."""
    for part in name.split("."):
        lib = getattr(lib, part)
    return lib


def in_layouts(samples: Iterable[Call]) -> list[Call]:
    """Each sample as it is, and again with its tensors transposed and stepped in memory where that means something."""
    every = []
    for sample in samples:
        every.append(sample)
        tensors = sample.tensors()
        if any(x.layout == "plain" and np.ndim(x.values) for x in tensors):
            every.append(sample.map(lambda x: replace(x, layout="stepped") if x.layout == "plain" else x))
        if any(x.layout == "plain" and np.ndim(x.values) > 1 for x in tensors):
            every.append(sample.map(lambda x: replace(x, layout="transposed") if x.layout == "plain" else x))
    return every


def in_dtype(sample: Call, dtype: str) -> Call:
    """A sample with its floating tensors in another dtype."""
    return sample.map(lambda x: replace(x, dtype=dtype) if x.is_float else x)
