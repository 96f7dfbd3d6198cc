"""Comparing a state dict with the module that is to take it over, before anything is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tinygrad_llm.autograd import Tensor


class IncompatibleKeys(NamedTuple):
    """The names that a module and a state dict do not share."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


def compare(own: Mapping[str, Tensor], given: Mapping[str, Any]) -> IncompatibleKeys:
    """The names that only `own` has (missing) and those that only `given` has (unexpected)."""
    return IncompatibleKeys([key for key in own if key not in given], [key for key in given if key not in own])


def complaints(own: Mapping[str, Tensor], given: Mapping[str, Any], strict: bool, assign: bool = False) -> list[str]:
    """Everything that forbids copying `given` into `own`, or assigning it, in words; names count only if `strict`."""
    found = []
    missing, unexpected = compare(own, given)
    if strict and missing:
        found.append(f"Missing key(s) in state_dict: {_quoted(missing)}. ")
    if strict and unexpected:
        found.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
    for key, tensor in own.items():
        if key not in given:
            continue
        value = given[key]
        if not isinstance(value, Tensor):
            found.append(
                f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object from '
                f"checkpoint but received {type(value)}"
            )
        elif value.shape != tensor.shape:
            found.append(
                f"size mismatch for {key}: copying a param with shape {value.shape} from checkpoint, "
                f"the shape in current model is {tensor.shape}."
            )
        elif assign and tensor.requires_grad and not value.is_floating_point():
            found.append(f"{key}: a parameter that requires a gradient cannot become one of {value.dtype}.")
    return found


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
