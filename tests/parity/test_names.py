"""What a printed tensor says of the function that made it: the name that PyTorch prints."""

from __future__ import annotations

import re
from typing import Any

import pytest

import tinygrad_llm as ours

pytestmark = pytest.mark.torch

SETUP = """
x = (lib.arange(6.0).reshape(2, 3) + 0.5).requires_grad_()
y, w, v = (lib.ones(*shape, requires_grad=True) for shape in ((2, 3), (3, 4), (3,)))
b, c, q = (lib.ones(*shape, requires_grad=True) for shape in ((2, 2, 3), (2, 3, 4), (1, 2, 4, 8)))
W, B, s = lib.ones(5, 3, requires_grad=True), lib.ones(5, requires_grad=True), lib.tensor(2.0, requires_grad=True)
t, ids, m = lib.tensor([0, 2]), lib.tensor([[0, 1], [1, 0]]), lib.tensor([[True, False, True]])
"""
CODES = [
    "x + 1", "1 + x", "x + y", "x - 1", "1 - x", "x * y", "x / 2", "2 / x", "-x", "x ** 2", "2 ** x", "x ** y",
    "x.exp()", "x.log()", "x.log1p()", "x.sqrt()", "x.rsqrt()", "x.tanh()", "x.sigmoid()", "x.relu()", "x.abs()",
    "x.sin()", "x.cos()", "x.erf()", "x.square()", "x.reciprocal()", "x.floor()", "x.ceil()", "x.round()", "x.trunc()",
    "x.sign()", "x.clamp(0, 1)", "x.clamp(min=0)", "x.clamp(max=1)", "x.clamp_min(0)", "x.clip(0, 1)", "x.clamp(min=y)",
    "lib.maximum(x, y)", "lib.minimum(x, y)", "lib.where(m, x, y)", "lib.where(m, x, 0.0)", "x.masked_fill(m, 0)",
    "x.masked_fill(m, s)", "x % 2", "x.div(2, rounding_mode='floor')", "x.div(2, rounding_mode='trunc')", "x.sum()",
    "x.sum(0)", "x.sum((0, 1))", "x.sum(dim=1, keepdim=True)", "x.mean()", "x.mean(0)", "x.mean(-1, keepdim=True)",
    "x.var()", "x.var(0)", "x.std()", "x.std(1)", "x.prod()", "x.prod(0)", "x.max()", "x.min()", "x.max(1)[0]",
    "x.min(1)[0]", "x.amax(1)", "x.amin()", "x.logsumexp(1)", "x.softmax(1)", "x.log_softmax(-1)", "x.cumsum(0)",
    "x.norm()", "x.norm(dim=1)", "x.norm(p=1, dim=1)", "x.norm(p=float('inf'))", "x.sort()[0]", "x.topk(1)[0]", "x @ w",
    "w.T @ x.T", "lib.mm(x, w)", "b @ c", "lib.bmm(b, c)", "b @ w", "x @ v", "v @ w", "v @ v", "lib.dot(v, v)",
    "lib.mv(x, v)", "lib.outer(v, v)", "lib.addmm(y, x, w[:, :3])", "lib.addmm(y, x, w[:, :3], beta=0.5)",
    "q @ q.transpose(-2, -1)", "lib.einsum('ij,jk->ik', x, w)", "lib.einsum('ij->ji', x)",
    "lib.einsum('ij,ij->', x, y)", "F.linear(x, W, B)", "F.linear(x, W)", "F.linear(b, W, B)", "F.linear(b, W)",
    "F.linear(v, W, B)", "lib.nn.Linear(3, 2)(x)", "lib.nn.Linear(3, 2)(b)", "lib.nn.Linear(3, 2, bias=False)(x)",
    "lib.nn.Linear(3, 2, bias=False)(b)", "x.view(3, 2)", "x.view(-1)", "x.reshape(3, 2)", "x.T.reshape(6)",
    "x.flatten()", "b.flatten(1)", "b.unflatten(2, (3, 1))", "b.view(4, 3)", "x.transpose(0, 1)", "x.T", "x.mT",
    "x.t()", "x.permute(1, 0)", "b.permute(2, 0, 1)", "b.movedim(0, 1)", "x.unsqueeze(0)", "x.unsqueeze(0).squeeze()",
    "x.unsqueeze(0).squeeze(0)", "x.unsqueeze(0).squeeze((0,))", "x[None]", "x[0]", "x[:, 1]", "x[:1]", "x[:, :2]",
    "x[..., 0]", "x[0, 1]", "x[m.expand(2, 3)]", "x[:, t]", "x[[0, 1]]", "x[::2]", "x[:]", "x[...]", "x[0:2]",
    "x[:, None]", "x[1:, 1:]", "x.select(0, 1)", "x.narrow(1, 0, 2)", "x.split(1)[0]", "x.split([1, 1])[0]",
    "x.chunk(2)[0]", "x.unbind()[0]", "list(x)[0]", "v.expand(2, 3)", "x.expand(2, 3)", "x.expand_as(y)",
    "x.broadcast_to(2, 3)", "x.broadcast_to((2, 2, 3))", "x.repeat(2, 1)", "lib.tile(x, (2, 1))",
    "x.repeat_interleave(2, 0)", "x.repeat_interleave(2)", "lib.cat([x, y])", "lib.stack([x, y])",
    "lib.stack([x, y], 1)", "lib.hstack([x, y])", "lib.vstack([x, y])", "x.flip(0)", "x.roll(1, 0)", "x.tril()",
    "x.triu()", "x.diagonal()", "F.pad(x, (1, 1))", "x.contiguous()", "x.T.contiguous()", "x.clone()", "x.double()",
    "x.to(lib.float64)", "x.half()", "x.float()", "x.gather(1, t[:, None])", "x.take_along_dim(t[:, None], 1)",
    "x.scatter(1, t[:, None], 1.0)", "x.scatter(1, t[:, None], y)", "x.scatter_add(1, t[:, None], y)",
    "x.index_add(0, lib.tensor([0]), y[:1])", "x.index_select(1, t)", "x.masked_select(m)", "F.gelu(x)",
    "F.gelu(x, approximate='tanh')", "F.silu(x)", "F.relu(x)", "F.leaky_relu(x)", "F.softplus(x)", "F.sigmoid(x)",
    "F.tanh(x)", "F.softmax(x, -1)", "F.log_softmax(x, -1)", "F.layer_norm(x, (3,), v, v)", "F.layer_norm(x, (2, 3))",
    "F.rms_norm(x, (3,), v)", "F.embedding(ids, x)", "F.embedding(ids, x, padding_idx=0)",
    "lib.nn.Embedding(3, 2)(ids)", "F.cross_entropy(x, t)", "F.cross_entropy(x, t, reduction='none')",
    "F.cross_entropy(x, t, reduction='sum')", "F.cross_entropy(x, t, label_smoothing=0.1)",
    "F.cross_entropy(b.transpose(1, 2), t[:, None].expand(2, 2))", "F.nll_loss(x, t)",
    "F.nll_loss(x, t, reduction='none')", "F.mse_loss(x, y)", "F.mse_loss(x, y, reduction='sum')",
    "F.mse_loss(x, y, reduction='none')", "F.binary_cross_entropy(x.sigmoid(), y.detach())",
    "F.binary_cross_entropy_with_logits(x, y.detach())", "F.dropout(x, 0.5)", "F.dropout(x, 0.0)", "F.dropout(x, 1.0)",
    "lib.nn.Dropout(0.5)(x)", "F.scaled_dot_product_attention(q, q, q)",
    "F.scaled_dot_product_attention(q, q, q, is_causal=True)", "F.normalize(x)", "lib.nn.ReLU()(x)", "lib.nn.GELU()(x)",
    "lib.nn.Sequential(lib.nn.Linear(3, 2), lib.nn.ReLU())(x)", "lib.nn.LayerNorm(3)(x)", "lib.nn.Flatten()(b)",
    "x.clone().add_(1)", "x.clone().mul_(2)", "x.clone().sub_(1)", "x.clone().div_(2)", "x.clone().exp_()",
    "x.clone().relu_()", "x.clone().tanh_()", "x.clone().masked_fill_(m, 0.0)", "x.clone().copy_(y)",
    "lib.ones(2, 3).copy_(y)", "lib.ones(2, 3).add_(y)", "lib.zeros(2, 3).masked_fill_(m, s)", "x.clone().clamp_(0, 1)",
    "x.clone().pow_(2)", "x.clone().neg_()", "x.clone().abs_()", "x.clone().sqrt_()", "x.clone().sigmoid_()",
    "x.clone().tril_()", "x.clone().scatter_(1, t[:, None], 1.0)", "x.clone().index_add_(0, lib.tensor([0]), y[:1])",
    "x.clone().requires_grad_()", "x.clone().detach().requires_grad_()", "x.sum().unsqueeze(0)", "lib.atleast_1d(s)",
    "lib.atleast_1d(s * 1)", "x.sum(dtype=lib.float64)", "x.softmax(0, dtype=lib.float64)", "b.mean((1, 2))", "abs(x)",
    "x.max(y)", "lib.nn.Parameter(lib.ones(2))", "x.type_as(y)", "x.view_as(y)", "x.reshape_as(y)",
    "lib.broadcast_tensors(x, v)[1]", "s * 3", "x.mean().sqrt()", "x.add(y, alpha=2)", "x.sub(y, alpha=2)", "x.cpu()",
    "x.to('cpu')", "lib.nn.MSELoss()(x, y)", "lib.nn.CrossEntropyLoss()(x, t)", "lib.concat([x, y])",
    "lib.logsumexp(x, 0)", "lib.prod(x)", "x.squeeze()", "x.squeeze(0)", "s.reshape(1)", "s.view(1)", "s.expand(3)",
    "x[:, :]", "x[..., :]", "x[0, 1:]", "x[1:, 0]", "x[0, ...]", "x[..., None]", "x[None, 0]", "x[0, None]",
    "b[:, 0, :]", "b[:, 1:, :]", "b[None, :, 0]", "b[:, None, 1:, None]", "x[..., :2]", "x[True]",
    "lib.einsum('i,j->ij', v, v)", "lib.einsum('ij->i', x)", "lib.einsum('ii->i', w[:, :3])",
]  # fmt: skip


def printed(lib: Any, code: str) -> str:
    names = {"lib": lib, "F": lib.nn.functional}
    exec(SETUP, names)
    found = re.search(r"grad_fn=<(\w+)>", repr(eval(code, names)))
    return found[1] if found else "none"


def test_a_recorded_write_prints_as_in_pytorch() -> None:
    said = []
    for lib in (ours, pytest.importorskip("torch")):
        x = lib.ones(3, requires_grad=True).clone()
        x[1:] = 5.0
        said.append(repr(x))
    assert said[0] == said[1] == "tensor([1., 5., 5.], grad_fn=<CopySlices>)"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", CODES)
def test_prints_the_name_that_pytorch_prints(code: str) -> None:
    assert printed(ours, code) == printed(pytest.importorskip("torch"), code)
