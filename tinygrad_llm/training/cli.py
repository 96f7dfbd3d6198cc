"""Command lines of the examples: flags made from a recipe; `commandline` has what they share with others."""

import argparse
import dataclasses
import json
import os
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tinygrad_llm.commandline import Parser, fail, os_reason
from tinygrad_llm.training.recipe import PRESETS, Preset, Recipe, flag, preset

__all__ = [
    "Parser", "add_recipe_flags", "check_same", "chosen_recipe", "fail", "file_flags", "given_flags", "os_reason",
]  # fmt: skip
LARGEST_CONFIGURATION = 2**20  # bytes


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
            metavar = "N" if f.type is int else "NAME" if f.type is str else "X"
            groups[name].add_argument(flag(f.name), type=f.type, metavar=metavar, **keywords)


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:g}"


def chosen_recipe(args: argparse.Namespace) -> tuple[Preset, Recipe]:
    """The preset that --preset names, and its recipe with the flags that were given.

    Raises: ValueError for an unknown preset or a value outside its bounds.
    """
    chosen = preset(args.preset)
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe) if getattr(args, f.name) is not None}
    return chosen, chosen.recipe.replace(**given)


def given_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The flags of a command line, by default this process's, that were given, without the defaults of the others."""
    nothing = argparse.Namespace(**{action.dest: None for action in parser._actions if action.dest != "help"})
    return {name: value for name, value in vars(parser.parse_args(argv, nothing)).items() if value is not None}


def file_flags(parser: argparse.ArgumentParser, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The flags that a TOML or JSON file gives: a table like `lr = 1e-3`, `tie_weights = true`, without leading dashes.

    Raises: OSError; ValueError naming the file and the key or value that is wrong.
    """
    path = Path(path)
    if path.stat().st_size > LARGEST_CONFIGURATION:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes are too many for a configuration")
    text = path.read_bytes().decode("utf-8", errors="replace")
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a table of flags and values")
    argv = []
    for key, value in values.items():
        name = flag(key)
        action = parser._option_string_actions.get(name)
        if action is None or action.dest in ("help", "config", "resume"):
            raise ValueError(f"{path}: {key}: there is no such flag that a file may give; {parser.prog} --help has all")
        if isinstance(value, bool) != isinstance(action, argparse.BooleanOptionalAction) or not isinstance(
            value, str | int | float
        ):
            raise ValueError(f"{path}: {key} = {value!r}: not a value of {name}, {action.help}")
        argv.append(f"{name}={value}" if not isinstance(value, bool) else name if value else flag(f"no_{key}"))
    return given_flags(parser, argv)


def check_same(before: dict[str, Any], given: dict[str, Any], free: Collection[str], folder: Path) -> None:
    """Refuse a flag that says otherwise than the run in a folder, unless it is among the free ones.

    Raises: ValueError naming the flag and both values.
    """
    for name, value in given.items():
        if name not in free and value != before.get(name):
            raise ValueError(
                f"{flag(name)} {value}: the run in {folder} has {before.get(name)}; leave the flag out to go on with "
                f"it, or start a new run in another --out"
            )
