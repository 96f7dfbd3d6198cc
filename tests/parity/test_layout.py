"""Results lie in memory in order wherever PyTorch's do, so that `.view` takes them."""

from __future__ import annotations

from typing import Any

import pytest

import tinygrad_llm as ours

pytestmark = pytest.mark.torch

SETUP = """
plain = lib.arange(24.0).reshape(2, 3, 4)
turned = lib.arange(24.0).reshape(4, 3, 2).permute(2, 1, 0)
i, mask, places = lib.tensor([0, 1, 1]), lib.tensor([True, False, True]), lib.tensor([[[0], [1], [0]]] * 2)
heads = lib.arange(120.0).reshape(2, 3, 5, 4)
split_heads = lib.arange(120.0).reshape(2, 5, 12).view(2, 5, 3, 4).transpose(1, 2)
part_of_qkv = lib.arange(360.0).reshape(2, 5, 36)[..., 12:24].view(2, 5, 3, 4).transpose(1, 2)
allowed = lib.ones(5, 5).tril() > 0
"""
EACH = """
x.softmax(0); x.softmax(1); x.softmax(2); x.log_softmax(0); x.log_softmax(1); x.log_softmax(2); x.sum(0); x.sum(1)
x.sum(2); x.sum((0, 2)); x.sum(1, keepdim=True); x.mean(1); x.var(1); x.std(0); x.norm(dim=1); x.logsumexp(2)
x.prod(1); x.amax(1); x.amin(2); x.max(1)[0]; x.min(2)[1]; x.argmax(0); x.all(1); x.any(0); x.count_nonzero(1)
x.cumsum(0); x.cumsum(1); x.index_select(1, i); x.index_select(2, i); x.repeat_interleave(2, 1)
x.repeat_interleave(i, 1); x[:, i]; x[:, :, i]; x[i[:2], :, i[:2]]; x[:, mask]; x[..., i, :]; x.gather(2, places)
lib.cat([x, x]); lib.cat([x, x], 1); lib.stack([x, x]); lib.stack([x, x], 1); x.roll(1, 1); x.tril(); x.triu()
F.pad(x, (1, 1)); x.masked_fill(mask[:, None], 0); x.repeat(1, 2, 1); F.gelu(x); F.layer_norm(x, (4,))
F.linear(x, lib.ones(5, 4)); x @ lib.ones(4, 5); x @ x.transpose(1, 2); lib.einsum("bij,jk->bik", x, lib.ones(4, 5))
lib.einsum("bij,jk->kib", x, lib.ones(4, 5)); lib.einsum("bij->jb", x); lib.einsum("bij,bkj->bik", x, x)
lib.einsum("bij->jib", x); F.one_hot(x.long()); x.exp(); x + x; x * 2; x.double(); x > 1
"""
ATTENTION = """
F.scaled_dot_product_attention(q, q, q); F.scaled_dot_product_attention(q, q, q, is_causal=True)
F.scaled_dot_product_attention(q, q, q, attn_mask=allowed); F.scaled_dot_product_attention(q[0], q[0], q[0])
F.scaled_dot_product_attention(q, q[:, :1], q[:, :1], enable_gqa=True)
"""


def results(lib: Any, setup: str, code: str) -> Any:
    names: dict[str, Any] = {"lib": lib, "F": lib.nn.functional}
    exec(SETUP + setup, names)
    return eval(code, names)


def codes(text: str) -> list[str]:
    return [code.strip() for line in text.split("\n") for code in line.split(";") if code.strip()]


@pytest.mark.parametrize("code", codes(EACH))
@pytest.mark.parametrize("setup", ["x = plain", "x = turned"])
def test_what_is_contiguous_in_pytorch_is_contiguous(setup: str, code: str) -> None:
    mine, theirs = (results(lib, setup, code) for lib in (ours, pytest.importorskip("torch")))
    assert mine.is_contiguous() or not theirs.is_contiguous()
    if theirs.is_contiguous():
        assert mine.view(-1).shape == theirs.view(-1).shape


@pytest.mark.parametrize("code", codes(ATTENTION))
@pytest.mark.parametrize("setup", ["q = heads", "q = split_heads", "q = part_of_qkv"])
def test_attention_lies_in_memory_as_its_queries_do(setup: str, code: str) -> None:
    mine, theirs = (results(lib, setup, code) for lib in (ours, pytest.importorskip("torch")))
    assert mine.stride() == theirs.stride()
