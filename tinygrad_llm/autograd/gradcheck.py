"""gradcheck: the gradients of backward against finite differences, for any function of tensors and any layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd.derivatives import grad
from tinygrad_llm.autograd.grad_mode import enable_grad, no_grad
from tinygrad_llm.autograd.tensor import Tensor, wrap
from tinygrad_llm.warning import warn


class GradcheckError(RuntimeError):
    """A gradient is wrong, or cannot be judged; the message says which one and where."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Iterable[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    fast_mode: bool = False,
) -> bool:
    """Whether d func / d x by backward equals (func(x + eps) - func(x - eps)) / (2 eps), element by element.

    x runs over the inputs that require a gradient and, where func is a Module, over its parameters that do; func may
    return one tensor or several. Equal is |backward - difference| <= atol + rtol |difference|, which asks for float64:
    `gradcheck(layer.double(), x)`. Away from kinks, that is: at relu's 0 no difference is the derivative.
    fast_mode compares one random direction an input and output instead of every element, for large ones.
    func runs twice on the same input, and so does backward; their results may differ by nondet_tol.

    Raises:
        GradcheckError: unless raise_exception is False, which returns False instead. A gradient is wrong, missing, or
            of a wrong shape; func or its backward writes into what it was given; or func is not deterministic.
        ValueError: nothing requires a gradient.
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    given = {f"input {i}": x for i, x in enumerate(args) if isinstance(x, Tensor)}
    if hasattr(func, "named_parameters"):
        given |= {f"parameter {name!r}": p for name, p in func.named_parameters()}
    variables = {name: x for name, x in given.items() if x.requires_grad}
    if not variables:
        raise ValueError(
            "gradcheck expects at least one input tensor to require gradient, but none of them have requires_grad=True"
        )
    narrow = [f"{name} is {x.dtype}" for name, x in variables.items() if x.dtype is not dtypes.float64]
    if narrow:
        warn(f"gradcheck: finite differences need float64, see .double(): {', '.join(narrow)}")
    try:
        with enable_grad(), np.errstate(all="ignore"):  # what is not finite stands in the message
            _check(func, args, given, variables, eps, atol, rtol, nondet_tol, fast_mode)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _check(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    given: dict[str, Tensor],
    variables: dict[str, Tensor],
    eps: float,
    atol: float,
    rtol: float,
    tolerance: float,
    fast: bool,
) -> None:
    """Raise a GradcheckError at the first thing that is wrong. given: all tensors; variables: those to be judged."""
    before = {name: x.array.copy() for name, x in given.items()}
    outputs = _outputs(func, args, tolerance)
    _check_untouched(given, before, "func")
    slopes = {of: _by_backward(of, y, variables, tolerance, fast) for of, y in outputs.items()}
    _check_untouched(given, before, "backward")
    for name, x in variables.items():
        expected = _by_differences(func, args, x, outputs, eps, fast)
        for of, y in outputs.items():
            _compare(slopes[of][name], expected[of], (of, y), (name, x), atol, rtol)


def _outputs(func: Callable[..., Any], args: tuple[Any, ...], tolerance: float) -> dict[str, Tensor]:
    """The floating tensors that func returns, by name, after a second call has returned the same.

    Those that require no gradient are left out, since a detached result is meant to have none. If none requires one all
    stay, and func must be constant.
    """
    outputs, again = _tensors_in(func(*args)), _tensors_in(func(*args))
    if not outputs:
        raise GradcheckError("gradcheck: func returns no floating tensor")
    if len(outputs) != len(again) or not all(map(_same, outputs, again, [tolerance] * len(outputs))):
        raise GradcheckError(
            "gradcheck: func is not deterministic: two calls on the same inputs differ. Switch off what is random "
            "(eval() for dropout), or allow for it with nondet_tol"
        )
    named = {f"output {k}": y for k, y in enumerate(outputs)}
    return {name: y for name, y in named.items() if y.requires_grad} or named


def _tensors_in(result: Any) -> list[Tensor]:
    """The floating tensors in what a function returned, in order, from inside tuples, lists and dicts."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    if isinstance(result, dict):
        result = result.values()
    elif not isinstance(result, (tuple, list)):
        return []
    return [x for part in result for x in _tensors_in(part)]


def _numbers(array: Any) -> np.ndarray:
    """A raw array of any dtype and device as float64 on the CPU."""
    return devices.move(array, devices.CPU).astype(np.float64)


def _same(a: Tensor, b: Tensor, tolerance: float = 0.0) -> bool:
    """Whether two tensors agree; nan agrees with nan."""
    x, y = _numbers(a.array), _numbers(b.array)
    return x.shape == y.shape and bool(np.all((abs(x - y) <= tolerance) | (x == y) | ((x != x) & (y != y))))


def _check_untouched(tensors: dict[str, Tensor], before: dict[str, Any], who: str) -> None:
    for name, x in tensors.items():
        if not _same(x, wrap(before[name])):
            raise GradcheckError(f"gradcheck: {who} writes into {name} {tuple(x.shape)}; it must work on a copy")


def _probes(x: Tensor, fast: bool) -> np.ndarray:
    """Directions (count, elements of x) in which to look: each element alone, or (fast) one direction among all.

    No component of that direction is small or a whole number, so that errors neither vanish nor cancel.
    """
    n = x.array.size
    if not fast:
        return np.eye(n)
    random = np.random.default_rng(n)
    return (random.choice([-1.0, 1.0], n) * random.uniform(0.5, 1.5, n))[None]


def _by_backward(
    of: str, output: Tensor, variables: dict[str, Tensor], tolerance: float, fast: bool
) -> dict[str, np.ndarray | None]:
    """d output / d variable for each, (probes of output, probes of the variable); None where no gradient arrives."""
    if not output.requires_grad:
        return dict.fromkeys(variables)
    probes = _probes(output, fast)
    rows = [_pull_back(of, output, probe, variables) for probe in probes]
    again = [_pull_back(of, output, probe, variables) for probe in probes[:1]]
    slopes: dict[str, np.ndarray | None] = {}
    for name, x in variables.items():
        found, second = ([row[name] for row in run if name in row] for run in (rows, again))
        if second and not _same(found[0], second[0], tolerance):
            raise GradcheckError(
                f"gradcheck: backward is not repeatable: a second run gives {name} another gradient. A pullback "
                "must not write into what it has captured"
            )
        jacobian = np.array([_numbers(d.array) for d in found]).reshape(len(found), x.array.size)
        slopes[name] = None if not found else jacobian @ _probes(x, fast).T if fast else jacobian
    return slopes


def _pull_back(of: str, output: Tensor, probe: np.ndarray, variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of (probe . output), without the variables at which none arrives."""
    g = wrap(devices.move(probe.reshape(output.array.shape).astype(output.array.dtype), output.device))
    given = g.clone()
    try:
        found = grad([output], list(variables.values()), [g], retain_graph=True, allow_unused=True)
    except Exception as error:
        raise GradcheckError(f"gradcheck: backward from {of} failed: {type(error).__name__}: {error}") from error
    if not _same(g, given):
        raise GradcheckError(f"gradcheck: backward writes into the gradient of {of}; a pullback must make a new array")
    gradients = {name: d for name, d in zip(variables, found, strict=True) if d is not None}
    for name, d in gradients.items():
        if d.shape != variables[name].shape:
            raise GradcheckError(
                f"gradcheck: the gradient of {name} {tuple(variables[name].shape)} has the shape {tuple(d.shape)}"
            )
    return gradients


def _by_differences(
    func: Callable[..., Any], args: tuple[Any, ...], x: Tensor, outputs: dict[str, Tensor], eps: float, fast: bool
) -> dict[str, np.ndarray]:
    """(func(x + eps probe) - func(x - eps probe)) / (2 eps), (probes of the output, probes of x) for each output."""
    start = x.array

    def values(step: np.ndarray) -> dict[str, np.ndarray]:
        moved = _numbers(start) + step.reshape(start.shape)
        x.array = devices.move(np.asarray(moved, start.dtype), x.device)  # in x's place, so that layers see it too
        with no_grad():
            found = _tensors_in(func(*args))
        return {f"output {k}": _numbers(y.array).reshape(-1) for k, y in enumerate(found)}

    try:
        steps = [(values(eps * probe), values(-eps * probe)) for probe in _probes(x, fast)]
    finally:
        x.array = start
    slopes = {}
    for name, y in outputs.items():
        columns = np.array([(above[name] - below[name]) / (2 * eps) for above, below in steps])
        columns = columns.reshape(len(steps), y.array.size)
        slopes[name] = (columns @ _probes(y, fast).T if fast else columns).T
    return slopes


def _compare(
    slopes: np.ndarray | None,
    expected: np.ndarray,
    of: tuple[str, Tensor],
    by: tuple[str, Tensor],
    atol: float,
    rtol: float,
) -> None:
    """Refuse slopes that differ from the expected ones, naming the place where they differ most."""
    found = np.zeros_like(expected) if slopes is None else slopes
    excess = abs(found - expected) - atol - rtol * abs(expected)
    wrong = ~(excess <= 0)  # nan is wrong too
    if not wrong.any():
        return
    row, column = divmod(int(np.argmax(np.where(np.isnan(excess), np.inf, excess))), excess.shape[1])
    whole = wrong.shape == (of[1].array.size, by[1].array.size)
    top, bottom = (_place(*of, row), _place(*by, column)) if whole else (f"along a direction: {of[0]}", by[0])
    message = (
        f"gradcheck: d {top} / d {bottom} is {found[row, column]:.6g} by backward and {expected[row, column]:.6g} by "
        f"finite differences; {wrong.sum()} of {wrong.size} such slopes differ by more than {atol:g} + {rtol:g} |slope|"
    )
    if slopes is None:
        message += f". No gradient arrives at {by[0]}: is it detached on the way (detach(), item(), numpy(), no_grad)?"
    if by[1].dtype is not dtypes.float64:
        message += f". {by[0]} is {by[1].dtype}: try again in float64, see .double()"
    raise GradcheckError(message)


def _place(name: str, x: Tensor, flat: int) -> str:
    """output 0[2, 1]: an element of a tensor, by its number in order."""
    return f"{name}{[int(i) for i in np.unravel_index(flat, x.array.shape)] if x.ndim else ''}"
