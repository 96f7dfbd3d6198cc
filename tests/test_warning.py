"""A warning names the user's line: not ours, whatever stands between."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.nn import functional as F
from tinygrad_llm.utils.checkpoint import checkpoint
from tinygrad_llm.utils.data import random_split

A, B = tg.ones(2, 1), tg.ones(2)
LEAF = tg.ones(2, requires_grad=True)


def scheduler_first() -> Any:
    schedule = tg.optim.lr_scheduler.StepLR(tg.optim.SGD([tg.ones(1, requires_grad=True)], lr=1.0), 1)
    return schedule.step


CALLS = {
    "mse_loss": lambda: F.mse_loss(A, B),
    "MSELoss": lambda: nn.MSELoss()(A, B),
    "l1_loss": lambda: F.l1_loss(A, B),
    "huber_loss": lambda: F.huber_loss(A, B),
    "softmax": lambda: F.softmax(B),
    "Softmax": lambda: nn.Sequential(nn.Softmax())(B),
    "log_softmax": lambda: F.log_softmax(B),
    "softmin": lambda: F.softmin(B),
    "kl_div": lambda: F.kl_div(B, B),
    "tensor": lambda: tg.tensor(B),
    "meshgrid": lambda: tg.meshgrid(B, B),
    "autocast": lambda: tg.autocast("cpu", dtype=tg.float64),
    "checkpoint": lambda: checkpoint(lambda x: x * 2, LEAF),
    "random_split": lambda: random_split(B, [1.0, 0.0]),
    "gradcheck": lambda: tg.autograd.gradcheck(lambda x: x * 0, LEAF, raise_exception=False),
}


@pytest.mark.parametrize("region", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_a_warning_names_the_users_line(name: str, region: bool) -> None:
    call = CALLS[name]
    with warnings.catch_warnings(record=True) as caught, tg.autocast("cpu", enabled=region):
        warnings.simplefilter("always")
        call()
    assert [(w.filename, w.lineno) for w in caught[:1]] == [(__file__, inspect.getsourcelines(call)[1])]


def test_a_warning_of_a_method_names_the_users_line() -> None:
    step = scheduler_first()
    with pytest.warns(UserWarning, match="before `optimizer") as caught:
        step()
    assert caught[0].filename == __file__ and issubclass(caught[0].category, UserWarning)
