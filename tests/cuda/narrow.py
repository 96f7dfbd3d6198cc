"""Calls of the CUDA kernels on 16-bit floats, and what they must give: the reference's results, rounded once.

A kernel reads 16-bit numbers, computes in float32 and rounds what it writes. So it is held against the reference in
float64 on the same numbers, whose results are rounded to the same dtype: they differ where float32's error crosses a
border between two 16-bit numbers, by a unit in the last place, and nowhere by more.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tests.cuda.cases import Call, of_rows
from tests.kernels.test_kernels import floats
from tinygrad_llm import dtypes
from tinygrad_llm.kernels import REFERENCE

DTYPES = {"bfloat16": np.dtype(dtypes.bfloat16.numpy), "float16": np.dtype(np.float16)}
EPS = {DTYPES["bfloat16"]: 2.0**-7, DTYPES["float16"]: 2.0**-10, np.dtype(np.float32): 0.0}

# of each kernel's arguments the one whose dtype a result takes, -1 for float32
GIVES = {
    "activate": (0,), "softmax": (0,), "softmax_backward": (1,), "layer_norm": (0, -1, -1), "rms_norm": (0, -1),
    "layer_norm_backward": (1, -1, -1), "rms_norm_backward": (1, -1), "dropout_add_norm_backward": (0, 2, -1, -1),
    "cross_entropy": (-1, -1), "cross_entropy_backward": (0,), "column_sums": (-1,),
}  # fmt: skip

# of each case's arrays those that stay float32 whatever the dtype, and those that may
FLOAT32 = {"cross_entropy_backward": (2, 3, 4), "linear_cross_entropy": (3,)}
WEIGHTS = {
    "activate": (1,), "activate_backward": (2,), "dropout, added": (1,), "layer_norm": (1, 2), "rms_norm": (1,),
    "layer_norm_backward": (2,), "rms_norm_backward": (2,), "add_at": (0,), "linear_cross_entropy": (1,),
    "dropout_add_norm": (1, 2, 3), "dropout_add_norm_backward": (1, 3, 4),
}  # fmt: skip
NOT_YET = ("adamw", "sum_squares", "unscale", "clip", "keep_mask")  # of float32 alone, or of no numbers at all


class Rounded:
    """The reference in float64 on 16-bit arrays, each result in the dtype that the CUDA kernels give it."""

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, name)

    def _call(self, name: str, *args: Any) -> Any:
        found = getattr(REFERENCE, name)(*map(_wide, args))
        if not isinstance(found, tuple):
            return _rounded(found, args, GIVES[name][0])
        return tuple(_rounded(y, args, place) for y, place in zip(found, GIVES[name], strict=True))

    def dropout(self, x: Any, keep: Any, p: float, plus: Any = None) -> Any:
        y = REFERENCE.dropout(_wide(x), keep, p, _wide(plus))
        return y.astype(x.dtype if plus is None else plus.dtype)

    def activate_backward(
        self, g: Any, x: Any, bias: Any, form: str, needs: Any, y: Any = None, into: Any = None
    ) -> Any:
        if y is not None:
            y[...] = REFERENCE.activate(_wide(x), _wide(bias), form)
        into = np.empty_like(x) if into is None else into
        into[...], dbias = REFERENCE.activate_backward(_wide(g), _wide(x), _wide(bias), form, (True, True))
        return into, dbias.astype(np.float32) if needs[1] else None

    def dropout_add_norm(self, x: Any, keep: Any, p: float, shortcut: Any, weight: Any, bias: Any, eps: float) -> Any:
        """The norm is that of the sum as it is stored."""
        keep = np.ones(x.shape, bool) if keep is None else keep
        s = self.dropout(x, keep, p, shortcut)
        y, mean, rstd = REFERENCE.layer_norm(*map(_wide, (s, weight, bias)), eps)
        return s, y.astype(x.dtype), mean.astype(np.float32), rstd.astype(np.float32)

    def add_at(self, buffer: Any, index: Any, values: Any) -> None:
        total = _wide(buffer)
        REFERENCE.add_at(total, index, _wide(values))
        buffer[...] = total

    def linear_cross_entropy(self, x: Any, weight: Any, targets: Any, g: Any, needs: Any) -> Any:
        """Logits and their gradients are 16-bit numbers, too; weight is first rounded to what x is."""
        dtype = x.dtype
        x, weight, g = _wide(x), _wide(weight.astype(dtype)), _wide(g)
        logits = (x @ weight.T).astype(dtype).astype(np.float64)
        nll, lse = REFERENCE.cross_entropy(logits, targets)
        d = REFERENCE.cross_entropy_backward(logits, targets, lse, g, g, 0 * g).astype(dtype).astype(np.float64)
        return nll.astype(np.float32), (d @ weight).astype(dtype), (d.T @ x).astype(np.float32)


def _wide(a: Any) -> Any:
    return a.astype(np.float64) if hasattr(a, "dtype") and a.dtype in EPS else a


def _rounded(y: Any, args: Any, place: int) -> Any:
    return None if y is None else y.astype(np.float32 if place < 0 else args[place].dtype, copy=False)


def in_half(name: str, arrays: list[np.ndarray], dtype: np.dtype, narrow_weights: bool) -> list[np.ndarray]:
    """A case's arrays in a 16-bit dtype."""
    wide = {*FLOAT32.get(name.split(",")[0], ()), *(() if narrow_weights else WEIGHTS.get(name, ()))}
    return [a.astype(dtype) if a.dtype.kind == "f" and i not in wide else a for i, a in enumerate(arrays)]


def half_calls(n: int, c: int, label: str, narrow_weights: bool = True) -> dict[str, Call]:
    """Calls of each kernel on 16-bit arrays (n, c); else only those where weights beside them are float32."""
    found: dict[str, Call] = {}
    for name, (call, arrays) in of_rows(n, c).items():
        kernel, form = name.split(",")[0], "gelu_tanh" if name.startswith("activate") else ""
        key = name if name in WEIGHTS else kernel
        if kernel in NOT_YET or form not in name or not (narrow_weights or WEIGHTS.get(key, (9,))[0] < len(arrays)):
            continue
        weights = "" if narrow_weights else ", float32 weights"
        found[f"{name}, {n} x {c}, {label}{weights}"] = call, in_half(key, arrays, DTYPES[label], narrow_weights)
    return found


def close(y: Any, z: Any, terms: int) -> None:
    """y as z to a unit in the last place of their dtype, and float32's error in a sum of so many terms."""
    eps = EPS[y.dtype]
    assert y.dtype == z.dtype and y.shape == z.shape
    y, z = y.astype(np.float64), z.astype(np.float64)
    finite = np.isfinite(z)
    largest = np.abs(z[finite]).max(initial=0)
    tolerance = 8 * np.finfo(np.float32).eps * max(terms, 16) * (1 + largest)
    np.testing.assert_allclose(y, z, rtol=eps, atol=tolerance)


def extremes(dtype: np.dtype) -> np.ndarray:
    """Rows with the largest number, infinity and nan, and one of tiny numbers."""
    top = float(np.float32(65504 if dtype == np.float16 else 3.3895314e38))
    rows = floats(6, 40)
    rows[0, 3], rows[1, 5], rows[2, 7] = np.nan, np.inf, -np.inf
    rows[3, 11], rows[3, 12], rows[4] = top, -top, rows[4] * 1e-7
    return rows.astype(dtype)


def half_choices() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Logits of 16 bits, among which ties are many, and numbers to draw by."""
    for (label, dtype), v in ((kind, v) for kind in DTYPES.items() for v in (33, 700)):
        yield f"{label}, {v}", (3 * floats(6, v)).astype(dtype), np.random.default_rng(v).random((6, 1))

