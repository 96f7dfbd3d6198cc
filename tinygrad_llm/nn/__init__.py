"""Layers, losses and containers of a network, under PyTorch's names."""

from . import functional, init, utils
from .activation import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softmin,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from .attention import MultiHeadAttention
from .containers import ModuleDict, ModuleList, ParameterDict, ParameterList, Sequential
from .dropout import Dropout
from .embedding import Embedding
from .flatten import Flatten, Unflatten
from .frozen import quantize_frozen, unpack_frozen
from .linear import Identity, Linear
from .lora import LinearWithLoRA, LoRALayer, apply_lora, merge_lora, replace_linear_with_lora, set_adapter, unmerge_lora
from .loss import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, NLLLoss
from .module import Module
from .multihead import MultiheadAttention
from .norm import BatchNorm1d, GroupNorm, LayerNorm, RMSNorm
from .parameter import Parameter
from .regression import (
    CosineEmbeddingLoss,
    CosineSimilarity,
    GaussianNLLLoss,
    HingeEmbeddingLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MarginRankingLoss,
    MSELoss,
    PairwiseDistance,
    PoissonNLLLoss,
    SmoothL1Loss,
    SoftMarginLoss,
    TripletMarginLoss,
)
from .transformer import FeedForward, TransformerBlock

__all__ = [
    "functional", "init", "utils", "Module", "Parameter", "Sequential", "ModuleList", "ModuleDict", "ParameterList",
    "ParameterDict", "Identity", "Linear", "Embedding", "LayerNorm", "RMSNorm", "BatchNorm1d", "GroupNorm",
    "Dropout", "Flatten", "Unflatten", "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish",
    "Hardtanh", "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SELU", "Sigmoid",
    "SiLU", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Threshold",
    "MultiHeadAttention", "MultiheadAttention", "FeedForward", "TransformerBlock", "BCELoss", "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "NLLLoss", "CosineEmbeddingLoss", "CosineSimilarity", "GaussianNLLLoss", "HingeEmbeddingLoss", "HuberLoss",
    "KLDivLoss", "L1Loss", "MarginRankingLoss", "MSELoss", "PairwiseDistance", "PoissonNLLLoss", "SmoothL1Loss",
    "SoftMarginLoss", "TripletMarginLoss", "LoRALayer", "LinearWithLoRA", "apply_lora", "merge_lora",
    "replace_linear_with_lora", "set_adapter", "unmerge_lora", "quantize_frozen", "unpack_frozen",
]  # fmt: skip
