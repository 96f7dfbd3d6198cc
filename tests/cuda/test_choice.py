"""Which way is taken: what is measured and compared, and attention that goes by one way and back by another."""

from __future__ import annotations

import itertools
import sys
import types
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.cuda import emulated, pretend, pretend_cudnn
from tests.cuda.kinds import back, moved
from tests.kernels.test_kernels import KEY, floats
from tinygrad_llm import devices
from tinygrad_llm.kernels import CUDA, REFERENCE
from tinygrad_llm.kernels.cuda import choice, cudnn, heads, launch
from tinygrad_llm.nn import functional as F
from tinygrad_llm.utils.checkpoint import checkpoint

BFLOAT16, FLOAT16 = launch.REALS[1:]
NUMBERS = floats(2, 3, 40, 8).astype(FLOAT16)


class Clock:
    """A pretended GPU's time: a call takes as long as it says; events tell what has gone by."""

    def __init__(self, monkeypatch, capturing=False):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(devices, "event", lambda timing: Moment(self))
        monkeypatch.setattr(devices, "milliseconds", lambda start, end: end.at - start.at)
        monkeypatch.setattr(choice, "_capturing", lambda: capturing)

    def call(self, name, ms, *results):
        """A way that takes so long and gives the results; an exception in place of the time is raised."""

        def run():
            self.calls.append(name)
            if isinstance(ms, Exception):
                raise ms
            self.now += ms
            return results or (NUMBERS,)

        return run


class Moment:
    def __init__(self, clock):
        self.clock = clock

    def record(self):
        self.at = self.clock.now

    def synchronize(self):
        pass


# --- what is measured ---


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.booleans())
def test_the_faster_way_is_chosen_at_the_third_call_if_it_gives_the_same(ours, theirs, same):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clock, found = Clock(patch), choice.Choice("attention")
        numbers = NUMBERS if same else NUMBERS[:, ::-1]
        ways = {"ours": clock.call("ours", ours), "cuDNN": clock.call("cuDNN", theirs, numbers)}
        assert [found.of("a kind", ways) for _ in range(choice.BEFORE)] == ["ours"] * choice.BEFORE
        assert not clock.calls
        if abs(theirs / ours - choice.GAIN) > 1e-6:
            wanted = "cuDNN" if same and theirs < choice.GAIN * ours else "ours"
            assert found.of("a kind", ways) == wanted
            tried = len(clock.calls)
            assert found.of("a kind", ways) == wanted and len(clock.calls) == tried
            assert found.of("another", ways) == "ours"


def test_the_choice_is_told_to_the_log_and_forgotten_when_asked(monkeypatch, caplog):
    clock, found = Clock(monkeypatch), choice.Choice("attention")
    ways = {"ours": clock.call("ours", 2.0), "cuDNN": clock.call("cuDNN", 1.0)}
    with caplog.at_level("DEBUG", "tinygrad_llm.kernels"):
        for _ in range(4):
            found.of((8, 64), ways)
    assert caplog.messages == ["attention (8, 64): ours 2.000 ms, cuDNN 1.000 ms; cuDNN it is"]
    assert found.of((8, 64), {"ours": ways["ours"]}) == "ours"  # what was chosen does not serve any more
    found.forget()
    assert found.of((8, 64), ways) == "ours"


def test_a_way_that_fails_is_a_warning_and_left_alone(monkeypatch):
    clock, found = Clock(monkeypatch), choice.Choice("attention")
    ways = {"ours": clock.call("ours", 2.0), "cuDNN": clock.call("cuDNN", RuntimeError("no plan\nserves"))}
    ways["another"] = clock.call("another", 1.0)
    with pytest.warns(RuntimeWarning, match="attention by cuDNN fails and is left alone: no plan serves") as told:
        assert [found.of(0, ways) for _ in range(5)] == ["ours"] * choice.BEFORE + ["another"] * 3
    assert clock.calls.count("cuDNN") == 1 and len(told) == 1


def test_a_way_for_which_memory_is_short_is_left_alone_without_a_word(monkeypatch, caplog):
    clock, found = Clock(monkeypatch), choice.Choice("attention")
    ways = {"ours": clock.call("ours", 2.0), "cuDNN": clock.call("cuDNN", MemoryError("full"))}
    with warnings.catch_warnings(), caplog.at_level("DEBUG", "tinygrad_llm.kernels"):
        warnings.simplefilter("error")
        assert [found.of(0, ways) for _ in range(5)] == ["ours"] * 5
    assert caplog.messages[0] == "attention by cuDNN is left alone: full" and clock.calls.count("cuDNN") == 1


@pytest.mark.parametrize("error", [MemoryError("full"), RuntimeError("no kernel")], ids=repr)
def test_what_the_trusted_way_raises_is_raised(error, monkeypatch):
    clock, found = Clock(monkeypatch), choice.Choice("attention")
    calls = itertools.count()  # the first of them is compared with, the others are timed
    ways = {"ours": lambda: clock.call("ours", error if next(calls) else 1.0)(), "cuDNN": clock.call("cuDNN", 1.0)}
    for _ in range(choice.BEFORE):
        found.of(0, ways)
    with pytest.raises(type(error), match=str(error)):
        found.of(0, ways)


def test_nothing_is_tried_while_a_graph_is_captured_and_little_is_remembered(monkeypatch):
    clock, found = Clock(monkeypatch, capturing=True), choice.Choice("attention")
    ways = {"ours": clock.call("ours", 2.0), "cuDNN": clock.call("cuDNN", 1.0)}
    assert {found.of(0, ways) for _ in range(9)} == {"ours"} and not clock.calls
    for kind in range(2 * choice.KINDS):
        found.of(kind, ways)
    assert len(found.seen) == choice.KINDS


def test_it_is_known_when_a_graph_is_captured():
    with pretend.gpu():
        assert not choice._capturing()
        with tg.cuda.graph(tg.cuda.CUDAGraph()):
            assert choice._capturing()


# --- what is compared ---


def test_a_way_that_gives_other_numbers_is_a_warning_and_left_alone(monkeypatch):
    clock, found = Clock(monkeypatch), choice.Choice("attention")
    ways = {"ours": clock.call("ours", 2.0), "theirs": clock.call("theirs", 0.1, NUMBERS * FLOAT16.type(1.1))}
    told = r"attention by theirs gives other numbers than ours and is left alone: 1\.\d+ times what rounding explains"
    with pytest.warns(RuntimeWarning, match=told) as lines:
        assert [found.of(0, ways) for _ in range(5)] == ["ours"] * 5
    assert clock.calls.count("theirs") == 1 and len(lines) == 1


@pytest.mark.parametrize("numbers", [0 * NUMBERS, *(np.where(NUMBERS > 2, x, NUMBERS) for x in (np.nan, np.inf))])
def test_numbers_that_tell_nothing_put_it_off(numbers, monkeypatch):
    """Gradients before a layer of zeros, or of a loss in float16 that was scaled too much."""
    clock, found = Clock(monkeypatch), choice.Choice("attention backward")
    with np.errstate(all="ignore"):
        numbers = numbers.astype(FLOAT16)
        for results, wanted in ((numbers, ["ours"] * 7), (NUMBERS, ["ours", "theirs", "theirs"])):
            ways = {"ours": clock.call("ours", 2.0, results), "theirs": clock.call("theirs", 1.0, results)}
            assert [found.of(0, ways) for _ in wanted] == wanted
        assert clock.calls.count("theirs") == 2 + 1 + 1 + choice.TRIES


def test_a_way_that_writes_nothing_does_not_profit_from_others(monkeypatch):
    """Small arrays get the memory that was freed last, where the right numbers stand."""
    clock, found, small = Clock(monkeypatch), choice.Choice("attention"), NUMBERS[:1, :1, :9].copy()
    ways = {"ours": lambda: clock.call("ours", 2.0, small.copy())(), "theirs": lambda: (small.copy(),)}
    ways["nothing"] = lambda: (np.empty_like(small),)
    with pytest.warns(RuntimeWarning, match="attention by nothing gives other numbers"), np.errstate(all="ignore"):
        assert [found.of(0, ways) for _ in range(3)][-1] == "theirs"


def attended(dtype, seed, faulty=None):
    """y and lse in order, as one rounds on the way what the other does not; with a fault in tiles of 16 keys."""
    q, k, v = np.random.default_rng(seed).standard_normal((3, 2, 2, 96, 32)).astype(dtype).astype(np.float32)
    s = q @ k.swapaxes(-1, -2) * 32**-0.5
    seen = np.broadcast_to(np.tri(96, dtype=bool), s.shape).copy()
    if faulty == "a tile passed over":
        seen[..., 64:, 16:32] = False
    if faulty == "no order":
        seen[:] = True
    s = np.where(seen, s, -np.inf)
    top = s.max(-1, keepdims=True)
    p = np.exp(s - top)
    p = p / p.sum(-1, keepdims=True) if faulty is None else p.astype(dtype).astype(np.float32)
    y = p @ v / (1 if faulty is None else p.sum(-1, keepdims=True))
    lse = (top + np.log(np.exp(s - top).sum(-1, keepdims=True)))[..., 0]
    if faulty == "rows of another head":
        y = y[:, ::-1]
    if faulty == "one row":
        y[1, 1, 90] = y[1, 1, 91]
    if faulty == "no number":
        y[0, 1, 3, 5] = np.nan
    if faulty == "a tenth is missing":
        y *= 0.9
    if faulty == "another logarithm":
        lse /= np.log(2)
    if faulty == "lse of one row":
        lse[0, 1, 40] += 1
    return y.astype(dtype), lse.astype(np.float32)


@given(st.sampled_from([BFLOAT16, FLOAT16]), st.integers(0, 99))
def test_rounding_is_no_difference(dtype, seed):
    assert choice.difference(attended(dtype, seed), attended(dtype, seed, "rounded otherwise")) < 0.2
    y, lse = attended(dtype, seed)
    assert choice.difference((y, lse), (y, lse * np.float32(1 + 1e-6))) < 0.2


FAULTS = ["a tile passed over", "no order", "rows of another head", "one row", "no number", "a tenth is missing",
          "another logarithm", "lse of one row"]  # fmt: skip


@given(st.sampled_from(FAULTS), st.sampled_from([BFLOAT16, FLOAT16]), st.integers(0, 99))
def test_faults_are_differences(fault, dtype, seed):
    assert choice.difference(attended(dtype, seed), attended(dtype, seed, fault)) > 1


def test_what_a_query_that_sees_nothing_keeps_must_be_there():
    y, lse = attended(BFLOAT16, 0)
    y[0, 0, 0], lse[0, 0, 0] = 0, np.inf
    for found, wanted in ((np.inf, 0), (-np.inf, np.inf), (0, np.inf), (np.nan, np.inf)):
        other = lse.copy()
        other[0, 0, 0] = found
        with np.errstate(all="ignore"):
            assert choice.difference((y, lse), (y, other)) == wanted
    assert choice.difference((y, lse), (y[:, :1], lse)) == choice.difference((y,), (y.astype(np.float32),)) == np.inf


# --- attention by several ways ---


@pytest.fixture
def gpu(monkeypatch):
    """Our kernels on the processor beside a pretended cuDNN, nothing tried, and a clock that stands still."""
    for place in (cudnn.problem, cudnn._library, cudnn.planned):
        place.cache_clear()
    monkeypatch.setitem(sys.modules, "cudnn", pretend_cudnn.module())
    monkeypatch.setattr(cudnn, "_stream", lambda number: types.SimpleNamespace(ptr=77))
    monkeypatch.setattr(heads, "chosen", choice.Choice("attention"))
    monkeypatch.setattr(heads, "chosen_back", choice.Choice("attention backward"))
    with emulated.gpu(), tg.backends.cuda.sdp_kernel():
        yield Clock(monkeypatch)
    for place in (cudnn.problem, cudnn._library, cudnn.planned):
        place.cache_clear()


def slowed(monkeypatch, clock, there, back):
    """cuDNN takes so long there and back; ours takes no time, and so much less than it if that is negative."""
    for way in (heads.TENSOR_CORES_16, heads.BY_CUDNN):
        theirs = way is heads.BY_CUDNN

        def forward(asked, way=way, ms=there if theirs else 1.0):
            clock.now += ms
            clock.calls.append(way.name)
            return way.forward(asked)

        def backward(*args, way=way, ms=back if theirs else 1.0):
            clock.now += ms
            clock.calls.append(f"{way.name} back")
            return way.backward(*args)

        timed = way._replace(forward=forward, backward=backward)
        for ways in ("WAYS", "RIVALS"):
            monkeypatch.setattr(heads, ways, [timed if x is way else x for x in getattr(heads, ways)])


def packed(batch=2, t=9, count=4, d=16):
    """g, q, k, v (B, H, T, D) as parts of one array of rows, and the places for three gradients in another."""
    rows = moved(floats(batch, t, 4, count, d).astype(BFLOAT16)).transpose(2, 0, 3, 1, 4)
    room = np.zeros_like(moved(floats(batch, t, 3, count, d).astype(BFLOAT16)))
    return rows[3], rows[0], rows[1], rows[2], tuple(room.transpose(2, 0, 3, 1, 4))


@pytest.mark.parametrize(("there", "goes_back"), list(itertools.product([0.5, 2.0], repeat=2)))
def test_each_direction_goes_the_way_that_was_faster(there, goes_back, gpu, monkeypatch):
    """And whoever goes there, the other one's way back gives the reference's gradients."""
    slowed(monkeypatch, gpu, there, goes_back)
    g, q, k, v, into = packed()
    names = {0.5: "cuDNN", 2.0: "attention_16.cu"}
    wanted = [back(a).astype(np.float64) for a in (g, q, k, v)]
    y, p = REFERENCE.attention(*wanted[1:], None, True, 0.3, None, 0.0)
    gradients = REFERENCE.attention_backward(*wanted, p, 0.3, None, 0.0, False)[:3]
    for number in range(4):
        for place in into:
            place[...] = 7
        mine, saved = CUDA.attention(q, k, v, None, True, 0.3, None, 0.0)
        CUDA.attention_backward(g, q, k, v, saved, 0.3, None, 0.0, False, into)
        assert saved.way.name == (names[there] if number >= choice.BEFORE else "attention_16.cu")
        for found, right in zip((mine, *into), (y, *gradients), strict=True):
            off = np.linalg.norm(back(found).astype(np.float64) - right)
            assert off <= 2.0**-7 * np.linalg.norm(right)
    assert gpu.calls[-2:] == [names[there], f"{names[goes_back]} back"]


def test_a_checkpoint_may_go_another_way_the_second_time(gpu, monkeypatch):
    """Three parts go there by ours; cuDNN is chosen when the last of them runs again. To rounding that is the same."""
    slowed(monkeypatch, gpu, 0.5, 0.5)
    numbers, gradients = floats(1, 2, 9, 16).astype(BFLOAT16).astype(np.float32), []
    for x in (tg.from_numpy(numbers), tg.from_numpy(numbers).to("cuda").to(tg.bfloat16)):
        y = x.requires_grad_()
        for _ in range(3):
            y = checkpoint(lambda z: F.scaled_dot_product_attention(z, z, z, is_causal=True), y, use_reentrant=False)
        (y * y).sum().backward()
        gradients.append(x.grad.float().cpu().numpy())
    assert gpu.calls[:3] == ["attention_16.cu"] * 3 and "cuDNN" in heads.chosen.seen.values()
    assert np.linalg.norm(gradients[1] - gradients[0]) <= 2.0**-6 * np.linalg.norm(gradients[0])


def test_trials_of_the_way_back_leave_gradients_as_they_are(gpu, monkeypatch):
    """Where a graph of another step still has to read them, say: only the call itself writes."""
    slowed(monkeypatch, gpu, 2.0, 0.5)
    g, q, k, v, into = packed()
    _, saved = CUDA.attention(q, k, v, None, True, 0.3, None, 0.0)
    asked = heads.Asked(q, k, v, None, True, 0.3, None, 0.0)
    before = [back(a).copy() for a in (g, q, k, v, saved.y, saved.kept)]
    for _ in range(choice.BEFORE + 1):
        way = heads.choose_back(g, asked, saved, into)
    assert way.name == "cuDNN" and "attention_16.cu back" in gpu.calls
    assert not any(back(place).any() for place in into)
    for a, b in zip((g, q, k, v, saved.y, saved.kept), before, strict=True):
        np.testing.assert_array_equal(back(a), b)


def test_a_trial_writes_where_gradients_would_lie(gpu):
    into = packed()[-1]
    found = heads._places_like(into)
    assert [a.strides for a in found] == [a.strides for a in into]
    assert [a.data.ptr - found[0].data.ptr for a in found] == [a.data.ptr - into[0].data.ptr for a in into]
    assert heads._places_like(None) is None and heads._places_like(into[:2]) is None


def test_a_way_back_that_is_refused_does_not_cost_the_way_there(gpu, monkeypatch):
    slowed(monkeypatch, gpu, 0.5, 0.5)
    room = pretend_cudnn.ROOM  # and in one order, backward, it would work on all scores
    monkeypatch.setattr(cudnn, "ROOM", room)
    monkeypatch.setattr(pretend_cudnn.Graph, "get_workspace_size", lambda self: room + (len(self.made) == 3))
    g, q, k, v, _ = packed()
    with pytest.warns(RuntimeWarning, match="attention backward by cuDNN fails and is left alone: .* works in") as told:
        for _ in range(4):
            _, saved = CUDA.attention(q, k, v, None, True, 0.3, None, 0.0)
            CUDA.attention_backward(g, q, k, v, saved, 0.3, None, 0.0, False)
    assert gpu.calls[-2:] == ["cuDNN", "attention_16.cu back"] and len(told) == 1


def test_switches_count_in_each_direction_and_what_the_reference_keeps_stays_with_it(gpu, monkeypatch):
    slowed(monkeypatch, gpu, 0.5, 0.5)
    g, q, k, v, _ = packed()
    sides = {"ours": (True, False), "cuDNN": (False, True), "neither": (False, False)}

    def went(there, goes_back):
        gpu.calls.clear()
        flash, by_cudnn = sides[there]
        with tg.backends.cuda.sdp_kernel(enable_flash=flash, enable_cudnn=by_cudnn):
            _, saved = CUDA.attention(q, k, v, None, True, 0.3, None, 0.0)
        flash, by_cudnn = sides[goes_back]
        with tg.backends.cuda.sdp_kernel(enable_flash=flash, enable_cudnn=by_cudnn):
            CUDA.attention_backward(g, q, k, v, saved, 0.3, None, 0.0, False)
        return [*gpu.calls, saved.way.name]

    assert went("ours", "cuDNN") == ["attention_16.cu", "cuDNN back", "attention_16.cu"]
    assert went("cuDNN", "ours") == ["cuDNN", "attention_16.cu back", "cuDNN"]
    assert went("cuDNN", "neither") == ["cuDNN", "cuDNN back", "cuDNN"]
    assert went("neither", "ours") == ["reference"]
    assert not heads.chosen.seen and not heads.chosen_back.seen


def test_where_each_run_must_give_the_same_bits_no_clock_decides(gpu, monkeypatch):
    slowed(monkeypatch, gpu, 0.5, 0.5)
    monkeypatch.setattr(devices, "deterministic", tg.are_deterministic_algorithms_enabled())
    tg.use_deterministic_algorithms(True)
    g, q, k, v, _ = packed()
    for _ in range(5):
        _, saved = CUDA.attention(q, k, v, None, True, 0.3, None, 0.0)
        CUDA.attention_backward(g, q, k, v, saved, 0.3, None, 0.0, False)
    assert gpu.calls == ["attention_16.cu", "attention_16.cu back"] * 5
    tg.use_deterministic_algorithms(False)
    for _ in range(choice.BEFORE + 1):
        CUDA.attention(q, k, v, None, True, 0.3, None, 0.0)
    assert gpu.calls[-1] == "cuDNN"


def test_what_makes_another_kind(gpu, monkeypatch):
    """All that may change who is faster, or serves; a way that is called twice with the same is asked about it once."""
    monkeypatch.setattr(heads, "RIVALS", [heads.TENSOR_CORES_16._replace(name="as ours")])
    kinds: list[list[object]] = [[], []]
    for place, op in zip(kinds, (heads.chosen, heads.chosen_back), strict=True):
        monkeypatch.setattr(op, "of", lambda kind, ways, place=place: place.append((kind, *ways)) or next(iter(ways)))
    g, q, k, v, into = packed()
    y, lse = heads.TENSOR_CORES_16.forward(heads.Asked(q, k, v, None, True, 0.3, None, 0.0))
    documents, seen = (moved(np.zeros(shape, kind)) for shape, kind in (((2, 9), np.int64), ((2, 1, 9, 9), bool)))
    usual = {"mask": None, "causal": True, "scale": 0.3, "keep": None, "drop": 0.3}
    changes = [
        ((q, k, v), {}), ((q, k, v), {"causal": False}), ((q, k, v), {"mask": documents}), ((q, k, v), {"mask": seen}),
        ((q, k, v), {"keep": KEY}), ((q.copy(), k, v), {}), ((q, k[:, :1], v[:, :1]), {}), ((q[:, :, :8], k, v), {}),
        (tuple(a.astype(FLOAT16) for a in (q, k, v)), {}),
    ]  # fmt: skip
    for _ in range(2):
        for arrays, change in changes:
            heads.choose(heads.Asked(*arrays, **usual | change))
        for towards, places, in_order in ((g, into, True), (g, None, True), (g.copy(), None, True), (g, None, False)):
            monkeypatch.setattr(cudnn, "deterministic", in_order)
            for arrays, change in changes:
                asked = heads.Asked(*arrays, **usual | change)
                saved = heads.Saved(heads.BY_CUDNN, y, lse, asked.mask, asked.causal)
                heads.choose_back(towards, asked, saved, places)
    assert [len(found) for found in kinds] == [2 * len(changes), 8 * len(changes)]
    assert [len(set(found)) for found in kinds] == [len(changes), 4 * len(changes)]


def test_a_negative_scale_is_nobody_s_but_the_reference_s(gpu):
    _, q, k, v, _ = packed()
    assert CUDA.attention(q, k, v, None, True, -0.3, None, 0.0)[1].way is heads.BY_REFERENCE
