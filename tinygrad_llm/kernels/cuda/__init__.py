"""The kernels for CuPy's arrays: launchers here, CUDA C++ in the .cu files beside them.

Each computes in float32 what `reference` specifies under the same name; other dtypes take the reference's way.
"""

from __future__ import annotations

import dataclasses

from tinygrad_llm.kernels.cuda import elementwise, layers, losses, norms, products, rows, step, update
from tinygrad_llm.kernels.cuda.heads import attention, attention_backward
from tinygrad_llm.kernels.reference import REFERENCE

CUDA = dataclasses.replace(
    REFERENCE,
    matmul=products.matmul,
    linear=layers.linear,
    linear_gradients=layers.linear_gradients,
    linear_activate=layers.linear_activate,
    activate=elementwise.activate,
    activate_backward=elementwise.activate_backward,
    dropout=elementwise.dropout,
    keep_mask=elementwise.keep_mask,
    softmax=rows.softmax,
    softmax_backward=rows.softmax_backward,
    layer_norm=norms.layer_norm,
    layer_norm_backward=norms.layer_norm_backward,
    rms_norm=norms.rms_norm,
    rms_norm_backward=norms.rms_norm_backward,
    dropout_add_norm=norms.dropout_add_norm,
    dropout_add_norm_backward=norms.dropout_add_norm_backward,
    attention=attention,
    attention_backward=attention_backward,
    cross_entropy=losses.cross_entropy,
    cross_entropy_backward=losses.cross_entropy_backward,
    linear_cross_entropy=losses.linear_cross_entropy,
    add_at=rows.add_at,
    adamw=update.adamw,
    cast=update.cast,
    sum_squares=update.sum_squares,
    clip=update.clip,
    unscale=update.unscale,
    column_sums=rows.column_sums,
    sample=rows.sample,
    embedding_step=step.embedding_step,
    linear_step=step.linear_step,
    attention_step=step.attention_step,
    penalize=step.penalize,
)
