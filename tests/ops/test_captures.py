"""What pullbacks hold on to, and so what a graph costs in memory: no array more than each op needs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.parts import Sample
from tests.ops.samples import SAMPLES
from tinygrad_llm.autograd import ops as ops  # registers the ops
from tinygrad_llm.autograd.graph import captured
from tinygrad_llm.autograd.ops import linalg
from tinygrad_llm.autograd.registry import OPS

FEW = settings(max_examples=max(settings.default.max_examples // 5, 5))

# For each pullback the arguments (by position) and the result (y) that it may hold; one entry where all are one.
HOLDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(["neg", "step", "clone", "cast", "sum", "mean", "cumsum", "index"], ("",)),
    **dict.fromkeys(
        ["reshape", "permute", "expand", "flip", "diagonal", "roll", "tril", "triu", "pad", "repeat", "transfer"], ("",)
    ),
    **dict.fromkeys(["exp", "sqrt", "rsqrt", "tanh", "sigmoid", "relu", "softmax", "log_softmax"], ("y",)),
    **dict.fromkeys(["log", "log1p", "silu", "gelu", "erf", "abs", "sin", "cos", "smooth"], ("0",)),
    **dict.fromkeys(["softplus", "var", "prod"], ("0",)),
    **dict.fromkeys(["leaky_relu", "clamp"], ("",)),
    **dict.fromkeys(["amax", "amin", "logsumexp", "std", "norm"], ("0y",)),
    **dict.fromkeys(["add", "sub"], ("", "")),
    "cat": ("", "", ""),
    "mul": ("1", "0"),
    "div": ("1", "01"),
    "rounded_div": ("", ""),
    "remainder": ("", "01"),
    "fmod": ("", "01"),
    "pow": ("01", "01y"),
    "atan2": ("01", "01"),
    "maximum": ("01", "01"),
    "minimum": ("01", "01"),
    "where": ("", "0", "0"),
    "masked_fill": ("1", "", "1"),
    "dropout": ("1", ""),
    "dropout_add": ("1", "", ""),
    "set_index": ("", ""),
    "set_view": ("", ""),
    "embedding": ("1", ""),
    "gather": ("1", ""),
    "take": ("1", ""),
    "scatter": ("1", "", "1"),
    "scatter_add": ("", "", "1"),
    "index_add": ("", "", "1"),
    "matmul": ("1", "0"),
    "linear": ("1", "0", ""),
    "activated_linear": ("012",),
    "feed_forward": ("013",),
    "lora_linear": ("0134",),
    "int8_linear": ("12", "", "", ""),
    "einsum": ("12", "02", "01"),
    "layer_norm": ("01",),
    "rms_norm": ("01",),
    "attention": ("0124y",),
    "attention_of_packed": ("012y", "", ""),
    "cross_entropy": ("02", "", ""),
    "linear_cross_entropy": ("012",),
    "nll_loss": ("", "", ""),
    "binary_cross_entropy": ("01", "01"),
    "binary_cross_entropy_with_logits": ("012", "2", "1"),
}


def rows(x: np.ndarray) -> int:
    return math.prod(x.shape[:-1])


# Bytes that are held besides: a bool an element, some numbers a row, the probabilities, the losses of both answers.
FRESH = {
    "set_view": lambda x, *_: x.size,
    "leaky_relu": lambda x: x.size,
    "clamp": lambda x: x.size,
    "softplus": lambda x: x.size,
    "layer_norm": lambda x, *_: 2 * 8 * rows(x),
    "rms_norm": lambda x, *_: 8 * rows(x),
    "attention": lambda q, k, *_: 8 * rows(q) * (k.shape[-2] + 1),
    "attention_of_packed": lambda qkv, *_: 8 * qkv.size // 3 * (qkv.shape[1] + 1),
    "cross_entropy": lambda x, *_: (8 + 8 + 8 + 1) * rows(x),
    "linear_cross_entropy": lambda x, w, t: 2 * x.nbytes + w.nbytes + (8 + 8 + 1) * rows(x),
    "nll_loss": lambda x, *_: (8 + 8 + 8 + 1) * rows(x),
    "gather": lambda x, ids, *_: 8 * sum(ids.shape),
    "scatter": lambda x, ids, *_: 8 * sum(ids.shape),
    "scatter_add": lambda x, ids, *_: 8 * sum(ids.shape),
    "activated_linear": lambda x, *_: x.nbytes,
    "feed_forward": lambda x, w1, *_: x.nbytes + 8 * rows(x) * len(w1),
    "lora_linear": lambda x, w, bias, a, b: x.nbytes + rows(x) * a.shape[1] * 8,
    "linear": lambda x, *_: 0 if x.flags.c_contiguous else x.nbytes,  # rows of memory that is not in order are a copy
    "binary_cross_entropy": lambda p, *_: 2 * p.nbytes,
    "binary_cross_entropy_with_logits": lambda x, *_: 2 * x.nbytes,
}  # fmt: skip


def root(array: np.ndarray) -> int:
    """The identity of the memory that an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array)


def arrays_in(value: Any) -> list[np.ndarray]:
    if isinstance(value, (tuple, list)):
        return [a for part in value for a in arrays_in(part)]
    return [value] if isinstance(value, np.ndarray) else []


def fresh_bytes(pull: Any, allowed: str, sample: Sample, out: Any) -> int:
    """The bytes that a pullback holds besides the arrays it may, each array once; 0-d ones are numbers."""
    named = [out if c == "y" else sample.args[int(c)] for c in allowed]
    known = {root(a) for a in arrays_in(named)}
    known |= {root(a) for a in arrays_in(list(sample.static.values()))}
    held = {root(a): a.nbytes for a in captured(pull) if a.ndim}
    return sum(nbytes for key, nbytes in held.items() if key not in known)


def test_the_table_knows_every_op():
    assert set(HOLDS) == set(OPS)


@pytest.mark.parametrize("name", sorted(OPS))
@given(data=st.data())
@FEW
def test_pullbacks_hold_no_more_than_they_say(name, data):
    op, sample = OPS[name], data.draw(SAMPLES[name])
    out, pull = op(*sample.args, **sample.static)
    pulls = [pull] if callable(pull) else pull
    budget = FRESH[name](*sample.args) if name in FRESH else 0
    for one, allowed in zip(pulls, HOLDS[name], strict=name not in ("cat", "einsum")):
        allowed = "".join(c for c in allowed if c == "y" or int(c) < len(sample.args))
        assert fresh_bytes(one, allowed, sample, np.asarray(out)) <= budget


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.bare))
@given(data=st.data())
@FEW
def test_a_bare_op_keeps_no_array(name, data):
    sample = data.draw(SAMPLES[name])
    assert list(captured(OPS[name](*sample.args, **sample.static)[1])) == []


def test_an_op_that_may_keep_nothing_is_bare():
    empty = {name for name, holds in HOLDS.items() if not "".join(holds) and name not in FRESH}
    assert {name for name, op in OPS.items() if op.bare} == empty - {"index", "set_index"}  # their keys may hold arrays


def test_a_large_hidden_layer_is_computed_again_and_nothing_changes(monkeypatch):
    rng = np.random.default_rng(0)
    x, weight, g = rng.standard_normal((3, 4, 5)), rng.standard_normal((2, 5)), rng.standard_normal((3, 4, 2))
    shift, op = rng.standard_normal(5), OPS["activated_linear"]
    for needs in [(True, True, True, False), (False, False, True, False), (True, True, False, False)]:
        kept = op(x, shift, weight, None, form="gelu_tanh")[1]
        monkeypatch.setattr(linalg, "HIDDEN_KEPT", 0)
        again = op(x, shift, weight, None, form="gelu_tanh")[1]
        monkeypatch.undo()
        held = [a.shape for a in captured(again)]
        assert sorted(held) == sorted([x.shape, shift.shape, weight.shape]) and len(list(captured(kept))) == 4
        for a, b in zip(kept(g, needs), again(g, needs), strict=True):
            assert (a is None and b is None) or np.allclose(a, b, rtol=1e-12, atol=0)
