"""How a tensor prints: PyTorch's form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes

PRECISION, THRESHOLD, EDGE, WIDTH = 4, 1000, 3, 80  # digits, elements before "...", how many at each edge, columns


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
        shown = _edges(array) if array.size > THRESHOLD else array
        body = _rows(
            array,
            _formatter(shown.astype(np.float32) if array.itemsize == 2 else shown),
            len(prefix),
            array.size > THRESHOLD,
        )
    if tensor.grad_fn is not None:
        suffixes.append(f"grad_fn={tensor.grad_fn!r}")
    elif tensor.requires_grad:
        suffixes.append("requires_grad=True")
    return _with_suffixes(prefix + body, suffixes, len(prefix))


def _with_suffixes(text: str, suffixes: list[str], indent: int) -> str:
    """The suffixes behind the elements, on a new line where the last one is full."""
    last = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if last + len(suffix) + 2 > WIDTH:
            text += ",\n" + " " * indent + suffix
            last = indent + len(suffix)
        else:
            text += ", " + suffix
            last += len(suffix) + 2
    return text + ")"


def _edges(array: np.ndarray) -> np.ndarray:
    """The elements that are shown of a large array."""
    for axis, n in enumerate(array.shape):
        if n > 2 * EDGE:
            array = np.take(array, [*range(EDGE), *range(n - EDGE, n)], axis=axis)
    return array


def _formatter(shown: np.ndarray) -> Any:
    """A function from an element to text of one width, chosen from all elements that are shown."""
    if shown.dtype.kind in "iub":
        width = max(len(str(v)) for v in shown.reshape(-1).tolist())
        return lambda v: f"{v!s:>{width}}"
    values = shown.reshape(-1).astype(np.float64)
    magnitudes = np.abs(values[np.isfinite(values) & (values != 0)])
    if magnitudes.size == 0:
        write = _plain(0)
    else:
        largest, smallest = float(magnitudes.max()), float(magnitudes.min())
        whole = bool((magnitudes == np.ceil(magnitudes)).all())
        scientific = largest / smallest > 1000 or largest > 1e8 or (not whole and smallest < 1e-4)
        if scientific and (not whole or largest > 1e8):
            write = _scientific
        else:
            write = _plain(0) if whole else _plain(PRECISION)
    width = max(len(write(v)) for v in values.tolist())
    return lambda v: write(float(v)).rjust(width)


def _plain(digits: int) -> Any:
    def write(v: float) -> str:
        return f"{v:.{digits}f}" + ("." if digits == 0 and math.isfinite(v) else "")

    return write


def _scientific(v: float) -> str:
    return f"{v:.{PRECISION}e}"


def _rows(array: np.ndarray, write: Any, indent: int, summarise: bool) -> str:
    """Nested brackets: the last dimension on lines of WIDTH columns, blank lines between matrices."""
    if array.ndim == 0:
        return write(array.item())
    n = array.shape[0]
    cut = summarise and n > 2 * EDGE
    head = range(EDGE) if cut else range(n)
    tail = range(n - EDGE, n) if cut else range(0)
    if array.ndim == 1:
        cells = (
            [write(array[i].item()) for i in head] + (["..."] if cut else []) + [write(array[i].item()) for i in tail]
        )
        per_line = max(1, (WIDTH - indent) // (max(len(write(array[i].item())) for i in head) + 2))
        lines = [", ".join(cells[i : i + per_line]) for i in range(0, len(cells), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = [_rows(array[i], write, indent + 1, summarise) for i in head]
    parts += ["..."] if cut else []
    parts += [_rows(array[i], write, indent + 1, summarise) for i in tail]
    return "[" + ("," + "\n" * (array.ndim - 1) + " " * (indent + 1)).join(parts) + "]"
