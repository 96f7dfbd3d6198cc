"""Products: what is handed to cublasLt and to cuBLAS, which are pretended here, against NumPy; and on a real GPU."""

from __future__ import annotations

import importlib
import sys
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tests.cuda import pretend
from tests.cuda.kinds import back, moved
from tests.cuda.pretend_cublas import CuBLAS, Library
from tinygrad_llm import devices, nn
from tinygrad_llm.autograd.ops.linalg import lora_linear
from tinygrad_llm.kernels import CUDA, REFERENCE
from tinygrad_llm.kernels.cuda import capture, cublaslt, launch, layers, products
from tinygrad_llm.nn import FeedForward

DTYPES = [np.dtype(np.float32), np.dtype(np.float16), np.dtype(tg.bfloat16.numpy)]
SOME = settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
SIZE = st.integers(1, 9)
LAYOUTS = ["plain", "transposed", "columns of a wider one", "rows of a longer one", "every second", "one for all",
           "a row for all", "a column for all", "the first axis is the last in memory", "turned round",
           "the first axis turned round"]  # fmt: skip
WAYS = ["cublasLt", "cuBLAS"]


class pretended:
    """Inside, products on a pretended GPU are computed by one of the libraries."""

    def __init__(self, way: str):
        self.way, self.library, self.cublas = way, Library(), CuBLAS()

    def __enter__(self) -> pretended:
        works = products.works
        self.gpu, self.patch = pretend.gpu(), pytest.MonkeyPatch()
        self.gpu.__enter__()
        self.patch.setattr(cublaslt, "_library", lambda: self.library)
        self.patch.setitem(sys.modules, "cupy_backends.cuda.libs.cublas", self.cublas)
        self.patch.setattr(products, "works", (lambda number: False) if self.way == "cuBLAS" else works)
        works.cache_clear()
        return self

    def __exit__(self, *exc: object) -> None:
        products.works.cache_clear() if self.way != "cuBLAS" else None
        self.patch.undo()
        self.gpu.__exit__(*exc)


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """The same matrix or batch, otherwise in memory."""
    if layout == "transposed":
        return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    if layout == "columns of a wider one":
        return np.concatenate([x, x], axis=-1)[..., : x.shape[-1]]
    if layout == "rows of a longer one":
        return np.concatenate([x, x], axis=-2)[..., x.shape[-2] :, :]
    if layout == "every second":
        return np.repeat(x, 2, axis=-1)[..., ::2]
    if layout == "a row for all":
        return np.broadcast_to(x[..., :1, :], x.shape)
    if layout == "a column for all":
        return np.broadcast_to(x[..., :1], x.shape)
    if layout == "the first axis is the last in memory":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)
    if layout == "the first axis turned round":
        return x[::-1].copy()[::-1]
    if layout == "turned round":
        return np.ascontiguousarray(x[::-1, ..., ::-1])[::-1, ..., ::-1]
    if layout == "one for all" and x.ndim > 2:
        return np.broadcast_to(x[(0,) * (x.ndim - 2)], x.shape)
    return x


def factors(rng, shapes, dtype, layouts):
    return [laid_out(rng.standard_normal(s).astype(np.float32).astype(dtype), kind)
            for s, kind in zip(shapes, layouts, strict=True)]  # fmt: skip


def close(ours, exact, dtype, terms):
    step = 2.0**-8 if dtype == DTYPES[2] else 2.0**-11 if dtype == DTYPES[1] else 2.0**-22
    if ours.dtype == np.float32:
        step = 2.0**-20
    exact = np.asarray(exact, np.float64)
    np.testing.assert_allclose(ours.astype(np.float64), exact, rtol=2 * step, atol=8 * step * np.sqrt(terms))


@pytest.mark.parametrize("name", WAYS)
@given(
    st.data(), st.tuples(SIZE, SIZE, SIZE), st.lists(st.integers(1, 3), max_size=2), st.sampled_from(DTYPES),
    st.sampled_from(["none", "same", "float32", "added"]),
)  # fmt: skip
@SOME
def test_a_product_of_any_layout(name, data, sizes, lead, dtype, into):
    (m, k, n), rng = sizes, np.random.default_rng(0)
    flat = data.draw(st.booleans())  # one matrix for all
    shapes = ((*lead, m, k), (k, n) if flat else (*lead, k, n))
    a, b = factors(rng, shapes, dtype, data.draw(st.tuples(*[st.sampled_from(LAYOUTS)] * 2)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    with pretended(name):
        out = None
        if into != "none":
            out = moved(np.ones(exact.shape, np.float32 if into == "float32" else dtype))
        y = products.matmul(moved_as_it_is(a), moved_as_it_is(b), out, add=into == "added")
        assert out is None or y is out
        close(back(y), exact + (into == "added"), dtype, k)


def moved_as_it_is(x: np.ndarray) -> pretend.ndarray:
    """On the pretended GPU with its strides, which a move would lose."""
    return pretend.ndarray(x)


@pytest.mark.parametrize("name", WAYS)
@given(st.tuples(SIZE, SIZE, SIZE), st.sampled_from(DTYPES), st.booleans(), st.sampled_from(LAYOUTS[:4]))
@SOME
def test_layers_and_their_gradients(name, sizes, dtype, biased, layout):
    (n, k, m), rng = sizes, np.random.default_rng(1)
    x, w, b, g = factors(rng, ((n, k), (m, k), (1, m), (n, m)), dtype, (layout, layout, "plain", layout))
    bias = b[0] if biased else None
    with pretended(name) as used:
        there = [pretend.ndarray(v) if v is not None else None for v in (x, w, bias, g)]
        with exactly_by_reference():
            found = [CUDA.linear(*there[:3]), *CUDA.linear_gradients(there[3], there[0], (True, True))]
            h, y = CUDA.linear_activate(*there[:3], "gelu_tanh")
        if name == "cublasLt":
            assert used.library.calls[:1] != [] and "BGRADB" in used.library.calls
            assert ("BIAS" in used.library.calls[1:]) or not biased
    wide = [None if v is None else v.astype(np.float64) for v in (x, w, bias, g)]
    exact = [REFERENCE.linear(*wide[:3]), *REFERENCE.linear_gradients(wide[3], wide[0], (True, True))]
    for ours, theirs in zip(found, exact, strict=True):
        close(back(ours), theirs, dtype, max(sizes))
    assert found[0].dtype == dtype and found[1].dtype == found[2].dtype == np.float32
    for ours, theirs in zip((h, y), REFERENCE.linear_activate(*wide[:3], "gelu_tanh"), strict=True):
        close(back(ours), theirs, dtype, k)


class exactly_by_reference:
    """The kernels beside products, which no GPU runs here."""

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for name in ("activate", "column_sums"):
            self.patch.setattr(layers, name, getattr(REFERENCE, name))

    def __exit__(self, *exc):
        self.patch.undo()


@pytest.mark.filterwarnings("ignore:cublasLt refuses a product")
@pytest.mark.parametrize("when", ["refused", "failing"])
@pytest.mark.parametrize("refused", ["BIAS", "BGRADB", "GELU_AUX_BIAS"])
def test_what_has_no_algorithm_is_computed_in_steps(refused, when):
    rng = np.random.default_rng(2)
    x, w, g = factors(rng, ((5, 16), (8, 16), (5, 8)), DTYPES[2], ("plain",) * 3)
    b = w[:, 0].copy()
    results = []
    for some in ({refused}, set()):
        with pretended("cublasLt") as used, exactly_by_reference():
            getattr(used.library, when).update(some)
            there = [pretend.ndarray(v) for v in (x, w, b, g)]
            if refused == "BIAS":
                patch = pytest.MonkeyPatch()
                patch.setattr(products, "works", lambda number: True)  # the trial needs that epilogue itself
            found = [CUDA.linear(*there[:3]), *CUDA.linear_gradients(there[3], there[0], (True, True)),
                     *CUDA.linear_activate(*there[:3], "gelu_tanh")]  # fmt: skip
            if refused == "BIAS":
                patch.undo()
            assert (refused in used.library.calls) == (not some)
            results.append([back(y).astype(np.float32) for y in found])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=2**-6, atol=2**-6)


def test_a_library_that_is_missing_or_wrong_is_said_once():
    class Wrong(Library):
        def matmul(self, *args):
            super().matmul(*args)
            self._array(args[10], args[11])[...] += 1

    a = moved_as_it_is(np.ones((2, 3), np.float16))
    for problem in ("missing", "wrong", "fails"):
        with pretended("cublasLt") as used:
            if problem == "missing":
                used.patch.setattr(cublaslt, "_library", lambda: importlib.import_module("nvmath_that_is_not_there"))
            else:
                library = Wrong() if problem == "wrong" else types.SimpleNamespace()
                used.patch.setattr(cublaslt, "_library", lambda library=library: library)
            with pytest.warns(UserWarning, match="takes? CuPy's cuBLAS") as said:
                assert not products.can_be_captured()
                y = products.matmul(a, a.T)
                products.matmul(a, a.T)
            assert len(said) == 1 and (back(y) == 3).all() and used.cublas.calls == ["gemmEx"] * 2
    with pretended("cublasLt"):
        assert products.can_be_captured()


def test_what_the_libraries_do_not_multiply_goes_the_references_way():
    with pretended("cublasLt") as used:
        for a in (np.ones((2, 3)), np.ones((2, 0), np.float32), np.ones((2, 3), np.int64)):
            assert (back(products.matmul(pretend.ndarray(a), pretend.ndarray(a.T))) == a @ a.T).all()
        a = np.ones((2, 3), np.float32)
        out = np.zeros((4, 2), np.float32)
        products.matmul(pretend.ndarray(a), pretend.ndarray(a.T), pretend.ndarray(out[::2]))
        assert (out == [[3, 3], [0, 0]] * 2).all() and not used.library.calls


def test_tf32_is_for_float32_alone(monkeypatch):
    monkeypatch.setattr(devices, "tf32", True)
    for dtype, wanted in ((np.float32, 77), (np.float16, 68)):
        x = pretend.ndarray(np.ones((2, 2), dtype))
        with pretended("cublasLt"):
            assert products.plan(x, x, x).compute() == wanted


def test_a_feed_forward_network_is_one_op(monkeypatch):
    """On a GPU in 16 bits, with the values and gradients of the CPU."""
    tg.manual_seed(0)
    net, x = FeedForward(8), tg.randn(3, 5, 8)
    results = []
    for device in ("cpu", "cuda"):
        with pretended("cublasLt") as used, exactly_by_reference():
            if device == "cuda":
                used.patch.setattr(launch, "start", lambda *args: pytest.fail("a kernel was launched"))
                used.patch.setattr("tinygrad_llm.kernels.CUDA", _products_and_reference())
            net.to(device)
            net.zero_grad()
            with tg.autocast(device, tg.bfloat16):
                y = net(x.to(device))
            y.float().square().sum().backward()
            results.append([v.cpu().detach().float().numpy() for v in (y, *(p.grad for p in net.parameters()))])
            if device == "cuda":
                assert {"GELU_AUX_BIAS", "BIAS", "BGRADB"} <= set(used.library.calls)
            net.to("cpu")
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0.05, atol=0.02 * np.abs(b).max())


def _products_and_reference():
    import dataclasses

    names = ("matmul", "linear", "linear_gradients", "linear_activate")
    return dataclasses.replace(REFERENCE, **{name: getattr(CUDA, name) for name in names})


def test_a_first_product_in_a_graph_spoils_nothing(monkeypatch):
    with pretended("cublasLt"):
        with monkeypatch.context() as patch:
            patch.setattr(capture, "at_work", object)
            with pytest.raises(RuntimeError, match="take a step before"):
                products.works(0)
        assert products.works(0)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_a_gpu(dtype):
    """Each way of computing a layer on the GPU at hand, with cublasLt where it is there, and without."""
    rng = np.random.default_rng(0)
    x, w, g = factors(rng, ((65, 96), (40, 96), (65, 40)), dtype, ("plain",) * 3)
    there = [devices.move(v, devices.device("cuda")) for v in (x, w, np.ascontiguousarray(w[:, 0]), g)]
    for missing in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            if missing:
                patch.setattr(products, "works", lambda number: False)
            y = CUDA.linear(*there[:3])
            dw, db = CUDA.linear_gradients(there[3], there[0], (True, True))
            pre, act = CUDA.linear_activate(*there[:3], "gelu_tanh")
            batch = CUDA.matmul(there[0].reshape(5, 13, 96), there[1].T)
        wide = [v.astype(np.float64) for v in (x, w, w[:, 0], g)]
        exact = [REFERENCE.linear(*wide[:3]), *REFERENCE.linear_gradients(wide[3], wide[0], (True, True)),
                 *REFERENCE.linear_activate(*wide[:3], "gelu_tanh"),
                 wide[0].reshape(5, 13, 96) @ wide[1].T]  # fmt: skip
        for ours, theirs in zip((y, dw, db, pre, act, batch), exact, strict=True):
            size = np.abs(theirs).max()
            np.testing.assert_allclose(back(ours).astype(np.float64), theirs, rtol=0.02, atol=0.02 * size)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_gradients_of_later_passes_are_added_by_the_products(name, biased):
    """Of parts of a batch one after the other: the sums of the whole, and no gradient is an array of its own."""
    tg.manual_seed(0)
    layer, x = nn.Linear(6, 5, bias=biased), tg.randn(9, 6)
    layer(x).square().sum().backward()
    exact = [p.grad.numpy().copy() for p in layer.parameters()]
    layer.zero_grad()
    with pretended(name) as used, exactly_by_reference():
        used.patch.setattr("tinygrad_llm.kernels.CUDA", _products_and_reference())
        layer.cuda()
        places = []
        for part in (slice(0, 4), slice(4, 9)):
            layer(x[part].cuda()).square().sum().backward()
            places.append([p.grad.data_ptr() for p in layer.parameters()])
        assert places[0] == places[1]
        added = [beta for beta, _ in used.library.betas if beta]
        assert len(added) == (name == "cublasLt")
        for p, e in zip(layer.parameters(), exact, strict=True):
            np.testing.assert_allclose(p.grad.cpu().numpy(), e, rtol=1e-4, atol=1e-5)
        hooked = layer.weight.register_hook(lambda g: g * 2)
        before = layer.weight.grad.cpu().numpy()
        layer(x.cuda()).square().sum().backward()
        np.testing.assert_allclose(layer.weight.grad.cpu().numpy() - before, 2 * exact[0], rtol=1e-4, atol=1e-4)
        hooked.remove()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lora_takes_the_libraries_products_alone(dtype, monkeypatch):
    """A number times an array of bfloat16 is float32, which no library multiplies by bfloat16."""
    rng = np.random.default_rng(0)
    x, weight, a, b = arrays = [rng.standard_normal(s).astype(dtype) for s in ((5, 8), (12, 8), (8, 6), (2, 12))]
    monkeypatch.setattr(products, "_by_reference", lambda *args: pytest.fail("a product by the reference"))
    with pretended("cublasLt"):
        x, weight, a, b = moved(arrays)
        y, pull = lora_linear(x, weight, None, a, b, scale=0.3, parts=3)
        gradients = pull(y, (True, True, False, True, True))
        assert y.dtype == gradients[0].dtype == dtype
        assert all(d.dtype == np.float32 for d in (gradients[1], *gradients[3:]))
        found = back(y).astype(np.float64)
    x, weight, a, b = (v.astype(np.float64) for v in arrays)
    low = np.hstack([x @ a[:, i : i + 2] @ b[:, 2 * i : 2 * i + 4] for i in (0, 2, 4)])
    np.testing.assert_allclose(found, x @ weight.T + 0.3 * low, rtol=0, atol=0.2 if dtype == DTYPES[2] else 0.02)
