"""Functions over a dimension, several, or all of them."""

from __future__ import annotations

import numpy as np

from tests.parity.judge import Call, D, X, call
from tests.parity.samples import (
    SPECIAL,
    any_dtype,
    bools,
    constant,
    ids,
    ints,
    normal,
    over_dims,
    positive,
    special,
    ties,
)

WITH_NAN = X(np.array([[1.0, np.nan, 3.0], [np.inf, 2.0, -np.inf], [0.5, 0.5, 0.25]]), grad=False)
BAD_DIMS = [
    call(normal(2, 3), 2),
    call(normal(2, 3), -3),
    call(normal(), 1),
    call(normal(2, 3), (0, 0)),
    call(normal(2, 3), (0, -2)),
]
EMPTY_DIM = [call(normal(0, 3), 0), call(normal(0, 3), 1), call(normal(2, 0, 3), 1), call(normal(2, 0), 1)]


def single(*shape: int) -> X:
    return X(normal(*shape).values, "float32")


def each_dtype(*args: object) -> list[Call]:
    return [call(x, *args) for x in any_dtype(2, 3)]


def spread() -> list[Call]:
    """Samples of var and std."""
    return [
        *[c for c in over_dims() if "()" not in repr(c)],
        *BAD_DIMS,
        call(normal(2, 3), unbiased=False),
        call(normal(2, 3), False),
        call(normal(2, 3), 1, False),
        call(normal(2, 3), 1, False, True),
        call(normal(2, 3), 1, correction=0),
        call(normal(2, 3), correction=2),
        call(normal(2, 3), 1, correction=0, keepdim=True),
        call(normal(2, 3), dim=None),
        call(ints(3)),
        call(normal(3, 1), 1),
        call(normal(0, 3), 0),
        call(normal(0, 3), 1),
        call(normal(2, 3), 0, True),
        call(normal(2, 3), dim=1, unbiased=True, keepdim=True),
        call(normal(), unbiased=False),
        call(normal(2, 3), (0, 1), correction=1),
    ]


def extreme() -> list[Call]:
    """Samples of amax and amin."""
    with_nan = [call(WITH_NAN, 1), call(WITH_NAN, 0), call(WITH_NAN)]
    return [*over_dims(), *over_dims(ties), *BAD_DIMS, *EMPTY_DIM, *each_dtype(), *each_dtype(1), *with_nan]


def pick() -> list[Call]:
    """Samples of max and min: all, along a dim with indices, of two tensors."""
    return [
        *over_dims(several=False),
        *over_dims(ties, several=False),
        *BAD_DIMS[:3],
        *EMPTY_DIM,
        *each_dtype(),
        *each_dtype(1),
        call(WITH_NAN, 1),
        call(WITH_NAN, 0),
        call(WITH_NAN),
        call(normal(3), normal(3)),
        call(ties(3, 4), ties(4)),
        call(ints(3), normal(3)),
    ]


def place() -> list[Call]:
    """Samples of argmax and argmin."""
    return [
        *over_dims(several=False),
        *over_dims(ties, several=False),
        *BAD_DIMS[:3],
        *EMPTY_DIM,
        *each_dtype()[:-1],
        *each_dtype(1)[:-1],
        call(WITH_NAN, 1),
        call(WITH_NAN, 0),
        call(WITH_NAN),
        call(normal(2, 3), keepdim=True),
        call(normal(2, 3), None, True),
        call(bools(3)),
    ]


def order() -> list[Call]:
    """Samples of sort and argsort, whose order of equal elements is only defined with stable=True."""
    return [
        call(normal(5)),
        call(normal(3, 4)),
        call(normal(3, 4), 0),
        call(normal(2, 3, 4), 1, True),
        call(normal(3, 4), descending=True),
        call(normal()),
        call(normal(), 0),
        call(normal(0)),
        call(normal(2, 0, 3)),
        call(normal(3), 1),
        call(normal(3), -2),
        call(ties(4, 5), stable=True, dim=1),
        call(ties(4, 5), stable=True, dim=0, descending=True),
        call(bools(6), stable=True, dim=0),
        call(ids(3, 9), stable=True, dim=0, descending=True),
        call(special(), stable=True, dim=0),
        call(special(), stable=True, dim=0, descending=True),
        call(WITH_NAN, 1),
        call(WITH_NAN, 1, True),
    ]


def apart(*shape: int) -> X:
    """Numbers in no order, of which no two are equal after rounding to 16 bits either."""
    count = int(np.prod(shape))
    return X(np.random.default_rng(count).permutation(count).reshape(shape) - 2.5, "float64")


def top() -> list[Call]:
    """Samples of topk, without ties: PyTorch leaves open which of two equal elements it names."""
    return [
        call(apart(6), 3),
        call(apart(6), 0),
        call(apart(6), 6),
        call(apart(3, 5), 2),
        call(apart(3, 5), 2, 0),
        call(apart(3, 5), 2, largest=False),
        call(apart(3, 5), 2, 1, False, True),
        call(apart(3, 5), k=1, dim=-1),
        call(apart(6), 7),
        call(apart(6), -1),
        call(apart(), 1),
        call(apart(), 0),
        call(apart(3), 1, 1),
        call(apart(2, 0), 0),
        call(X(np.arange(7), "int64"), 3),
        call(X(np.array([0.3, 0.1, 0.2]), "float32"), 2),
        call(apart(), 2),
    ]


SOFT = [
    *over_dims(several=False, required=True, keepdim=False),
    call(normal(2, 3), 2),
    call(normal(0, 3), 0),
    call(normal(0, 3), 1),
    call(normal(2, 0), 1),
    call(ints(3), 0),
    call(ints(3), 0, dtype=D("float64")),
    call(single(3), 0, dtype=D("float64")),
    call(X(np.array([1e4, -1e4, 0.0])), 0),
    call(X(np.array([-np.inf, 0.0, 1.0]), grad=False), 0),
    call(X(np.array([-np.inf, -np.inf]), grad=False), 0),
    call(constant(special()), 0),
    call(normal(2, 3, 4, 2), 2),
    call(bools(3), 0),
]
TRUTH = [
    *over_dims(ties),
    *BAD_DIMS,
    *EMPTY_DIM,
    *each_dtype(),
    *each_dtype(1),
    call(special()),
    call(normal(0)),
    call(bools(3, 0)),
]

ROWS: dict[str, list[Call]] = {
    "sum": [
        *over_dims(),
        *BAD_DIMS,
        *EMPTY_DIM,
        *each_dtype(),
        *each_dtype(1),
        call(single(2, 3), dtype=D("float64")),
        call(ints(3), dtype=D("float64")),
        call(ints(3), dtype=D("int32")),
        call(constant(normal(3)), dtype=D("int64")),
        call(single(2, 3), 1, dtype=D("float64")),
        call(normal(2, 3), ()),
        call(normal(2, 3), None),
        call(normal(2, 3), dim=None, keepdim=True),
        call(bools(3), dtype=D("bool")),
        call(special()),
    ],
    "mean": [
        *over_dims(),
        *BAD_DIMS,
        *EMPTY_DIM,
        *each_dtype(),
        call(ints(3), dtype=D("float64")),
        call(single(3), dtype=D("float64")),
        call(normal(2, 3), ()),
        call(normal(2, 3), None, True),
    ],
    "var": spread(),
    "std": spread(),
    "prod": [
        *over_dims(several=False),
        *BAD_DIMS[:3],
        *EMPTY_DIM,
        *each_dtype(),
        call(ints(2, 3), 1),
        call(X(np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 2.0]])), 1),
        call(X(np.array([2.0, 0.0, 3.0]))),
        call(X(np.array([0.0, 0.0, 3.0]))),
        call(ints(3), dtype=D("float64")),
        call(ints(3), 0, dtype=D("int32")),
    ],
    "amax": extreme(),
    "amin": extreme(),
    "max": pick(),
    "min": pick(),
    "argmax": place(),
    "argmin": place(),
    "logsumexp": [
        *over_dims(required=True),
        *BAD_DIMS,
        *EMPTY_DIM,
        call(ints(3), 0),
        call(X(np.array([1e4, -1e4, 0.0])), 0),
        call(normal(2, 3), (0, 1)),
        call(X(np.array([-np.inf, -np.inf]), grad=False), 0),
        call(X(np.array([np.inf, 1.0]), grad=False), 0),
        call(X(np.array([-np.inf, 1.0])), 0),
    ],
    "softmax": SOFT,
    "log_softmax": SOFT,
    "nn.functional.softmax": SOFT,
    "nn.functional.log_softmax": [*SOFT, call(normal(2, 3)), call(normal(2, 3, 4)), call(normal())],
    "cumsum": [
        *over_dims(several=False, required=True, keepdim=False),
        *BAD_DIMS[:3],
        call(ints(4), 0),
        call(bools(4), 0),
        call(normal(0, 3), 0),
        call(normal(0, 3), 1),
        call(ints(3), 0, dtype=D("float64")),
        call(single(3), 0, dtype=D("float64")),
        call(ints(3, dtype="uint8"), 0),
    ],
    "norm": [
        *[call(c.args[0]) for c in over_dims()],
        call(normal(3, 4), 1),
        call(normal(3, 4), 2),
        call(normal(3, 4), 3),
        call(normal(3, 4), float("inf")),
        call(normal(3, 4), float("-inf")),
        call(normal(3, 4), 0),
        call(normal(3, 4), 0.5),
        call(normal(3, 4), 2, 1),
        call(normal(3, 4), 2, -1, True),
        call(normal(2, 3, 4), dim=(0, 2)),
        call(normal(3, 4), 1, 0),
        call(normal(3, 4), "fro"),
        call(X(np.zeros(3))),
        call(X(np.zeros((2, 3))), 2, 1),
        call(normal(3), 2, 1),
        call(ints(3)),
        call(X(np.array([0.0, 1.0, -2.0])), 1),
        call(X(np.array([1.0, 1.0, -1.0])), float("inf")),
        call(normal(2, 3), p=2, dim=1, keepdim=True),
    ],
    "all": TRUTH,
    "any": TRUTH,
    "count_nonzero": [
        call(ties(3, 4)),
        call(ties(3, 4), 1),
        call(ties(3, 4), dim=(0, 1)),
        call(bools(5)),
        call(ints(2, 3), -1),
        call(normal(0)),
        call(X(np.array(SPECIAL), grad=False)),
    ],
    "sort": order(),
    "argsort": order(),
    "topk": top(),
    "nn.functional.normalize": [
        call(normal(3, 4)),
        call(normal(3, 4), 2.0, 0),
        call(normal(2, 3, 4), dim=-1),
        call(normal(3, 4), p=1),
        call(X(np.zeros((2, 3)))),
        call(normal(3)),
        call(normal(3), dim=0),
    ],
    "nn.functional.cosine_similarity": [
        call(normal(3, 4), normal(3, 4)),
        call(normal(3, 4), normal(3, 4), 0),
        call(normal(3, 4), normal(1, 4)),
        call(normal(4), normal(4), dim=0),
        call(normal(2, 1, 4), normal(3, 4), -1),
        call(positive(3, 4), positive(3, 4), 1, 1e-2),
    ],
}
