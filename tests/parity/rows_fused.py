"""Layers and losses in one op: normalisation, attention, cross-entropy and their kin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tests.parity.judge import Call, X, call
from tests.parity.samples import bools, constant, expanded, ids, ints, normal, positive, unit

NEVER = -100  # the class number that PyTorch ignores unless told otherwise


def targets(*values: int) -> X:
    return X(np.array(values), "int64")


def norms() -> Iterator[Call]:
    """Samples of layer_norm with weight and bias."""
    two = (((2, 3, 4), 2), ((2, 2, 3, 2), 2))
    for shape, dims in (((3, 4), 1), ((2, 3, 4), 1), ((5,), 1), ((0, 4), 1), ((2, 6), 1), *two, ((2, 3, 4), 3)):
        normalized = shape[len(shape) - dims :]
        yield call(normal(*shape), normalized)
        yield call(normal(*shape), list(normalized), normal(*normalized), normal(*normalized))
        yield call(normal(*shape), normalized, normal(*normalized), eps=1e-2)
        yield call(normal(*shape), normalized, bias=normal(*normalized))
    yield call(constant(normal(3, 4)), (4,), normal(4), normal(4))
    yield call(normal(3, 4), (4,), constant(normal(4)), normal(4))
    yield call(X(np.full((2, 3), 7.0)), (3,))
    yield call(normal(3, 4), (3,))
    yield call(normal(3, 4), (4,), normal(3))
    yield call(normal(3, 4), (4,), normal(4), normal(1))
    yield call(normal(3, 4), ())
    yield call(ints(3, 4), (4,))
    yield call(normal(4), (3, 4))


def rms_norms() -> Iterator[Call]:
    for c in norms():
        if "bias" not in c.kwargs and len(c.args) < 4 and len(np.shape(c.args[0].values)) >= len(c.args[1]):
            yield c


def attentions() -> Iterator[Call]:
    """Samples of scaled_dot_product_attention: 2-D to 5-D, masks, grouped heads, T != S."""
    for lead in ((), (2,), (2, 3), (2, 1, 3)):
        q, k, v = normal(*lead, 4, 5), normal(*lead, 4, 5), normal(*lead, 4, 5)
        yield call(q, k, v)
        yield call(q, k, v, is_causal=True)
        yield call(q, normal(*lead, 6, 5), normal(*lead, 6, 2))
        yield call(q, normal(*lead, 6, 5), normal(*lead, 6, 2), is_causal=True)
        yield call(normal(*lead, 6, 5), k, v, is_causal=True)
        yield call(q, k, v, X(np.tril(np.ones((4, 4))), "bool"))
        yield call(q, k, v, attn_mask=normal(4, 4))
        yield call(q, k, v, scale=0.3)
    q, k, v = normal(2, 4, 3, 5), normal(2, 4, 6, 5), normal(2, 4, 6, 5)
    yield call(q, k, v, normal(2, 1, 3, 6))
    yield call(q, k, v, normal(2, 4, 3, 6))
    yield call(q, k, v, normal(3, 1))
    yield call(q, k, v, constant(normal(3, 6)))
    yield call(q, k, v, X(np.where(np.arange(18).reshape(3, 6) % 4 == 1, -np.inf, 0.0), grad=False))
    yield call(q, k, v, X(np.arange(6)[None] < 4, "bool"))
    yield call(q, normal(2, 2, 6, 5), normal(2, 2, 6, 5), enable_gqa=True)
    yield call(q, normal(2, 1, 6, 5), normal(2, 1, 6, 3), enable_gqa=True, is_causal=True)
    yield call(q, k, v, enable_gqa=True)
    yield call(q, normal(2, 2, 6, 5), normal(2, 2, 6, 5), bools(3, 6), enable_gqa=True)
    yield call(q, normal(1, 4, 6, 5), normal(1, 4, 6, 5))
    yield call(constant(q), k, v)
    yield call(q, constant(k), constant(v))
    yield call(normal(0, 2, 3, 5), normal(0, 2, 3, 5), normal(0, 2, 3, 5))
    yield call(normal(2, 2, 0, 5), normal(2, 2, 3, 5), normal(2, 2, 3, 5))
    yield call(expanded([[1.0], [2.0]], 2, 3), normal(4, 3), normal(4, 3))
    nowhere = np.ones((3, 6))
    nowhere[1] = 0  # a query that may look at nothing
    yield call(q, k, v, X(nowhere, "bool"))
    yield call(q, k, v, X(np.where(nowhere, 0.5, -np.inf), grad=False))
    # refused
    yield call(q, normal(2, 3, 6, 5), normal(2, 3, 6, 5))
    yield call(q, normal(2, 3, 6, 5), normal(2, 3, 6, 5), enable_gqa=True)
    yield call(normal(4), normal(4), normal(4))
    yield call(q, X(k.values, "float32"), v)
    yield call(q, normal(2, 4, 6, 4), v)
    yield call(q, k, v, normal(4, 6))


def class_losses(values: Any) -> Iterator[Call]:
    """Samples of cross_entropy and nll_loss with class numbers as targets."""
    for reduction in ("mean", "sum", "none"):
        yield call(values(4, 3), ids(3, 4), reduction=reduction)
        yield call(values(4, 3), ids(3, 4), constant(positive(3)), reduction=reduction)
        yield call(values(4, 3), targets(0, NEVER, 2, NEVER), reduction=reduction)
        yield call(values(4, 3), targets(0, 1, 2, 1), ignore_index=1, reduction=reduction)
        yield call(values(4, 3), targets(0, NEVER, 2, 1), constant(positive(3)), reduction=reduction)
        yield call(values(2, 3), targets(NEVER, NEVER), reduction=reduction)
        yield call(values(2, 3, 4), ids(3, 2, 4), reduction=reduction)
        yield call(replace(values(2, 3, 4, 2), layout="stepped"), ids(3, 2, 4, 2), reduction=reduction)
        yield call(values(2, 3, 4), ids(3, 2, 4), constant(positive(3)), reduction=reduction)
        yield call(values(3), X(np.array(1), "int64"), reduction=reduction)
        yield call(values(3), X(np.array(NEVER), "int64"), reduction=reduction)
        yield call(values(0, 3), X(np.zeros(0, int), "int64"), reduction=reduction)
    yield call(values(2, 3), targets(-1, 1), ignore_index=-1)
    # refused
    yield call(values(4, 3), ids(3, 3))
    yield call(values(2, 3, 4), ids(3, 2, 3))
    yield call(values(4, 3), targets(0, 1, 2, 3))
    yield call(values(4, 3), targets(0, 1, 2, -1))
    yield call(values(4, 3), ids(3, 4), reduction="average")
    yield call(values(4, 3), ids(3, 4), constant(positive(4)))
    yield call(ints(4, 3), ids(3, 4))
    yield call(values(3), targets(0, 1))
    yield call(values(2, 3, 4, 2), ids(3, 2, 4))
    yield call(values(4, 3), X(np.array(1), "int64"))
    yield call(values(4, 3), ids(2, 4, dtype="uint8"))


def cross_entropies() -> Iterator[Call]:
    yield from class_losses(normal)
    probabilities = X(np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]))
    for reduction in ("mean", "sum", "none"):
        yield call(normal(4, 3), targets(0, 1, 2, 1), label_smoothing=0.1, reduction=reduction)
        yield call(normal(4, 3), targets(0, NEVER, 2, 1), label_smoothing=0.3, reduction=reduction)
        weight = constant(positive(3))
        yield call(normal(4, 3), targets(0, NEVER, 2, 1), weight, label_smoothing=0.2, reduction=reduction)
        yield call(normal(4, 3), targets(0, 1, 2, 1), label_smoothing=1.0, reduction=reduction)
        yield call(normal(2, 3, 2), ids(3, 2, 2), constant(positive(3)), label_smoothing=0.2, reduction=reduction)
        yield call(normal(4, 3), probabilities, reduction=reduction)
        yield call(normal(4, 3), probabilities, constant(positive(3)), reduction=reduction)
        yield call(normal(4, 3), probabilities, label_smoothing=0.2, reduction=reduction)
        yield call(normal(4, 3), probabilities, constant(positive(3)), label_smoothing=0.2, reduction=reduction)
        yield call(normal(3), unit(3), reduction=reduction)
        yield call(normal(2, 3, 4), unit(2, 3, 4), reduction=reduction)
        yield call(normal(2, 3, 4), unit(2, 3, 4), constant(positive(3)), reduction=reduction)
        yield call(normal(3), X(np.array(1), "int64"), constant(positive(3)), label_smoothing=0.2, reduction=reduction)
    yield call(X(np.array([[1e4, -1e4, 0.0], [-3e3, 2e3, 0.0]])), targets(1, 1))
    yield call(X(np.array([[-np.inf, 1.0, 0.0]]), grad=False), targets(1))
    yield call(normal(4, 3), targets(0, 1, 2, 1), label_smoothing=1.5)
    yield call(normal(4, 3), unit(4, 2))
    yield call(normal(4, 3), normal(4))
    yield call(expanded([[1.0], [2.0]], 2, 3), targets(0, 2))


def losses_of_a_head() -> Iterator[Call]:
    x, head = normal(4, 5), normal(3, 5)
    for reduction in ("mean", "sum", "none"):
        yield call(x, head, ids(3, 4), reduction=reduction)
        yield call(x, head, targets(0, NEVER, 2, NEVER), reduction=reduction)
        yield call(x, head, targets(NEVER, NEVER, NEVER, NEVER), reduction=reduction)
        yield call(x, head, targets(0, 1, 2, 1), ignore_index=1, reduction=reduction)
        yield call(x, head, ids(3, 4), linear_bias=normal(3), reduction=reduction)
        yield call(x, head, ids(3, 4), weight=constant(positive(3)), reduction=reduction)
        yield call(x, head, ids(3, 4), label_smoothing=0.1, reduction=reduction)
        yield call(x, head, unit(4, 3), reduction=reduction)
        yield call(normal(5), head, X(np.array(1), "int64"), reduction=reduction)
        yield call(normal(0, 5), head, X(np.zeros(0, int), "int64"), reduction=reduction)
    yield call(replace(x, grad=False), head, ids(3, 4))
    yield call(x, constant(head), ids(3, 4))
    # refused
    yield call(x, normal(3, 4), ids(3, 4))
    yield call(x, head, ids(3, 3))
    yield call(x, head, targets(0, 1, 2, 3))
    yield call(x, head, ids(3, 4), reduction="average")
    yield call(ints(4, 5), head, ids(3, 4))


def pairwise(values: Any, second: Any) -> Iterator[Call]:
    """Samples of a loss of two tensors of one shape."""
    for reduction in ("mean", "sum", "none"):
        for shape in ((3, 4), (), (5,), (0,), (2, 1, 3)):
            yield call(values(*shape), second(*shape), reduction=reduction)
        yield call(values(3, 4), second(3, 4), weight=constant(positive(3, 4)), reduction=reduction)
    yield call(values(3, 4), constant(second(3, 4)))
    yield call(values(3, 4), second(3, 4), reduction="average")
    yield call(values(3, 4), second(3, 5))


def logit_losses() -> Iterator[Call]:
    yield from pairwise(normal, unit)
    for reduction in ("mean", "sum", "none"):
        yield call(normal(3, 4), unit(3, 4), pos_weight=constant(positive(4)), reduction=reduction)
        weights = {"weight": constant(positive(4)), "pos_weight": constant(positive(4))}
        yield call(normal(3, 4), unit(3, 4), **weights, reduction=reduction)
    yield call(X(np.array([-800.0, 800.0, 0.0, -800.0, 800.0])), X(np.array([0.0, 0.0, 1.0, 1.0, 1.0])))
    yield call(normal(3, 4), unit(4))


ROWS: dict[str, list[Call]] = {
    "nn.functional.layer_norm": list(norms()),
    "nn.functional.rms_norm": list(rms_norms()),
    "nn.functional.scaled_dot_product_attention": list(attentions()),
    "nn.functional.cross_entropy": list(cross_entropies()),
    "nn.functional.linear_cross_entropy": list(losses_of_a_head()),
    "nn.functional.nll_loss": list(class_losses(lambda *s: X(-np.abs(normal(*s).values)))),
    "nn.functional.mse_loss": [*pairwise(normal, normal), call(normal(3, 4), normal(4)), call(normal(3), ints(3))],
    "nn.functional.binary_cross_entropy": [
        *pairwise(unit, unit),
        call(X(np.array([0.0, 1.0, 0.0, 1.0]), grad=False), X(np.array([0.0, 1.0, 1.0, 0.0]), grad=False)),
        call(X(np.array([1.5, 0.2])), unit(2)),
        call(X(np.array([-0.5, 0.2])), unit(2)),
        call(unit(3, 4), unit(3, 4), weight=constant(positive(4))),
    ],
    "nn.functional.binary_cross_entropy_with_logits": list(logit_losses()),
    "nn.functional.dropout": [
        call(normal(3, 4), 0.5, False),
        call(normal(3, 4), 0.0),
        call(normal(3, 4), 1.0),
        call(normal(3), 1.5),
        call(normal(3), -0.1),
        call(normal(0), 0.5),
        call(normal(3, 4), p=0.3, training=False),
    ],
}
