"""Whether a model learns the same in 16 bits, or on a GPU: python benchmarks/losses.py --device cuda --dtype bfloat16

Two of ours train from the same weights on the same batches: one in float32, the other in --dtype; or, with
--against cpu, both in float32 without TF32, one on the GPU and one on the CPU. Printed are the largest difference of
their losses, and whether it grows: its mean, with its sign, over each quarter of the run.
"""

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from machine import cores, describe, need
from train_step import CHARACTERS, DTYPES, RECIPES, VOCABULARY, Peer, add_step_flags, order_of


def losses(order: dict[str, Any], steps: int) -> list[float]:
    """Those of so many steps, from a process of their own."""
    peer = Peer({**order, "peer": "ours"})
    try:
        peer.ready()
        peer.train(steps, measured=False)
        return peer.losses
    finally:
        peer.close()


def compare(found: list[float], expected: list[float]) -> dict[str, Any]:
    """The largest difference, the step of it, and the mean difference over each quarter (fewer where steps are few)."""
    differences = [a - b for a, b in zip(found, expected, strict=True)]
    sizes = [math.inf if math.isnan(d) else abs(d) for d in differences]
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    count = len(differences)
    edges = [round(count * i / 4) for i in range(5)]
    quarters = [differences[a:b] for a, b in pairwise(edges) if b > a]
    return {
        "largest": sizes[largest],
        "at": largest + 1,
        "quarters": [sum(part) / len(part) for part in quarters],
    }


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    positive: dict[str, Any] = {"type": int, "metavar": "N"}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_step_flags(parser, "shakespeare-char")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where (default %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES[1:], default="bfloat16", help="of the one (default %(default)s)")
    parser.add_argument("--tf32", action="store_true", help="on a GPU, TF32 where products are in float32, in both")
    parser.add_argument("--against", choices=["float32", "cpu"], default="float32", help="the other one")
    parser.add_argument("--steps", **positive, default=200, help="(default %(default)s)")
    parser.add_argument("--threads", **positive, default=cores(), help="of each (default %(default)s)")
    parser.add_argument("--most", type=float, metavar="X", help="exit with 1 where a difference is larger")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the losses there, too")
    args = parser.parse_args(argv)
    for name in ("batch", "context", "steps", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} {value}: must be at least 1")
    if args.against == "cpu" and (args.device == "cpu" or args.tf32):
        parser.error("--against cpu: takes --device cuda, and no --tf32, which the CPU does not have")
    return args


def main(argv: list[str] | None = None) -> int:
    """Trains both, prints how their losses differ; the exit code."""
    args = arguments(argv)
    need(args.device)
    changes = {name: getattr(args, name) for name in ("batch", "context") if getattr(args, name) is not None}
    recipe = RECIPES[args.preset].replace(dropout=0.0, **changes)  # a GPU's masks are not the CPU's
    order = order_of(recipe, VOCABULARY.get(args.preset, CHARACTERS), args.threads, device=args.device, tf32=args.tf32)
    pair: dict[str, dict[str, str]] = {args.dtype: {"dtype": args.dtype}, "float32": {}}
    if args.against == "cpu":
        pair = {"GPU": {}, "CPU": {"device": "cpu"}}
    both = {name: losses(order | change, args.steps) for name, change in pair.items()}
    difference = compare(*both.values())
    for fact, value in describe(args.device).items():
        print(f"{fact:10} {value}")
    print(f"{'step':10} {args.preset}, batch {recipe.batch}, context {recipe.context}\n")
    for name, values in both.items():
        print(f"{name:14} {values[0]:.5f} -> {values[-1]:.5f} in {args.steps} steps")
    print(f"largest difference {difference['largest']:.2e}, at step {difference['at']}")
    print("mean difference by quarter " + ", ".join(f"{mean:+.2e}" for mean in difference["quarters"]))
    if args.json:
        record = {"machine": describe(args.device), "losses": both, **difference}
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(args.most is not None and difference["largest"] > args.most)


if __name__ == "__main__":
    raise SystemExit(main())
