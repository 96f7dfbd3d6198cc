"""A trainer's steps as CUDA graphs: the numbers of ordinary steps, to the last bit, whatever the batches are like."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda import emulated, pretend, recorded
from tests.cuda.kinds import gpu as either
from tinygrad_llm import devices, nn
from tinygrad_llm.data import Windows
from tinygrad_llm.data.packing import PackedBatch
from tinygrad_llm.kernels.cuda import memory, products
from tinygrad_llm.kernels.cuda.mail import Mail
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import PRESETS, Trainer
from tinygrad_llm.training.ahead import Courier, LookAhead
from tinygrad_llm.training.captured import WARM_UP, CapturedStep
from tinygrad_llm.training.step import Step

RECIPE = PRESETS["shakespeare-char"].recipe.replace(
    layers=1, heads=2, channels=8, context=6, batch=2, steps=7, eval_every=100, eval_windows=2, lr=1e-2, warmup=2,
    clip=0.1, dropout=0.2,
)  # fmt: skip
IDS = np.arange(200) * 7 % 11


@pytest.fixture
def gpu() -> Iterator[None]:
    """A pretended GPU with the real kernels, and a library of products that can be captured."""
    with emulated.gpu():
        yield


class Shapes:
    """A stream of batches of two lengths and of packed rows, and now and then one with nothing to learn from."""

    def __init__(self, kinds: str) -> None:
        self.kinds, self.at = kinds, 0

    def __iter__(self) -> Shapes:
        return self

    def __next__(self) -> Any:
        kind, rng = self.kinds[self.at % len(self.kinds)], np.random.default_rng(self.at)
        self.at += 1
        ids = rng.integers(0, 11, (2, 7 if kind in "ap" else 5))
        x, y = ids[:, :-1], ids[:, 1:]
        if kind == "p":
            documents = np.sort(rng.integers(0, 2, x.shape), axis=1)
            return PackedBatch(x, np.where(rng.random(y.shape) < 0.2, -100, y), documents, 0 * x + np.arange(6))
        return x, np.full_like(y, -100) if kind == "0" else y

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def run(graph: bool, recipe: Any = RECIPE, kinds: str = "", on_step: Any = lambda trainer: None) -> Any:
    """A trainer after its last step, and what each step was like."""
    tg.manual_seed(0)
    windows, found = Windows(IDS, RECIPE.context), []
    trainer = Trainer(
        GPTModel(recipe.model_config(11)).cuda(), recipe, windows, windows, np.random.default_rng(0), "cuda",
        Shapes(kinds) if kinds else None, graph=graph, warn=lambda text: pytest.fail(text),
    )  # fmt: skip
    for _ in range(recipe.steps):
        trainer.train_step()
        gradient = None if trainer.model.final_norm.weight.grad is None else trainer.model.final_norm.weight.grad
        found.append((trainer.last_loss, trainer.last_norm, trainer.tokens, gradient.tolist()))
        on_step(trainer)
    return trainer, found


def state(trainer: Trainer) -> Any:
    told = {name: value for name, value in trainer.state_dict().items() if name not in ("seconds", "beside", "marked")}
    steps = [s["step"] for s in trainer.optimizer.state.values()]
    return told, steps, [p.tolist() for p in trainer.model.parameters()]


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"dtype": "bfloat16"}, ""),
        ({"accumulate": 3, "steps": 6}, "abpa0b"),
        ({"checkpoint": True, "tie_weights": True, "steps": 5}, ""),
    ],
)
def test_steps_are_those_without_graphs_to_the_last_bit(gpu, changes, kinds):
    recipe = RECIPE.replace(**changes)
    ordinary, expected = run(False, recipe, kinds)
    before = recorded.launched
    trainer, found = run(True, recipe, kinds)
    assert found == expected and state(trainer) == state(ordinary)
    assert isinstance(trainer.parts, CapturedStep) and recorded.launched > before
    assert not isinstance(ordinary.parts, CapturedStep) and not isinstance(ordinary.stream, LookAhead)


def test_what_lies_elsewhere_is_captured_again(gpu):
    """Moments that were loaded, a layer that is frozen: a graph knows nothing of them."""

    def change(trainer: Trainer) -> None:
        if trainer.step == WARM_UP + 1:
            trainer.optimizer.load_state_dict(trainer.optimizer.state_dict())
            trainer.load_state_dict(trainer.state_dict())
        if trainer.step == WARM_UP + 2:
            trainer.model.pos_emb.weight.requires_grad = False

    (ordinary, expected), (trainer, found) = (run(graph, on_step=change) for graph in (False, True))
    assert found == expected and state(trainer) == state(ordinary)


def test_the_number_of_graphs_is_bounded(gpu, monkeypatch):
    monkeypatch.setattr("tinygrad_llm.training.captured.MOST_GRAPHS", 1)
    recipe = RECIPE.replace(steps=9)
    (_, expected), (trainer, found) = (run(graph, recipe, "ab") for graph in (False, True))
    assert found == expected and len(trainer.parts._passes) == 1


def test_where_it_cannot_be_steps_are_ordinary_and_one_line_says_why(monkeypatch):
    told: list[str] = []
    with emulated.gpu(), monkeypatch.context() as patch:
        patch.setattr(products, "works", lambda number: False)
        windows = Windows(IDS, RECIPE.context)
        trainer = Trainer(GPTModel(RECIPE.model_config(11)).cuda(), RECIPE, windows, windows,
                          np.random.default_rng(0), "cuda", warn=told.append)  # fmt: skip
        for _ in range(WARM_UP + 2):
            trainer.train_step()
    assert len(told) == 1 and "not captured" in told[0] and "nvmath-python" in told[0]


def test_a_model_that_looks_at_its_numbers_is_trained_all_the_same(gpu):
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Embedding(11, 11)

        def forward(self, ids: tg.Tensor) -> tg.Tensor:
            y = self.inner(ids)
            return y if y.sum().item() > 1e9 else y * 2

    told: list[str] = []
    windows, found = Windows(IDS, RECIPE.context), []
    for graph in (False, True):
        tg.manual_seed(0)
        rng = np.random.default_rng(0)
        trainer = Trainer(Looks().cuda(), RECIPE, windows, windows, rng, "cuda", graph=graph, warn=told.append)
        found.append([trainer.train_step() for _ in range(WARM_UP + 2)])
    assert found[0] == found[1] and len(told) == 1 and "capturing: item" in told[0]


def test_a_stream_that_was_looked_at_gives_and_tells_what_it_would_have():
    ahead, plain = LookAhead(Shapes("ab")), Shapes("ab")
    for count in (0, 2, 1, 3):
        assert len(ahead.look(count)) == count
        assert ahead.state_dict() == plain.state_dict()
        for theirs, ours in zip(next(plain), next(ahead), strict=True):
            np.testing.assert_array_equal(theirs, ours)
    ahead.look(2)
    ahead.load_state_dict({"at": 0})
    np.testing.assert_array_equal(next(ahead)[0], next(Shapes("ab"))[0])


@pytest.mark.parametrize("kind", ["pretended", pytest.param("real", marks=pytest.mark.cuda)])
def test_memory_that_a_gpu_copies_from(kind):
    with either(kind):
        x = tg.arange(6.0).reshape(2, 3)
        y = x.pin_memory()
        assert y.is_pinned() and not x.is_pinned() and y.pin_memory() is y and y.tolist() == x.tolist()
        z = y.to("cuda", non_blocking=True)
        assert z.is_cuda and z.tolist() == x.tolist() and y.cuda(non_blocking=True).tolist() == x.tolist()
        back = z.to("cpu", non_blocking=True)
        tg.cuda.synchronize()
        assert back.is_pinned() and back.tolist() == x.tolist()
        z.copy_(y * 2, non_blocking=True)
        moved = y.cuda()
        y.fill_(-1.0)  # has been read
        assert moved.tolist() == x.tolist() and z.tolist() == (2 * x).tolist()
        with pytest.raises(RuntimeError, match="cannot pin a tensor on cuda:0"):
            z.pin_memory()
        loader = tg.utils.data.DataLoader(tg.utils.data.TensorDataset(x), batch_size=1, pin_memory=True)
        assert all(batch[0].is_pinned() for batch in loader)


def test_pinned_memory_outlasts_what_is_copied(gpu):
    """A graph, numbers on their way or a batch that is dropped in the middle: the copy is waited for, and only then."""
    x, graph = tg.ones(3, device="cuda"), tg.cuda.CUDAGraph()
    with tg.cuda.graph(graph):
        nn.functional.dropout(x, 0.5)
    graph.replay()
    mail, courier = Mail(x.array), Courier("cuda")
    read, room = mail.send(), courier.send([np.ones((2, 2))])
    assert len(recorded.on_the_way()) == 3
    pretend.waits.clear()
    del graph, mail, room
    gc.collect()
    assert not recorded.on_the_way() and not recorded.too_early and not pretend.waits
    assert read().tolist() == [1.0] * 3


def test_pinned_memory_that_goes_too_early_is_seen():
    with pytest.raises(AssertionError, match="given to others"), pretend.gpu():
        place = devices.pinned((3,), np.float32)
        tg.ones(3, device="cuda").array.get(out=place, blocking=False)
        del place


def test_moments_lie_in_memory_of_their_own(gpu, monkeypatch):
    """What activations left goes back before they are made, and before each capture, to which it would be lost."""
    given_back: list[tuple[int, bool]] = []
    parts: Any = None
    monkeypatch.setattr(memory, "free_unused", lambda: given_back.append((parts.step, bool(parts.optimizer.state))))
    tg.manual_seed(0)
    windows, model = Windows(IDS, RECIPE.context), GPTModel(RECIPE.model_config(11)).cuda()
    parts = Trainer(model, RECIPE, windows, windows, np.random.default_rng(0), "cuda")
    for _ in range(WARM_UP + 2):
        parts.train_step()
    assert given_back == [(0, False), *[(WARM_UP, True)] * 3]


def test_where_a_gpu_is_full_beside_graphs_they_are_given_up(gpu, monkeypatch):
    monkeypatch.setattr("tinygrad_llm.training.captured.MOST_GRAPHS", 1)
    forward, told, full = Step.forward, [], []

    def forward_or_full(step: Any, *args: Any) -> float:
        if step._passes and not full:
            full.append(step._pool)
            raise MemoryError("CUDA out of memory")
        assert not full or step._pool is None
        return forward(step, *args)

    windows, model = Windows(IDS, RECIPE.context), GPTModel(RECIPE.model_config(11)).cuda()
    rng = np.random.default_rng(0)
    trainer = Trainer(model, RECIPE, windows, windows, rng, "cuda", Shapes("aaab"), warn=told.append)
    monkeypatch.setattr(Step, "forward", forward_or_full)
    for _ in range(3 * WARM_UP):
        trainer.train_step()
    assert full and told == ["steps are not captured as CUDA graphs, and take longer: CUDA out of memory"]
    monkeypatch.setattr(Step, "forward", lambda *args: (_ for _ in ()).throw(MemoryError("full")))
    with pytest.raises(MemoryError, match="full"):
        trainer.train_step()


@pytest.mark.cuda
def test_a_trainer_on_a_gpu():
    if not products.can_be_captured():
        pytest.skip("no library of products that can be captured: pip install nvmath-python")
    recipe = RECIPE.replace(channels=64, context=16, batch=8, steps=20, accumulate=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (ordinary, expected), (trainer, found) = (run(graph, recipe) for graph in (False, True))
    assert found == expected and state(trainer) == state(ordinary)
