"""The memory that a training step takes, against PyTorch: python benchmarks/memory.py --preset baby --checkpoint

The largest resident memory of a process that builds the model and trains so many steps, and how much of it stood
there before the first one: the library, the weights. Each row is a process of its own, one after the other.
"""

import argparse
from importlib.util import find_spec
from typing import Any

from machine import cores, describe
from train_step import CHARACTERS, RECIPES, VOCABULARY, Peer, add_step_flags, order_of


def measure(order: dict, steps: int) -> dict[str, Any]:
    """Parameters, megabytes (10^6 bytes) before the first step and at the peak, and the last loss."""
    peer = Peer(order)
    try:
        peer.ready()
        peer.train(0, measured=False)
        before = peer.peak_mb
        peer.train(steps)
        return {
            "parameters": peer.parameters,
            "before_mb": before,
            "peak_mb": peer.peak_mb,
            "ms": min(peer.ms[-1]),
            "loss": peer.losses[-1],
        }
    finally:
        peer.close()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    positive: dict[str, Any] = {"type": int, "metavar": "N"}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_step_flags(parser, "baby")
    parser.add_argument("--checkpoint", action="store_true", help="rows with activation checkpoints, too")
    parser.add_argument("--against", nargs="*", choices=["torch"], default=[], help="the other side")
    parser.add_argument("--steps", **positive, default=3, help="steps of each process (default %(default)s)")
    parser.add_argument("--threads", **positive, default=cores(), help="threads of each process (default %(default)s)")
    args = parser.parse_args(argv)
    for name in ("batch", "context", "steps", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} {value}: must be at least 1")
    if args.against and not find_spec("torch"):
        parser.error("--against torch: PyTorch is not installed; pip install torch")
    return args


def main(argv: list[str] | None = None) -> None:
    """Measures, and prints a row a process."""
    args = arguments(argv)
    changes = {name: getattr(args, name) for name in ("batch", "context") if getattr(args, name) is not None}
    recipe = RECIPES[args.preset].replace(**changes)
    for name, fact in describe().items():
        print(f"{name:10} {fact}")
    print(f"{'step':10} {args.preset}, batch {recipe.batch}, context {recipe.context}, {args.threads} threads\n")
    print(f"{'':20} {'before MB':>10} {'peak MB':>10} {'fastest ms':>10}   loss")
    order = order_of(recipe, VOCABULARY.get(args.preset, CHARACTERS), args.threads)
    for peer in ("ours", *args.against):
        for checkpoint in (False, True)[: 1 + args.checkpoint]:
            row = measure({**order, "peer": peer, "checkpoint": checkpoint}, args.steps)
            name = peer + ", checkpoint" * checkpoint
            print(f"{name:20} {row['before_mb']:10.0f} {row['peak_mb']:10.0f} {row['ms']:10.0f}   {row['loss']:.4f}")


if __name__ == "__main__":
    main()
