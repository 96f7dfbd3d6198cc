"""autocast against PyTorch's on the CPU: the dtype of every function's result, a GPT's gradients, a training."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.models import GPTModel

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)
A, B, V = RNG.uniform(0.1, 0.9, (3, 4)), RNG.uniform(0.1, 0.9, (3, 4)), RNG.uniform(0.1, 0.9, 4)
CUBE, IDS = RNG.uniform(0.1, 0.9, (2, 3, 3)), np.array([0, 2, 1])

CALLS = {  # of the library t, its functional f, tensors a, b (3, 4), v (4,), c (2, 3, 3), ids (3,), signs (3,)
    "matmul": lambda t, f, x: x.a @ x.b.T, "matmul, vectors": lambda t, f, x: x.a @ x.v,
    "matmul, batches": lambda t, f, x: x.c @ x.c, "mm": lambda t, f, x: t.mm(x.a, x.b.T),
    "mv": lambda t, f, x: t.mv(x.a, x.v), "bmm": lambda t, f, x: t.bmm(x.c, x.c),
    "dot": lambda t, f, x: t.dot(x.v, x.v), "outer": lambda t, f, x: t.outer(x.v, x.v),
    "addmm": lambda t, f, x: t.addmm(x.c[0], x.a, x.b.T), "linear": lambda t, f, x: f.linear(x.a, x.b),
    "linear, bias": lambda t, f, x: f.linear(x.a, x.b, x.c[0, 0]), "prelu": lambda t, f, x: f.prelu(x.a, x.v[:1]),
    "einsum": lambda t, f, x: t.einsum("ij,kj->ik", x.a, x.b), "einsum, no sum": lambda t, f, x: t.einsum(
        "ij,ij->ij", x.a, x.b), "einsum, one": lambda t, f, x: t.einsum("ij->i", x.a),
    "attention": lambda t, f, x: f.scaled_dot_product_attention(*[x.c[None]] * 3),
    "attention, mask": lambda t, f, x: f.scaled_dot_product_attention(*[x.c[None]] * 3, attn_mask=x.c[0]),
    "embedding": lambda t, f, x: f.embedding(x.ids, x.a), "layer_norm": lambda t, f, x: f.layer_norm(x.a, (4,)),
    "layer_norm, weight": lambda t, f, x: f.layer_norm(x.a, (4,), x.v, x.v),
    "rms_norm": lambda t, f, x: f.rms_norm(x.a, (4,)), "group_norm": lambda t, f, x: f.group_norm(x.a, 2),
    **{name: lambda t, f, x, name=name: getattr(t, name)(x.a) for name in (
        "acos", "asin", "cosh", "erf", "exp", "expm1", "log", "log10", "log1p", "log2", "mean", "neg", "norm", "prod",
        "reciprocal", "relu", "rsqrt", "sigmoid", "sinh", "sqrt", "std", "sum", "tan", "tanh", "trace", "var",
    )},
    **{name: lambda t, f, x, name=name: getattr(t, name)(x.a, 1) for name in (
        "cumprod", "cumsum", "log_softmax", "logsumexp", "softmax",
    )},
    **{name: lambda t, f, x, name=name: getattr(f, name)(x.a) for name in ("gelu", "silu", "softplus")},
    "softmin": lambda t, f, x: f.softmin(x.a, 1), "pow": lambda t, f, x: x.a**3, "pow, both": lambda t, f, x: x.a**x.b,
    **{name: lambda t, f, x, name=name: getattr(f, name)(x.a, x.b) for name in (
        "binary_cross_entropy", "binary_cross_entropy_with_logits", "hinge_embedding_loss", "huber_loss", "kl_div",
        "l1_loss", "mse_loss", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss", "cosine_similarity",
        "pairwise_distance",
    )},
    "cross_entropy": lambda t, f, x: f.cross_entropy(x.a, x.ids), "nll_loss": lambda t, f, x: f.nll_loss(x.a, x.ids),
    "cross_entropy, shares": lambda t, f, x: f.cross_entropy(x.a, x.b),
    "cosine_embedding_loss": lambda t, f, x: f.cosine_embedding_loss(x.a, x.b, x.signs),
    "margin_ranking_loss": lambda t, f, x: f.margin_ranking_loss(x.a[:, 0], x.b[:, 0], x.signs),
    "triplet_margin_loss": lambda t, f, x: f.triplet_margin_loss(x.a, x.b, x.a * 2),
    "gaussian_nll_loss": lambda t, f, x: f.gaussian_nll_loss(x.a, x.b, x.b),
    "cat": lambda t, f, x: t.cat([x.a, x.mixed]), "stack": lambda t, f, x: t.stack([x.a, x.mixed]),
    "add": lambda t, f, x: x.a + x.mixed, "mul": lambda t, f, x: x.a * 2.5, "atan2": lambda t, f, x: t.atan2(x.a, x.b),
    "linear of both": lambda t, f, x: f.linear(x.a, x.mixed), "matmul of both": lambda t, f, x: x.a @ x.mixed.T,
}  # fmt: skip


class Arguments:
    """The tensors of the calls in one library: floating ones of a dtype, but for `mixed`, which is float32."""

    def __init__(self, lib, dtype):
        def make(array):
            return lib.tensor(array.tolist(), dtype=lib.float32).to(getattr(lib, dtype))

        self.a, self.b, self.v, self.c = map(make, (A, B, V, CUBE))
        self.mixed = lib.tensor(B.tolist(), dtype=lib.float32)
        self.ids, self.signs = lib.tensor(IDS.tolist()), lib.tensor([1, -1, 1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", ["float32", "half"])
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CALLS)
def test_a_function_gives_pytorchs_dtype_and_values(name, half, given):
    results = []
    for lib in (tg, torch):
        with lib.autocast("cpu", getattr(lib, half)):
            x = Arguments(lib, half if given == "half" else given)
            try:
                results.append(CALLS[name](lib, lib.nn.functional, x))
            except RuntimeError as error:
                results.append(error)
    ours, theirs = results
    if isinstance(theirs, RuntimeError):
        pytest.skip(f"PyTorch refuses: {theirs}")
    assert str(ours.dtype) == str(theirs.dtype)
    tolerance = {torch.float32: 2e-3, torch.bfloat16: 2e-2, torch.float16: 3e-3}[theirs.dtype]
    np.testing.assert_allclose(ours.float().numpy(), theirs.float().numpy(), rtol=tolerance, atol=tolerance)


CONFIG = {"vocab_size": 65, "context_length": 24, "emb_dim": 32, "n_heads": 4, "n_layers": 2, "drop_rate": 0.0,
          "qkv_bias": True, "tie_weights": True}  # fmt: skip
F = torch.nn.functional


def torch_loss(w, ids, targets):
    """A GPT's loss as one writes it in PyTorch, from a dictionary of weights."""

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    (batch, t), heads = ids.shape, CONFIG["n_heads"]
    x = F.embedding(ids, w["tok_emb.weight"]) + w["pos_emb.weight"][:t]
    for i in range(CONFIG["n_layers"]):
        block = f"trf_blocks.{i}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.att.qkv").view(batch, t, 3, heads, -1)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True)
        x = x + linear(mixed.transpose(1, 2).reshape(batch, t, -1), f"{block}.att.out_proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.ff.layers.0"), approximate="tanh")
        x = x + linear(hidden, f"{block}.ff.layers.2")
    return F.cross_entropy(F.linear(norm(x, "final_norm"), w["tok_emb.weight"]).flatten(0, 1), targets.flatten())


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pair():
    tg.manual_seed(0)
    model = GPTModel(CONFIG)
    weights = {name: torch.tensor(p.detach().numpy()).requires_grad_() for name, p in model.named_parameters()}
    return model, weights


def batch(step):
    ids = (65 * np.random.default_rng(step).random((4, 25)) ** 3).astype(np.int64)
    return ids[:, :-1], ids[:, 1:]


def loss_of(lib, model, half, step):
    ids = (lib.from_numpy(part.copy()) for part in batch(step))
    with lib.autocast("cpu", getattr(lib, half or "bfloat16"), enabled=half is not None):
        return model.loss(*ids) if lib is tg else torch_loss(model, *ids)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_a_gpts_loss_and_gradients_are_as_near_to_float32s_as_pytorchs(half):
    """Both round, in different places; ours may be no further from the exact gradients than PyTorch's are."""
    model, weights = pair()
    ours, theirs = loss_of(tg, model, half, 0), loss_of(torch, weights, half, 0)
    assert ours.dtype is tg.float32 and theirs.dtype is torch.float32
    assert ours.item() == pytest.approx(theirs.item(), abs=2e-3)
    ours.backward(), theirs.backward()
    narrow = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
    model.zero_grad()
    loss_of(tg, model, None, 0).backward()
    for name, p in model.named_parameters():
        assert p.grad.dtype is tg.float32
        exact, size = p.grad.numpy(), np.abs(p.grad.numpy()).max()
        off = [np.sqrt(np.mean((g - exact) ** 2)) for g in (narrow[name], weights[name].grad.numpy())]
        assert off[0] <= 1.5 * off[1] + 1e-3 * size, (name, off, size)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_a_training_follows_pytorchs_and_float32s(half):
    losses = {}
    for name, way in (("ours", half), ("exact", None), ("theirs", half)):
        model, weights = pair()
        lib, of = (torch, weights) if name == "theirs" else (tg, model)
        parameters = list(weights.values()) if name == "theirs" else model.parameters()
        optimizer = lib.optim.AdamW(parameters, lr=1e-3)
        losses[name] = []
        for step in range(25):
            loss = loss_of(lib, of, way, step)
            scale = 1.0 if half == "bfloat16" or way is None else 1024.0
            (loss * scale).backward()
            for p in parameters if name == "theirs" else model.parameters():
                p.grad /= scale
            lib.nn.utils.clip_grad_norm_(parameters if name == "theirs" else model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses[name].append(loss.item())
    ours, exact, theirs = (np.array(losses[name]) for name in ("ours", "exact", "theirs"))
    assert ours[-1] < ours[0] - 0.3 and math.isfinite(ours.sum())
    assert np.abs(ours - exact).max() < 1e-2
    assert np.abs(ours - theirs).max() < 1e-2
