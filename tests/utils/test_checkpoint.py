"""Checkpoints give the gradients of a plain run, to the last bit, and hold less in between."""

from __future__ import annotations

import contextlib
import gc
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as ours
from tinygrad_llm import nn
from tinygrad_llm.autograd.graph import captured, newest_first
from tinygrad_llm.models import GPTModel
from tinygrad_llm.nn import functional as F
from tinygrad_llm.random import fast_masks
from tinygrad_llm.utils.checkpoint import CheckpointError, _Again, _tensors_in, checkpoint, checkpoint_sequential

SMALL = {
    "vocab_size": 13, "context_length": 8, "emb_dim": 12, "n_heads": 3, "n_layers": 3, "drop_rate": 0.2,
    "qkv_bias": True, "tie_weights": True,
}  # fmt: skip


def held(loss: ours.Tensor) -> int:
    """The bytes that a graph holds on to: what pullbacks captured, and the arguments of checkpoints, each once."""
    memory = {}
    for node in newest_first(loss.node):
        pull = node.pull
        arrays = [t.array for t in _tensors_in(pull.part.args)] if isinstance(pull, _Again) else captured(pull)
        for array in arrays:
            while isinstance(array.base, np.ndarray):
                array = array.base
            memory[id(array)] = array.nbytes
    return sum(memory.values())


def step(model: GPTModel, seed: int, fast: bool = False) -> tuple[list[np.ndarray], int, np.ndarray]:
    """The gradients of a training step, the bytes held before backward, and the stream's state after it."""
    ours.manual_seed(seed)
    ids = ours.randint(0, 13, (2, 9))
    model.zero_grad()
    with fast_masks(fast):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    ours.rand(3)  # somebody else draws between forward and backward
    before = held(loss)
    loss.backward()
    return [p.grad.array for p in model.parameters()], before, ours.get_rng_state().array


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


@settings(max_examples=10)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.3]), st.booleans())
def test_a_gpt_has_the_same_gradients_to_the_last_bit_and_holds_less(seed, rate, fast):
    plain = GPTModel({**SMALL, "drop_rate": rate})
    saving = GPTModel({**SMALL, "drop_rate": rate}, checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    (a, much, state), (b, little, state_too) = step(plain, seed, fast), step(saving, seed, fast)
    assert equal(a, b)
    assert np.array_equal(state, state_too)
    assert little < 0.5 * much
    assert plain.config == saving.config and list(plain.state_dict()) == list(saving.state_dict())


@given(st.integers(1, 7), st.integers(1, 7), st.booleans())
def test_sequences_in_segments(n, segments, dropout):
    def run(segments: int) -> list[np.ndarray]:
        ours.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.5 * dropout)) for _ in range(n)]
        x = ours.randn(3, 4, requires_grad=True)
        y = checkpoint_sequential(nn.Sequential(*layers), segments, x, use_reentrant=False)
        y.square().sum().backward()
        return [t.grad.array for t in (x, *nn.ModuleList(layers).parameters())]

    if segments > n:
        with pytest.raises(ValueError, match=f"segments must lie in 1 to {n}, not {segments}"):
            run(segments)
    else:
        assert equal(run(1), run(segments))


def test_segments_run_again_except_the_last() -> None:
    calls = []

    def layer(i: int) -> Any:
        return lambda x: (calls.append(i), x.sin())[1]

    x = ours.zeros(2, requires_grad=True)
    checkpoint_sequential([layer(i) for i in range(5)], 2, x * 0.1, use_reentrant=False).sum().backward()
    assert calls == [0, 1, 2, 3, 4, 0, 1]


def block(x: Any, *, scale: Any, parts: Any) -> Any:
    return {"y": (x * scale).exp(), "more": [x.sin() * parts[0], (parts[1]["z"].tanh(), None, "text")]}


def test_keywords_and_nested_structures() -> None:
    def run(call: Any) -> list[np.ndarray]:
        x, scale, a, b = (ours.linspace(i, i + 1, 3).requires_grad_() for i in range(4))
        out = call(block, x, scale=scale, parts=(a, {"z": b}))
        assert out["more"][1][1:] == (None, "text")
        (out["y"] + out["more"][0] * out["more"][1][0]).sum().backward()
        return [t.grad.array for t in (x, scale, a, b)]

    plain = run(lambda f, *args, **kwargs: f(*args, **kwargs))
    assert equal(plain, run(lambda *args, **kwargs: checkpoint(*args, use_reentrant=False, **kwargs)))


def test_only_what_needs_it_runs_again_and_only_once() -> None:
    calls = []

    def function(x: Any) -> Any:
        calls.append(ours.is_grad_enabled())
        return x.exp().sin(), x + 1

    x = ours.ones(3, requires_grad=True)
    a, b = checkpoint(function, x, use_reentrant=False)
    b.sum().backward()  # an addition keeps nothing, so nothing is missing
    assert calls == [True]
    total = a.sum()
    with ours.no_grad():
        total.backward()
    assert calls == [True, True]
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        total.backward()


def test_retain_graph_runs_it_again_each_time_and_keeps_nothing() -> None:
    calls = []
    x = ours.ones(3, requires_grad=True)
    y = checkpoint(lambda x: (calls.append(0), x.exp().sin())[1], x, use_reentrant=False).sum()
    before = held(y)
    for _ in range(3):
        y.backward(retain_graph=True)
        assert held(y) == before == x.nbytes
    assert len(calls) == 4
    assert x.grad.tolist() == [pytest.approx(3 * np.cos(np.e) * np.e)] * 3


def test_nested_checkpoints_hold_the_innermost_part_at_a_time() -> None:
    calls = []

    def inner(x: Any) -> Any:
        calls.append("inner")
        return F.dropout(x.exp().sin(), 0.5)

    def outer(x: Any, call: Any) -> Any:
        calls.append("outer")
        return call(inner, call(inner, x).cos())

    def run(call: Any) -> tuple[np.ndarray, int]:
        ours.manual_seed(0)
        x = ours.randn(100, requires_grad=True)
        y = call(outer, x, call).sum()
        before = held(y)
        y.backward()
        return x.grad.array, before

    def nested(function: Any, *args: Any) -> Any:
        return checkpoint(function, *args, use_reentrant=False)

    plain, much = run(lambda function, *args: function(*args))
    calls.clear()
    grad, little = run(nested)
    assert plain.tobytes() == grad.tobytes()
    assert little == 400 and much > 3 * little
    assert calls == ["outer", "inner", "inner", "outer", "inner", "inner", "inner", "inner"]


def test_gradients_of_what_lies_inside_and_hooks() -> None:
    inside, seen = [], []

    def function(x: Any) -> Any:
        y = x.exp()
        inside.append(y)
        y.register_hook(lambda g: seen.append(g.tolist()))
        return y.sin()

    x = ours.zeros(2, requires_grad=True)
    z = checkpoint(function, x, use_reentrant=False).sum()
    dx, dy = ours.autograd.grad(z, [x, inside[0]])
    assert dx.tolist() == dy.tolist() == [pytest.approx(np.cos(1.0))] * 2
    assert seen == [dy.tolist()]  # once: the second pass's hooks belong to nobody's graph


def test_without_gradients_it_is_a_call() -> None:
    x = ours.ones(2, requires_grad=True)
    calls = []
    for mode in (ours.no_grad(), ours.inference_mode()):
        with mode:
            y = checkpoint(lambda x: (calls.append(0), x.exp())[1], x, use_reentrant=False)
            assert not y.requires_grad
    assert len(calls) == 2
    assert not checkpoint(lambda x: x.exp(), ours.ones(2), use_reentrant=False).requires_grad


def test_nothing_is_left_to_the_cycle_collector() -> None:
    x = ours.ones(3, requires_grad=True)
    for backward in (True, False):
        gc.collect()
        y = checkpoint(lambda x: x.exp().sin(), x * 2, use_reentrant=False).sum()
        if backward:
            y.backward()
        del y
        assert gc.collect() == 0


def test_numbers_are_the_same_only_where_that_is_asked_for() -> None:
    def grad(preserve: bool) -> tuple[list[float], list[float]]:
        ours.manual_seed(0)
        x = ours.ones(64, requires_grad=True)
        y = checkpoint(lambda x: F.dropout(x, 0.5), x, use_reentrant=False, preserve_rng_state=preserve)
        y.sum().backward()
        return y.tolist(), x.grad.tolist()

    y, g = grad(True)
    assert y == g
    y, g = grad(False)
    assert y != g


def test_backward_in_another_thread() -> None:
    x = ours.zeros(2, requires_grad=True)
    y = checkpoint(lambda x: x.exp().exp(), x, use_reentrant=False).sum()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join()
    assert x.grad.tolist() == [pytest.approx(np.e)] * 2


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (lambda x: x.exp(), "a different number of ops was recorded: 2, then 1"),
        (lambda x: x.exp().cos(), r"op 1 was sin \[3\] float32, then cos \[3\] float32"),
        (lambda x: x[:2].exp().sin()[:1], "different number"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_a_function_that_does_something_else_the_second_time_is_refused(then, message, debug) -> None:
    functions = [then, lambda x: x.exp().sin()]
    x = ours.ones(3, requires_grad=True)
    y = checkpoint(lambda x: functions.pop()(x), x, use_reentrant=False, debug=debug)
    with pytest.raises(CheckpointError, match=message) as caught:
        y.sum().backward()
    assert ("(first exp [3] float32, sin [3] float32; then " in str(caught.value)) == debug


def test_the_check_can_be_switched_off() -> None:
    functions = [lambda x: x.exp().cos(), lambda x: x.exp().sin()]
    x = ours.zeros(1, requires_grad=True)
    y = checkpoint(lambda x: functions.pop()(x), x, use_reentrant=False, determinism_check="none")
    y.backward()
    assert x.grad.item() == pytest.approx(-np.sin(1.0))  # as asked for


def test_an_argument_that_was_written_to_is_refused() -> None:
    x = ours.ones(3, requires_grad=True)
    y = x * 1
    z = checkpoint(lambda y: y.exp(), y, use_reentrant=False).sum()
    y.zero_()
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation: checkpoint .* shape \(3,\)"):
        z.backward()


def test_writes_inside_are_the_functions_own() -> None:
    def function(x: Any) -> Any:
        y = x * 2
        y[0] = 3.0
        y.mul_(2)
        return y.sin()

    def run(call: Any) -> list[float]:
        x = ours.arange(4.0).requires_grad_()
        call(function, x).sum().backward()
        return x.grad.tolist()

    assert run(lambda f, x: f(x)) == run(lambda f, x: checkpoint(f, x, use_reentrant=False))


def test_contexts_surround_the_passes() -> None:
    seen = []

    @contextlib.contextmanager
    def saying(name: str) -> Any:
        seen.append(name)
        yield
        seen.append(f"end {name}")

    x = ours.ones(2, requires_grad=True)
    y = checkpoint(
        lambda x: x.exp(), x, use_reentrant=False, context_fn=lambda: (saying("first"), saying("second"))
    )
    assert seen == ["first", "end first"]
    y.sum().backward()
    assert seen[2:] == ["second", "end second"]


def test_an_error_inside_leaves_the_random_stream_alone() -> None:
    failing = [False]

    def function(x: Any) -> Any:
        y = F.dropout(x.exp(), 0.5)
        if failing[0]:
            raise ValueError("no more")
        return y

    y = checkpoint(function, ours.ones(8, requires_grad=True), use_reentrant=False)
    failing[0], state = True, ours.get_rng_state().tolist()
    with pytest.raises(ValueError, match="no more"):
        y.sum().backward()
    assert ours.get_rng_state().tolist() == state and ours.is_grad_enabled()


@pytest.mark.torch
@pytest.mark.parametrize(
    "code",
    [
        "c.checkpoint(f, x)",
        "c.checkpoint(f, x, use_reentrant=True)",
        "c.checkpoint(f, x, use_reentrant=False)",
        "c.checkpoint(f, x=x, use_reentrant=False)",
        "c.checkpoint(f, x=x, use_reentrant=True)",
        "c.checkpoint(f, x, use_reentrant=True, debug=True)",
        "c.checkpoint(f, x, use_reentrant=False, determinism_check='all')",
        "c.checkpoint(f, x, use_reentrant=False, preserve_rng_state=False, early_stop=False)",
        "c.checkpoint_sequential([f, f, f], 2, x)",
        "c.checkpoint_sequential([f, f, f], 2, x, use_reentrant=False)",
        "c.checkpoint_sequential([f, f, f], 4, x, use_reentrant=False)",
        "issubclass(c.CheckpointError, RuntimeError)",
        "[type(part).__name__ for part in c.noop_context_fn()]",
    ],
)
def test_pytorch_says_and_does_the_same(code: str) -> None:
    import torch

    def outcome(lib: Any) -> tuple[Any, ...]:
        from importlib import import_module

        x = lib.linspace(0, 1, 4).requires_grad_()
        names = {"c": import_module(f"{lib.__name__}.utils.checkpoint"), "x": x, "f": lambda x: (x * 2).sin()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                out = eval(code, names)
            except Exception as error:
                return type(error).__name__, [w.category for w in caught]
        if not isinstance(out, lib.Tensor):
            return (out,)
        out.sum().backward()
        return [round(v, 3) for v in x.grad.tolist()], [w.category for w in caught]

    assert outcome(ours) == outcome(torch)
