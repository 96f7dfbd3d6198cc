"""What the benchmarks that draw a picture share: their flags, a file for the numbers, and a figure."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import cores, describe

Draw = Callable[[Path, Any, str], None]  # file, what was found, the machine's name


def turns(parser: argparse.ArgumentParser, argv: list[str] | None, rounds: int) -> argparse.Namespace:
    """The command line with the flags that all have, checked."""
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help="turns of each (default %(default)s)")
    parser.add_argument("--threads", type=int, default=cores(), metavar="N", help="of each (default %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    return args


def keep(args: argparse.Namespace, found: Any, draw: Draw, device: str = "cpu") -> None:
    """Draw what was found, and write it, where the command line wants it."""
    machine = describe(device)
    if args.plot:
        draw(args.plot, found, machine.get("GPU", machine["processor"]))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "found": found}, indent=1) + "\n")


def panels(count: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure with so many panels beside each other, none with a frame above or to the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=size, layout="constrained", squeeze=False)
    for panel in axes[0]:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])
