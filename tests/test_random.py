"""Random numbers: the streams of PyTorch's CPU generator, known by heart and, where it is installed, by comparison."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as ours
from tinygrad_llm.nn import functional as F
from tinygrad_llm.random import AT_ONCE

SEEDS = st.sampled_from([0, 1, 42, 123, 2**31, 2**32 - 1, 2**32, 2**40 + 7])
SIZES = st.sampled_from([(), (1,), (2,), (7,), (15,), (16,), (17,), (31,), (32,), (33,), (3, 5), (4, 4), (2, 17), (0,)])


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


# --- known by heart ---


def test_the_first_numbers_after_a_seed() -> None:
    ours.manual_seed(123)
    weight = ours.nn.Embedding(6, 3).weight
    assert weight[:2].flatten().tolist() == pytest.approx([0.3374, -0.1778, -0.1690, 0.9178, 1.5810, 1.3010], abs=1e-4)
    ours.manual_seed(0)
    assert ours.rand(3).tolist() == pytest.approx([0.4963, 0.7682, 0.0885], abs=1e-4)
    ours.manual_seed(0)
    assert ours.randn(3).tolist() == pytest.approx([1.5410, -0.2934, -2.1788], abs=1e-4)
    ours.manual_seed(42)
    assert ours.randn(3).tolist() == pytest.approx([0.3367, 0.1288, 0.2345], abs=1e-4)
    ours.manual_seed(0)
    assert ours.randint(0, 10, (6,)).tolist() == [4, 9, 3, 0, 3, 9]
    ours.manual_seed(0)
    assert ours.randperm(8).tolist() == [4, 0, 7, 3, 2, 5, 1, 6]


# --- the same as PyTorch ---


def close(mine: Any, theirs: Any) -> None:
    """Equal up to the last bits of logarithm and sine."""
    assert tuple(mine.shape) == tuple(theirs.shape) and str(mine.dtype) == str(theirs.dtype)
    a, b = mine.double().numpy(), theirs.double().numpy()
    np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6 if str(mine.dtype) == "torch.float32" else 1e-14)


DRAWS = {
    "rand": lambda lib, size, dtype: lib.rand(size, dtype=dtype),
    "randn": lambda lib, size, dtype: lib.randn(size, dtype=dtype),
    "uniform_": lambda lib, size, dtype: lib.empty(size, dtype=dtype).uniform_(-0.3, 0.7),
    "normal_": lambda lib, size, dtype: lib.empty(size, dtype=dtype).normal_(1.5, 0.02),
    "rand_like": lambda lib, size, dtype: lib.rand_like(lib.empty(size, dtype=dtype)),
    "randn_like": lambda lib, size, dtype: lib.randn_like(lib.empty(size, dtype=dtype)),
    "randint": lambda lib, size, dtype: lib.randint(-5, 1000, size),
    "randint from 0": lambda lib, size, dtype: lib.randint(7, size),
    "randint_like": lambda lib, size, dtype: lib.randint_like(lib.empty(size, dtype=dtype), 3, 99),
    "random_": lambda lib, size, dtype: lib.empty(size, dtype=dtype).random_(),
    "random_ of long": lambda lib, size, dtype: lib.empty(size, dtype=lib.int64).random_(),
    "random_ of bool": lambda lib, size, dtype: lib.empty(size, dtype=lib.bool).random_(),
    "random_ to": lambda lib, size, dtype: lib.empty(size, dtype=dtype).random_(17),
    "bernoulli": lambda lib, size, dtype: lib.bernoulli(lib.full(size, 0.4, dtype=dtype)),
    "bernoulli_ of a tensor": lambda lib, size, dtype: lib.empty(size).bernoulli_(lib.full(size, 0.4, dtype=dtype)),
    "normal": lambda lib, size, dtype: lib.normal(2.0, 0.5, size, dtype=dtype),
    "normal of means": lambda lib, size, dtype: lib.normal(lib.full(size, 2.0, dtype=dtype), 0.5),
    "normal of deviations": lambda lib, size, dtype: lib.normal(2.0, lib.full(size, 0.5, dtype=dtype)),
    "normal of both": lambda lib, size, dtype: lib.normal(lib.ones(size, dtype=dtype), lib.ones(1, dtype=dtype)),
    "randint of a wide range": lambda lib, size, dtype: lib.randint(0, 2**40, size),
    "randperm": lambda lib, size, dtype: lib.randperm(int(np.prod(size))),
    "xavier_uniform_": lambda lib, size, dtype: lib.nn.init.xavier_uniform_(lib.empty(3, 5, dtype=dtype)),
    "kaiming_uniform_": lambda lib, size, dtype: lib.nn.init.kaiming_uniform_(lib.empty(3, 5, dtype=dtype), a=5**0.5),
    "trunc_normal_": lambda lib, size, dtype: lib.nn.init.trunc_normal_(lib.empty(5, 7, dtype=dtype), std=0.02),
}


@pytest.mark.torch
@settings(max_examples=3 * settings.default.max_examples)
@given(SEEDS, st.lists(st.tuples(st.sampled_from(sorted(DRAWS)), SIZES, st.booleans()), min_size=1, max_size=5))
def test_streams_equal_pytorchs_call_by_call(torch: Any, seed: int, calls: Any) -> None:
    """Also what is left over from one call for the next (the second of a pair of normal numbers)."""
    for lib in (ours, torch):
        lib.manual_seed(seed)
    for name, size, double in calls:
        mine, theirs = (DRAWS[name](lib, size, lib.float64 if double else lib.float32) for lib in (ours, torch))
        close(mine, theirs)


@pytest.mark.torch
@given(SEEDS, st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_multinomial_draws_pytorchs_places(torch: Any, seed: int, columns: int, count: int, replacement: bool) -> None:
    weights = np.random.default_rng(seed).random((4, columns + 3)).astype(np.float32)
    drawn = []
    for lib in (ours, torch):
        lib.manual_seed(seed)
        drawn.append(lib.multinomial(lib.from_numpy(weights), count, replacement).tolist() + lib.rand(1).tolist())
    assert drawn[0] == drawn[1]


def through_mkl(torch: Any) -> bool:
    """Whether this PyTorch draws dropout masks by MKL, as it does on Intel's processors."""
    torch.manual_seed(5)
    kept = torch.nn.functional.dropout(torch.ones(24), 0.3).bool().tolist()
    return kept != [bool(int(c)) for c in "111110100111011111011111"]


LAYOUTS = {
    "plain": lambda x: x,
    "transposed": lambda x: x.transpose(0, 2),
    "permuted": lambda x: x.permute(1, 2, 0),
    "sliced": lambda x: x[:, ::2],
    "expanded": lambda x: x[:1].expand(4, 6, 5),
    "expanded inside": lambda x: x[:, :1].expand(4, 6, 5),
}


@pytest.mark.torch
@pytest.mark.parametrize("p", [0.1, 0.5, 0.0001, 0.9])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dropout_masks_equal_pytorchs(torch: Any, layout: str, p: float) -> None:
    if through_mkl(torch):
        pytest.skip("this PyTorch draws masks by MKL")
    drawn = []
    for lib in (ours, torch):
        lib.manual_seed(5)
        x = LAYOUTS[layout](lib.ones(4, 6, 5))
        y = lib.nn.functional.dropout(x, p)
        attention = lib.nn.functional.scaled_dot_product_attention(*[lib.ones(2, 3, 4, 4)] * 3, dropout_p=p)
        drawn.append([y.tolist(), attention.tolist(), lib.rand(2).tolist()])
    assert drawn[0][0] == drawn[1][0] and drawn[0][2] == drawn[1][2]
    np.testing.assert_allclose(drawn[0][1], drawn[1][1], rtol=1e-6)


@pytest.mark.torch
@given(SEEDS, st.integers(0, 1300), st.integers(0, 2))
def test_states_are_pytorchs(torch: Any, seed: int, words: int, normals: int) -> None:
    states, numbers = [], []
    for lib in (ours, torch):
        lib.manual_seed(seed)
        lib.rand(words)
        lib.randn(normals)
        states.append(lib.get_rng_state())
    assert states[0].shape == states[1].shape
    for lib, state in ((ours, states[1]), (torch, states[0])):
        lib.manual_seed(1)
        lib.set_rng_state((lib.from_numpy)(state.numpy()))
        numbers.append(lib.randn(3).tolist() + lib.rand(700).tolist() + [lib.initial_seed()])
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [AT_ONCE, AT_ONCE + 1, 2 * AT_ONCE + 16, 3 * AT_ONCE - 5])
def test_streams_equal_pytorchs_over_many_numbers(torch: Any, count: int, dtype: str) -> None:
    for draw in ("rand", "randn"):
        mine, theirs = [], []
        for lib, found in ((ours, mine), (torch, theirs)):
            lib.manual_seed(5)
            found += [getattr(lib, draw)(count, dtype=getattr(lib, dtype)), lib.rand(2)]
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("layer", ["Linear(3, 5)", "Linear(17, 4, bias=False)", "Embedding(6, 3)", "Embedding(50, 7)"])
def test_fresh_layers_have_pytorchs_weights(torch: Any, layer: str) -> None:
    name, arguments = layer[:-1].split("(")
    states = []
    for lib in (ours, torch):
        lib.manual_seed(7)
        made = eval(f"make({arguments})", {"make": getattr(lib.nn, name)})  # of the literals above
        states.append({k: v.detach().numpy() for k, v in made.state_dict().items()})
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        np.testing.assert_allclose(value, states[1][key], rtol=2e-6, atol=2e-7)


@pytest.mark.torch
def test_an_embedding_seeded_123(torch: Any) -> None:
    weights = []
    for lib in (ours, torch):
        lib.manual_seed(123)
        weights.append(lib.nn.Embedding(6, 3).weight.detach().numpy())
    np.testing.assert_allclose(*weights, rtol=2e-6)


BAD = [
    "randint(5, 5, (2,))", "randint(3, 1, (2,))", "empty(2).normal_(0.0, -1.0)", "empty(2).uniform_(1.0, 0.0)",
    "rand(-1)", "randn(2, -1)", "randint(3, (-1,))", "randperm(-1)", "empty(2, dtype=lib.int64).normal_()",
    "empty(2, dtype=lib.int64).uniform_()", "randn(2, dtype=lib.int64)", "bernoulli(lib.tensor([1.5]))",
    "multinomial(lib.ones(3), 4)", "multinomial(lib.tensor([-1.0, 2.0]), 1)", "multinomial(lib.zeros(3), 1)",
    "multinomial(lib.ones(3), 0)", "multinomial(lib.tensor([float('nan')]), 1)",
    "multinomial(lib.ones(3, dtype=lib.int64), 1)", "normal(0.0, -1.0, (3,))", "normal(lib.ones(2), -1.0)",
    "normal(0.0, lib.tensor([-1.0]))", "normal(0.0, 1.0)", "bernoulli(lib.ones(3, dtype=lib.int64))",
    "empty(2).bernoulli_(1.5)", "empty(2).random_(3, 3)", "empty(2, dtype=lib.uint8).random_(0, 300)",
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_drawn(torch: Any, bad: str) -> None:
    classes = []
    for lib in (ours, torch):
        with pytest.raises(Exception) as caught:
            eval(f"lib.{bad}", {"lib": lib, "float": float})
        classes.append(caught.type)
    assert classes[0] is classes[1]


# --- seeds, states, generators ---


@given(SEEDS, st.integers(0, 40), st.integers(0, 40))
def test_a_state_goes_on_where_it_was_taken(seed: int, before: int, after: int) -> None:
    ours.manual_seed(seed)
    ours.randn(before)
    if before % 2:
        ours.randn(1)  # leaves half a pair behind
        F.dropout(ours.ones(3))
    state = ours.get_rng_state()

    def draw() -> list[Any]:
        return [x.tolist() for x in (ours.randn(after), ours.rand(3), F.dropout(ours.ones(20)), ours.randperm(5))]

    first = draw()
    ours.set_rng_state(state)
    assert draw() == first


def test_what_is_no_state() -> None:
    state = ours.get_rng_state()
    for wrong, error in ((state[:-1], RuntimeError), (state * 0, RuntimeError), (state.float(), TypeError)):
        with pytest.raises(error):
            ours.set_rng_state(wrong)
    assert ours.equal(ours.get_rng_state(), state)


def test_a_fork_leaves_no_trace() -> None:
    ours.manual_seed(3)
    expected = ours.rand(3).tolist()
    ours.manual_seed(3)
    with ours.random.fork_rng():
        ours.manual_seed(9)
        ours.randn(5)
    assert ours.rand(3).tolist() == expected
    with ours.random.fork_rng(enabled=False):
        ours.manual_seed(3)
    assert ours.rand(3).tolist() == expected


def test_fast_masks_end_with_their_block() -> None:
    def drawn() -> list[float]:
        ours.manual_seed(4)
        return F.dropout(ours.ones(64)).tolist()

    exact = drawn()
    with ours.random.fast_masks():
        fast = drawn()
        with ours.random.fast_masks(False):
            assert drawn() == exact
    assert drawn() == exact != fast


def test_seeds() -> None:
    assert ours.manual_seed(5) is not None and ours.initial_seed() == 5
    a = ours.rand(3).tolist()
    ours.manual_seed(5)
    assert ours.rand(3).tolist() == a
    ours.manual_seed(6)
    assert ours.rand(3).tolist() != a
    drawn = ours.seed()
    assert drawn == ours.initial_seed()
    b = ours.rand(3).tolist()
    ours.manual_seed(drawn)
    assert ours.rand(3).tolist() == b


def test_generators_are_streams_of_their_own() -> None:
    one, two = ours.Generator().manual_seed(1), ours.Generator().manual_seed(1)
    ours.manual_seed(1)
    a = [ours.rand(2, generator=one).tolist(), ours.randn(20, generator=one).tolist()]
    ours.rand(100)  # the default stream is another one
    b = [ours.rand(2, generator=two).tolist(), ours.randn(20, generator=two).tolist()]
    assert a == b
    assert one.initial_seed() == 1
    two.set_state(one.get_state())
    assert ours.randint(0, 9, (5,), generator=one).tolist() == ours.randint(0, 9, (5,), generator=two).tolist()


def test_each_function_takes_a_generator() -> None:
    half = ours.full((9,), 0.5)

    def draw(generator: Any) -> list[Any]:
        drawn = [make(3, generator=generator) for make in (ours.rand, ours.randn, ours.randperm)]
        drawn += [getattr(ours.empty(3), name)(generator=generator) for name in ("normal_", "uniform_", "bernoulli_")]
        drawn += [make(half, generator=generator) for make in (ours.rand_like, ours.randn_like, ours.bernoulli)]
        drawn += [ours.randint(9, (3,), generator=generator), ours.empty(3).random_(0, 9, generator=generator)]
        return [x.tolist() for x in (*drawn, ours.multinomial(half, 3, generator=generator))]

    ours.manual_seed(9)
    expected = ours.rand(2).tolist()
    ours.manual_seed(9)
    a, b = draw(ours.Generator().manual_seed(3)), draw(ours.Generator().manual_seed(3))
    assert a == b != draw(ours.Generator().manual_seed(4))
    assert ours.rand(2).tolist() == expected  # and leaves the default stream alone


# --- distributions ---


@pytest.mark.parametrize("fill", ["uniform_", "normal_"])
def test_drawing_a_large_tensor_takes_little_more_than_its_memory(fill: str) -> None:
    x = ours.empty(1000, 2000)
    tracemalloc.start()
    getattr(x, fill)()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * x.nbytes


def test_uniform_is_uniform_and_normal_is_normal() -> None:
    ours.manual_seed(0)
    u, n = ours.rand(100_000).numpy().astype(np.float64), ours.randn(100_000).numpy().astype(np.float64)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    assert abs(n.mean()) < 0.02 and abs(n.std() - 1) < 0.01
    assert abs((n**3).mean()) < 0.05 and abs((n**4).mean() - 3) < 0.15
    assert abs(np.corrcoef(n[:-1], n[1:])[0, 1]) < 0.02


@given(st.integers(0, 2**40), st.integers(1, 50))
def test_a_permutation_is_one(seed: int, n: int) -> None:
    ours.manual_seed(seed)
    assert sorted(ours.randperm(n).tolist()) == list(range(n))


@given(st.integers(-1000, 1000), st.integers(1, 2000), st.integers(0, 99))
def test_integers_stay_in_their_range(low: int, span: int, seed: int) -> None:
    ours.manual_seed(seed)
    drawn = ours.randint(low, low + span, (50,)).numpy()
    assert low <= drawn.min() and drawn.max() < low + span


@pytest.mark.parametrize("replacement", [True, False])
def test_multinomial_draws_in_proportion(replacement: bool) -> None:
    ours.manual_seed(0)
    weights = ours.tensor([1.0, 0.0, 2.0, 5.0])
    drawn = ours.multinomial(weights.expand(20_000, 4), 2 if not replacement else 3, replacement=replacement).numpy()
    assert not (drawn == 1).any()
    share = np.bincount(drawn[:, 0], minlength=4) / len(drawn)
    np.testing.assert_allclose(share, [1 / 8, 0, 2 / 8, 5 / 8], atol=0.015)
    if not replacement:
        assert (drawn[:, 0] != drawn[:, 1]).all()
        second = np.bincount(drawn[drawn[:, 0] == 3, 1], minlength=4) / (drawn[:, 0] == 3).sum()
        np.testing.assert_allclose(second, [1 / 3, 0, 2 / 3, 0], atol=0.02)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(p: float, fast: bool) -> None:
    ours.manual_seed(0)
    x = ours.ones(200_000, requires_grad=True)
    with ours.random.fast_masks(fast):
        y = F.dropout(x, p)
    values, counts = np.unique(y.detach().numpy(), return_counts=True)
    np.testing.assert_allclose(values, [0.0, 1 / (1 - p)], rtol=1e-6)
    assert abs(counts[0] / 200_000 - p) < 0.004
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())  # the same mask and factor on the way back


def test_dropout_of_attention_keeps_the_mean() -> None:
    ours.manual_seed(0)
    q, k, v = ours.randn(4, 4, 32, 8), ours.randn(4, 4, 32, 8), ours.ones(4, 4, 32, 8)
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
    assert abs(y.numpy().mean() - 1) < 0.02 and y.numpy().std() > 0.05


def test_dropout_draws_anew_each_time_and_by_the_seed() -> None:
    x = ours.ones(100)
    ours.manual_seed(1)
    a, b = F.dropout(x).tolist(), F.dropout(x).tolist()
    ours.manual_seed(1)
    assert a != b and F.dropout(x).tolist() == a
