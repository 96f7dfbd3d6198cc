"""Mixed precision, as `torch.amp`, as far as it changes nothing: everything is computed in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tinygrad_llm import devices, dtypes
from tinygrad_llm.autograd import Tensor


class autocast:
    """A context manager and decorator that changes nothing.

    Where PyTorch's would change results, on a device that is there and with another dtype than float32, it is refused.

    Raises:
        NotImplementedError: enabled for a device that is there, and a dtype of 16 bits.
    """

    def __init__(self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None):
        there = device_type == "cpu" or (device_type == "cuda" and devices.cuda_problem() is None)
        if enabled and there and dtype is not dtypes.float32:
            raise NotImplementedError(
                f"autocast(device_type={device_type!r}, dtype={dtype}): everything is computed in float32 here; pass "
                "enabled=False, or store weights in 16 bits with .to()"
            )

    def __enter__(self) -> autocast:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))


class GradScaler:
    """The scaler that float16 gradients need. Gradients here are float32, so its factor is 1, as if enabled=False."""

    def __init__(self, device: str = "cuda", init_scale: float = 65536.0, growth_factor: float = 2.0,
                 backoff_factor: float = 0.5, growth_interval: int = 2000, enabled: bool = True):  # fmt: skip
        pass

    def scale(self, outputs: Any) -> Any:
        """The outputs as they are."""
        return outputs

    def unscale_(self, optimizer: Any) -> None:
        """Nothing to undo."""

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """optimizer.step(...)."""
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """The factor stays 1."""

    def get_scale(self) -> float:
        """1."""
        return 1.0

    def is_enabled(self) -> bool:
        """False."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A factor that was saved has no use here."""
