"""Where the value of a flag comes from: the command line, a file, the run that goes on, or a default."""

import argparse
import dataclasses
import json
import os
import tomllib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tinygrad_llm.commandline import told_by
from tinygrad_llm.training.recipe import Recipe, flag

LARGEST_CONFIGURATION = 2**20  # bytes
KEPT = "run.json"  # every flag's value, beside what the run writes
PROGRAM = "program"  # the key there that tells whose run it is
OF_ONE_CALL = ("help", "config", "resume", "predict")
# What a run that goes on may be told anew; everything else decides its numbers.
ALWAYS_FREE = (
    "out", "resume", "keep", "save_every", "save_minutes", "tensorboard", "device", "gpu_memory", "deterministic",
    "graph",
)  # fmt: skip


def effective_flags(
    page: argparse.ArgumentParser, argv: Sequence[str] | None, free: Collection[str] = ALWAYS_FREE
) -> argparse.Namespace:
    """The value of every flag: as given; else as the file of --config has it, or the run that goes on; else by default.

    free: what a run that goes on may be told anew; everything else decides its numbers.

    Raises: OSError or ValueError for a file that gives none; ValueError for a flag that contradicts the run.
    """
    given = given_flags(page, argv)
    if "config" in given:
        with told_by("--config", given["config"]):
            given = {**file_flags(page, given["config"]), **given}
    defaults = {action.dest: action.default for action in page._actions if action.dest != "help"}
    kept = Path(given.get("out", defaults["out"]) or ".", KEPT)
    before: dict[str, Any] = {}
    if given.get("resume") and kept.is_file():
        before = file_flags(page, kept)
        check_same(before, {k: v for k, v in given.items() if k != "config"}, free, kept.parent)
    return argparse.Namespace(**{**defaults, **before, **given})


def configuration(program: str, args: argparse.Namespace, recipe: Recipe | None = None) -> bytes:
    """Whose run it is, and every flag's value but those of one call alone, as JSON that --config takes.

    recipe: whose values go before.
    """
    values = {**vars(args), **(dataclasses.asdict(recipe) if recipe else {})}
    kept = {k: v for k, v in values.items() if k not in ("out", *OF_ONE_CALL) and v is not None}
    return (json.dumps({PROGRAM: program, **kept}, indent=2) + "\n").encode()


def program_of(folder: Path) -> str | None:
    """The program whose run is in a folder; None where nothing tells it."""
    try:
        found = _table(folder / KEPT).get(PROGRAM)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def given_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The flags of a command line, by default this process's, that were given, without the defaults of the others."""
    nothing = argparse.Namespace(**{action.dest: None for action in parser._actions if action.dest != "help"})
    return {name: value for name, value in vars(parser.parse_args(argv, nothing)).items() if value is not None}


def file_flags(parser: argparse.ArgumentParser, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The flags that a TOML or JSON file gives: a table like `lr = 1e-3`, `tie_weights = true`, without leading dashes.

    Raises: OSError; ValueError naming the file and the key or value that is wrong.
    """
    path = Path(path)
    values = _table(path)
    program = values.pop(PROGRAM, parser.prog)
    if program != parser.prog:
        raise ValueError(f"{path}: tells of a run of {program!s:.80}, not of {parser.prog}")
    argv = []
    for key, value in values.items():
        name = flag(key)
        action = parser._option_string_actions.get(name)
        if action is None or action.dest in OF_ONE_CALL:
            raise ValueError(f"{path}: {key}: there is no such flag that a file may give; {parser.prog} --help has all")
        if isinstance(value, bool) != isinstance(action, argparse.BooleanOptionalAction) or not isinstance(
            value, str | int | float
        ):
            raise ValueError(f"{path}: {key} = {value!r}: not a value of {name} ({action.help})")
        argv.append(f"{name}={value}" if not isinstance(value, bool) else name if value else flag(f"no_{key}"))
    return given_flags(parser, argv)


def _table(path: Path) -> dict[str, Any]:
    """What a TOML or JSON file holds. Raises: OSError; ValueError naming the file."""
    if path.stat().st_size > LARGEST_CONFIGURATION:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes are too many for a configuration")
    text = path.read_bytes().decode("utf-8", errors="replace")
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a table of flags and values")
    return values


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
