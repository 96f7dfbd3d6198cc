"""Command lines of the examples: flags made from a recipe, flags of every run, and what is refused before any work."""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinygrad_llm import cuda, text
from tinygrad_llm.commandline import Parser, add_device_flags, fail, os_reason, use_device
from tinygrad_llm.training.configuration import KEPT
from tinygrad_llm.training.recipe import PRESETS, Preset, Recipe, flag, preset

__all__ = [
    "RESUMING", "SHAPE", "Parser", "add_graph_flag", "add_recipe_flags", "add_resume_flags", "add_run_flags",
    "check_flags", "check_run_flags", "check_without", "chosen_recipe", "fail", "os_reason", "warner",
]  # fmt: skip

SHAPE = ("layers", "heads", "channels")  # of a model that begins with nothing

RESUMING = """\
  run.json                         every flag's value; --config takes it
  steps.csv                        one line per step: tokens, loss, lr, grad_norm, seconds
  checkpoints/                     what --resume goes on from: the newest, and the best
  tensorboard/                     with --tensorboard; tensorboard --logdir shows it

Ctrl-C, or SIGTERM, ends the run after the step at work, and all files are written as usual.
--resume goes on with the run in --out to the same numbers, to the last bit, as if it had
never stopped, however it ended. Give no flags or the same ones.

exit codes:
  0 done    2 refused or failed, with one sentence why    130, 143 stopped by Ctrl-C, SIGTERM
"""  # of a tuning's page of help


def add_run_flags(group: Any, out: str) -> None:
    """Where a run computes, where its files go, and when it is saved; out: the folder that --out names by default."""
    add = group.add_argument
    add("--seed", type=int, default=1337, metavar="N", help="of weights, windows, dropout, samples [1337]")
    add_device_flags(group)
    add_graph_flag(group)
    add("--out", default=out, metavar="FOLDER", help=f"for the files [{out}]")
    add_resume_flags(group)


def add_graph_flag(group: Any) -> None:
    """Whether steps are captured on a GPU."""
    about = "on a GPU, record steps as CUDA graphs and repeat them [yes]"
    group.add_argument("--graph", action=argparse.BooleanOptionalAction, default=True, help=about)


def add_resume_flags(group: Any) -> None:
    """When a run is saved, and that it goes on."""
    add = group.add_argument
    add("--config", metavar="FILE", help="TOML or JSON file of flags; those given here go before it")
    add("--resume", action="store_true", help="go on with the run in --out; starts it if there is none")
    add("--save-every", type=int, default=0, metavar="N", help="steps between checkpoints [0]")
    add("--save-minutes", type=float, default=5.0, metavar="X", help="minutes between checkpoints [5]")
    add("--keep", type=int, default=2, metavar="N", help="newest checkpoints to keep, beside the best [2]")
    about = "write TensorBoard's event files, too [no]"
    add("--tensorboard", action=argparse.BooleanOptionalAction, default=False, help=about)


def check_flags(args: argparse.Namespace) -> None:
    """Refuse what this machine cannot do, and values outside their bounds, before any work is put into it.

    Raises: ValueError naming the flag, and what is allowed or how to get what is missing.
    """
    check_run_flags(args)
    if not 0 < args.val_fraction < 1:
        raise ValueError(f"--val-fraction {args.val_fraction}: must lie between 0 and 1")
    if args.tokenizer is not None and args.tokenizer not in text.names():
        raise ValueError(f"--tokenizer {args.tokenizer}: unknown; choose one of {', '.join(text.names())}")


def check_run_flags(args: argparse.Namespace) -> None:
    """That part of `check_flags` which every run has. Raises: ValueError."""
    use_device(args)
    cuda.reset_peak_memory_stats()
    for library, extra in (("matplotlib", "examples"), ("tqdm", "examples"), ("tensorboard", "tensorboard")):
        if find_spec(library) is None and (library != "tensorboard" or args.tensorboard):
            raise ValueError(f"{library} is not installed; pip install -e '.[{extra}]' brings it")
    if not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed {args.seed}: must lie in [0, 2**63)")
    if args.keep < 1:
        raise ValueError(f"--keep {args.keep}: at least 1 checkpoint must stay")
    if args.save_every < 0 or not 0 <= args.save_minutes < math.inf:
        raise ValueError(f"--save-every {args.save_every} and --save-minutes {args.save_minutes:g} must be at least 0")
    for name in ("data", "out", "model"):
        if getattr(args, name, None) == "":
            raise ValueError(f"--{name} is empty; name a path (. is the current folder)")


def check_without(args: argparse.Namespace, other: str, names: Iterable[str]) -> None:
    """Refuse flags that another one makes void, and that would be overlooked; their default is None.

    Raises: ValueError naming both.
    """
    goes_on = args.resume and Path(args.out, KEPT).is_file()  # such a run was asked when it began
    for name in names:
        if getattr(args, other) is not None and getattr(args, name) is not None and not goes_on:
            raise ValueError(f"{flag(name)} {getattr(args, name)}: means nothing beside --{other}; leave one out")


def warner(program: str) -> Callable[[str], None]:
    """Says what must not be overlooked, on stderr."""
    return lambda text: print(f"{program}: warning: {text}", file=sys.stderr, flush=True)


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
