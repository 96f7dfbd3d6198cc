"""The functions of torch.nn.functional: layers, activations and losses without state, checked at this border."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from tinygrad_llm import devices, dtypes, random
from tinygrad_llm.autograd.functions import elementwise as _elementwise
from tinygrad_llm.autograd.functions.common import check_tensor, common, dimension
from tinygrad_llm.autograd.functions.elementwise import relu, sigmoid, tanh
from tinygrad_llm.autograd.functions.index import one_hot
from tinygrad_llm.autograd.functions.reduce import log_softmax as _log_softmax
from tinygrad_llm.autograd.functions.reduce import mean, norm, sum_
from tinygrad_llm.autograd.functions.reduce import softmax as _softmax
from tinygrad_llm.autograd.functions.shape import broadcast_shapes, pad
from tinygrad_llm.autograd.ops import attention as attention_ops
from tinygrad_llm.autograd.ops import elementwise as ops
from tinygrad_llm.autograd.ops import index as index_ops
from tinygrad_llm.autograd.ops import linalg as linalg_ops
from tinygrad_llm.autograd.ops import loss as loss_ops
from tinygrad_llm.autograd.ops import norm as norm_ops
from tinygrad_llm.autograd.tensor import Tensor, apply, printing, wrap

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_similarity",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "mse_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "relu",
    "rms_norm",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]


# --- layers ---


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: x (..., K), weight (N, K) or (K,), bias (N,) -> (..., N)."""
    check_tensor("linear", input)
    if input.array.dtype != weight.array.dtype:
        raise RuntimeError(f"linear: input is {input.dtype} and weight {weight.dtype}; convert one with .to()")
    if weight.ndim == 1:
        return linear(input, weight.reshape(1, -1), bias).squeeze(-1)
    if not input.ndim or input.array.shape[-1] != weight.array.shape[-1]:
        rows = math.prod(input.array.shape[:-1])
        n, k = weight.array.shape
        last = input.array.shape[-1] if input.ndim else "no"
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({rows}x{last} and {k}x{n}): linear: the last dimension of "
            f"input "
            f"{list(input.shape)} must match weight {list(weight.shape)}"
        )
    if bias is not None and bias.array.shape not in ((weight.array.shape[0],), (1,), ()):
        raise RuntimeError(
            f"linear: bias {list(bias.shape)} must have one element for each row of weight {list(weight.shape)}"
        )
    if bias is not None and bias.array.shape != (weight.array.shape[0],):
        bias = bias.expand(weight.array.shape[0])
    if input.ndim == 2:
        op = linalg_ops.linear_of_rows_without_bias if bias is None else linalg_ops.linear_of_rows
    else:
        op = linalg_ops.linear_without_bias if bias is None else linalg_ops.linear
    return apply(op, input, weight, bias)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """weight[ids]: ids (...) int, weight (V, C) -> (..., C). The row padding_idx receives no gradient.

    Raises:
        IndexError: an id is outside [0, V).
    """
    if check_tensor("embedding", input).dtype not in (dtypes.int64, dtypes.int32):
        raise RuntimeError(f"embedding: ids must be int64 or int32, not {input.dtype}; convert with .long()")
    if weight.ndim != 2:
        raise RuntimeError(f"'weight' must be 2-D, not {list(weight.shape)}")
    rows, ids = weight.array.shape[0], input.array
    if isinstance(ids, np.ndarray) and ids.size and (int(ids.min()) < 0 or int(ids.max()) >= rows):
        bad = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
        raise IndexError(
            f"index out of range in self: embedding: id {bad} is not in a table of {rows} rows (0 to {rows - 1})"
        )
    if padding_idx is None:
        return apply(index_ops.embedding, weight, input)
    if not -rows <= padding_idx < rows:
        raise AssertionError(
            f"padding_idx must be within num_embeddings: {padding_idx} is not in a table of {rows} rows"
        )
    # the rows looked up at padding_idx go through a mask, so that what flows back to that row is zero
    table = apply(index_ops.embedding, weight, input)
    padded = wrap((ids == padding_idx % rows)[..., None])
    return printing(_elementwise.where(padded, table.detach(), table), "EmbeddingBackward0")


def _normalized_rows(
    name: str, input: Tensor, normalized_shape: Any, **parameters: Tensor | None
) -> tuple[Tensor, list[Any]]:
    """input and parameters with the normalised dimensions as one, after the checks."""
    shape = tuple(normalized_shape)
    if not shape or input.array.shape[-len(shape) :] != shape:
        raise RuntimeError(
            f"{name}: Given normalized_shape={list(shape)}, expected input with shape {['*', *shape]}, but got input "
            f"of size {list(input.shape)}"
        )
    for which, parameter in parameters.items():
        if parameter is not None and parameter.array.shape != shape:
            raise RuntimeError(f"{name}: {which} {list(parameter.shape)} must be of normalized_shape {list(shape)}")
    if len(shape) == 1:
        return input, list(parameters.values())
    rows = input.flatten(-len(shape))
    return rows, [p if p is None else p.reshape(-1) for p in parameters.values()]


def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """(x - mean) / sqrt(var + eps) weight + bias over the last dimensions, those of normalized_shape."""
    rows, (w, b) = _normalized_rows(
        "layer_norm", _only_floating("layer_norm", input), normalized_shape, weight=weight, bias=bias
    )
    y = apply(norm_ops.layer_norm, rows, w, b, eps=eps)
    if y.array.shape != input.array.shape:
        y = printing(y.reshape(input.array.shape), "NativeLayerNormBackward0")
    return y


def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) weight over the last dimensions; eps is the dtype's own unless given."""
    rows, (w,) = _normalized_rows("rms_norm", _only_floating("rms_norm", input), normalized_shape, weight=weight)
    if eps is None:  # of the dtype that is computed in: 16-bit floats are storage
        eps = dtypes.finfo(dtypes.promote_types(input.dtype, dtypes.float32)).eps
    y = apply(norm_ops.rms_norm, rows, w, eps=eps)
    return y if y.array.shape == input.array.shape else y.reshape(input.array.shape)


def _check_probability(name: str, p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name} probability has to be between 0 and 1, but got {p}")


def _keep_mask(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    return wrap(devices.move(random.default_generator.keep_mask(shape, p), like.device))


def _keep_mask_like(x: Tensor, p: float) -> Tensor:
    """A mask drawn in the order in which x lies in memory."""
    array = x.array
    if array.flags.c_contiguous or 0 in array.strides:
        return _keep_mask(array.shape, p, x)
    order = np.argsort([-stride for stride in array.strides], kind="stable").tolist()
    return _keep_mask(tuple(array.shape[d] for d in order), p, x).permute(np.argsort(order).tolist())


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training: each element 0 with probability p, else x / (1 - p). Otherwise x itself."""
    _check_probability("dropout", p)
    if not training or p == 0 or not input.array.size:
        return input
    y = input * 0.0 if p == 1 else apply(ops.dropout, input, _keep_mask_like(input, p), scale=1 / (1 - p))
    return input.write(y, "dropout") if inplace else y


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q k^T scale + mask) v: q (..., H, T, D), k (..., H, S, D), v (..., H, S, E) -> (..., H, T, E).

    scale: 1 / sqrt(D) unless given. attn_mask: bool (True takes part) or added to the scores, broadcast to (..., H, T,
    S). is_causal: query t sees keys 0..t. dropout_p: as in training; pass 0.0 for evaluation. enable_gqa: each key and
    value head serves a group of H / H_kv neighbouring query heads.

    Raises:
        RuntimeError: shapes or dtypes do not fit, or both a mask and is_causal are given.
    Source: Vaswani et al., Attention Is All You Need (2017), eq. 1; Ainslie et al., GQA (2023).
    """
    name = "scaled_dot_product_attention"
    q, k, v = (check_tensor(name, x, which) for x, which in ((query, "query"), (key, "key"), (value, "value")))
    _check_probability(name, dropout_p)
    if min(x.ndim for x in (q, k, v)) < 2:
        raise RuntimeError(
            f"{name}: query, key and value need at least 2 dimensions, but have {q.ndim}, {k.ndim} and {v.ndim}"
        )
    if len({x.array.dtype for x in (q, k, v)}) > 1:
        raise RuntimeError(
            f"Expected query, key, and value to have the same dtype, but got {q.dtype}, {k.dtype} and {v.dtype}"
        )
    if attn_mask is not None and is_causal:
        raise RuntimeError(f"{name}: Explicit attn_mask should not be set when is_causal=True")
    if q.array.shape[-1] != k.array.shape[-1] or k.array.shape[-2] != v.array.shape[-2]:
        raise RuntimeError(
            f"{name}: query {list(q.shape)} and key {list(k.shape)} must agree in the last dimension, key and value "
            f"{list(v.shape)} in the "
            "last but one"
        )
    if enable_gqa and k.array.shape[-3] != q.array.shape[-3]:
        if q.array.shape[-3] % k.array.shape[-3] or k.array.shape[-3] != v.array.shape[-3]:
            raise RuntimeError(
                f"{name}: {q.array.shape[-3]} query heads cannot be shared among {k.array.shape[-3]} key and "
                f"{v.array.shape[-3]} value heads"
            )
        group = q.array.shape[-3] // k.array.shape[-3]
        k, v = k.repeat_interleave(group, -3), v.repeat_interleave(group, -3)
    lead = _leading(name, q, k, v)
    q4, k4, v4 = (_four(x, lead) for x in (q, k, v))
    mask = None if attn_mask is None else _mask_four(name, attn_mask, lead, q, k)
    keep = None
    if dropout_p:
        keep = _keep_mask((*q4.array.shape[:3], k.array.shape[-2]), dropout_p, q)
    y = apply(
        attention_ops.attention, q4, k4, v4, mask, keep,
        causal=is_causal,
        scale=1 / math.sqrt(q.array.shape[-1]) if scale is None else float(scale),
        keep_scale=1 / (1 - dropout_p) if dropout_p < 1 else 0.0,
    )  # fmt: skip
    return y if len(lead) == 2 else y.reshape(*lead, *y.array.shape[-2:]).contiguous()


def _leading(name: str, *tensors: Tensor) -> tuple[int, ...]:
    """The leading dimensions that query, key and value broadcast to."""
    try:
        return tuple(broadcast_shapes(*(x.array.shape[:-2] for x in tensors)))
    except RuntimeError:
        shapes = ", ".join(str(list(x.shape)) for x in tensors)
        raise RuntimeError(
            f"{name}: the leading dimensions of {shapes} do not broadcast; for grouped heads pass enable_gqa=True"
        ) from None


def _four(x: Tensor, lead: tuple[int, ...]) -> Tensor:
    """(..., T, D) -> (B, H, T, D), leading dimensions broadcast and joined into two."""
    if x.array.shape[:-2] != lead:
        x = x.expand(*lead, *x.array.shape[-2:])
    if len(lead) == 2:
        return x
    heads = lead[-1] if lead else 1
    return x.reshape(math.prod(lead[:-1]), heads, *x.array.shape[-2:])


def _mask_four(name: str, mask: Tensor, lead: tuple[int, ...], q: Tensor, k: Tensor) -> Tensor:
    """A mask that broadcasts to (..., T, S) as one that broadcasts to (B, H, T, S)."""
    full = (*lead, q.array.shape[-2], k.array.shape[-2])
    if mask.dtype is not dtypes.bool_ and mask.dtype is not q.dtype:
        raise RuntimeError(
            f"{name}: Expected attn_mask dtype to be bool or to match query dtype, but got {mask.dtype} and {q.dtype}"
        )
    try:
        fits = np.broadcast_shapes(mask.array.shape, full) == full
    except ValueError:
        fits = False
    if not fits:
        raise RuntimeError(f"{name}: attn_mask {list(mask.shape)} does not broadcast to {list(full)}")
    if len(lead) == 2:
        return mask if mask.ndim <= 4 else mask.reshape(mask.array.shape[-4:])
    return _four(mask.expand(*full), lead)


# --- activations ---


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Phi(x), with approximate="tanh" in the form 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu: approximate argument must be either none or tanh, not {approximate!r}")
    return apply(ops.gelu, _only_floating("gelu", input), approximate=approximate)


def _only_floating(name: str, input: Tensor) -> Tensor:
    if not check_tensor(name, input).is_floating_point():
        raise NotImplementedError(f"{name}: not implemented for {input.dtype}; convert with .float()")
    return input


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x)."""
    y = apply(ops.silu, _only_floating("silu", input))
    return input.write(y, "silu_") if inplace else y


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, else negative_slope x."""
    y = apply(ops.leaky_relu, _only_floating("leaky_relu", input), negative_slope=negative_slope)
    return input.write(y, "leaky_relu_") if inplace else y


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + e^(beta x)) / beta, x itself where beta x > threshold."""
    return apply(ops.softplus, _only_floating("softplus", input), beta=beta, threshold=threshold)


def _implicit_dim(name: str, input: Tensor, dim: int | None) -> int:
    if dim is None:
        warnings.warn(
            f"Implicit dimension choice for {name} has been deprecated. Change the call to include dim=X.", stacklevel=3
        )
        return 0 if input.ndim in (0, 1, 3) else 1
    return dim


def softmax(input: Tensor, dim: int | None = None, dtype: dtypes.dtype | None = None) -> Tensor:
    """e^x / sum e^x along dim."""
    return _softmax(input, _implicit_dim("softmax", input, dim), dtype)


def log_softmax(input: Tensor, dim: int | None = None, dtype: dtypes.dtype | None = None) -> Tensor:
    """x - ln sum e^x along dim."""
    return _log_softmax(input, _implicit_dim("log_softmax", input, dim), dtype)


# --- losses ---


def _check_reduction(reduction: str) -> str:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction; expected none, mean or sum")
    return reduction


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses if _check_reduction(reduction) == "none" else mean(losses) if reduction == "mean" else sum_(losses)


def _rows_and_targets(
    name: str, input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Class scores (V,), (N, V) or (N, V, d1, ...) as rows (N', V) with their targets (N',), after the checks."""
    _only_floating(name, input)
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
    if target.dtype not in (dtypes.int64, dtypes.int32, dtypes.uint8):
        raise RuntimeError(f"{name}: expected target of dtype int64, not {target.dtype}; convert with .long()")
    ids = target.array
    if isinstance(ids, np.ndarray) and ids.size:
        wrong = ids[(ids != ignore_index) & ((ids < 0) | (ids >= classes))]
        if wrong.size:
            raise IndexError(
                f"Target {int(wrong.flat[0])} is out of bounds: {name} has {classes} classes (0 to {classes - 1})"
            )
    if weight is not None and weight.array.shape != (classes,):
        raise RuntimeError(
            f"{name}: weight tensor should be defined either for all {classes} classes or no classes but got weight "
            f"tensor of shape: {list(weight.shape)}"
        )
    rows = input.movedim(1, -1) if input.ndim > 2 else input
    return rows.reshape(-1, classes) if classes else rows.reshape(target.numel(), 0), target.reshape(-1).long()


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
        target
            is no class.
    """
    _check_reduction(reduction)
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
    return _reduced(losses, reduction)


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-input[target] for log-probabilities: input (V,), (N, V) or (N, V, d1, ...), target of the shape without V."""
    _check_reduction(reduction)
    rows, ids = _rows_and_targets("nll_loss", input, target, weight, ignore_index)
    loss = apply(loss_ops.nll_loss, rows, ids, weight, ignore_index=ignore_index, reduction=reduction)
    if reduction == "none" and loss.array.shape != target.array.shape:
        loss = loss.reshape(target.array.shape)
    return printing(loss, _loss_name(target))


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None) -> Tensor:
    """(input - target)^2, its mean or its sum."""
    if input.array.shape != target.array.shape:
        warnings.warn(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). This will "
            f"likely lead to "
            "incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=2,
        )
    difference = input - target
    squares = difference * difference
    if weight is not None:
        squares = squares * weight
        if reduction == "mean":
            return sum_(squares) / sum_(weight.expand_as(squares))
        return _reduced(squares, reduction)
    return printing(_reduced(squares, reduction), "MseLossBackward0")


def _check_same_shape(name: str, input: Tensor, target: Tensor) -> None:
    if input.array.shape != target.array.shape:
        raise ValueError(f"{name}: Target size ({target.shape}) must be the same as input size ({input.shape})")


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
    loss = _reduced(losses if weight is None else losses * weight, reduction)
    return printing(loss, "BinaryCrossEntropyBackward0")


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
    loss = _reduced(losses if weight is None else losses * weight, reduction)
    return printing(loss, "BinaryCrossEntropyWithLogitsBackward0")


# --- vectors ---


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(||x||_p, eps) along dim."""
    dimension(dim, input.ndim)
    return input / norm(input, p, dim, keepdim=True).clamp(min=eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / (max(|x1|, eps) max(|x2|, eps)) along dim."""
    lengths = norm(x1, 2, dim).clamp(min=eps) * norm(x2, 2, dim).clamp(min=eps)
    return sum_(x1 * x2, dim) / lengths
