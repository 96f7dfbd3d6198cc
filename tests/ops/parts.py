"""A sample of an op's arguments, and the parts that strategies for samples are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_llm import int64
from tinygrad_llm.testing import SEEDS, broadcastable_shapes, shapes, tensors


@dataclass
class Sample:
    """Arguments of an op. constant: the positions of floating arguments that have no gradient."""

    args: tuple[Any, ...]
    static: dict[str, Any]
    constant: tuple[int, ...] = ()

    @property
    def variables(self) -> tuple[int, ...]:
        """The positions of the arguments that have a gradient."""
        floats = (i for i, a in enumerate(self.args) if isinstance(a, np.ndarray) and a.dtype.kind == "f")
        return tuple(i for i in floats if i not in self.constant)

    def to(self, dtype: Any) -> Sample:
        """The same sample in another floating dtype."""

        def convert(a: Any) -> Any:
            return a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a

        static = {name: dtype if value is np.float64 else value for name, value in self.static.items()}
        return Sample(tuple(map(convert, self.args)), static, self.constant)

    def read_only(self) -> Sample:
        """The sample itself, its arrays locked against writing."""
        for a in self.args:
            if isinstance(a, np.ndarray):
                a.flags.writeable = False
        return self


SAMPLES: dict[str, st.SearchStrategy[Sample]] = {}


def sample(*args: Any, constant: tuple[int, ...] = (), **static: Any) -> Sample:
    return Sample(tuple(np.asarray(a) if isinstance(a, np.generic) else a for a in args), static, constant)


def samples_of(*names: str) -> Callable[[Any], Any]:
    """Enter draw -> Sample as the strategy of the named ops."""

    def enter(function: Any) -> Any:
        for name in names:
            assert name not in SAMPLES, f"two strategies for {name}"
            SAMPLES[name] = st.composite(function)()
        return function

    return enter


# --- parts, each strategy made once ---

ANY, PAIR, TRIPLE = shapes(), broadcastable_shapes(), broadcastable_shapes(3)
SIDES = shapes(min_dims=1, min_side=1)  # at least one element
AXES = shapes(min_dims=1)
LEAD = shapes(max_dims=2)
TRUTH = st.booleans()


@cache
def array(shape: Any = ANY, **limits: Any) -> st.SearchStrategy[np.ndarray]:
    """A float64 array in any memory layout; see `tensors`."""
    return tensors(shape, contiguous=False, requires_grad=False, **limits).map(lambda t: t.array)


@cache
def positive(shape: Any = ANY) -> st.SearchStrategy[np.ndarray]:
    return array(shape, min_value=0.3, max_value=2.0, kinks=())


@cache
def away_from_zero(shape: Any = ANY) -> st.SearchStrategy[np.ndarray]:
    return positive(shape) | array(shape, min_value=-2.0, max_value=-0.3, kinks=())


@cache
def ids(below: int, shape: Any) -> st.SearchStrategy[np.ndarray]:
    return tensors(shape, dtype=int64, min_value=0, max_value=below).map(lambda t: t.array)


@cache
def bools(shape: Any) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(bool, shape)


def seeded(draw: Any) -> np.random.Generator:
    return np.random.default_rng(draw(SEEDS))


def axes_of(draw: Any, shape: tuple[int, ...], empty: bool = True) -> tuple[int, ...] | None:
    """Some axes, or None for all; without empty ones unless wanted."""
    allowed = [axis for axis, n in enumerate(shape) if n or empty]
    if not allowed or (draw(TRUTH) and 0 not in shape):
        return None
    return tuple(sorted(draw(st.sets(st.sampled_from(allowed), min_size=1))))


def optional(draw: Any, strategy: st.SearchStrategy[Any]) -> Any:
    return draw(st.none() | strategy)
