"""The whole model against PyTorch: the same GPT written in plain torch, with the same weights."""

import math

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import optim
from tinygrad_llm.models import GPTConfig, GPTModel
from tinygrad_llm.nn import functional as F

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

CONFIGS = {
    "untied": GPTConfig(65, 24, 32, 4, 3, 0.0),
    "tied, with qkv bias": GPTConfig(65, 24, 32, 4, 3, 0.0, qkv_bias=True, tie_weights=True),
}


def torch_logits(w, ids, config):
    """GPT-2's forward pass from a dictionary of weights, with nothing of torch.nn but arithmetic."""

    def norm(x, name):
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(var + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    B, T = ids.shape
    H, D = config.n_heads, config.emb_dim // config.n_heads
    x = w["tok_emb.weight"][ids] + w["pos_emb.weight"][:T]
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
    for i in range(config.n_layers):
        block = f"trf_blocks.{i}"
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.att.qkv").reshape(B, T, 3, H, D).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(D)).masked_fill(hidden, -torch.inf).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(B, T, H * D)
        x = x + linear(mixed, f"{block}.att.out_proj")
        h = linear(norm(x, f"{block}.norm2"), f"{block}.ff.layers.0")
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + linear(h, f"{block}.ff.layers.2")
    return norm(x, "final_norm") @ w["out_head.weight"].T


def batch(config, step, rows=4):
    ids = np.random.default_rng(step).integers(0, config.vocab_size, (rows, config.context_length + 1))
    return ids[:, :-1], ids[:, 1:]


def pair(name):
    """Our model, and the same weights as torch leaves; a tied head is one leaf under two names."""
    config = CONFIGS[name]
    tg.manual_seed(42)
    model = GPTModel(config)
    rng = np.random.default_rng(0)
    for p in model.parameters():  # away from zeros and ones, where a lost bias or gain would not show
        p.detach().add_(tg.tensor(rng.standard_normal(p.shape).astype(np.float32) * 0.05))
    weights = {key: torch.tensor(p.numpy(force=True).copy(), requires_grad=True) for key, p in model.named_parameters()}
    if config.tie_weights:
        weights["out_head.weight"] = weights["tok_emb.weight"]
    return config, model, weights


def loss_of(model, ids, targets):
    return F.cross_entropy(model(tg.tensor(ids)).flatten(0, 1), tg.tensor(targets).flatten())


def torch_loss(weights, ids, targets, config):
    logits = torch_logits(weights, torch.tensor(ids), config)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(targets).flatten())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_loss_and_every_gradient(name, precision):
    config, model, weights = pair(name)
    bound = 1e-5
    if precision == "float64":
        bound = 1e-11
        model.double()
        doubles = {key: w.detach().double().requires_grad_() for key, w in weights.items()}
        if config.tie_weights:
            doubles["out_head.weight"] = doubles["tok_emb.weight"]
        weights = doubles
    ids, targets = batch(config, 0)
    ours, theirs = loss_of(model, ids, targets), torch_loss(weights, ids, targets, config)
    assert ours.item() == pytest.approx(theirs.item(), rel=bound)
    ours.backward()
    theirs.backward()
    checked = 0
    for key, p in model.named_parameters():
        mine, its = p.grad.numpy(), weights[key].grad.numpy()
        assert mine.dtype == its.dtype
        error = np.linalg.norm(mine - its) / np.linalg.norm(its)
        assert error < bound, f"{key}: {error:.2e}"
        checked += 1
    assert checked == len(dict(model.named_parameters())) == len({id(w) for w in weights.values()})


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hundred_steps_of_adamw(name):
    config, model, weights = pair(name)
    leaves = list({id(w): w for w in weights.values()}.values())
    options = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
    ours, theirs = optim.AdamW(model.parameters(), **options), torch.optim.AdamW(leaves, **options)
    losses = []
    for step in range(100):
        ids, targets = batch(config, step % 3)  # three batches over and over, so that there is something to learn
        a, b = loss_of(model, ids, targets), torch_loss(weights, ids, targets, config)
        losses.append((a.item(), b.item()))
        for loss, optimizer in ((a, ours), (b, theirs)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    losses = np.array(losses)
    assert np.abs(losses[:, 0] - losses[:, 1]).max() < 1e-3
    assert losses[-1, 0] < 0.8 * losses[0, 0]
