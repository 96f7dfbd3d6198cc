"""A pretended nvidia-cudnn-frontend: it takes what the real one takes, and computes with NumPy what cuDNN would.

Each call is written down, so that a test can make it to the real frontend, whose graphs can be described and checked
without a GPU. Arrays are found as cuDNN finds them: by address and by the layout that the graph was told.
"""

from __future__ import annotations

import ctypes
import enum
import types
from typing import Any

import ml_dtypes
import numpy as np

from tinygrad_llm.kernels import REFERENCE

data_type = enum.Enum("data_type", ["BFLOAT16", "HALF", "FLOAT"])
heur_mode = enum.Enum("heur_mode", ["A", "FALLBACK"])
diagonal_alignment = enum.Enum("diagonal_alignment", ["TOP_LEFT", "BOTTOM_RIGHT"])
DTYPES = {data_type.BFLOAT16: ml_dtypes.bfloat16, data_type.HALF: np.float16, data_type.FLOAT: np.float32}
ROOM = 4096  # bytes that each plan asks for

graphs: list[Graph] = []  # those that were described
streams: list[int] = []  # those that the handle was set to


def backend_version() -> int:
    return 91000


def create_handle() -> str:
    return "a handle"


def set_stream(handle: Any, stream: int) -> None:
    assert handle == "a handle"
    streams.append(stream)


class Tensor:
    """A tensor of a graph."""

    def __init__(self, **facts: Any):
        self.facts = facts

    def __getattr__(self, name: str) -> Any:
        assert name in ("set_output", "set_uid", "set_dim", "set_stride", "set_data_type"), name

        def put(value: Any) -> Tensor:
            self.facts[name.removeprefix("set_")] = value
            return self

        return put

    def array(self, pack: dict[int, int]) -> np.ndarray:
        """The numbers at the address that was handed over."""
        dtype, (dim, stride) = np.dtype(DTYPES[self.facts["data_type"]]), (self.facts["dim"], self.facts["stride"])
        count = 1 + sum((n - 1) * step for n, step in zip(dim, stride, strict=True))
        memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(pack[self.facts["uid"]])
        flat = np.frombuffer(memory, dtype)
        return np.lib.stride_tricks.as_strided(flat, dim, [step * dtype.itemsize for step in stride])


class Graph:
    """One op over tensors."""

    def __init__(self, **options: Any):
        self.options, self.calls, self.runs = options, [], 0
        graphs.append(self)

    def tensor(self, **facts: Any) -> Tensor:
        self.calls.append(("tensor", facts))
        return Tensor(**facts)

    def sdpa(self, **given: Any) -> list[Tensor]:
        return self._op("sdpa", given, 2)

    def sdpa_backward(self, **given: Any) -> list[Tensor]:
        return self._op("sdpa_backward", given, 3)

    def _op(self, name: str, given: dict[str, Any], outputs: int) -> list[Tensor]:
        self.calls.append((name, given))
        self.made = [Tensor() for _ in range(outputs)]
        return self.made

    def build(self, heuristics: list[Any]) -> None:
        assert heuristics == [heur_mode.A, heur_mode.FALLBACK]
        facts = {key: t.facts for key, t in self.calls[-1][1].items() if isinstance(t, Tensor)}
        names = ("stats",) if len(self.made) == 2 else ("dQ", "dK", "dV")
        facts |= {name: t.facts for name, t in zip(names[::-1], self.made[::-1], strict=False)}
        for name, fact in facts.items():
            steps = [int(np.prod(fact["dim"][i + 1 :])) for i in range(4)]
            fits = fact["stride"] == steps if name == "stats" else fact["stride"][3] == 1
            assert fits, f"{name}: cuDNN before 9.26 knows no such layout, {fact}"

    def get_workspace_size(self) -> int:
        return ROOM

    def execute(self, pack: dict[int, int], workspace: int, handle: Any) -> None:
        assert handle == "a handle"
        (ctypes.c_char * ROOM).from_address(workspace).raw = bytes(ROOM)  # it is there to be written to
        self.runs += 1
        name, given = self.calls[-1]
        assert {t.facts["uid"] for t in (*given.values(), *self.made) if isinstance(t, Tensor)} == pack.keys()
        arrays = {key: t.array(pack).astype(np.float64) for key, t in given.items() if isinstance(t, Tensor)}
        for tensor, values in zip(self.made, computed(name, arrays, given), strict=True):
            tensor.array(pack)[...] = values


def computed(name: str, a: dict[str, np.ndarray], given: dict[str, Any]) -> list[np.ndarray]:
    """The outputs of an op, by the reference in float64."""
    causal, scale = given.get("diagonal_band_right_bound") == 0, given["attn_scale"]
    groups = a["k"].shape[1]
    k, v = (np.repeat(a[key], a["q"].shape[1] // groups, axis=1) for key in "kv")
    y, p = REFERENCE.attention(a["q"], k, v, None, causal, scale, None, 1.0)
    scores = np.matmul(a["q"], k.swapaxes(-1, -2)) * scale
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    lse = np.log(np.exp(scores).sum(-1, keepdims=True))
    if name == "sdpa":
        return [y, lse]
    np.testing.assert_allclose(a["stats"], lse, atol=1e-3)
    np.testing.assert_allclose(a["o"], y, atol=0.05)
    dq, dk, dv, _ = REFERENCE.attention_backward(a["dO"], a["q"], k, v, p, scale, None, 1.0, False)
    batch, _, s, d = k.shape
    return [dq, *(x.reshape(batch, groups, -1, s, d).sum(2) for x in (dk, dv))]


def module() -> types.ModuleType:
    """The pretended `cudnn`."""
    found = types.ModuleType("cudnn")
    for name in ("data_type", "heur_mode", "diagonal_alignment", "backend_version", "create_handle", "set_stream"):
        setattr(found, name, globals()[name])
    found.pygraph = Graph  # type: ignore[attr-defined]
    return found
