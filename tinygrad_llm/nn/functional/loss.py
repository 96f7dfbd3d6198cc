"""Losses of class numbers, of probabilities and of numbers."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import devices, dtypes, kernels
from tinygrad_llm.autograd.autocast import autocasts, narrow_dtype, narrowed
from tinygrad_llm.autograd.functions.common import cast, check_tensor, common
from tinygrad_llm.autograd.functions.reduce import log_softmax as _log_softmax
from tinygrad_llm.autograd.functions.reduce import mean, sum_
from tinygrad_llm.autograd.grad_mode import is_grad_enabled
from tinygrad_llm.autograd.ops import loss as loss_ops
from tinygrad_llm.autograd.tensor import Tensor, apply, printing
from tinygrad_llm.nn.functional.common import only_floating
from tinygrad_llm.nn.functional.layers import linear


def check_reduction(reduction: str) -> str:
    """reduction, if it is one."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction; expected none, mean or sum")
    return reduction


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """The losses, their mean or their sum."""
    return losses if check_reduction(reduction) == "none" else mean(losses) if reduction == "mean" else sum_(losses)


def _check_classes(name: str, target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise unless each target is the number of a class or ignore_index."""
    if target.dtype not in (dtypes.int64, dtypes.int32, dtypes.uint8):
        raise RuntimeError(f"{name}: expected target of dtype int64, not {target.dtype}; convert with .long()")
    ids = target.array
    if not isinstance(ids, np.ndarray):
        devices.run(kernels.check_index, [ids], ids, 0, classes, name, ignore_index)
    elif ids.size:
        wrong = ids[(ids != ignore_index) & ((ids < 0) | (ids >= classes))]
        if wrong.size:
            raise IndexError(
                f"Target {int(wrong.flat[0])} is out of bounds: {name} has {classes} classes (0 to {classes - 1})"
            )


def _rows_and_targets(
    name: str, input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Class scores (V,), (N, V) or (N, V, d1, ...) as rows (N', V) with their targets (N',), after the checks."""
    only_floating(name, input)
    classes_at = 0 if input.ndim == 1 else 1
    if not input.ndim:
        raise RuntimeError(f"{name}: input needs a dimension of classes, but is 0-d")
    classes = input.array.shape[classes_at]
    expected = input.array.shape[:classes_at] + input.array.shape[classes_at + 1 :]
    if target.array.shape != expected:
        error = (
            ValueError if not classes_at or target.array.shape[:1] != expected[:1] else RuntimeError
        )  # PyTorch's choice
        raise error(
            f"{name}: Expected target size {list(expected)}, got {list(target.shape)} (input {list(input.shape)} has "
            f"{classes} classes in dimension {classes_at})"
        )
    _check_classes(name, target, classes, ignore_index)
    if weight is not None and weight.array.shape != (classes,):
        raise RuntimeError(
            f"{name}: weight tensor should be defined either for all {classes} classes or no classes but got weight "
            f"tensor of shape: {list(weight.shape)}"
        )
    rows = input.movedim(1, -1) if input.ndim > 2 else input
    return rows.reshape(-1, classes) if classes else rows.reshape(target.numel(), 0), target.reshape(-1).long()


@autocasts
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-ln softmax(input)[target]: input (V,), (N, V) or (N, V, d1, ...), target class numbers of the shape without V.

    target may also be probabilities of input's own shape. weight (V,): one factor a class; "mean" divides by the
    targets' sum.

    Raises:
        ValueError: input and target differ in the number of rows. RuntimeError: in another dimension. IndexError: a
            target is no class.
    """
    check_reduction(reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if check_tensor("cross_entropy", target, "target").is_floating_point() and target.array.shape == input.array.shape:
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    rows, ids = _rows_and_targets("cross_entropy", input, target, weight, ignore_index)
    loss = apply(
        loss_ops.cross_entropy,
        rows,
        ids,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )
    if reduction == "none" and loss.array.shape != target.array.shape:
        loss = loss.reshape(target.array.shape)
    return printing(loss, _loss_name(target, label_smoothing))


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: None = None,
) -> Tensor:
    """cross_entropy(linear(input, linear_weight), target): input (N, C), linear_weight (V, C), target (N,); or no N.

    With class numbers, their sum or mean, and neither bias, weight nor smoothing, the (N, V) logits never stand in
    memory: see the op. With anything else it is the two functions, one after the other.

    Raises: as linear and cross_entropy; NotImplementedError for options and for a linear_weight of more dimensions.
    """
    if options is not None:
        raise NotImplementedError("linear_cross_entropy: options is not supported; the logits are in blocks without it")
    if linear_weight.ndim != 2:
        raise NotImplementedError(f"linear_cross_entropy: linear_weight {tuple(linear_weight.shape)} must be (V, C)")
    ignored = -100 if ignore_index is None else ignore_index
    before, (input, linear_weight) = input.dtype, narrowed(input, linear_weight)
    simple = linear_bias is None and weight is None and not label_smoothing and reduction in ("mean", "sum")
    (classes, channels), dtype = linear_weight.array.shape, linear_weight.array.dtype
    rows = input.array.shape[:-1]
    if simple and target.array.shape == rows and len(rows) == 1 and input.array.shape[-1] == channels and (
        input.array.dtype == dtype and not target.is_floating_point()
    ):  # fmt: skip
        only_floating("linear_cross_entropy", input)
        _check_classes("linear_cross_entropy", target, classes, ignored)
        wanted = tuple(is_grad_enabled() and t.requires_grad for t in (input, linear_weight))
        loss = apply(
            loss_ops.linear_cross_entropy,
            input,
            linear_weight,
            target.long(),
            ignore_index=ignored,
            reduction=reduction,
            needs=wanted,
        )
        return loss if narrow_dtype(input) else cast(loss, before)  # a region's losses are float32
    logits = linear(input, linear_weight, linear_bias)
    return cross_entropy(
        logits, target, weight, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing
    )


def _loss_name(target: Tensor, smoothing: float = 0.0) -> str:
    """What PyTorch prints for a loss of class numbers: another function where there is a number a place."""
    return "AddBackward0" if smoothing else "NllLossBackward0" if target.ndim < 2 else "NllLoss2DBackward0"


def _soft_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    """-sum target ln softmax(input) over the classes; "mean" divides by the number of rows."""
    axis = 0 if input.ndim == 1 else 1
    if smoothing:
        target = target * (1 - smoothing) + smoothing / input.array.shape[axis]
    logp = _log_softmax(input, axis)
    if weight is not None:
        logp = logp * weight.reshape(-1, *(1,) * (input.ndim - axis - 1))
    losses = -sum_(target * logp, axis)
    if reduction == "mean":
        return sum_(losses) / (losses.numel() if input.ndim > 1 else 1)
    return reduced(losses, reduction)


@autocasts
def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-input[target] for log-probabilities: input (V,), (N, V) or (N, V, d1, ...), target of the shape without V."""
    check_reduction(reduction)
    rows, ids = _rows_and_targets("nll_loss", input, target, weight, ignore_index)
    loss = apply(loss_ops.nll_loss, rows, ids, weight, ignore_index=ignore_index, reduction=reduction)
    if reduction == "none" and loss.array.shape != target.array.shape:
        loss = loss.reshape(target.array.shape)
    return printing(loss, _loss_name(target))


def _check_same_shape(name: str, input: Tensor, target: Tensor) -> None:
    if input.array.shape != target.array.shape:
        raise ValueError(f"{name}: Target size ({target.shape}) must be the same as input size ({input.shape})")


@autocasts
def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-(y ln p + (1 - y) ln(1 - p)) for probabilities p; logarithms are no less than -100."""
    _check_same_shape("binary_cross_entropy", input, target)
    values = input.array
    if isinstance(values, np.ndarray) and values.size and not (values.min() >= 0 and values.max() <= 1):
        raise RuntimeError(
            "all elements of input should be between 0 and 1; pass logits to binary_cross_entropy_with_logits"
        )
    losses = apply(loss_ops.binary_cross_entropy, *common([input, target]))
    loss = reduced(losses if weight is None else losses * weight, reduction)
    return printing(loss, "BinaryCrossEntropyBackward0")


@autocasts
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """binary_cross_entropy of sigmoid(input), without overflow; pos_weight multiplies the loss of the ones."""
    _check_same_shape("binary_cross_entropy_with_logits", input, target)
    losses = apply(loss_ops.binary_cross_entropy_with_logits, *common([input, target]), pos_weight)
    loss = reduced(losses if weight is None else losses * weight, reduction)
    return printing(loss, "BinaryCrossEntropyWithLogitsBackward0")
