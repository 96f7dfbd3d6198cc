"""Each layer against PyTorch's with the same weights: value, gradients, state names, defaults."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


LAYERS = {
    "Linear": ((4, 3), {}, (5, 4)),
    "Linear 3d no bias": ((4, 3, False), {}, (2, 5, 4)),
    "LayerNorm": ((4,), {}, (5, 4)),
    "LayerNorm two axes": (((3, 4),), {}, (5, 3, 4)),
    "LayerNorm eps": ((4,), {"eps": 0.1, "bias": False}, (5, 4)),
    "LayerNorm plain": ((4,), {"elementwise_affine": False}, (5, 4)),
    "RMSNorm": ((4,), {}, (5, 4)),
    "RMSNorm eps": ((4,), {"eps": 0.1, "elementwise_affine": False}, (5, 4)),
    "GELU": ((), {}, (5, 4)),
    "GELU tanh": (("tanh",), {}, (5, 4)),
    "ReLU": ((), {}, (5, 4)),
    "LeakyReLU": ((0.2,), {}, (5, 4)),
    "SiLU": ((), {}, (5, 4)),
    "Tanh": ((), {}, (5, 4)),
    "Sigmoid": ((), {}, (5, 4)),
    "Softplus": ((2.0, 1.0), {}, (5, 4)),
    "Softmax": ((1,), {}, (5, 4)),
    "LogSoftmax": ((-1,), {}, (5, 4)),
    "Flatten": ((), {}, (2, 3, 4)),
    "Flatten all": ((0,), {}, (2, 3, 4)),
    "Identity": ((1, 2), {"unused": 3}, (5, 4)),
    "Dropout none": ((0.0,), {}, (5, 4)),
    "Unflatten": ((1, (2, -1)), {}, (5, 4)),
    "BatchNorm1d": ((4,), {}, (5, 4)),
    "BatchNorm1d average": ((4,), {"momentum": None, "eps": 0.1}, (5, 4)),
    "BatchNorm1d plain": ((4,), {"affine": False, "track_running_stats": False}, (5, 4, 3)),
    "GroupNorm": ((2, 4), {}, (5, 4)),
    "GroupNorm plain": ((2, 4), {"affine": False}, (5, 4, 3)),
    "PReLU": ((), {}, (5, 4)),
    "PReLU each": ((4,), {"init": 0.1}, (5, 4)),
    "Threshold": ((0.1, 20.0), {}, (5, 4)),
    "ELU": ((0.5,), {}, (5, 4)),
    "CELU": ((0.5,), {}, (5, 4)),
    "Hardtanh": ((-0.3, 0.8), {}, (5, 4)),
    "Hardshrink": ((0.2,), {}, (5, 4)),
    "Softshrink": ((0.2,), {}, (5, 4)),
    "GLU": ((1,), {}, (5, 4)),
    "Softmin": ((0,), {}, (5, 4)),
    **{
        name: ((), {}, (5, 4))
        for name in ("SELU", "ReLU6", "Hardswish", "Mish", "Softsign", "Tanhshrink", "LogSigmoid")
    },
}


@pytest.mark.torch
@pytest.mark.parametrize("case", LAYERS)
def test_layer_equals_pytorchs(torch, case):
    args, kwargs, shape = LAYERS[case]
    name = case.split()[0]
    ours = getattr(nn, name)(*args, **kwargs).double()
    theirs = getattr(torch.nn, name)(*args, **kwargs).double()
    assert [(k, tuple(v.shape)) for k, v in ours.state_dict().items()] == [
        (k, tuple(v.shape)) for k, v in theirs.state_dict().items()
    ]
    weights = {k: floats(*v.shape, seed=3) for k, v in ours.state_dict().items()}
    ours.load_state_dict({k: tg.tensor(v) for k, v in weights.items()})
    theirs.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    x = floats(*shape)
    a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = ours(a), theirs(b)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-12, atol=1e-12)
    g = floats(*y.shape, seed=4)
    y.backward(tg.tensor(g))
    z.backward(torch.tensor(g))
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-10, atol=1e-12)
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-10, atol=1e-12, err_msg=key)


@pytest.mark.torch
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding_equals_pytorchs(torch, padding_idx):
    tg.manual_seed(5)
    torch.manual_seed(5)
    ours, theirs = nn.Embedding(7, 3, padding_idx), torch.nn.Embedding(7, 3, padding_idx)
    np.testing.assert_allclose(ours.weight.array, theirs.weight.detach().numpy(), rtol=3e-7)
    ours.load_state_dict({"weight": tg.tensor(theirs.weight.detach().numpy())})
    assert ours.padding_idx == theirs.padding_idx
    ids = np.array([[0, 2, 2], [6, 1, 6]])
    y, z = ours(tg.tensor(ids)), theirs(torch.tensor(ids))
    np.testing.assert_array_equal(y.detach().numpy(), z.detach().numpy())
    (y * y + y).sum().backward()  # a slope at zero too, where the padding row is
    (z * z + z).sum().backward()
    np.testing.assert_allclose(ours.weight.grad.array, theirs.weight.grad.numpy(), rtol=1e-6)


def test_embedding_from_a_table_and_bad_padding():
    table = tg.arange(6.0).reshape(3, 2)
    module = nn.Embedding.from_pretrained(table)
    assert not module.weight.requires_grad and np.shares_memory(module.weight.array, table.array)
    assert nn.Embedding.from_pretrained(table, freeze=False).weight.requires_grad
    assert module(tg.tensor([2])).tolist() == [[4.0, 5.0]]
    with pytest.raises(AssertionError, match="Padding_idx must be within num_embeddings"):
        nn.Embedding(3, 2, padding_idx=3)
    with pytest.raises(IndexError):
        nn.Embedding(3, 2)(tg.tensor([3]))


@pytest.mark.torch
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_equal_pytorchs(torch, reduction):
    logits, classes, weight = floats(6, 4), np.array([0, 3, 1, -100, 2, 2]), np.abs(floats(4, seed=1))
    targets, element = (floats(6, 4, seed=2) > 0).astype(float), np.abs(floats(6, 4, seed=3))
    probabilities = 1 / (1 + np.exp(-logits))

    def losses(lib):
        nn, t = lib.nn, lib.tensor
        r = {"reduction": reduction}
        return [
            nn.CrossEntropyLoss(**r)(t(logits), t(classes)),
            nn.CrossEntropyLoss(t(weight), ignore_index=2, label_smoothing=0.1, **r)(t(logits), t(abs(classes) % 4)),
            nn.NLLLoss(t(weight), **r)(lib.log_softmax(t(logits), dim=1), t(classes)),
            nn.MSELoss(**r)(t(logits), t(targets)),
            nn.BCELoss(t(element), **r)(t(probabilities), t(targets)),
            nn.BCEWithLogitsLoss(t(element), pos_weight=t(weight), **r)(t(logits), t(targets)),
        ]

    for ours, theirs in zip(losses(tg), losses(torch), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-12)


@pytest.mark.torch
def test_defaults_are_pytorchs(torch):
    """Every public layer: each argument that it has is PyTorch's, with PyTorch's default."""
    for name in nn.__all__:
        ours, theirs = getattr(nn, name), getattr(torch.nn, name, None)
        if theirs is None or not (inspect.isclass(ours) and issubclass(ours, nn.Module)):
            continue
        given = inspect.signature(theirs.__init__).parameters
        for key, parameter in inspect.signature(ours.__init__).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            assert key in given, f"{name}({key}=)"
            assert parameter.default == given[key].default, f"{name}({key}=)"


@settings(max_examples=30, deadline=None)
@given(p=st.floats(0.05, 0.95), seed=st.integers(0, 10**6))
def test_dropout_keeps_the_mean_and_is_off_in_evaluation(p, seed):
    tg.manual_seed(seed)
    layer, x = nn.Dropout(p), tg.ones(64, 256)
    y = layer(x).numpy()
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - p), rtol=1e-6)
    assert abs(kept.mean() - (1 - p)) < 6 * (p * (1 - p) / kept.size) ** 0.5 + 1e-4
    assert np.array_equal(layer.eval()(x).numpy(), x.numpy())


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_dropout_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        nn.Dropout(p)


@pytest.mark.torch
@settings(max_examples=15, deadline=None)
@given(
    heads=st.integers(1, 4),
    width=st.integers(1, 4),
    batch=st.integers(1, 3),
    length=st.integers(1, 6),
    bias=st.booleans(),
)
def test_attention_equals_its_formula_in_pytorch(heads, width, batch, length, bias):
    torch = pytest.importorskip("torch")
    c = heads * width
    layer = nn.MultiHeadAttention(3, c, 6, 0.5, heads, qkv_bias=bias).double().eval()
    x = floats(batch, length, 3)
    w = {key: torch.tensor(value.numpy()) for key, value in layer.state_dict().items()}
    qkv = torch.nn.functional.linear(torch.tensor(x), w["qkv.weight"], w.get("qkv.bias"))
    q, k, v = (t.reshape(batch, length, heads, width).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
    scores = (q @ k.transpose(-1, -2)) / width**0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, c)
    expected = torch.nn.functional.linear(mixed, w["out_proj.weight"], w["out_proj.bias"])
    np.testing.assert_allclose(layer(tg.tensor(x)).detach().numpy(), expected.numpy(), rtol=1e-9, atol=1e-12)


def test_attention_limits_and_dropout():
    with pytest.raises(ValueError, match="d_out 10 must be divisible by num_heads 3"):
        nn.MultiHeadAttention(4, 10, 8, 0.0, 3)
    with pytest.raises(ValueError, match=r"dropout must lie in 0..1, not 2"):
        nn.MultiHeadAttention(4, 8, 8, 2.0, 2)
    layer = nn.MultiHeadAttention(4, 8, 5, 0.5, 2)
    with pytest.raises(ValueError, match="6 positions are more than the context of 5"):
        layer(tg.zeros(1, 6, 4))
    x = tg.randn(2, 5, 4)
    assert not np.array_equal(layer(x).detach().numpy(), layer(x).detach().numpy())
    layer.eval()
    assert np.array_equal(layer(x).detach().numpy(), layer(x).detach().numpy())


def test_block_is_the_sum_of_its_parts():
    tg.manual_seed(2)
    block = nn.TransformerBlock(8, 2, 6, drop_rate=0.0)
    x = tg.randn(2, 6, 8)
    h = x + block.att(block.norm1(x))
    h = h + block.ff(block.norm2(h))
    np.testing.assert_array_equal(block(x).detach().numpy(), h.detach().numpy())
    assert block.ff.layers[0].out_features == 32
    # each of the two shortcuts goes through dropout in training
    block = nn.TransformerBlock(8, 2, 6, drop_rate=0.9)
    calls = []

    def note_zeros(module, args, output):
        calls.append((output.numpy(force=True) == 0).mean())

    block.drop_shortcut.register_forward_hook(note_zeros)
    block(x)
    assert len(calls) == 2 and all(share > 0.6 for share in calls)


MODULES = [
    "ELU(0.5)", "ELU(inplace=True)", "SELU()", "SELU(True)", "CELU(2.0)", "Hardtanh(-2.0, 3.0)", "ReLU6()",
    "ReLU6(True)", "Hardsigmoid()", "Hardswish()", "Mish()", "Softsign()", "Tanhshrink()", "Hardshrink(0.2)",
    "Softshrink()", "LogSigmoid()", "GLU()", "Softmin(1)", "Threshold(0.1, 20)", "PReLU(3)", "BatchNorm1d(4)",
    "BatchNorm1d(4, momentum=None, affine=False)", "GroupNorm(2, 4)", "Unflatten(1, (2, 2))", "L1Loss()",
    "SmoothL1Loss()", "HuberLoss()", "KLDivLoss()", "CosineSimilarity()", "PairwiseDistance()", "TripletMarginLoss()",
    "ParameterDict()", "ParameterDict({'a': lib.ones(2, 3), 'b': lib.ones(1)})",
]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("module", MODULES)
def test_modules_print_as_pytorchs(torch, module):
    shown = [repr(eval(f"lib.nn.{module}", {"lib": lib})) for lib in (tg, torch)]
    assert shown[0] == shown[1]


LOSSES = {
    "MSELoss": 2, "L1Loss": 2, "SmoothL1Loss": 2, "HuberLoss": 2, "SoftMarginLoss": 2, "HingeEmbeddingLoss": 2,
    "PoissonNLLLoss": 2, "KLDivLoss": 2, "MarginRankingLoss": 3, "TripletMarginLoss": 3, "GaussianNLLLoss": 3,
    "CosineSimilarity": 2, "PairwiseDistance": 2,
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_distances_equal_pytorchs(torch, name):
    rows = [np.abs(floats(5, 4, seed=i)) + 0.1 for i in range(LOSSES[name])]
    values = [getattr(lib.nn, name)()(*(lib.tensor(x) for x in rows)).numpy() for lib in (tg, torch)]
    np.testing.assert_allclose(*values, rtol=1e-12)


def test_cosine_embedding_loss():
    same, other = tg.tensor([[1.0, 0.0]]), tg.tensor([[0.0, 2.0]])
    loss = nn.CosineEmbeddingLoss(margin=0.2)
    assert loss(same, same, tg.ones(1)).item() == pytest.approx(0, abs=1e-6)
    assert loss(same, same, -tg.ones(1)).item() == pytest.approx(0.8)
    assert loss(same, other, tg.ones(1)).item() == pytest.approx(1)


@pytest.mark.torch
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_follows_the_batches_as_pytorchs(torch, momentum):
    outputs = []
    for lib in (tg, torch):
        layer = lib.nn.BatchNorm1d(4, momentum=momentum).double()
        for i in range(3):
            layer(lib.tensor(floats(5, 4, seed=i)))
        layer.eval()
        state = [np.asarray(v) for v in layer.state_dict().values()]
        outputs.append([layer(lib.tensor(floats(2, 4, 3))).detach().numpy(), *state])
        with pytest.raises(ValueError, match="more than 1 value"):
            layer.train()(lib.ones(1, 4, dtype=lib.float64))
        with pytest.raises(ValueError, match="2D or 3D"):
            layer(lib.ones(4, dtype=lib.float64))
    for mine, theirs in zip(*outputs, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_a_parameter_dict_holds_parameters():
    held = nn.ParameterDict({"a": tg.ones(2)})
    held["b"] = nn.Parameter(tg.zeros(3))
    held.update([("c", tg.ones(1))])
    assert list(held) == ["a", "b", "c"] == [name for name, _ in held.named_parameters()]
    assert held["a"].requires_grad and "b" in held and held.get("z") is None
    assert held.pop("a").tolist() == [1, 1] and len(held) == 2
    del held["b"]
    held.clear()
    assert not len(held)
    with pytest.raises(TypeError):
        held.update(3)


def test_activations_in_place():
    x = tg.tensor([-1.0, 2.0])
    assert nn.functional.relu_(x) is x and x.tolist() == [0, 2]
    assert nn.Hardtanh(inplace=True)(x) is x and x.tolist() == [0, 1]
    assert nn.functional.relu(x, inplace=True) is x
