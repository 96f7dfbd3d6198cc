"""Functions of each element."""

from __future__ import annotations

import numpy as np

from tests.parity.judge import Call, D, X, call
from tests.parity.samples import (
    binary,
    bools,
    expanded,
    extremes,
    ids,
    ints,
    normal,
    positive,
    special,
    ties,
    unary,
    with_numbers,
)

ONES = X(np.array([[1, 2, 3], [1, 1, 2]]), "int64")


def nonzero(*shape: int) -> X:
    """Numbers away from 0, of both signs."""
    x = normal(*shape)
    return X(np.where(np.abs(x.values) < 0.3, 0.3, x.values))


def whole(*shape: int) -> X:
    """Numbers with halves among them, for rounding."""
    return X(np.round(normal(*shape).values * 4) / 2, grad=False)


CLAMPS = [
    call(normal(3, 4), -0.5, 0.5),
    call(normal(3, 4), min=0.1),
    call(normal(3, 4), max=0.1),
    call(ties(4, 4), -1, 0),
    call(normal(3, 4), 1.0, -1.0),
    call(normal(3, 4)),
    call(normal(3, 4), normal(4), 0.2),
    call(normal(3, 4), normal(4), positive(3, 1)),
    call(normal(3, 4), None, normal()),
    call(ints(5), 0, 2),
    call(ints(5), 0.5),
    call(ints(5), max=1),
    call(special(), -1, 1),
    call(normal(0, 2), 0, 1),
    call(normal(), 0.0, 0.5),
    call(normal(3, 4), min=normal(3, 4)),
    call(ties(3, 4), min=ties(3, 4)),
    call(ties(3, 4), X(np.zeros(4)), X(np.ones(()))),
]

WHOLE, ZEROS = X(np.array([3, -1, 2]), "int64"), X(np.zeros(3, int), "int64")
ZERO_DIVISORS = [
    *[call(WHOLE, zero) for zero in (0, 0.0, ZEROS, X(np.array(0), "int64"), X(np.array([1, 0, 2]), "uint8"))],
    *[call(X(np.array([3, -1]), "int8"), zero) for zero in (0, 0.0)],
    *[call(X(np.zeros(0), "int64"), zero) for zero in (0, X(np.array(0), "int64"))],
    call(WHOLE, X(np.zeros((0, 3)), "int64")),
    *[call(X(np.array([1.5, -2.0, 0.0]), grad=False), zero) for zero in (0, 0.0, ZEROS)],
    *[call(X(np.array([True, False]), "bool"), one) for one in (True, X(np.array([True, True]), "bool"))],
]

UNLIKE = [
    *[call(X(np.ones(2), d), X(np.ones(2))) for d in ("int64", "bool")],
    call(X(np.ones(2)), X(np.ones(3))),
    call(X(np.ones(2)), 1.0),
    *[call(X(np.ones(2)), X(np.ones(2)), **{name: value}) for name in ("rtol", "atol") for value in (-1, 0)],
]

COMPARISON: list[Call] = [
    *binary(ties),
    *with_numbers(ties),
    call(normal(3), normal(4)),
    call(ints(4, dtype="int8"), 1.5),
]
LOGIC: list[Call] = [*binary(ties), call(bools(3, 4), bools(4)), call(normal(3), normal(4))]
BITS: list[Call] = [
    call(ids(8, 3, 4), ids(8, 4)),
    call(bools(3, 4), bools(3, 1)),
    call(ids(8, 3), 5),
    call(bools(3), True),
    call(bools(3), ids(4, 3)),
    call(ids(8, 3, dtype="uint8"), ids(8, 3, dtype="int8")),
    call(normal(3), ids(4, 3)),
    call(ids(8, 3), ids(8, 4)),
]

ROWS: dict[str, list[Call]] = {
    "exp": unary(),
    "log": [*unary(positive, with_special=False), call(special())],
    "log1p": [*unary(positive, with_special=False), call(special())],
    "sqrt": [*unary(positive, with_special=False), call(special())],
    "rsqrt": [*unary(positive, with_special=False), call(special())],
    "tanh": unary(),
    "sigmoid": unary(),
    "erf": unary(),
    "sin": unary(),
    "cos": unary(),
    "abs": unary(),
    "neg": unary(),
    "relu": [*unary(), call(ties(4, 4))],
    "sign": [*unary(), call(ties(3, 3))],
    "square": unary(),
    "reciprocal": [*unary(nonzero, with_special=False), call(special())],
    "floor": unary(whole),
    "ceil": unary(whole),
    "trunc": unary(whole),
    "round": [
        *unary(whole),
        call(whole(3, 4), decimals=1),
        call(X(np.array([123.456, -7.65]), grad=False), decimals=-1),
    ],
    "isnan": unary(),
    "isinf": unary(),
    "isfinite": unary(),
    "logical_not": [*unary(), call(ties(3, 3))],
    "add": [
        *binary(),
        *with_numbers(),
        call(normal(3), normal(3), alpha=2),
        call(ints(3), ints(3), alpha=3),
        call(normal(3), normal(4)),
        call(normal(3), normal(3), alpha=0.5),
        call(normal(3), ints(3), alpha=2),
        call(normal(3), 2, alpha=0.5),
        call(ints(3), ints(3), alpha=0.5),
        call(bools(3), bools(3), alpha=True),
        call(bools(3), bools(3), alpha=2),
    ],
    "sub": [
        *binary(),
        *with_numbers(numbers=(2, 0.5)),
        call(normal(3), normal(3), alpha=2),
        call(bools(3), bools(3)),
        call(normal(2, 3), normal(4, 3)),
        call(bools(3), True),
        call(bools(3), 1),
    ],
    "mul": [*binary(), *with_numbers(), call(normal(2, 3), normal(2))],
    "div": [
        *binary(nonzero),
        *with_numbers(nonzero),
        call(normal(3), X(np.zeros(3))),
        call(ints(4), X(np.array([0, 1, 2, 0]), "int64")),
        call(normal(3), normal(4)),
        *[
            call(a, b, rounding_mode=m)
            for m in ("floor", "trunc", "round", None)
            for a, b in (
                (X(np.array([7.0, -7.0, 7.5])), X(np.array([2.0, 2.0, -2.0]))),
                (X(np.array([7, -7, 8]), "int64"), X(np.array([2, 2, -3]), "int64")),
                (X(np.array([7, -7, 8]), "int64"), X(np.array([2.0, 2.5, -3.0]))),
                (X(np.array([7.0, -7.0, 8.0])), 2),
                (X(np.array([7, -7, 8]), "int64"), 3),
                (X(np.array([1.0, -1.0, 0.0]), grad=False), X(np.zeros(3), grad=False)),
                (X(np.array([7, 2**60 + 1, -(2**60) - 1]), "int64"), 3),
                (X(np.array([1, 2]), "int64"), X(np.array([0, 1]), "int64")),
            )
        ],
    ],
    "floor_divide": [
        *ZERO_DIVISORS,
        call(X(np.array([7.0, -7.0]), grad=False), 2),
        call(X(np.array([7, -7]), "int64"), 2),
        call(ONES, ONES),
        call(ONES, 0),
        call(
            X(np.array([1.0, float("inf"), -1.0, 5.0]), grad=False),
            X(np.array([0.1, 2.0, float("inf"), 0.0]), grad=False),
        ),
    ],
    "remainder": [
        *ZERO_DIVISORS,
        *binary(nonzero),
        *with_numbers(nonzero),
        call(X(np.array([7.0, -7.0]), grad=False), 2),
        call(X(np.array([7, -7]), "int64"), -3),
    ],
    "pow": [
        *binary(positive, other_dtypes=False),
        call(positive(3), ids(3, 3)),
        call(ids(3, 3), positive(3)),
        call(ids(3, 3), ids(3, 3)),
        call(ids(3, 3, dtype="int8"), ids(3, 3)),
        *with_numbers(positive, (2, 3, 0.5, -1.0, 0, 1, -0.5, 2.5)),
        call(normal(3, 4), 2),
        call(normal(3, 4), 3),
        call(X(np.array([0.0, 1.0, -1.0])), 0),
        call(ints(4), -1),
        call(ints(4), 2.0),
        call(X(np.zeros(3)), X(np.array([0.0, 1.0, 2.0]))),
        call(2, normal(3)),
        call(2.5, normal(3)),
        call(0.0, X(np.array([0.0, 1.0, 2.0]))),
        call(2, ids(4, 3)),
        call(ONES, ids(3, 2, 3)),
        call(normal(3), X(np.array([1, 2, 0]), "int64")),
        call(normal(3), positive(4)),
        call(X(np.array([0.0, 2.0])), 0.5),
        call(X(np.array([0.0, 2.0])), 2),
        call(X(np.array([0.0, 2.0])), 1),
        call(-2, X(np.array([2, 3]), "int64")),
    ],
    "maximum": [*binary(), call(normal(3), normal(4)), call(normal(3), 1.0), call(extremes(), X(np.zeros(1)))],
    "minimum": [*binary(), call(normal(3), normal(4)), call(extremes(), X(np.zeros(1)))],
    "clamp": CLAMPS,
    "clip": CLAMPS,
    "clamp_min": [call(normal(3, 4), 0.1), call(ints(5), 1), call(normal(3), normal(3))],
    "where": [
        call(bools(3, 4), normal(3, 4), normal(4)),
        call(bools(3, 1), normal(4), 0.5),
        call(bools(3), 1.0, normal(3)),
        call(bools(3), 1, 0),
        call(bools(3), 1.0, 0.0),
        call(bools(), normal(2), normal(2)),
        call(bools(3), ints(3), normal(3)),
        call(bools(3), ints(3), 0.5),
        call(bools(0, 3), normal(3), normal(3)),
        call(ints(3), normal(3), normal(3)),
        call(bools(3), normal(4), normal(4)),
        call(bools(2, 3)),
        call(ids(2, 3), normal(3), normal(3)),
        call(bools(3), ints(3, dtype="int8"), 1000.0),
        call(normal(2, 3)),
        call(bools(3), normal(), normal()),
        call(bools(2), special(), normal(9)),
    ],
    "masked_fill": [
        call(normal(3, 4), bools(3, 4), 0.5),
        call(normal(3, 4), bools(4), float("-inf")),
        call(normal(3, 4), bools(3, 1), normal()),
        call(ints(3), bools(3), 2),
        call(ints(3), bools(3), 2.5),
        call(normal(3), ids(2, 3), 1.0),
        call(normal(3), bools(4), 1.0),
        call(normal(3), bools(3), normal(3)),
        call(normal(4), bools(3, 4), 0.5),
        call(normal(0, 3), bools(3), 1.0),
        call(normal(), bools(), 1.0),
        call(bools(3), bools(3), True),
        call(normal(3), bools(3), ints()),
        call(normal(3), bools(3), True),
        call(expanded([[1.0], [2.0]], 2, 3), bools(3), 0.0),
    ],
    "eq": COMPARISON,
    "ne": COMPARISON,
    "lt": COMPARISON,
    "le": COMPARISON,
    "gt": COMPARISON,
    "ge": COMPARISON,
    "logical_and": LOGIC,
    "logical_or": LOGIC,
    "logical_xor": LOGIC,
    "bitwise_and": BITS,
    "bitwise_or": BITS,
    "bitwise_xor": BITS,
    "bitwise_not": [call(ids(8, 3)), call(bools(3)), call(ids(8, 3, dtype="uint8")), call(normal(3))],
    "isclose": [
        call(normal(3), normal(3)),
        call(X(np.array([1.0, 1.0])), X(np.array([1.0 + 1e-6, 1.1]))),
        call(special(), special()),
        call(special(), special(), equal_nan=True),
        call(normal(3, 1), normal(3)),
        call(ints(3), ints(3)),
        call(normal(2), normal(2), atol=10.0),
        *UNLIKE,
    ],
    "allclose": [
        *UNLIKE,
        call(X(np.ones(3)), X(np.ones(3) + 1e-7)),
        call(X(np.ones(3)), X(np.zeros(3))),
        call(special(), special(), equal_nan=True),
    ],
    "equal": [
        call(X(np.ones(3)), X(np.ones(3))),
        call(X(np.ones(3)), X(np.ones((1, 3)))),
        call(X(np.ones(3)), X(np.zeros(3))),
        call(special(), special()),
        call(X(np.ones(0)), X(np.ones(0))),
        call(X(np.ones(2)), 1),
    ],
    "nn.functional.leaky_relu": [
        *unary(other_dtypes=False),
        call(normal(3), 0.2),
        call(ties(3, 3), negative_slope=-0.1),
        call(ints(3)),
    ],
    "nn.functional.silu": [*unary(), call(X(np.array([-800.0, 800.0, -90.0])))],
    "nn.functional.softplus": [
        *unary(),
        call(normal(3), 2, 1),
        call(X(np.array([-100.0, 19.0, 21.0, 100.0]))),
        call(normal(4), beta=0.5, threshold=0.3),
    ],
    "nn.functional.gelu": [
        *unary(with_special=False),
        *unary(with_special=False, approximate="tanh"),
        call(extremes(), approximate="tanh"),
        call(extremes()),
        call(X(np.linspace(-8, 8, 40))),
        *[call(X(np.array([1e13, -1e13, 1e18, -1e18])), approximate=a) for a in ("none", "tanh")],
        call(normal(3), approximate="erf"),
    ],
    "nn.functional.relu": unary(),
    "nn.functional.sigmoid": unary(),
    "nn.functional.tanh": unary(),
    "Tensor.to": [
        call(x, D(d))
        for x in (normal(2, 3), ints(3), bools(3), X(np.array([1.7, -1.7, 0.0, 300.25])))
        for d in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")
    ],
    **{
        f"Tensor.{name}": [call(normal(2, 3)), call(ints(3, low=0)), call(bools(3)), call(X(np.array([1.7, 0.2, 0.0])))]
        for name in ("float", "double", "half", "bfloat16", "int", "long", "short", "char", "byte", "bool")
    },
    "Tensor.type_as": [call(normal(3), ints(2)), call(ints(3), normal(2)), call(normal(3), X(np.ones(2), "float32"))],
    **{
        f"Tensor.__{name}__": [
            *samples,
            *with_numbers(positive, numbers),
            call(positive(3), positive(4)),
            call(positive(3), "a"),
        ]
        for name, samples, numbers in (
            ("add", binary(other_dtypes=False), (2, 0.5)),
            ("radd", [], (2, 0.5)),
            ("sub", binary(other_dtypes=False), (2, 0.5)),
            ("rsub", [], (2, 0.5)),
            ("mul", binary(other_dtypes=False), (2, 0.5)),
            ("rmul", [], (2, 0.5)),
            ("truediv", binary(nonzero, other_dtypes=False), (2, 0.5)),
            ("rtruediv", [], (2, 0.5)),
            ("pow", binary(positive, other_dtypes=False), (2, 0.5)),
            ("rpow", [], (2, 0.5)),
            ("mod", [], (2, 0.5)),
        )
    },
    **{f"Tensor.__{name}__": [call(normal(2, 3))] for name in ("neg", "pos", "abs")},
    "Tensor.__floordiv__": [call(X(np.array([7.0, -7.0]), grad=False), 2), call(ints(3), 2)],
    "Tensor.__rfloordiv__": [call(X(np.array([2.0, -2.0]), grad=False), 7), call(ONES, 7)],
    "Tensor.__rmod__": [call(X(np.array([2.0, -2.0]), grad=False), 7)],
    "Tensor.__invert__": [call(bools(3)), call(ids(3, 3)), call(normal(3))],
    **{f"Tensor.__{name}__": BITS for name in ("and", "or", "xor")},
    **{
        f"Tensor.__{name}__": [
            *with_numbers(ties),
            call(ties(3), ties(3)),
            call(ties(3), ties(4)),
        ]
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
    },
}
