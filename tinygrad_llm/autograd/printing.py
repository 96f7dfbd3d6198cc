"""How a tensor prints: PyTorch's form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes


@dataclass
class Options:
    """How tensors print.

    precision: digits after the point. threshold: "..." stands for the middle of a tensor of more elements, of which
    edgeitems are shown at each edge. linewidth: columns. sci_mode: with an exponent always, never, or (None) where
    numbers of very different size meet.
    """

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


PROFILES = {"default": Options(), "short": Options(2, 1000, 2), "full": Options(4, math.inf)}
options = Options()


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Change how tensors print from now on; see Options. profile: "default", "short" or "full", changed by the others.

    Raises:
        ValueError: an unknown profile.
    """
    global options
    if profile is not None:
        if profile not in PROFILES:
            raise ValueError(f"set_printoptions: unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
        chosen = PROFILES[profile]
        options = replace(options, precision=chosen.precision, threshold=chosen.threshold,
                          edgeitems=chosen.edgeitems, linewidth=chosen.linewidth)  # fmt: skip
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    options = replace(options, **changes, sci_mode=sci_mode)


def tensor_text(tensor: Any) -> str:
    """tensor([...], dtype=..., grad_fn=<...>), the dtype only where it is not the usual one."""
    array = devices.move(tensor.array, devices.CPU)
    prefix = "tensor("
    suffixes = []
    if tensor.device.type != "cpu":
        suffixes.append(f"device='{tensor.device}'")
    if array.size == 0:
        body = "[]"
        if array.shape != (0,):
            suffixes.append(f"size={tuple(array.shape)}")
        if tensor.dtype is not dtypes.get_default_dtype():
            suffixes.append(f"dtype={tensor.dtype}")
    else:
        if tensor.dtype not in (dtypes.get_default_dtype(), dtypes.int64, dtypes.bool_):
            suffixes.append(f"dtype={tensor.dtype}")
        summarise = array.size > options.threshold
        body = _rows(array, *_writer(_edges(array) if summarise else array), len(prefix), summarise)
    if tensor.grad_fn is not None:
        suffixes.append(f"grad_fn={tensor.grad_fn!r}")
    elif tensor.requires_grad:
        suffixes.append("requires_grad=True")
    return _with_suffixes(prefix + body, suffixes, len(prefix))


def _with_suffixes(text: str, suffixes: list[str], indent: int) -> str:
    """The suffixes behind the elements, on a new line where the last one is full."""
    last = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if last + len(suffix) + 2 > options.linewidth:
            text += ",\n" + " " * indent + suffix
            last = indent + len(suffix)
        else:
            text += ", " + suffix
            last += len(suffix) + 2
    return text + ")"


def _edges(array: np.ndarray) -> np.ndarray:
    """The elements that are shown of a large array."""
    for axis, n in enumerate(array.shape):
        if n > 2 * options.edgeitems:
            array = np.take(array, [*range(options.edgeitems), *range(n - options.edgeitems, n)], axis=axis)
    return array


def _writer(array: np.ndarray) -> tuple[Any, int]:
    """A function from an element to text, and the width it fills, chosen from the elements that are shown.

    Floats that are all whole are written as `3.`, else with `precision` digits; with an exponent where the finite
    elements other than 0 differ by more than 1000 times, or the largest exceeds 1e8, or the smallest is below 1e-4.
    """
    if array.dtype.kind in "iub":
        width = max(len(str(v)) for v in array.reshape(-1).tolist())
        return (lambda v: f"{v!s:>{width}}"), width
    values = array.astype(np.float64)
    values = values[np.isfinite(values) & (values != 0)]
    largest, smallest = (np.abs(values).max(), np.abs(values).min()) if values.size else (1.0, 1.0)
    whole = bool((values == np.ceil(values)).all())
    exponent = largest / smallest > 1000 or largest > 1e8 or smallest < 1e-4
    if exponent if options.sci_mode is None else options.sci_mode:
        form = f".{options.precision}e"
    else:
        form = ".0f" if whole else f".{options.precision}f"
    point = "." if form == ".0f" else ""
    width = max((len(f"{v:{form}}{point}") for v in values.tolist()), default=1)
    return (lambda v: f"{v:{form}}{point if math.isfinite(v) else ''}".rjust(width)), width


def _rows(array: np.ndarray, write: Any, width: int, indent: int, summarise: bool) -> str:
    """Nested brackets: the last dimension on lines of `linewidth` columns, blank lines between matrices."""
    if array.ndim == 0:
        return write(array.item())
    n = array.shape[0]
    edge = options.edgeitems
    places = [*range(edge), *range(n - edge, n)] if summarise and n > 2 * edge else range(n)
    if array.ndim == 1:
        cells = [write(array[i].item()) for i in places]
        per_line = max(1, (options.linewidth - indent) // (width + 2))
        joint, dots = ",\n" + " " * (indent + 1), " ..."
    else:
        cells = [_rows(array[i], write, width, indent + 1, summarise) for i in places]
        per_line = 1
        joint, dots = "," + "\n" * (array.ndim - 1) + " " * (indent + 1), "..."
    if len(places) < n:
        cells.insert(edge, dots)
    lines = [", ".join(cells[i : i + per_line]) for i in range(0, len(cells), per_line)]
    return "[" + joint.join(lines) + "]"
