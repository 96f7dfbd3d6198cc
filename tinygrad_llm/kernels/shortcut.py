"""A part added to the shortcut, and the norm of the sum, by the kernels for each.

In NumPy one pass after the other is as fast as any; on a GPU it is the specification of the kernel that needs one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def behind_a_shortcut(
    dropout: Callable[..., Any], layer_norm: Callable[..., Any], layer_norm_backward: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The kernels dropout_add_norm and dropout_add_norm_backward, see `Kernels`, by these."""

    def forward(
        x: Any, keep: Any, p: float, shortcut: Any, weight: Any, bias: Any, eps: float
    ) -> tuple[Any, Any, Any, Any]:
        """s = shortcut + dropout(x), and the layer norm of s."""
        s = shortcut + x if keep is None else dropout(x, keep, p, shortcut)
        return s, *layer_norm(s, weight, bias, eps)

    def backward(
        g: Any, d: Any, s: Any, weight: Any, mean: Any, rstd: Any, keep: Any, p: float, needs: Any
    ) -> tuple[Any, Any, Any, Any]:
        """ds = d + the norm's gradient, dx = dropout(ds)."""
        ds, dweight, dbias = layer_norm_backward(g, s, weight, mean, rstd, (needs[0] or needs[1], *needs[2:]))
        if ds is not None and d is not None:
            ds += d
        dx = None
        if needs[0]:
            dx = (ds if keep is None else dropout(ds, keep, p)).astype(g.dtype, copy=False)
        return dx, ds if needs[1] else None, dweight, dbias

    return forward, backward
