"""Products of vectors, matrices and more."""

from __future__ import annotations

import numpy as np

from tests.parity.judge import Call, X, call
from tests.parity.samples import bools, expanded, ints, normal

FIT = [
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (4, 3, 2)),
    ((1, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((0, 3), (3, 4)),
    ((2, 0), (0, 4)),
    ((2, 3), (3, 0)),
    ((0, 2, 3), (3, 4)),
    ((0,), (0,)),
    ((2, 0), (0,)),
    ((2, 1, 3), (0, 3, 4)),
    ((6, 2, 2, 3), (2, 3, 4)),
]
MISFIT = [
    ((2, 3), (2, 3)),
    ((3,), (2,)),
    ((), (3,)),
    ((3,), ()),
    ((2, 2, 3), (3, 3, 4)),
    ((2, 3), (4,)),
    ((3,), (2, 2)),
    ((2, 3, 4), (3, 4)),
]
PAIRS = [call(normal(*a), normal(*b)) for a, b in [*FIT, *MISFIT]]
MIXED = [
    call(normal(2, 3), ints(3, 2)),
    call(ints(2, 3), ints(3, 2)),
    call(X(np.ones((2, 3)), "float32"), normal(3, 2)),
    call(bools(2, 3), bools(3, 2)),
    call(expanded([[1.0], [2.0]], 2, 3), normal(3, 2)),
    call(ints(2, 2, dtype="uint8"), ints(2, 2, dtype="uint8")),
]


def of_ranks(m: int, n: int) -> list[Call]:
    fitting = [c for c in PAIRS if [np.ndim(x.values) for x in c.args] == [m, n]]
    return [*fitting, call(normal(2), normal(2, 2)), call(normal(2, 2), normal(2, 2, 2))]


def einsum(*cases: tuple[str, tuple[tuple[int, ...], ...]]) -> list[Call]:
    return [call(equation, *[normal(*s) for s in shapes]) for equation, shapes in cases]


ROWS: dict[str, list[Call]] = {
    "matmul": [*PAIRS, *MIXED],
    "Tensor.__matmul__": [*PAIRS[:8]],
    "mm": [*of_ranks(2, 2), *MIXED[:3]],
    "bmm": [*of_ranks(3, 3), call(normal(2, 2, 3), normal(2, 4, 3)), call(normal(1, 2, 3), normal(5, 3, 4))],
    "mv": of_ranks(2, 1),
    "dot": [*of_ranks(1, 1), call(ints(3), ints(3)), call(normal(3), ints(3))],
    "outer": [
        call(normal(3), normal(4)),
        call(normal(0), normal(4)),
        call(normal(3), ints(2)),
        call(normal(2, 2), normal(2)),
        call(ints(2), ints(3)),
    ],
    "addmm": [
        call(normal(2, 4), normal(2, 3), normal(3, 4)),
        call(normal(4), normal(2, 3), normal(3, 4)),
        call(normal(2, 1), normal(2, 3), normal(3, 4)),
        call(normal(), normal(2, 3), normal(3, 4)),
        call(normal(2, 4), normal(2, 3), normal(3, 4), beta=0.5, alpha=2),
        call(normal(2, 4), normal(2, 3), normal(3, 4), beta=0),
        call(normal(3), normal(2, 3), normal(3, 4)),
        call(normal(2, 4), normal(2, 3), normal(2, 4)),
        call(ints(2, 2), ints(2, 2), ints(2, 2)),
        call(normal(1, 2, 4), normal(2, 3), normal(3, 4)),
        call(X(np.ones(4), "float32"), normal(2, 3), normal(3, 4)),
        call(X(np.full((2, 2), np.nan), grad=False), normal(2, 2), normal(2, 2), beta=0),
    ],
    "nn.functional.linear": [
        call(normal(2, 3), normal(4, 3)),
        call(normal(2, 3), normal(4, 3), normal(4)),
        call(normal(5, 2, 3), normal(4, 3), normal(4)),
        call(normal(3), normal(4, 3), normal(4)),
        call(normal(2, 3), normal(3)),
        call(normal(3), normal(3)),
        call(normal(0, 3), normal(4, 3), normal(4)),
        call(normal(2, 0), normal(4, 0), normal(4)),
        call(normal(2, 3), normal(0, 3), normal(0)),
        call(normal(2, 3), normal(4, 2)),
        call(normal(2, 3), normal(4, 3), normal(3)),
        call(normal(2, 3), X(np.ones((4, 3)), "float32")),
        call(ints(2, 3), normal(4, 3)),
        call(normal(2, 2, 2, 3), normal(4, 3), bias=normal(4)),
        call(expanded([[1.0], [2.0]], 2, 3), normal(4, 3), normal(4)),
        call(normal(2, 3), normal(4, 3), normal(1)),
    ],
    "einsum": [
        *einsum(
            ("ij,jk->ik", ((2, 3), (3, 4))),
            ("ij,jk", ((2, 3), (3, 4))),
            ("bij,bjk->bik", ((5, 2, 3), (5, 3, 4))),
            ("bhtd,bhsd->bhts", ((2, 2, 3, 4), (2, 2, 5, 4))),
            ("i,i->", ((3,), (3,))),
            ("i,j->ij", ((3,), (4,))),
            ("ij->ji", ((2, 3),)),
            ("ij->", ((2, 3),)),
            ("ij->j", ((2, 3),)),
            ("ii->i", ((3, 3),)),
            ("ii", ((3, 3),)),
            ("iij->ij", ((3, 3, 2),)),
            ("...ij,...jk->...ik", ((2, 3, 4), (2, 4, 5))),
            ("...ij,jk->...ik", ((2, 3, 4), (4, 5))),
            ("ij...,jk->ik...", ((2, 3, 4), (3, 5))),
            ("...->", ((2, 3),)),
            ("i...->...", ((2, 3),)),
            ("b i j , b j k -> b i k", ((2, 2, 3), (2, 3, 2))),
            ("ij,jk,kl->il", ((2, 3), (3, 4), (4, 2))),
            ("ij,ij->ij", ((2, 3), (2, 3))),
            ("ijk,j->ik", ((2, 3, 4), (3,))),
            ("...i,...i->...", ((2, 3), (2, 3))),
            ("...i,...i->...", ((4, 2, 3), (2, 3))),
            ("ba", ((2, 3),)),
            (",i->i", ((), (3,))),
            ("ij,jk->ik", ((2, 0), (0, 4))),
            ("bi,bj->bij", ((2, 3), (2, 4))),
            ("Ab,bC->AC", ((2, 3), (3, 4))),
            ("ij,kl->ijkl", ((2, 3), (1, 2))),
            ("ij,j->i", ((2, 1), (3,))),
            ("ij,jk->ik", ((2, 3), (4, 5))),
            ("ij,jk->il", ((2, 3), (3, 4))),
            ("ij->iij", ((2, 3),)),
            ("ij,jk->ik", ((2, 3),)),
            ("ijk->i", ((2, 3),)),
            ("i->i", ((2, 3),)),
            ("ij,jk-ik", ((2, 3), (3, 4))),
            ("i$->i", ((2, 3),)),
            ("ii->i", ((2, 3),)),
        ),
        call("ij,jk->ik", [normal(2, 3), normal(3, 4)]),
        call("ij,jk->ik", ints(2, 3), ints(3, 2)),
        call("ij,jk->ik", normal(2, 3), ints(3, 2)),
    ],
}
