"""utils.data: datasets, samplers, the loader: the batches, the orders and the random streams of PyTorch's."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as ours

Pair = namedtuple("Pair", "a b")


@pytest.fixture(params=["tinygrad_llm", pytest.param("torch", marks=pytest.mark.torch)])
def lib(request: Any) -> Any:
    """Each test of this file states what holds for both."""
    return pytest.importorskip(request.param)


def plain(value: Any) -> Any:
    """Tensors inside a batch as their numbers and dtype, so that batches of two libraries compare."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return str(value.dtype).rpartition(".")[2], value.tolist()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [plain(v) for v in value]
    return value


def outcome(function: Any, lib: Any) -> Any:
    try:
        return plain(function(lib))
    except Exception as error:
        return type(error).__name__


def numbers(n: int) -> list[int]:
    return list(range(n))


LOADERS = st.fixed_dictionaries(
    {"n": st.integers(1, 12), "batch_size": st.integers(1, 5) | st.none(), "epochs": st.integers(1, 3)},
    optional={"shuffle": st.booleans(), "drop_last": st.booleans(), "own": st.booleans()},
)


def epochs(lib: Any, seed: int, n: int, epochs: int, own: bool = False, **options: Any) -> Any:
    """Every batch of some epochs, and what the generators give afterwards."""
    lib.manual_seed(seed)
    generator = lib.Generator().manual_seed(seed + 1) if own else None
    loader = lib.utils.data.DataLoader(numbers(n), generator=generator, **options)
    seen = [[plain(batch) for batch in loader] for _ in range(epochs)]
    return seen, len(loader), lib.rand(3).tolist(), lib.rand(2, generator=generator).tolist()


@pytest.mark.torch
@given(LOADERS, st.integers(0, 2**40))
def test_epochs_have_pytorchs_order_and_leave_its_streams(options: dict[str, Any], seed: int) -> None:
    torch = pytest.importorskip("torch")
    expected = outcome(lambda lib: epochs(lib, seed, **options), torch)
    assert outcome(lambda lib: epochs(lib, seed, **options), ours) == expected


SAMPLERS = {
    "random": lambda d, n, g: d.RandomSampler(numbers(n), generator=g),
    "some": lambda d, n, g: d.RandomSampler(numbers(n), num_samples=2 * n + 1, generator=g),
    "replaced": lambda d, n, g: d.RandomSampler(numbers(n), replacement=True, num_samples=n + 40, generator=g),
    "sequential": lambda d, n, g: d.SequentialSampler(numbers(n)),
    "subset": lambda d, n, g: d.SubsetRandomSampler([3 * i for i in range(n)], generator=g),
    "weighted": lambda d, n, g: d.WeightedRandomSampler([i + 1.0 for i in range(n)], 7, generator=g),
    "weighted once": lambda d, n, g: d.WeightedRandomSampler([1.0] * n, n, replacement=False, generator=g),
    "batches": lambda d, n, g: d.BatchSampler(d.RandomSampler(numbers(n), generator=g), 3, False),
    "whole batches": lambda d, n, g: d.BatchSampler(d.SequentialSampler(numbers(n)), 3, True),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=20)
@given(n=st.integers(1, 40), seed=st.integers(0, 1000), own=st.booleans())
def test_samplers_equal_pytorchs(name: str, n: int, seed: int, own: bool) -> None:
    def run(lib: Any) -> Any:
        lib.manual_seed(seed)
        generator = lib.Generator().manual_seed(seed) if own else None
        sampler = SAMPLERS[name](lib.utils.data, n, generator)
        return list(sampler), list(sampler), len(sampler), lib.rand(2).tolist()

    assert run(ours) == run(pytest.importorskip("torch"))


@pytest.mark.torch
@given(
    st.integers(0, 20),
    st.lists(st.integers(0, 10), min_size=1, max_size=4) | st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.65])),
)
@pytest.mark.filterwarnings("ignore:Length of split")
def test_random_split_equals_pytorchs(n: int, lengths: list[Any]) -> None:
    def run(lib: Any) -> Any:
        lib.manual_seed(3)
        return [list(part) for part in lib.utils.data.random_split(numbers(n), lengths)]

    assert outcome(run, ours) == outcome(run, pytest.importorskip("torch"))


COLLATED = {
    "numbers": lambda lib: [1, 2, 3],
    "bools": lambda lib: [True, False],
    "floats": lambda lib: [1.0, 2.5],
    "strings": lambda lib: ["a", "b"],
    "tensors": lambda lib: [lib.ones(2), lib.zeros(2)],
    "arrays": lambda lib: [np.ones(2), np.zeros(2)],
    "numpy numbers": lambda lib: [np.float32(1), np.float32(2)],
    "tuples": lambda lib: [(1, lib.ones(2)), (2, lib.zeros(2))],
    "named": lambda lib: [Pair(1, 2.0), Pair(3, 4.0)],
    "dicts": lambda lib: [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}],
    "lists": lambda lib: [[1, 2], [3, 4]],
    "uneven": lambda lib: [[1, 2], [3]],
    "uneven tensors": lambda lib: [lib.ones(2), lib.ones(3)],
    "objects": lambda lib: [object()],
    "arrays of strings": lambda lib: [np.array(["a"])],
    "nested": lambda lib: [({"a": [1, (2.0, "x")]}, 3)] * 2,
}


@pytest.mark.torch
@pytest.mark.parametrize("name", COLLATED)
@pytest.mark.parametrize("function", ["default_collate", "default_convert"])
def test_collating_equals_pytorchs(name: str, function: str) -> None:
    def run(lib: Any) -> Any:
        return getattr(lib.utils.data, function)(COLLATED[name](lib))

    if function == "default_convert" and name in ("objects",):
        return
    assert outcome(run, ours) == outcome(run, pytest.importorskip("torch"))


def test_the_windows_of_a_text(lib: Any) -> None:
    """What the training of a language model does with it."""
    ids = list(range(10))

    class Windows(lib.utils.data.Dataset):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> Any:
            return lib.tensor(ids[3 * i : 3 * i + 3]), lib.tensor(ids[3 * i + 1 : 3 * i + 4])

    (x, y), last = lib.utils.data.DataLoader(Windows(), batch_size=2)
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]] and y.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert last[0].tolist() == [[6, 7, 8]]


def test_datasets(lib: Any) -> None:
    data = lib.utils.data
    rows = data.TensorDataset(lib.arange(4), lib.arange(4) * 10)
    assert len(rows) == 4 and [int(v) for v in rows[2]] == [2, 20]
    both = data.Subset(rows, [3, 0]) + data.TensorDataset(lib.tensor([9]), lib.tensor([90]))
    assert [int(a) for a, _ in (both[i] for i in range(len(both)))] == [3, 0, 9]
    assert int(both[-1][0]) == 9 and both.cumulative_sizes == [2, 3]
    assert data.StackDataset(a=[1, 2], b=[3, 4])[1] == {"a": 2, "b": 4}
    with pytest.raises(AssertionError, match="Size mismatch"):
        data.TensorDataset(lib.ones(2), lib.ones(3))


BAD = {
    "shuffle and sampler": {"shuffle": True, "sampler": [0]},
    "batch_sampler and batch_size": {"batch_sampler": [[0]], "batch_size": 2},
    "no batches, but drop_last": {"batch_size": None, "drop_last": True},
    "no size": {"batch_size": 0},
    "negative workers": {"num_workers": -1},
    "prefetch without workers": {"prefetch_factor": 2},
    "persistent without workers": {"persistent_workers": True},
    "negative timeout": {"timeout": -1},
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD.keys())
def test_options_that_do_not_fit(lib: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        lib.utils.data.DataLoader([1, 2], **options)


class Count(ours.utils.data.IterableDataset):
    """0 ... n - 1, each worker its share; without workers all."""

    def __init__(self, n: int):
        self.n = n

    def __iter__(self) -> Any:
        info = ours.utils.data.get_worker_info()
        return iter(range(self.n) if info is None else range(info.id, self.n, info.num_workers))


@pytest.mark.parametrize(("size", "drop"), [(2, False), (2, True), (None, False)])
def test_a_stream(size: int | None, drop: bool) -> None:
    batches = [b.tolist() if size else b for b in ours.utils.data.DataLoader(Count(5), size, drop_last=drop)]
    assert batches == ([[0, 1], [2, 3]] + [[4]] * (not drop) if size else [0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match="shuffle=True"):
        ours.utils.data.DataLoader(Count(5), shuffle=True)


class Squares(ours.utils.data.Dataset):
    """Squares that fail at one index, and tell a random number of their worker."""

    def __init__(self, n: int, bad: int = -1):
        self.n, self.bad = n, bad

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        if i == self.bad:
            raise KeyError(f"example {i} is broken")
        return i * i


class Draws(Squares):
    """Random numbers of their worker."""

    def __getitem__(self, i: int) -> Any:
        return float(ours.rand(1))


def test_workers_give_the_same_batches_in_order() -> None:
    def squares(workers: int) -> Any:
        ours.manual_seed(1)
        loader = ours.utils.data.DataLoader(Squares(9), 2, shuffle=True, num_workers=workers)
        return [[b.tolist() for b in loader] for _ in range(2)], ours.rand(1).item()

    assert squares(2) == squares(0)


def test_workers_share_a_stream_and_stay_on_request() -> None:
    loader = ours.utils.data.DataLoader(Count(7), 2, num_workers=2, persistent_workers=True)
    for _ in range(2):
        assert [b.tolist() for b in loader] == [[0, 2], [1, 3], [4, 6], [5]]


def test_workers_draw_from_seeds_of_their_own() -> None:
    def drawn() -> list[float]:
        ours.manual_seed(5)
        return [float(b) for b in ours.utils.data.DataLoader(Draws(4), num_workers=2)]

    first = drawn()
    assert first == drawn() and len(set(first)) == 4


def test_what_a_worker_raises_comes_through() -> None:
    with pytest.raises(KeyError, match="example 3 is broken") as caught:
        list(ours.utils.data.DataLoader(Squares(5, bad=3), num_workers=2))
    assert "worker process 1" in "".join(caught.value.__notes__)


def test_giving_up_an_epoch_ends_its_workers() -> None:
    loader = ours.utils.data.DataLoader(Squares(50), num_workers=2)
    for _ in zip(range(2), loader, strict=False):
        pass
    assert len(list(loader)) == 50
