"""Hypothesis strategies for tests of your own layers; needs the extra `test`.

from hypothesis import given
from tinygrad_llm.autograd import gradcheck
from tinygrad_llm.testing import tensors

@given(tensors(shape=(2, 5, 8)))
def test_my_layer(x): assert gradcheck(MyLayer(8).double(), x)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_llm import dtypes
from tinygrad_llm.autograd import Tensor

__all__ = ["broadcastable_shapes", "shapes", "tensors", "token_ids"]

Shape = tuple[int, ...]

SEEDS = st.integers(0, 2**32 - 1)
LAYOUTS = st.sampled_from(["contiguous", "transposed", "reversed", "gaps"])


def shapes(min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 4) -> st.SearchStrategy[Shape]:
    """Shapes of min_dims to max_dims dimensions: 0-d and empty ones among them, unless the bounds leave them out."""
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


def broadcastable_shapes(
    count: int = 2, max_dims: int = 3, min_side: int = 0, max_side: int = 4
) -> st.SearchStrategy[tuple[Shape, ...]]:
    """Shapes, `count` of them, that broadcast together."""
    together = hnp.mutually_broadcastable_shapes(
        num_shapes=count, max_dims=max_dims, min_side=min_side, max_side=max_side
    )
    return together.map(lambda found: found.input_shapes)


@st.composite
def tensors(
    draw: st.DrawFn,
    shape: Shape | st.SearchStrategy[Shape] | None = None,
    *,
    dtype: dtypes.dtype = dtypes.float64,
    min_value: float = -2.0,
    max_value: float = 2.0,
    kinks: Sequence[float] = (0.0,),
    contiguous: bool = True,
    requires_grad: bool = True,
) -> Tensor:
    """Tensors for finite differences to judge: numbers in (min_value, max_value), apart from each other and from kinks.

    shape: a shape, or a strategy for shapes; without it any of up to three dimensions.
    kinks: where the function under test has no derivative, as relu at 0. Maxima and sorting have one, since no two
    elements are equal: n of them are at least about (max_value - min_value) / (5 n) apart.
    contiguous=False also draws views whose memory is transposed, reversed or has gaps.
    An integer dtype draws integers from min_value up to and without max_value, equal ones among them.
    """
    if shape is None:
        shape = shapes()
    if isinstance(shape, st.SearchStrategy):
        shape = draw(shape)
    random = np.random.default_rng(draw(SEEDS, label="seed"))
    count = int(np.prod(shape))
    if not dtype.is_floating_point:
        return Tensor(random.integers(int(min_value), int(max_value), shape).astype(dtype.numpy))
    values = _apart(random, count, min_value, max_value, kinks).reshape(shape).astype(dtype.numpy)
    return Tensor(values if contiguous else _laid_out(draw, values), requires_grad=requires_grad)


def token_ids(vocab_size: int, shape: Shape | st.SearchStrategy[Shape] = (2, 5)) -> st.SearchStrategy[Tensor]:
    """Ids in [0, vocab_size), int64."""
    return tensors(shape, dtype=dtypes.int64, min_value=0, max_value=vocab_size, requires_grad=False)


def _apart(random: np.random.Generator, count: int, low: float, high: float, kinks: Sequence[float]) -> np.ndarray:
    """count numbers in (low, high), in random order: each near the middle of a cell of its own that is at no kink."""
    cells = 2 * count + 3 * len(kinks) + 1  # at most three cells lie at a kink
    width = (high - low) / cells
    middles = low + width * (np.arange(cells) + 0.5)
    free = middles[(abs(middles - np.reshape(kinks, (-1, 1))) > width).all(axis=0)]
    return random.permutation(free)[:count] + width * random.uniform(-0.3, 0.3, count)


def _laid_out(draw: st.DrawFn, values: np.ndarray) -> Any:
    """The same values, in memory that is contiguous, transposed, reversed or has gaps."""
    layout = draw(LAYOUTS, label="layout")
    if layout == "contiguous" or not values.ndim:
        return values
    if layout == "transposed":
        return np.asfortranarray(values)
    step = -1 if layout == "reversed" else 2
    room = np.full((*values.shape[:-1], values.shape[-1] * abs(step)), np.nan, values.dtype)
    view = room[..., ::step]
    view[...] = values
    return view
