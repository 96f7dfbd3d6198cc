"""Functions that reshape, join, cut and repeat."""

from __future__ import annotations

import numpy as np

from tests.parity.judge import Call, X, call
from tests.parity.samples import bools, expanded, ids, ints, normal

A = normal(2, 3, 4)
RESHAPES = [
    call(A, (6, 4)), call(A, (2, -1)), call(A, (-1,)), call(A, (4, 3, 2)), call(A, (24, 1)), call(normal(), (1, 1)),
    call(normal(1), ()), call(normal(0, 3), (3, 0)),
    call(A, (5, -1)), call(A, (7,)), call(A, (-1, -1)), call(A, (2, -2)), call(normal(0, 3), (-1, 0)),
    call(normal(0, 3), (0, -1)), call(normal(0, 3), (-1, 3)), call(ints(2, 3), (6,)), call(bools(4), (2, 2)),
    call(expanded([[1.0], [2.0]], 2, 3), (6,)), call(expanded([[1.0], [2.0]], 2, 3), (2, 3, 1)),
]  # fmt: skip
JOINS = [
    call([normal(2, 3), normal(1, 3)]), call([normal(2, 3), normal(2, 2)], 1),
    call([normal(2, 3), normal(2, 2)], dim=-1), call((normal(3),)),
    call([normal(2, 3), normal(0, 3)]), call([normal(0), normal(2, 3)]), call([normal(2, 3), normal(0)], 1),
    call([normal(0), normal(0)]), call([normal(2), ints(3)]),
    call([ints(2, dtype="uint8"), ints(2)]), call([bools(2), ints(2)]), call([normal(2, 3), normal(2, 3)], 2),
    call([normal(2, 3), normal(3, 2)]), call([normal(2, 3), normal(3)]),
    call([]), call([normal(), normal()]), call([X(np.ones(2), "float32"), normal(2)]),
    call([normal(2, 3, 4), normal(2, 5, 4), normal(2, 1, 4)], 1),
    call([X(np.ones(2), "float16"), X(np.ones(2), "bfloat16")]),
]  # fmt: skip
SPLITS = [
    call(A, 1), call(normal(7), 3), call(normal(7, 2), 2, 0), call(A, 3, -1), call(A, 2, dim=2), call(normal(7), 10),
    call(normal(0, 3), 2), call(normal(6), 0), call(normal(0), 0),
    call(normal(6), -1), call(A, 1, 3), call(normal(), 1), call(normal(7), [2, 5]), call(normal(7), [2, 4]),
    call(normal(7), (0, 7, 0)), call(normal(2, 7), [3, 3, 1], 1), call(normal(7), [-1, 8]),
]  # fmt: skip
CHUNKS = [
    call(normal(7), 3), call(normal(6), 3), call(normal(2), 5), call(A, 2, -1), call(A, 2, dim=1),
    call(normal(0, 3), 2), call(normal(5), 0), call(normal(), 2), call(A, 2, 3),
]
TRIANGLES = [
    call(normal(3, 4)), call(normal(4, 3), 1), call(normal(3, 3), -1), call(normal(2, 3, 4), diagonal=2),
    call(normal(3, 4), 10), call(normal(3, 4), -10), call(normal(0, 3)), call(normal(3)),
    call(ints(3, 3)), call(bools(3, 3)), call(normal(2, 0, 3)), call(normal()),
]  # fmt: skip
EXPANDS = [
    call(normal(3, 1), (3, 4)), call(normal(3, 1), (-1, 4)), call(normal(3), (2, 3)), call(normal(), (2, 2)),
    call(normal(1, 3), (0, 3)), call(normal(3, 1), (2, 3, 4)), call(normal(3), (4,)),
    call(normal(2, 3), (3,)), call(normal(3), (-1, 3)), call(normal(3, 1), (2, -1, -1)), call(ints(3, 1), (3, 2)),
    call(normal(1), ()), call(normal(0), (2, 0)), call(normal(3), (-2,)),
]  # fmt: skip
TRANSPOSES = [
    call(A, 0, 1), call(A, -1, 0), call(A, 1, 1), call(normal(3), 0, 0), call(normal(), 0, -1), call(A, 0, 3),
    call(normal(0, 3), 0, 1), call(A, dim0=0, dim1=2),
]
PERMUTES = [
    call(A, (2, 0, 1)), call(A, (0, -1, 1)), call(normal(), ()), call(A, (0, 1)), call(A, (0, 0, 1)),
    call(A, (0, 1, 3)), call(normal(0, 3), (1, 0)), call(A, dims=(1, 0, 2)),
]
PADS = [
    call(normal(3, 4), (1, 2)), call(normal(3, 4), (1, 2, 0, 1)), call(normal(3, 4), [0, 1], "constant", 2.5),
    call(normal(3, 4), (1, 1), value=-1.0), call(normal(3, 4), (-1, 1)), call(normal(3, 4), (-1, -1, 2, 0)),
    call(normal(3, 4), (1, 2, 3)), call(normal(3), (1, 1, 1, 1)), call(normal(3), (-2, -2)), call(ints(3), (1, 1)),
    call(normal(0, 3), (1, 1, 1, 1)), call(normal(3), ()), call(ints(3), (1, 0), value=7), call(bools(3), (1, 1)),
    call(normal(3, 4), (-3, -1)), call(normal(3, 4), (-3, -2)),
]  # fmt: skip

ROWS: dict[str, list[Call]] = {
    "reshape": RESHAPES,
    "Tensor.reshape": [*RESHAPES, call(A, 6, 4), call(A, -1), call(A, 3, -1, 2), call(A, shape=(6, 4))],
    "Tensor.view": [*RESHAPES, call(A, 6, 4), call(A, -1)],
    "Tensor.view_as": [call(A, normal(6, 4)), call(A, normal(5))],
    "Tensor.reshape_as": [call(A, normal(6, 4)), call(A, normal(5))],
    "flatten": [
        call(A), call(A, 1), call(A, 0, 1), call(A, -2, -1), call(A, 1, 1), call(normal()), call(normal(0, 3)),
        call(A, 2, 1), call(A, 3), call(A, start_dim=1, end_dim=2), call(normal(2, 0, 3), 1),
    ],
    "unflatten": [
        call(A, 2, (2, 2)), call(A, -1, (2, -1)), call(A, 1, (3, 1)), call(A, 1, (2, 2)), call(A, 3, (1,)),
        call(A, 1, (-1, -1)), call(A, 1, (-1,)), call(normal(0, 3), 0, (0, 2)), call(normal(6), 0, [3, 2]),
        call(A, 1, ()),
    ],
    "transpose": TRANSPOSES, "swapaxes": [call(c.args[0], *c.args[1:]) for c in TRANSPOSES[:-1]], "permute": PERMUTES,
    "Tensor.permute": [*PERMUTES, call(A, 2, 0, 1), call(A, -1, 0, 1)],
    "movedim": [
        call(A, 0, 2), call(A, -1, 0), call(A, (0, 1), (2, 0)), call(A, (0, 2), (1, 1)), call(A, 0, 3),
        call(A, (0, 0), (1, 2)), call(normal(), 0, 0), call(A, (0, 1), (1,)), call(A, 1, 1),
    ],
    "t": [call(normal(2, 3)), call(normal(3)), call(normal()), call(A)],
    "squeeze": [
        call(normal(1, 3, 1)), call(normal(1, 3, 1), 0), call(normal(1, 3, 1), 1), call(normal(1, 3, 1), -1),
        call(normal(1, 3, 1), (0, 2)), call(normal(1, 3, 1), (0, 1)), call(normal()), call(normal(), 0),
        call(normal(1), 1), call(normal(1, 0)), call(normal(1, 1, 1), ()),
                call(normal(1, 2, 1), (0, 0))],
    "unsqueeze": [
        call(A, 0), call(A, -1), call(A, 3), call(A, -4), call(normal(), 0), call(normal(), -1), call(A, 4),
        call(A, -5), call(ints(3), 1), call(normal(0), 1),
    ],
    "Tensor.expand": [
        *EXPANDS, call(normal(3, 1), 3, 4), call(normal(3, 1), -1, 2), call(normal(3), 2, 3),
        call(normal(3), size=(2, 3)),
    ],
    "broadcast_to": EXPANDS,
    "Tensor.expand_as": [call(normal(3, 1), normal(3, 4)), call(normal(3), normal(4))],
    "broadcast_tensors": [
        call(normal(3, 1), normal(4)), call(normal(), normal(2, 1), normal(1, 3)), call(normal(3), normal(4)),
        call(ints(3), normal(2, 1)),
    ],
    "broadcast_shapes": [call((3, 1), (4,)), call((2, 3), ()), call((1,), (0,)), call((2,), (3,)), call((2, 3))],
    "Tensor.repeat": [
        call(normal(2, 3), 2, 1), call(normal(2, 3), (1, 2)), call(normal(3), 2, 2), call(normal(), 3),
        call(normal(2, 3), 2), call(normal(2, 3), 0, 2), call(normal(3), -1), call(normal(0, 2), 2, 2),
        call(ints(2), 2), call(normal(2), repeats=(2, 2)),
    ],
    "tile": [
        call(normal(2, 3), (2,)), call(normal(2, 3), (2, 1)), call(normal(3), (2, 2)), call(normal(2), ()),
        call(normal(2, 3), (0,)),
    ],
    "Tensor.tile": [call(normal(2, 3), 2, 1), call(normal(2, 3), (2,))],
    "repeat_interleave": [
        call(normal(3), 2), call(normal(2, 3), 2), call(normal(2, 3), 2, 0), call(normal(2, 3), 3, -1),
        call(normal(2, 3), X(np.array([1, 2, 0]), "int64"), 1), call(normal(3), 0),
        call(normal(2, 3), X(np.array([1, 2]), "int64"), 1), call(normal(3), -1), call(normal(), 2),
                          call(normal(2, 3), 2, dim=2), call(normal(2, 3), X(np.array([2]), "int64"), dim=0),
                          call(normal(0, 2), 2, 0)],
    "cat": JOINS, "concat": JOINS, "concatenate": JOINS,
    "stack": [
        call([normal(2, 3)] * 2), call([normal(2, 3), normal(2, 3)], 1), call([normal(2, 3), normal(2, 3)], dim=-1),
        call([normal(), normal()]), call([normal(2), normal(3)]), call([]), call([normal(2), ints(2)]),
        call([normal(2), normal(2)], 2), call([normal(0), normal(0)], 1),
              call([normal(2, 3), normal(2, 3)], -4)],
    "hstack": [
        call([normal(2), normal(3)]), call([normal(2, 3), normal(2, 1)]), call([normal(), normal(2)]), call([]),
        call([normal(2, 3), normal(3, 3)]),
    ],
    "vstack": [
        call([normal(3), normal(3)]), call([normal(2, 3), normal(3)]), call([normal(), normal()]),
        call([normal(2), normal(3)]),
    ],
    "split": SPLITS, "chunk": CHUNKS,
    "unbind": [
        call(A), call(A, 1), call(A, -1), call(normal(3)), call(normal()), call(normal(0, 3)), call(normal(3, 0), 1),
        call(A, 3), call(ints(2, 2)),
    ],
    "select": [call(A, 0, 1), call(A, -1, -1), call(A, 1, 3), call(A, 3, 0), call(normal(), 0, 0), call(ints(3), 0, 2)],
    "narrow": [
        call(A, 1, 0, 2), call(A, -1, -2, 2), call(A, 0, 2, 0), call(A, 0, 1, 2), call(A, 3, 0, 1), call(A, 1, 0, -1),
        call(normal(), 0, 0, 1), call(A, 1, 4, 0), call(A, 1, -4, 1),
    ],
    "flip": [
        call(A, (0,)), call(A, [0, -1]), call(A, (0, 1, 2)), call(normal(), ()), call(A, (3,)), call(A, (0, 0)),
        call(normal(0, 3), (0,)), call(ints(4), (0,)), call(A, ()),
    ],
    "Tensor.flip": [call(A, 0), call(A, 0, 2), call(A, (1,)), call(A, dims=(0, 1)), call(A, dims=[2])],
    "roll": [
        call(A, 1), call(A, 2, 0), call(A, (1, -1), (0, 2)), call(A, -30, 1), call(A, (1, 2)), call(A, 1, (0, 1)),
        call(normal(), 1), call(normal(0, 3), 1, 0), call(A, 1, 3), call(A, (1, 2), (1, 1)), call(ids(9, 5), 2),
        call(A, (3,)),
    ],
    "tril": TRIANGLES, "triu": TRIANGLES,
    "diagonal": [
        call(normal(3, 4)), call(normal(3, 4), 1), call(normal(3, 4), -2), call(A, 0, 1, 2),
        call(A, offset=1, dim1=0, dim2=-1), call(A, 0, 2, 0), call(normal(3, 4), 7), call(normal(3, 4), 0, 1, 1),
        call(normal(3)), call(ints(2, 2)),
    ],
    "nn.functional.pad": PADS,
    "Tensor.contiguous": [call(A), call(expanded([[1.0], [2.0]], 2, 3)), call(normal())],
    "clone": [call(A), call(ints(3)), call(normal()), call(expanded([[1.0], [2.0]], 2, 3))],
    "atleast_1d": [call(normal()), call(normal(2)), call(A)], "numel": [call(A), call(normal()), call(normal(0, 3))],
    "Tensor.size": [call(A), call(A, 0), call(A, -1), call(A, 3), call(normal()), call(normal(), 0)],
    "Tensor.dim": [call(A), call(normal())],
    "Tensor.__len__": [call(A), call(normal()), call(normal(0, 2))],
    "Tensor.tolist": [call(A), call(ints(2, 2)), call(bools(3)), call(normal()), call(normal(0, 2))],
    "Tensor.item": [call(normal()), call(normal(1, 1)), call(ints()), call(bools(1)), call(normal(2)), call(normal(0))],
    "Tensor.__bool__": [
        call(normal()), call(normal(1, 1)), call(X(np.zeros(()))), call(bools(1)), call(normal(2)), call(normal(0)),
    ],
    "Tensor.__int__": [call(normal()), call(ints(1)), call(normal(2)), call(bools())],
    "Tensor.__float__": [call(normal()), call(ints(1)), call(normal(2))],
    "Tensor.__index__": [call(normal()), call(ints()), call(ints(2)), call(bools()), call(ints(1))],
    "Tensor.__contains__": [call(X(np.array([1.0, 2.0])), 2), call(X(np.array([1.0, 2.0])), 3.0), call(ints(3), 9)],
}  # fmt: skip
