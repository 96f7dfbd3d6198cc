"""Activations, losses of numbers, distances and normalisations composed of others. Fixed numbers, with ties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.parity.judge import Call, X, call

A = X(np.array([[0.31, -0.72, 0.15, 2.6], [-0.44, 0.58, 7.5, -3.3]]))
B = X(np.array([[1.7, -0.6, 2.2, 2.1], [0.35, 1.1, -1.9, -3.0]]))
TIES = X(np.array([0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0, 40.0, -40.0]))
NANS = X(np.array([np.nan, np.inf, -np.inf, 1.0]), grad=False)
WHOLE, NUMBER, EMPTY = X(np.array([2, -1, 0]), "int64"), X(np.array(0.6)), X(np.zeros((0, 4)))
CUBE = X(np.linspace(-2, 2, 24).reshape(2, 3, 4))
CHANCES = X(np.array([[0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.25, 0.25]]), grad=False)  # PyTorch's gradient of 0 ln 0 is nan
LOGS = X(np.log(np.array([[0.25, 0.25, 0.1, 0.4], [0.05, 0.45, 0.3, 0.2]])))
SIGNS, SIGN_ROWS = X(np.array([1.0, -1.0]), grad=False), X(np.array([[1.0, -1.0, 1.0, 1.0]] * 2), grad=False)
ROW4, POSITIVE = X(np.array([0.5, -1.5, 2.0, 0.1])), X(np.array([[0.3, 1.2, 0.05, 2.0], [1.0, 0.7, 0.2, 3.0]]))
COUNTS = X(np.array([[0.0, 1.0, 2.0, 5.0], [3.0, 1.0, 0.0, 7.0]]), grad=False)
ELEMENTWISE = [call(x) for x in (A, TIES, NUMBER, EMPTY, CUBE, NANS)]


def reductions(*arguments: X, **options: object) -> list[Call]:
    return [call(*arguments, reduction=r, **options) for r in ("mean", "sum", "none", "max")]


PAIRS = [*reductions(A, B), call(NUMBER, NUMBER), call(A, ROW4), call(EMPTY, EMPTY, reduction="sum"), call(A, A)]

ROWS: dict[str, list[Call]] = {
    **{
        f"nn.functional.{name}": [*ELEMENTWISE, call(WHOLE)]
        for name in ("elu", "selu", "mish", "hardswish", "logsigmoid")
    },
    **{f"nn.functional.{name}": ELEMENTWISE for name in ("softsign", "tanhshrink", "relu6")},
    # PyTorch's gradient of hardsigmoid is 1/6 in float32, also for float64
    "nn.functional.hardsigmoid": [call(replace(x, grad=False)) for x in (A, TIES, NUMBER, EMPTY, NANS, WHOLE)],
    "nn.functional.relu": [*ELEMENTWISE, call(WHOLE)],
    "nn.functional.celu": [*ELEMENTWISE, call(A, 0.5), call(A, -1.5), call(A, 0.0)],
    "nn.functional.hardtanh": [*ELEMENTWISE, call(TIES, -3.0, 0.5), call(A, 1.0, -1.0)],
    "nn.functional.threshold": [call(A, 0.3, -7.0), call(TIES, 1.0, 0.5), call(EMPTY, 0.0, 0.0), call(NANS, 0.0, 2.0)],
    "nn.functional.hardshrink": [call(A), call(TIES), call(A, 0.2), call(EMPTY), call(NANS)],
    "nn.functional.softshrink": [call(A), call(TIES), call(A, 0.2), call(A, -0.2), call(EMPTY)],
    "nn.functional.glu": [call(A), call(A, 0), call(CUBE), call(CUBE, 1), call(CUBE, 0), call(NUMBER)],
    "nn.functional.softmin": [call(A, 1), call(CUBE, 0), call(A), call(CUBE)],
    "nn.functional.prelu": [
        call(A, X(np.array([0.25]))),
        call(CUBE, X(np.array([0.25, -0.5, 2.0]))),
        call(TIES, X(np.array([0.25]))),
        call(A, X(np.array([0.25, 0.5]))),
        call(A, X(np.array([[0.25]]))),
    ],
    **{
        f"nn.functional.{name}": [call(X(np.array([[0.3, -0.7, 0.2, 2.0]]), grad=False))]
        for name in ("relu_", "leaky_relu_", "elu_", "selu_", "celu_", "hardtanh_")
    },
    "nn.functional.threshold_": [call(X(np.array([0.3, -0.7]), grad=False), 0.1, 9.0)],
    "nn.functional.l1_loss": PAIRS,
    "nn.functional.smooth_l1_loss": [*PAIRS, call(A, B, beta=0.4), call(A, B, beta=0.0), call(A, B, beta=-1.0)],
    "nn.functional.huber_loss": [*PAIRS, call(A, B, delta=0.4), call(A, B, delta=0.0), call(A, B, weight=POSITIVE)],
    "nn.functional.kl_div": [
        *reductions(LOGS, CHANCES),
        *reductions(LOGS, LOGS, log_target=True),
        call(LOGS, CHANCES, reduction="batchmean"),
        call(NUMBER, NUMBER, reduction="batchmean"),
    ],
    "nn.functional.gaussian_nll_loss": [
        *reductions(A, B, POSITIVE),
        call(A, B, POSITIVE, full=True),
        call(A, B, POSITIVE, eps=0.5),
        call(A, B, X(np.array([0.4, 1.2]))),
        call(A, B, X(np.array([[0.4], [1.2]]))),
        call(A, B, X(np.array([0.4, 1.2, 3.0]))),
        call(A, B, X(np.array([[-0.4], [1.2]]))),
        call(A, B, 0.7),
    ],
    "nn.functional.poisson_nll_loss": [
        *reductions(A, COUNTS),
        call(A, COUNTS, full=True),
        call(POSITIVE, COUNTS, log_input=False),
        call(POSITIVE, COUNTS, False, True, eps=1e-2),
    ],
    "nn.functional.hinge_embedding_loss": [*reductions(A, SIGN_ROWS), call(A, SIGN_ROWS, margin=0.3)],
    "nn.functional.margin_ranking_loss": [
        *reductions(A, B, SIGN_ROWS),
        call(A, B, SIGN_ROWS, margin=0.3),
        call(A, ROW4, SIGN_ROWS),
    ],
    "nn.functional.soft_margin_loss": reductions(A, SIGN_ROWS),
    "nn.functional.pairwise_distance": [
        call(A, B),
        call(A, ROW4),
        call(A, B, 1.0),
        call(A, B, 3.0, 0.1),
        call(A, B, keepdim=True),
        call(ROW4, ROW4),
        call(CUBE, CUBE, float("inf")),
    ],
    "nn.functional.cosine_embedding_loss": [
        *reductions(A, B, SIGNS),
        call(A, B, SIGNS, margin=0.3),
        call(ROW4, ROW4, X(np.array(1.0), grad=False)),
        call(A, ROW4, SIGNS),
        call(A, B, SIGN_ROWS),
    ],
    "nn.functional.triplet_margin_loss": [
        *reductions(A, B, POSITIVE),
        call(A, B, POSITIVE, margin=2.5, p=1),
        call(A, B, POSITIVE, swap=True),
        call(A, B, POSITIVE, margin=0.0),
    ],
    "nn.functional.batch_norm": [
        call(A, None, None, training=True),
        call(CUBE, None, None, X(np.array([1.0, 0.5, 2.0])), X(np.array([0.1, 0.0, -1.0])), True, 0.1, 1e-3),
        call(A, X(np.array([0.1, 0.2, 0.3, 0.4]), grad=False), X(np.array([1.0, 2.0, 0.5, 1.5]), grad=False)),
        call(A, X(np.zeros(4), grad=False), X(np.ones(4), grad=False), ROW4, None, True),
        call(A, None, None),
        call(X(np.ones((1, 4))), None, None, training=True),
    ],
    "nn.functional.group_norm": [
        call(A, 2),
        call(CUBE, 3),
        call(CUBE, 1, X(np.array([1.0, 0.5, 2.0])), X(np.array([0.1, 0.0, -1.0]))),
        call(CUBE, 2),
        call(ROW4, 2),
        call(CUBE, 3, eps=0.1),
    ],
}
