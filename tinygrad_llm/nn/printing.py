"""The printed form of modules, as PyTorch lays it out."""

from __future__ import annotations


def indent(text: str) -> str:
    """The text with every line but the first moved two places to the right."""
    return text.replace("\n", "\n  ")


def in_brackets(name: str, own: list[str], below: list[str]) -> str:
    """`name(own)` on one line where there are no children, else a line for each, indented."""
    if not below and len(own) <= 1:
        return f"{name}({''.join(own)})"
    return f"{name}(\n  " + "\n  ".join(own + below) + "\n)"
