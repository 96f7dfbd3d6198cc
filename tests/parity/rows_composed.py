"""Functions composed of others: elementary, laid out anew, order statistics. Fixed numbers, so that rows stay apart."""

from __future__ import annotations

import numpy as np

from tests.parity.judge import Call, X, call

A = X(np.array([[0.31, -0.72, 0.15], [-0.44, 0.58, 0.9]]))
B = X(np.array([[1.7, -0.6, 2.2], [0.35, 1.1, -1.9]]))
ABOVE = X(np.array([[1.31, 2.72, 1.15], [4.4, 1.58, 7.9]]))
BELOW = X(np.array([0.2, 0.95, 0.5]))
ROW, COLUMN = X(np.array([0.5, -1.5, 2.0])), X(np.array([[0.4], [1.3]]))
WHOLE, TRUTHS = X(np.array([[3, -1, 2], [0, 5, 2]]), "int64"), X(np.array([[True, False, True]]), "bool")
NANS = X(np.array([[1.0, np.nan, np.inf], [-np.inf, 2.0, 0.5]]), grad=False)
NUMBER, EMPTY = X(np.array(0.6)), X(np.zeros((0, 3)))
LONG = X(np.array([[0.9, 0.1, 0.5, 0.3, 0.7], [2.0, 5.0, 1.0, 4.0, 3.0]]))
SQUARE = X(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.5]]))
CUBE = X(np.linspace(-2, 2, 24).reshape(2, 3, 4))
UNARY = [call(x) for x in (A, BELOW, NUMBER, EMPTY, WHOLE, TRUTHS, NANS)]
BINARY = [call(A, B), call(A, ROW), call(COLUMN, ROW), call(NUMBER, ROW), call(WHOLE, A), call(A, X(np.zeros(4)))]
DIMS = [call(LONG), call(LONG, 1), call(LONG, dim=0), call(CUBE, 1), call(CUBE, -1, keepdim=True), call(LONG, 2)]

ROWS: dict[str, list[Call]] = {
    **dict.fromkeys(
        [
            "tan",
            "asin",
            "acos",
            "atan",
            "sinh",
            "cosh",
            "asinh",
            "atanh",
            "exp2",
            "expm1",
            "arcsin",
            "arccos",
            "arctan",
            "arcsinh",
            "arctanh",
            "fix",
        ],
        UNARY,
    ),
    **{name: [call(x) for x in (ABOVE, B, WHOLE, NUMBER, EMPTY, NANS)] for name in ("acosh", "arccosh")},
    **{name: [call(x) for x in (ABOVE, BELOW, NUMBER, EMPTY, WHOLE, NANS)] for name in ("log2", "log10")},
    **dict.fromkeys(("erfc", "deg2rad", "rad2deg"), UNARY),
    "fmod": [*BINARY, call(A, 0.3), call(B, -0.7), call(WHOLE, 2), call(WHOLE, -3), call(WHOLE, 0), call(A, 0.0)],
    "xlogy": [
        call(A, ABOVE),
        call(WHOLE, ABOVE),
        call(A, 2.5),
        call(X(np.zeros(2), grad=False), X(np.array([0.0, np.nan]), grad=False)),
    ],
    "logit": [call(BELOW), call(A, 0.1), call(BELOW, eps=0.3), call(NUMBER), call(NANS)],
    **{f: [call(A, B), call(A, ROW), call(NANS, X(np.ones((2, 3)), grad=False))] for f in ("fmax", "fmin")},
    "signbit": [call(A), call(WHOLE), call(X(np.array([0.0, -0.0]))), call(NANS)],
    **{f: [call(NANS), call(A), call(WHOLE)] for f in ("isposinf", "isneginf")},
    "absolute": UNARY,
    "negative": UNARY,
    **dict.fromkeys(("multiply", "subtract", "divide", "true_divide", "atan2", "arctan2"), BINARY),
    **dict.fromkeys(("greater", "greater_equal", "less", "less_equal", "not_equal"), BINARY),
    "hypot": BINARY[:4],
    "logaddexp": BINARY[:4],
    "lerp": [call(A, B, 0.3), call(A, B, B), call(A, ROW, 2.0), call(A, B, COLUMN)],
    "addcmul": [call(A, A, B), call(A, ROW, COLUMN, value=0.5), call(ROW, A, B, value=-2)],
    "addcdiv": [call(A, A, B), call(A, ROW, ABOVE, value=0.5)],
    "nan_to_num": [call(NANS), call(NANS, 1.0), call(NANS, posinf=7.0, neginf=-7.0), call(WHOLE), call(A)],
    "frac": [call(A), call(B), call(NUMBER)],
    "clamp_max": [call(A, 0.1), call(WHOLE, 1), call(A, ROW)],
    "is_nonzero": [call(NUMBER), call(X(np.zeros(1))), call(A), call(EMPTY)],
    "meshgrid": [
        call(ROW, BELOW, indexing="ij"),
        call(ROW, X(np.arange(2.0)), indexing="xy"),
        call([ROW, BELOW, X(np.arange(2.0))], indexing="xy"),
        call(ROW, NUMBER, indexing="ij"),
        call(ROW, A, indexing="ij"),
        call(ROW, indexing="zz"),
    ],
    "cartesian_prod": [call(ROW, BELOW), call(ROW, BELOW, X(np.arange(2.0))), call(ROW)],
    "diag": [call(ROW), call(ROW, 1), call(ROW, -2), call(A), call(SQUARE, 1), call(SQUARE, -1), call(CUBE)],
    "trace": [call(SQUARE), call(A), call(WHOLE), call(ROW)],
    "ravel": [call(A), call(NUMBER), call(CUBE)],
    "column_stack": [call([ROW, BELOW]), call([A, COLUMN]), call([NUMBER, NUMBER])],
    "dstack": [call([ROW, BELOW]), call([A, B]), call([CUBE, CUBE])],
    "atleast_2d": [call(NUMBER), call(ROW), call(CUBE)],
    "atleast_3d": [call(NUMBER), call(ROW), call(A), call(CUBE)],
    "fliplr": [call(A), call(ROW)],
    "flipud": [call(A), call(NUMBER)],
    "tensor_split": [
        call(LONG, 2, 1),
        call(LONG, 3, dim=-1),
        call(LONG, (1, 3), 1),
        call(ROW, 5),
        call(LONG, (3, 1), 1),
        call(ROW, 0),
    ],
    "argwhere": [call(WHOLE), call(NUMBER), call(TRUTHS), call(EMPTY)],
    "diff": [call(LONG), call(LONG, 2), call(LONG, dim=0), call(TRUTHS), call(EMPTY, dim=0)],
    "inner": [call(ROW, BELOW), call(A, B), call(CUBE, X(np.arange(4.0))), call(NUMBER, A), call(A, LONG)],
    "tensordot": [call(A, SQUARE, 1), call(A, B), call(CUBE, CUBE, ([0, 1], [0, 1])), call(ROW, A, 0), call(A, B, 1)],
    "moveaxis": [call(CUBE, 0, 2), call(CUBE, (0, 1), (1, 2))],
    "swapdims": [call(CUBE, 0, 2)],
    "ger": [call(ROW, BELOW)],
    "vdot": [call(ROW, BELOW)],
    "var_mean": [*DIMS[:5], call(LONG, 1, correction=0), call(LONG, (0, 1))],
    "std_mean": [*DIMS[:5], call(LONG, 1, correction=0)],
    "kthvalue": [
        call(LONG, 2),
        call(LONG, 1, 0),
        call(CUBE, 3, 1, True),
        call(LONG, 6),
        call(LONG, 0),
        call(NUMBER, 1),
    ],
    "median": [*DIMS, call(WHOLE), call(NANS), call(NANS, 1), call(NUMBER), call(EMPTY, 0)],
    "quantile": [
        call(LONG, 0.3),
        call(LONG, 0.5, 1),
        call(LONG, X(np.array([0.1, 0.9]), grad=False), 1),
        call(CUBE, 0.25, 0, True),
        *[call(LONG, 0.4, 1, interpolation=i) for i in ("lower", "higher", "nearest", "midpoint")],
        call(LONG, 1.2),
        call(WHOLE, 0.5),
        call(NANS, 0.5, 1),
    ],
    "aminmax": [call(LONG), call(LONG, dim=1), call(CUBE, dim=0, keepdim=True), call(NANS, dim=1)],
    "cumprod": [call(LONG, 1), call(X(np.array([1.0, 0.0, 2.0, 3.0])), 0), call(WHOLE, 0), call(EMPTY, 0)],
    "nansum": [call(NANS), call(NANS, 1), call(LONG, 0)],
    "nanmean": [call(NANS, 1), call(LONG, 0)],
    "searchsorted": [
        call(X(np.array([1.0, 2.0, 2.0, 5.0]), grad=False), X(np.array([[0.0, 2.0], [3.0, 9.0]]), grad=False), right=r)
        for r in (False, True)
    ],
    "bucketize": [call(X(np.array([0.0, 2.0, 9.0]), grad=False), X(np.array([1.0, 2.0, 5.0]), grad=False))],
    "isin": [call(WHOLE, X(np.array([2, 5]), "int64")), call(WHOLE, X(np.array([2]), "int64"), invert=True)],
    "index_fill": [call(A, 1, X(np.array([0, 2]), "int64"), 7.0), call(A, 0, X(np.array([1]), "int64"), 0.0)],
}
