"""cublasLt and cuBLAS as their manual has them, on pretended arrays: they read and write what the pointers point to.

Matrices lie column by column, a leading dimension apart. Memory that no array was known to own is refused, and so is
what the libraries refuse: steps that are too short, epilogues without their pointers, addresses less aligned than said.
"""

from __future__ import annotations

import ctypes
import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.cuda import recorded
from tinygrad_llm import dtypes

KINDS = {0: np.dtype(np.float32), 2: np.dtype(np.float16), 14: np.dtype(dtypes.bfloat16.numpy)}
WIDTHS = {"matmul_desc": {"TRANSA": "i4", "TRANSB": "i4", "EPILOGUE": "u4", "BIAS_POINTER": "u8",
                          "EPILOGUE_AUX_POINTER": "u8", "EPILOGUE_AUX_LD": "i8"},
          "matrix_layout": {"BATCH_COUNT": "i4", "STRIDED_BATCH_OFFSET": "i8"},
          "matmul_preference": {"MAX_WORKSPACE_BYTES": "u8", **{f"MIN_ALIGNMENT_{x}_BYTES": "u4" for x in "ABCD"}}}
FACTORS_AND_RESULTS = {(0, 0), (2, 2), (2, 0), (14, 14), (14, 0)}  # that are multiplied in float32
EPILOGUES = {"DEFAULT": 1, "BIAS": 4, "GELU": 32, "GELU_BIAS": 36, "GELU_AUX": 160, "GELU_AUX_BIAS": 164,
             "BGRADB": 512}


class cuBLASLtError(Exception):
    status = 15


def _number(of: str, name: str) -> int:
    return list(WIDTHS[of]).index(name)


def _at(address: int, kind: np.dtype, shape: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """The array at an address, its axes so many elements apart."""
    last = sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    raw = (ctypes.c_char * ((last + 1) * kind.itemsize)).from_address(address)
    flat = np.frombuffer(raw, kind)
    return np.lib.stride_tricks.as_strided(flat, shape, [s * kind.itemsize for s in steps])


def product(
    first: np.ndarray, second: np.ndarray, out: np.ndarray, alpha: float, beta: float, epilogue: str = "DEFAULT",
    bias: np.ndarray | None = None, aux: np.ndarray | None = None,
) -> None:  # fmt: skip
    """out = epilogue(alpha first second + beta out), all (B, m, k) (B, k, n) (B, m, n), computed in float32."""
    y = alpha * (first.astype(np.float32) @ second.astype(np.float32))
    if beta:
        y = y + beta * out.astype(np.float32)
    if epilogue in ("BIAS", "GELU_BIAS", "GELU_AUX_BIAS"):
        y = y + bias.astype(np.float32)[:, None]
    if "AUX" in epilogue:
        aux[...] = y
    if epilogue.startswith("GELU"):
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    if epilogue == "BGRADB":
        bias[...] = second[0].astype(np.float32).sum(axis=0)
    out[...] = y


class Library:
    """nvmath.bindings.cublasLt. calls: of each product its epilogue.

    refused: epilogues without an algorithm. failing: those whose algorithm then fails.
    """

    matmul_heuristic_result_dtype = np.dtype([("algo", "u8", (8,)), ("workspace_size", "u8"), ("state", "i4")])
    Epilogue = SimpleNamespace(**EPILOGUES)
    cuBLASLtError = cuBLASLtError

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.betas: list[tuple[float, str]] = []
        self.refused: set[str] = set()
        self.failing: set[str] = set()
        self.made: dict[int, dict[str, Any]] = {}
        self.count = itertools.count(1)
        for of, name in (("matmul_desc", "MatmulDescAttribute"), ("matrix_layout", "MatrixLayoutAttribute"),
                         ("matmul_preference", "MatmulPreferenceAttribute")):  # fmt: skip
            setattr(self, name, SimpleNamespace(**{key: _number(of, key) for key in WIDTHS[of]}))
            widths = list(WIDTHS[of].values())
            setattr(self, f"get_{of}_attribute_dtype", lambda number, widths=widths: np.dtype(widths[number]))
            setattr(self, f"{of}_set_attribute", lambda *args, of=of: self._set(of, *args))

    def _new(self, **values: Any) -> int:
        number = next(self.count)
        self.made[number] = values
        return number

    def _set(self, of: str, place: int, number: int, address: int, size: int) -> None:
        name, width = list(WIDTHS[of].items())[number]
        assert np.dtype(width).itemsize == size, name
        self.made[place][name] = int(_at(address, np.dtype(width), (1,), (1,))[0])

    def create(self) -> int:
        return self._new()

    def matmul_desc_create(self, compute: int, scale: int) -> int:
        assert compute in (68, 77) and scale == 0
        return self._new(compute=compute)

    def matrix_layout_create(self, kind: int, rows: int, columns: int, step: int) -> int:
        assert step >= rows > 0 and columns > 0, "the leading dimension is at least the number of rows"
        return self._new(number=kind, kind=KINDS[kind], rows=rows, columns=columns, step=step)

    def matmul_preference_create(self) -> int:
        return self._new()

    def matmul_preference_destroy(self, place: int) -> None:
        del self.made[place]

    def matmul_algo_get_heuristic(self, handle: int, description: int, *rest: int) -> None:
        a, b, c, d, preference, wanted, results, found = rest
        assert wanted == 1 and c == d
        self._check_kinds(self.made[description], *(self.made[layout] for layout in (a, b, d)))
        wish = self.made[preference]
        told = tuple(wish[f"MIN_ALIGNMENT_{x}_BYTES"] for x in "ABD")
        self.made[description]["told"] = told
        name = next(key for key, value in EPILOGUES.items() if value == self.made[description]["EPILOGUE"])
        _at(found, np.dtype("i4"), (1,), (1,))[0] = name not in self.refused
        _at(results, np.dtype("u8"), (1,), (1,))[0] = 4711  # an algorithm

    def _check_kinds(self, how: dict[str, Any], a: dict[str, Any], b: dict[str, Any], d: dict[str, Any]) -> None:
        """Refuse what the manual's table of types does not name."""
        assert a["number"] == b["number"] and (a["number"], d["number"]) in FACTORS_AND_RESULTS
        assert how["compute"] == 68 or a["number"] == 0, "TF32 is for float32 alone"
        assert len({x.get("BATCH_COUNT", 1) for x in (a, b, d)}) == 1
        if how["EPILOGUE"] != EPILOGUES["DEFAULT"]:
            assert "BATCH_COUNT" not in d, "one bias is not meant for a batch"
        if how["EPILOGUE"] & 0x60:  # GELU, or its slope
            assert a["number"] == d["number"] != 0, "GELU's input is kept in 16 bits, those of the result"
        assert how.get("EPILOGUE_AUX_LD", d["rows"]) >= d["rows"]

    def matmul(self, handle: int, description: int, alpha: int, *rest: int) -> None:
        a, layout_a, b, layout_b, beta, c, layout_c, d, layout_d, algorithm, workspace, size, _ = rest
        assert (c, layout_c) == (d, layout_d) and _at(algorithm, np.dtype("u8"), (1,), (1,))[0] == 4711
        assert workspace and size
        how = self.made[description]
        for address, bytes_ in zip((a, b, d), how["told"], strict=True):
            assert address % bytes_ == 0, "less aligned than was said"
        first, second, out = map(self._array, (a, b, d), (layout_a, layout_b, layout_d))
        first = first.swapaxes(1, 2) if how["TRANSA"] else first
        second = second.swapaxes(1, 2) if how["TRANSB"] else second
        epilogue = next(key for key, value in EPILOGUES.items() if value == how["EPILOGUE"])
        m, n = out.shape[1:]
        bias = aux = None
        if "BIAS" in epilogue or "BGRAD" in epilogue:
            bias = _at(how["BIAS_POINTER"], out.dtype, (n if epilogue == "BGRADB" else m,), (1,))
        if "AUX" in epilogue:
            assert how["EPILOGUE_AUX_LD"] % 8 == 0 and how["EPILOGUE_AUX_POINTER"] % 16 == 0
            aux = _at(how["EPILOGUE_AUX_POINTER"], out.dtype, (1, m, n), (0, 1, how["EPILOGUE_AUX_LD"]))
        if epilogue in self.failing:
            raise cuBLASLtError("CUBLAS_STATUS_NOT_SUPPORTED (15)")
        numbers = [float(_at(x, np.dtype("f4"), (1,), (1,))[0]) for x in (alpha, beta)]
        self.calls.append(epilogue)
        self.betas.append((numbers[1], epilogue))
        recorded.do(partial(product, first, second, out, *numbers, epilogue, bias, aux))

    def _array(self, address: int, layout: int) -> np.ndarray:
        of = self.made[layout]
        steps = (of.get("STRIDED_BATCH_OFFSET", 0), 1, of["step"])
        assert min(steps) >= 0
        return _at(address, of["kind"], (of.get("BATCH_COUNT", 1), of["rows"], of["columns"]), steps)


class CuBLAS:
    """cupy_backends.cuda.libs.cublas, of which two functions are used."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def gemmEx(
        self, handle, ta, tb, m, n, k, alpha, a, ka, lda, b, kb, ldb, beta, c, kc, ldc, compute, how
    ):  # fmt: skip
        self.calls.append("gemmEx")
        self._run(ta, tb, m, n, k, alpha, a, ka, lda, 0, b, kb, ldb, 0, beta, c, kc, ldc, 0, 1, compute)

    def gemmStridedBatchedEx(
        self, handle, ta, tb, m, n, k, alpha, a, ka, lda, sa, b, kb, ldb, sb, beta, c, kc, ldc, sc, count, compute, how
    ):  # fmt: skip
        self.calls.append("gemmStridedBatchedEx")
        self._run(ta, tb, m, n, k, alpha, a, ka, lda, sa, b, kb, ldb, sb, beta, c, kc, ldc, sc, count, compute)

    def _run(
        self, ta, tb, m, n, k, alpha, a, ka, lda, sa, b, kb, ldb, sb, beta, c, kc, ldc, sc, count, compute
    ):  # fmt: skip
        if recorded.recording is not None:
            raise RuntimeError("calling cuBLAS API during stream capture is currently unsupported")
        assert compute == 68 and ka == kb and lda >= (k if ta else m) and ldb >= (n if tb else k) and ldc >= m
        first = _at(a, KINDS[ka], (count, m, k), (sa, lda, 1) if ta else (sa, 1, lda))
        second = _at(b, KINDS[kb], (count, k, n), (sb, ldb, 1) if tb else (sb, 1, ldb))
        out = _at(c, KINDS[kc], (count, m, n), (sc, 1, ldc))
        numbers = (float(_at(x, np.dtype("f4"), (1,), (1,))[0]) for x in (alpha, beta))
        product(first, second, out, *numbers)
