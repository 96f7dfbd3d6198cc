"""Command lines of the examples: flags made from a recipe; `commandline` has what they share with others."""

import argparse
import dataclasses
from typing import Any

from tinygrad_llm.commandline import Parser, fail, os_reason
from tinygrad_llm.training.recipe import PRESETS, Preset, Recipe, flag, preset

__all__ = ["Parser", "add_recipe_flags", "chosen_recipe", "fail", "os_reason"]


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per hyper-parameter, in the recipe's groups; each shows the value that each preset gives it."""
    order = ", ".join(PRESETS)
    groups: dict[str, Any] = {}
    for f in dataclasses.fields(Recipe):
        name = f.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name, f"in brackets the values of the presets {order}")
        values = [_short(getattr(p.recipe, f.name)) for p in PRESETS.values()]
        shown = values[0] if len(set(values)) == 1 else ", ".join(values)
        keywords: dict[str, Any] = {"dest": f.name, "default": None, "help": f"{f.metadata['help']} [{shown}]"}
        if f.type is bool:
            groups[name].add_argument(flag(f.name), action=argparse.BooleanOptionalAction, **keywords)
        else:
            groups[name].add_argument(flag(f.name), type=f.type, metavar="N" if f.type is int else "X", **keywords)


def _short(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:g}"


def chosen_recipe(args: argparse.Namespace) -> tuple[Preset, Recipe]:
    """The preset that --preset names, and its recipe with the flags that were given.

    Raises: ValueError for an unknown preset or a value outside its bounds.
    """
    chosen = preset(args.preset)
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe) if getattr(args, f.name) is not None}
    return chosen, chosen.recipe.replace(**given)
