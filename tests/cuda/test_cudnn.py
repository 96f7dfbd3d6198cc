"""cuDNN's attention, on a frontend that is pretended and against the signatures of the real one."""

from __future__ import annotations

import re
import sys
import types

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.cuda import pretend, pretend_cudnn
from tests.cuda.kinds import back, moved
from tests.cuda.pretend import inside
from tinygrad_llm import devices
from tinygrad_llm.kernels import CUDA, REFERENCE
from tinygrad_llm.kernels.cuda import cudnn, heads

REALS = (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16))


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing is remembered from one test to the next."""
    places = (cudnn.problem, cudnn._library, cudnn.planned, cudnn.warn)
    for place in places:
        place.cache_clear()
    yield
    for place in places:
        place.cache_clear()


@pytest.fixture
def frontend(monkeypatch):
    """The pretended frontend on the pretended GPU."""
    monkeypatch.setitem(sys.modules, "cudnn", pretend_cudnn.module())
    monkeypatch.setattr(cudnn, "_stream", lambda number: types.SimpleNamespace(ptr=77))
    pretend_cudnn.graphs.clear()
    pretend_cudnn.streams.clear()
    with pretend.gpu(), tg.backends.cuda.sdp_kernel():
        yield pretend_cudnn


def arrays(dtype, t=9, s=9, d=16, heads=4, groups=4, batch=2, seed=0):
    """g, q, k, v of random numbers that 16 bits hold exactly enough."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, heads, t, d), (batch, heads, t, d), (batch, groups, s, d), (batch, groups, s, d)]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def expected(g, q, k, v, causal, scale):
    """By the reference in float64, keys and values repeated for the queries that share them."""
    g, q, k, v = (a.astype(np.float64) for a in (g, q, k, v))
    times = q.shape[1] // k.shape[1]
    many = [np.repeat(a, times, axis=1) for a in (k, v)]
    y, p = REFERENCE.attention(q, *many, None, causal, scale, None, 1.0)
    dq, dk, dv, _ = REFERENCE.attention_backward(g, q, *many, p, scale, None, 1.0, False)
    return y, dq, *(a.reshape(*k.shape[:2], times, *k.shape[2:]).sum(2) for a in (dk, dv))


def check(found, wanted, dtype):
    tolerance = 0.04 if dtype == REALS[0] else 0.005
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        np.testing.assert_allclose(inside(a).astype(np.float64), b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("t", "s", "d", "heads", "groups"), [(9, 9, 16, 4, 4), (5, 12, 64, 6, 2), (7, 7, 128, 4, 1), (6, 1, 8, 1, 1)]
)
def test_as_the_reference(frontend, dtype, causal, t, s, d, heads, groups):
    g, q, k, v = arrays(dtype, t, s, d, heads, groups)
    there = moved([g, q, k, v])
    assert cudnn.serves(*there[1:], None, None)
    y, lse = cudnn.attention(*there[1:], causal, 0.3)
    assert y.transpose(0, 2, 1, 3).flags.c_contiguous and lse.flags.c_contiguous
    assert lse.shape == (2, heads, t) and lse.dtype == np.float32
    check((y, *cudnn.attention_backward(*there, y, lse, causal, 0.3)), expected(g, q, k, v, causal, 0.3), dtype)
    assert set(frontend.streams) == {77}


@given(st.sampled_from(["packed", "gaps", "rows apart", "broadcast", "reversed", "off by one"]), st.integers(0, 9))
def test_arrays_are_read_where_they_lie_or_copied(layout, seed):
    with pytest.MonkeyPatch.context() as patch, pretend.gpu():
        patch.setitem(sys.modules, "cudnn", pretend_cudnn.module())
        patch.setattr(cudnn, "_stream", lambda number: types.SimpleNamespace(ptr=77))
        g, q, k, v = arrays(REALS[0], seed=seed)
        if layout == "broadcast":
            g = np.broadcast_to(g[:1, :1], g.shape).copy()
        laid = [laid_out(a, layout) for a in (g, q, k, v)]
        if layout == "broadcast":
            laid[1:] = moved([q, k, v])
        y, lse = cudnn.attention(*laid[1:], True, 0.3)
        check((y, *cudnn.attention_backward(*laid, y, lse, True, 0.3)), expected(g, q, k, v, True, 0.3), REALS[0])


def laid_out(a, layout):
    """The same numbers, lying otherwise."""
    if layout == "packed":  # heads beside each other in rows, as one projection leaves them
        return moved(np.ascontiguousarray(a.transpose(0, 2, 1, 3))).transpose(0, 2, 1, 3)
    if layout == "gaps":
        return moved(np.repeat(a, 2, axis=-1))[..., ::2]
    if layout == "rows apart":
        return moved(np.concatenate([a, a], axis=-1))[..., : a.shape[-1]]
    if layout == "broadcast":
        return np.broadcast_to(moved(a)[:1, :1], a.shape)
    if layout == "reversed":
        return moved(np.ascontiguousarray(a[:, :, ::-1]))[:, :, ::-1]
    room = moved(np.zeros(a.size + 1, a.dtype))
    room[1:] = moved(a.reshape(-1))
    return room[1:].reshape(a.shape)


def test_gradients_go_where_they_are_wanted(frontend):
    g, q, k, v = arrays(REALS[0])
    room = moved(np.zeros((2, 9, 3, 4, 16), REALS[0]))
    into = tuple(room.transpose(2, 0, 3, 1, 4))
    y, lse = cudnn.attention(*moved([q, k, v]), True, 0.3)
    cudnn.attention_backward(*moved([g, q, k, v]), y, lse, True, 0.3, into)
    check(into, expected(g, q, k, v, True, 0.3)[1:], REALS[0])
    assert [call[1]["stride"] for call in frontend.graphs[1].calls[:1]] == [[576, 144, 16, 1]]
    assert frontend.graphs[1].made[0].facts["stride"] == [9 * 3 * 64, 16, 3 * 64, 1]


def test_a_layout_is_planned_once_and_the_number_of_plans_is_bounded(frontend):
    _, q, k, v = arrays(REALS[0])
    for _ in range(3):
        cudnn.attention(*moved([q, k, v]), True, 0.3)
    assert len(frontend.graphs) == 1 and frontend.graphs[0].runs == 3
    cudnn.attention(*moved([q, k, v]), False, 0.3)
    assert len(frontend.graphs) == 2
    for t in range(2, cudnn.PLANS + 8):
        cudnn.attention(*moved(arrays(REALS[0], t, t, 8, 1, 1, 1)[1:]), True, 0.3)
    assert cudnn.planned.cache_info().currsize == cudnn.PLANS


def test_what_is_not_served(frontend):
    _, q, k, v = moved(arrays(REALS[0]))
    assert cudnn.serves(q, k, v, None, None)
    assert not cudnn.serves(q, k, v, q, None) and not cudnn.serves(q, k, v, None, 5)
    assert not cudnn.serves(q, k, v[..., :8], None, None)
    assert not cudnn.serves(q, k, v.astype(REALS[1]), None, None)
    for wrong in ({"d": 12}, {"d": 136}, {"t": 0}, {"t": 1}, {"s": 0}, {"groups": 3}):
        assert not cudnn.serves(*moved(arrays(REALS[0], **wrong))[1:], None, None), wrong
    assert not cudnn.serves(*moved(arrays(np.float32))[1:], None, None)


def test_a_plan_that_takes_much_memory_is_refused_and_the_order_of_sums_may_be_any(frontend, monkeypatch):
    g, q, k, v = moved(arrays(REALS[0]))
    y, lse = cudnn.attention(q, k, v, True, 0.3)
    assert not tg.backends.cudnn.deterministic
    for wanted, strictly in ((True, False), (False, False), (True, False), (False, True)):
        monkeypatch.setattr(tg.backends.cudnn, "deterministic", wanted)
        monkeypatch.setattr(devices, "deterministic", strictly)
        cudnn.attention_backward(g, q, k, v, y, lse, True, 0.3)
    assert [graph.calls[-1][1].get("use_deterministic_algorithm") for graph in frontend.graphs] == [None, True, False]
    assert [graph.runs for graph in frontend.graphs] == [1, 3, 1]
    monkeypatch.setattr(cudnn, "ROOM", pretend_cudnn.ROOM - 1)
    cudnn.planned.cache_clear()
    with pytest.raises(RuntimeError, match=r"forward of .* works in 4,096 bytes"):
        cudnn.attention(q, k, v, True, 0.3)


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [(80907, None, "cuDNN 80907 is older"), (None, RuntimeError("no libcudnn"), r"cannot be loaded \(no libcudnn\)")],
)
def test_a_library_that_is_older_or_broken(frontend, monkeypatch, version, error, message):
    def backend_version():
        if error:
            raise error
        return version

    monkeypatch.setattr(sys.modules["cudnn"], "backend_version", backend_version)
    with pytest.warns(RuntimeWarning, match=message):
        assert "pip install" in cudnn.problem()
    assert tg.backends.cudnn.version() is None
    assert not cudnn.serves(*moved(arrays(REALS[0]))[1:], None, None)


def test_a_frontend_that_is_not_installed(monkeypatch, restored):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert "pip install 'tinygrad_llm[cudnn]'" in cudnn.problem()
    with pytest.warns(RuntimeWarning, match="cuDNN's attention is not there") as told:
        tg.backends.cuda.enable_cudnn_sdp(True)
        tg.backends.cuda.enable_cudnn_sdp(True)
    assert len(told) == 1


@pytest.fixture
def restored():
    """The switches are afterwards as they were."""
    with tg.backends.cuda.sdp_kernel():
        yield


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernels_of_a_gpu_take_it_where_it_is_allowed(frontend, restored, causal, monkeypatch):
    g, q, k, v = moved(arrays(REALS[0]))
    monkeypatch.setattr(heads, "shared_memory", lambda number: 160 * 1024)
    tg.backends.cuda.enable_flash_sdp(False)
    y, saved = CUDA.attention(q, k, v, None, causal, 0.3, None, 1.0)
    assert saved.way is heads.BY_CUDNN
    found = CUDA.attention_backward(g, q, k, v, saved, 0.3, None, 1.0, False)
    assert found[3] is None
    check((y, *found[:3]), expected(*map(inside, (g, q, k, v)), causal, 0.3), REALS[0])
    with tg.backends.cuda.sdp_kernel(enable_cudnn=False, enable_flash=False):
        _, saved = CUDA.attention(q, k, v, None, causal, 0.3, None, 1.0)
        assert saved.way is heads.BY_REFERENCE
        tg.backends.cuda.enable_math_sdp(False)
        assert not tg.backends.cuda.math_sdp_enabled()
        with pytest.raises(RuntimeError, match="No available kernel"):
            CUDA.attention(q, k, v, None, causal, 0.3, None, 1.0)
    assert tg.backends.cuda.math_sdp_enabled() and tg.backends.cuda.cudnn_sdp_enabled()


def test_the_real_frontend_takes_what_the_pretended_one_was_given(frontend, monkeypatch):
    g, q, k, v = moved(arrays(REALS[0], 5, 12, 64, 6, 2))
    for causal in (True, False):
        y, lse = cudnn.attention(q, k, v, causal, 0.3)
        cudnn.attention_backward(g, q, k, v, y, lse, causal, 0.3)
    monkeypatch.undo()
    real = pytest.importorskip("cudnn")
    for told in frontend.graphs:
        types_ = {key: getattr(real.data_type, value.name) for key, value in told.options.items() if key != "handle"}
        graph = real.pygraph(**types_)
        tensors = {}
        for name, facts in told.calls[:-1]:
            tensors[facts["name"]] = getattr(graph, name)(
                **facts | {"data_type": getattr(real.data_type, facts["data_type"].name)}
            )
        name, given_ = told.calls[-1]
        given_ = {key: tensors.get(key, value) for key, value in given_.items()}
        given_["diagonal_alignment"] = getattr(real.diagonal_alignment, given_["diagonal_alignment"].name)
        bound = getattr(real._pybind_module, "backend_graph", real.pygraph)  # the C++ below the Python
        known = set(re.findall(r"(\w+): ", bound.__dict__[name].__doc__.split("->")[0]))
        assert given_.keys() <= known
        for tensor, made in zip(getattr(graph, name)(**given_), told.made, strict=True):
            for key, value in made.facts.items():
                getattr(tensor, f"set_{key}")(getattr(real.data_type, value.name) if key == "data_type" else value)
        graph.validate()
        assert [t.get_uid() for t in graph.get_outputs()] == [t.facts["uid"] for t in told.made]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", REALS, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("t", "s", "d", "heads", "groups"), [(128, 128, 64, 4, 4), (100, 130, 128, 4, 2)])
def test_on_a_gpu(dtype, causal, t, s, d, heads, groups):
    if cudnn.problem():
        pytest.skip(cudnn.problem())
    g, q, k, v = arrays(dtype, t, s, d, heads, groups)
    there = moved([g, q, k, v])
    y, lse = cudnn.attention(*there[1:], causal, d**-0.5)
    found = (y, *cudnn.attention_backward(*there, y, lse, causal, d**-0.5))
    again = cudnn.attention_backward(*there, y, lse, causal, d**-0.5)
    for a, b in zip(found, expected(g, q, k, v, causal, d**-0.5), strict=True):
        assert np.linalg.norm(back(a).astype(np.float64) - b) < 0.02 * np.linalg.norm(b)
    for a, b in zip(found[1:], again, strict=True):
        np.testing.assert_array_equal(back(a), back(b))
