"""Command lines of the examples: flags made from a recipe, and errors that are one sentence."""

import argparse
import dataclasses
import sys
from typing import Any, NoReturn

from tinygrad_llm.training.recipe import PRESETS, Preset, Recipe, flag, preset


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the shape of its texts and reports a mistake in one line, exit code 2."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(formatter_class=_Page, allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        """Print the mistake, not the whole usage, and leave."""
        self.exit(fail(self.prog, f"{message.removeprefix('argument ')}; {self.prog} --help explains every flag"))


class _Page(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)


def fail(program: str, error: object) -> int:
    """Print what went wrong as one line on stderr; returns 2, the exit code for it."""
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def os_reason(error: OSError) -> str:
    """What the system says, without its number: "Permission denied: 'name'"."""
    if error.strerror is None:
        return str(error)
    return error.strerror + (f": {error.filename!r}" if error.filename is not None else "")


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
