"""Evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tinygrad_llm.nn import Module


@contextmanager
def evaluating(model: Module, modules: Sequence[Module] | None = None) -> Iterator[Module]:
    """Evaluation mode for a while: no dropout; each module then gets back the mode it had.

    modules: all of the model's, for who needs this so often that finding them costs too much.
    """
    training = [module for module in (model.modules() if modules is None else modules) if module.training]
    for module in training:
        vars(module)["training"] = False  # a plain attribute, past what assigning to a module looks for
    try:
        yield model
    finally:
        for module in training:
            vars(module)["training"] = True
