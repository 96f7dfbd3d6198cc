"""Functions that gather and scatter by index. (Brackets have a module of their own.)"""

from __future__ import annotations

import numpy as np

from tests.parity.judge import Call, X, call
from tests.parity.samples import bools, constant, expanded, ids, ints, normal, special, ties


def at(*values: int, dtype: str = "int64") -> X:
    return X(np.array(values), dtype)


A = normal(3, 4)
SELECTS = [
    call(A, 0, at(2, 0)), call(A, 1, at(0, 0, 3)), call(A, -1, at(1)), call(A, 0, at(2, 0, dtype="int32")),
    call(normal(5), 0, at(4, 4)), call(normal(), 0, at(0)), call(A, 0, X(np.zeros(0, int), "int64")),
    call(A, 0, X(np.array(1), "int64")), call(A, 0, at(3)), call(A, 0, at(-1)), call(A, 2, at(0)),
    call(A, 0, X(np.zeros((1, 1), int), "int64")), call(A, 0, normal(2)), call(ints(3, 2), 1, at(1, 0)),
    call(normal(0, 3), 1, at(2)), call(expanded([[1.0], [2.0]], 2, 3), 0, at(1, 1, 0)),
    call(A, 0, at(1, dtype="uint8")),
]  # fmt: skip
GATHERS = [
    call(A, 0, ids(3, 2, 4)), call(A, 1, ids(4, 3, 2)), call(A, -1, ids(4, 2, 6)), call(A, 0, ids(3, 5, 3)),
    call(normal(5), 0, ids(5, 3)), call(normal(2, 3, 4), 1, ids(3, 2, 2, 3)),
    call(normal(), 0, X(np.array(0), "int64")),
    call(A, 0, ids(3, 2, 5)), call(A, 0, ids(3, 2)), call(A, 0, at(3)),
    call(A, 0, X(np.array([[3, 0, 0, 0]]), "int64")), call(A, 0, X(np.array([[-1, 0, 0, 0]]), "int64")),
    call(A, 2, ids(3, 2, 4)), call(A, 0, X(np.zeros((0, 4), int), "int64")),
    call(A, 0, X(np.zeros(0, int), "int64")), call(ints(3, 3), 1, ids(3, 3, 3)), call(A, 0, normal(2, 4)),
    call(normal(0, 3), 0, X(np.zeros((0, 3), int), "int64")),
    call(normal(3, 1), 1, X(np.zeros((3, 5), int), "int64")), call(normal(5), 0, X(np.array(3), "int64")),
    call(normal(), 0, at(0, 0)),
]  # fmt: skip
DISTINCT = X(np.array([[0, 1, 2, 0], [1, 0, 0, 2]]), "int64")  # names no place twice along dimension 0
SCATTERS = [
    call(A, 0, DISTINCT, normal(2, 4)), call(A, 0, DISTINCT, constant(normal(3, 5))),
    call(A, 1, X(np.array([[3, 1], [0, 2]]), "int64"), normal(2, 2)), call(normal(5), 0, at(4, 1), normal(2)),
    call(ints(3, 4), 0, DISTINCT, ints(2, 4)),
    call(A, 0, DISTINCT, normal(1, 4)), call(A, 0, at(1), normal(1)),
    call(A, 0, X(np.array([[3, 0, 0, 0]]), "int64"), normal(1, 4)), call(A, 0, DISTINCT, ints(2, 4)),
    call(A, 0, DISTINCT, X(np.ones((2, 4)), "float32")), call(A, 2, DISTINCT, normal(2, 4)),
    call(A, 0, normal(2, 4), normal(2, 4)), call(A, 0, X(np.zeros((0, 4), int), "int64"), constant(normal(2, 4))),
    call(A, 0, ids(3, 2, 5), normal(2, 5)), call(A, 0, X(np.array([[-1, 0, 0, 0]]), "int64"), normal(1, 4)),
    call(normal(), 0, X(np.array(0), "int64"), normal()),
]  # fmt: skip
ADDS = [
    *SCATTERS, call(A, 0, ids(3, 3, 4), normal(3, 4)), call(A, 1, X(np.zeros((3, 6), int), "int64"), normal(3, 6)),
    call(ints(3, 4), 0, ids(3, 3, 4), ints(3, 4)), call(normal(2), 0, at(1, 1, 1), normal(3)),
]

ROWS: dict[str, list[Call]] = {
    "index_select": SELECTS, "gather": GATHERS,
    "scatter": [
        *SCATTERS, call(A, 0, DISTINCT, 2.5), call(A, 0, DISTINCT, value=2.5), call(ints(3, 4), 0, DISTINCT, 2),
        call(A, 0, DISTINCT, value=1), call(A, 0, ids(3, 3, 4), 0.5),
    ],
    "scatter_add": ADDS,
    "index_add": [
        call(A, 0, at(2, 0, 2), normal(3, 4)), call(A, 1, at(3, 3), normal(3, 2)),
        call(A, -1, at(0), normal(3, 1), alpha=2), call(normal(5), 0, at(1, 1, 4), normal(3)),
        call(A, 0, at(3), normal(1, 4)), call(A, 0, at(0), normal(1, 3)), call(A, 0, at(0, 1), normal(1, 4)),
        call(A, 2, at(0), normal(3, 1)), call(ints(3, 2), 0, at(0, 0), ints(2, 2)),
        call(A, 0, at(1, dtype="int32"), normal(1, 4)), call(A, 0, at(-1), normal(1, 4)),
        call(A, 0, normal(1), normal(1, 4)), call(A, 0, at(0), ints(1, 4)),
        call(A, 0, X(np.zeros(0, int), "int64"), normal(0, 4)),
    ],
    "take_along_dim": [
        call(A, ids(4, 3, 2), 1), call(A, ids(3, 1, 4), 0), call(normal(12), ids(12, 5)), call(A, ids(4, 1, 2), -1),
        call(normal(1, 4), ids(4, 3, 2), 1), call(A, ids(4, 3, 2), 2), call(A, ids(4, 2), 0),
        call(ints(3), ids(3, 2), 0),
        call(A, normal(3, 1), 1), call(A, ids(4, 2, 2), 1),
    ],
    "masked_select": [
        call(A, bools(3, 4)), call(A, bools(4)), call(normal(3, 1), bools(1, 4)),
        call(normal(), X(np.array(True), "bool")), call(normal(), X(np.array(False), "bool")), call(A, bools(3)),
        call(A, ids(2, 3, 4)), call(ints(5), bools(5)), call(normal(0), bools(0)),
        call(normal(2, 3), X(np.zeros((2, 3)), "bool")),
    ],
    "nonzero": [
        call(ties(3, 4)), call(bools(5)), call(ints(2, 2, 2)), call(normal(0, 3)), call(X(np.array(0.0))),
        call(X(np.array(3.0))), call(ties(3, 4), as_tuple=True), call(X(np.array(3.0)), as_tuple=True),
        call(special()),
    ],
    "unique": [
        call(ids(4, 9)), call(ids(3, 4, 4)), call(ids(4, 9), return_inverse=True),
        call(ids(4, 9), return_counts=True), call(ids(4, 9), True, True, True),
        call(X(np.array([0.5, -1.0, 0.5]), grad=False)), call(bools(5)), call(ids(2, 6, 2), dim=0),
        call(ids(2, 6, 2), dim=0, return_inverse=True, return_counts=True),
        call(ids(3, 3, 4), return_inverse=True), call(X(np.zeros(0, int), "int64")),
    ],
    "bincount": [
        call(ids(5, 20)), call(ids(5, 20), minlength=9), call(ids(5, 20), X(np.linspace(0, 1, 20), grad=False)),
        call(X(np.zeros(0, int), "int64")), call(at(-1, 2)), call(normal(3)), call(ids(3, 2, 2)),
        call(ids(4, 6), None, 2), call(ids(4, 3), X(np.ones(3), "float32", grad=False)),
        call(ids(4, 3), X(np.ones(2), grad=False)),
    ],
    "nn.functional.one_hot": [
        call(ids(4, 5)), call(ids(4, 2, 3), 6), call(at(0, 3), 3), call(at(-1)), call(X(np.array(2), "int64"), 4),
        call(normal(3)), call(X(np.zeros(0, int), "int64")), call(X(np.zeros(0, int), "int64"), 3),
        call(ids(3, 4, dtype="int32")), call(at(1), 0), call(ids(3, 2), num_classes=-1), call(at(1), -2),
    ],
    "nn.functional.embedding": [
        call(ids(5, 3), normal(5, 2)), call(ids(5, 2, 4), normal(5, 3)), call(X(np.array(1), "int64"), normal(3, 2)),
        call(ids(4, 3, dtype="int32"), normal(4, 2)), call(at(0, 2, 2), normal(4, 3), 2),
        call(at(0, 2, 3), normal(4, 3), padding_idx=-1), call(at(4), normal(4, 2)), call(at(-1), normal(4, 2)),
        call(normal(2), normal(4, 2)),
        call(at(0), normal(4)), call(at(0), normal(4, 2), 4), call(at(0), normal(4, 2), -5),
        call(X(np.zeros((0, 2), int), "int64"), normal(4, 2)), call(at(1, 1), X(np.ones((3, 2)), grad=False), 1),
        call(at(0), normal(2, 2, 2)), call(at(1, dtype="int16"), normal(3, 2)),
    ],
}  # fmt: skip
