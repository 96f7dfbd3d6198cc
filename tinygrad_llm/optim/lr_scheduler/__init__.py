"""Learning rates that change from step to step: each scheduler writes `lr` into its optimizer's groups.

`get_lr` computes the next rates from the present ones, as PyTorch does, so that several schedulers may act on one
optimizer; `closed_form` gives the rates of any step directly. t is `last_epoch`, the number of calls of `step`.
"""

from .base import LRScheduler
from .combined import ChainedScheduler, SequentialLR
from .cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from .cycles import CyclicLR, OneCycleLR
from .factors import (
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
    warmup_constant,
    warmup_cosine,
    warmup_inverse_sqrt,
    warmup_stable_decay,
)
from .plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR",
    "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR",
    "ReduceLROnPlateau", "SequentialLR", "StepLR",
    "warmup_constant", "warmup_cosine", "warmup_inverse_sqrt", "warmup_stable_decay",
]  # fmt: skip
