"""save and load: round trips, also with PyTorch in both directions; shared memory; what cannot be saved."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_llm as ours

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def through(save: Any, load: Any, obj: Any) -> Any:
    buffer = io.BytesIO()
    save(obj, buffer)
    buffer.seek(0)
    return load(buffer)


def tensors(lib: Any) -> Any:
    """Tensors of every dtype, shape and layout."""

    @st.composite
    def draw_one(draw: Any) -> Any:
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
        values = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 100)))
        x = lib.tensor(values).to(getattr(lib, draw(st.sampled_from(DTYPES))))
        if x.ndim and draw(st.booleans()):
            x = x.transpose(0, -1)
        if x.ndim and draw(st.booleans()):
            x = x[..., 1:]
        return x

    return draw_one()


def objects(lib: Any) -> Any:
    scalar = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=9)
    scalar |= st.sampled_from([lib.float16, lib.int64, lib.Size([2, 3]), lib.device("cpu")])
    keys = st.text() | st.integers() | st.tuples(st.text(), st.integers())
    return st.recursive(
        scalar | tensors(lib),
        lambda x: st.lists(x, max_size=3) | st.tuples(x, x) | st.dictionaries(keys, x, max_size=3),
        max_leaves=8,
    )


def equal(a: Any, b: Any) -> bool:
    """Whether an object of ours and one of either library hold the same."""
    if hasattr(a, "tolist"):
        same = (a.tolist(), tuple(a.shape), str(a.dtype), a.requires_grad)
        return same == (b.tolist(), tuple(b.shape), str(b.dtype), b.requires_grad)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and type(a).__name__ != "Size":
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return str(a) == str(b) and type(a).__name__ == type(b).__name__


@given(objects(ours))
def test_what_is_saved_is_loaded(obj: Any) -> None:
    assert equal(through(ours.save, ours.load, obj), obj)


@pytest.mark.torch
@given(objects(ours))
def test_pytorch_loads_what_is_saved(obj: Any) -> None:
    torch = pytest.importorskip("torch")
    assert equal(obj, through(ours.save, lambda f: torch.load(f, weights_only=True), obj))


@pytest.mark.torch
@given(st.data())
def test_what_pytorch_saves_is_loaded(data: Any) -> None:
    torch = pytest.importorskip("torch")
    obj = data.draw(objects(torch))
    assert equal(through(torch.save, ours.load, obj), obj)


def test_a_training_run_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    def step(model: Any, optimizer: Any) -> float:
        optimizer.zero_grad()
        loss = (model(ours.linspace(0, 1, 6).reshape(2, 3)) ** 2).mean()
        loss.backward()
        optimizer.step()
        return float(loss)

    def fresh() -> Any:
        model = ours.nn.Sequential(ours.nn.Linear(3, 4), ours.nn.GELU(), ours.nn.Linear(4, 2))
        return model, ours.optim.AdamW(model.parameters(), lr=0.1)

    ours.manual_seed(1)
    model, optimizer = fresh()
    step(model, optimizer)
    ours.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    expected = [step(model, optimizer) for _ in range(3)]
    again, its_optimizer = fresh()
    state = ours.load(tmp_path / "run.pt")
    again.load_state_dict(state["model"])
    its_optimizer.load_state_dict(state["optimizer"])
    assert [step(again, its_optimizer) for _ in range(3)] == expected


@pytest.mark.torch
def test_models_and_optimizers_cross_over(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def trained(lib: Any) -> Any:
        model = lib.nn.Linear(3, 2)
        optimizer = lib.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.2)
        model(lib.ones(1, 3)).sum().backward()
        optimizer.step()
        return model, optimizer

    for source, target in ((ours, torch), (torch, ours)):
        model, optimizer = trained(source)
        source.save([model.state_dict(), optimizer.state_dict()], tmp_path / "both.pt")
        weights, state = target.load(tmp_path / "both.pt")
        other, its = trained(target)
        other.load_state_dict(weights)
        its.load_state_dict(state)
        for m, o in ((model, optimizer), (other, its)):
            m(m.weight.new_ones(1, 3)).sum().backward()
            o.step()
        assert other.weight.detach().numpy() == pytest.approx(model.weight.detach().numpy(), abs=1e-6)
        assert weights._metadata == {"": {"version": 1}} or source is ours


@pytest.mark.parametrize("mapped", [False, True])
def test_shared_memory_stays_shared(tmp_path: Path, mapped: bool) -> None:
    base = ours.arange(12.0).reshape(3, 4)
    obj = {"base": base, "row": base[1], "turned": base.T, "same": base, "int": base.view(ours.int32)}
    ours.save(obj, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 3000
    loaded = ours.load(tmp_path / "x.pt", mmap=mapped)
    loaded["row"].fill_(-1.0)
    assert loaded["base"][1].tolist() == loaded["turned"][:, 1].tolist() == [-1.0] * 4
    assert loaded["same"] is loaded["base"] and loaded["turned"].stride() == (1, 4)
    assert ours.load(tmp_path / "x.pt")["row"].tolist() == [4.0, 5.0, 6.0, 7.0]  # the file did not change


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    model = ours.nn.Sequential(ours.nn.Linear(64, 64, bias=False), ours.nn.Linear(64, 64, bias=False))
    model[1].weight = model[0].weight
    ours.save(model.state_dict(), tmp_path / "tied.pt")
    assert 4 * 64 * 64 <= (tmp_path / "tied.pt").stat().st_size < 4 * 64 * 64 + 3000


def test_parameters_stay_parameters() -> None:
    p, frozen = ours.nn.Parameter(ours.ones(2)), ours.nn.Parameter(ours.ones(2), requires_grad=False)
    a, b, c = through(ours.save, ours.load, [p, frozen, (p * 2)])
    assert isinstance(a, ours.nn.Parameter) and a.requires_grad and not b.requires_grad
    assert c.is_leaf and c.requires_grad


class Secret:
    """What no file can hold."""


@pytest.mark.parametrize(
    ("obj", "place"),
    [
        ({"model": ours.nn.Linear(1, 1)}, r"obj\['model'\] is a tinygrad_llm.nn.linear.Linear"),
        ([1, (2, Secret())], r"obj\[1\]\[1\]"),
        (OrderedDict(a=np.ones(2)), r"obj\['a'\] is a numpy.ndarray"),
        (len, "obj is a builtins"),
    ],
)
def test_what_cannot_be_saved_is_named_and_the_old_file_stays(tmp_path: Path, obj: Any, place: str) -> None:
    path = tmp_path / "x.pt"
    ours.save(1, path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=place):
        ours.save(obj, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_object_that_contains_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    again = through(ours.save, ours.load, loop)
    assert again[0] is again
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        ours.save(deep, io.BytesIO())


def test_map_location(tmp_path: Path) -> None:
    ours.save(ours.ones(2), tmp_path / "x.pt")
    for location in ("cpu", ours.device("cpu"), {"cuda:0": "cpu"}, None):
        assert ours.load(tmp_path / "x.pt", map_location=location).tolist() == [1.0, 1.0]
    with pytest.raises(TypeError, match="map_location"):
        ours.load(tmp_path / "x.pt", map_location=lambda storage, location: storage)
