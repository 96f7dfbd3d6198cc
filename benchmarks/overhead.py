"""What one op costs beside its arithmetic, in microseconds: python benchmarks/overhead.py

The arrays are 4 x 4, so that nearly all of the time is ours. PyTorch is measured beside it where it is installed, in
turns within one process (there are no threads at this size).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from machine import describe

import tinygrad_llm

CHAIN = 100


def timed(act: Callable[[], Any], repeat: int) -> float:
    """Seconds for one of `repeat` calls in a row."""
    start = time.perf_counter()
    for _ in range(repeat):
        act()
    return (time.perf_counter() - start) / repeat


def recorded(lib: Any, repeat: int) -> float:
    """A product that is recorded for backward."""
    a, b = lib.ones(4, 4, requires_grad=True), lib.ones(4, 4)
    return timed(lambda: a * b, repeat)


def unrecorded(lib: Any, repeat: int) -> float:
    """The same product under no_grad."""
    a, b = lib.ones(4, 4, requires_grad=True), lib.ones(4, 4)
    with lib.no_grad():
        return timed(lambda: a * b, repeat)


def chain_backward(lib: Any, repeat: int) -> float:
    """One op of a chain of products, backward alone."""
    a, b = lib.ones(4, 4, requires_grad=True), lib.ones(4, 4)
    total = 0.0
    for _ in range(max(1, repeat // CHAIN)):
        y = a
        for _ in range(CHAIN):
            y = y * b
        g = lib.ones(4, 4)
        start = time.perf_counter()
        y.backward(g)
        total += time.perf_counter() - start
    return total / (max(1, repeat // CHAIN) * CHAIN)


MEASURES = {"a * b, recorded": recorded, "a * b, no_grad": unrecorded, "backward, an op": chain_backward}


def main(argv: list[str] | None = None) -> None:
    """Prints a table: a line a measure, a column a library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=20_000, metavar="N", help="ops a turn (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="turns of each (default %(default)s)")
    args = parser.parse_args(argv)
    if args.repeat < 1 or args.rounds < 1:
        parser.error("--repeat and --rounds must be at least 1")

    libraries: dict[str, Any] = {"tinygrad_llm": tinygrad_llm}
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        libraries["torch"] = torch
    for name, fact in describe().items():
        print(f"{name:10} {fact}")
    print(f"\n{'us an op, median':18}" + "".join(f"{name:>14}" for name in libraries))
    for label, measure in MEASURES.items():
        turns: dict[str, list[float]] = {name: [] for name in libraries}
        for _ in range(args.rounds):
            for name, lib in libraries.items():
                turns[name].append(1e6 * measure(lib, args.repeat))
        print(f"{label:18}" + "".join(f"{statistics.median(turns[name]):14.2f}" for name in libraries))


if __name__ == "__main__":
    main()
