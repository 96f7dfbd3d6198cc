"""From plain NumPy to PyTorch, step by step, as a picture: python benchmarks/ladder.py --plot benchmarks/ladder.png

Three models, each trained by the same lines with the reference kernels (plain NumPy, as one writes it first), with ours
and by PyTorch, in turns as train_step.py does it; bars show how many times as fast as plain NumPy each is.
"""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import cores, describe
from train_step import CHARACTERS, RECIPES, VOCABULARY, measure, order_of

RUNGS = {  # preset -> changes to its recipe, steps a round
    "shakespeare-char": ({}, 20),
    "baby": ({}, 1),
    "gpt2-124m": ({"batch": 4, "context": 256, "dropout": 0.0}, 1),
}
NAMES = {"naive": "plain NumPy", "ours": "tinygrad_llm", "torch": "PyTorch", "torch-compile": "PyTorch, compiled"}


def climb(presets: list[str], peers: list[str], rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """The results of train_step.py for each preset and peer."""
    found = {}
    for preset in presets:
        changes, steps = RUNGS[preset]
        order = order_of(RECIPES[preset].replace(**changes), VOCABULARY.get(preset, CHARACTERS), threads)
        found[preset] = measure({**order, "checkpoint": False}, peers, rounds, steps, warmup=1)
    return found


def draw(path: Path, results: dict[str, dict[str, Any]], machine: str) -> None:
    """Bars of speed over plain NumPy's, a group for each model, with milliseconds a step on them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    peers = list(next(iter(results.values())))
    width = 0.8 / len(peers)
    for i, peer in enumerate(peers):
        places = [group + (i - (len(peers) - 1) / 2) * width for group in range(len(results))]
        speeds = [r["naive"]["median_ms"] / r[peer]["median_ms"] for r in results.values()]
        bars = axes.bar(places, speeds, width * 0.92, label=NAMES[peer], color=f"C{i}")
        axes.bar_label(bars, [f"{r[peer]['median_ms']:,.0f} ms" for r in results.values()], fontsize=8, padding=2)
    axes.set_xticks(range(len(results)), list(results))
    axes.set_ylabel("speed, plain NumPy = 1")
    axes.set_title(f"One training step in float32: {machine}", fontsize=10)
    axes.margins(y=0.12)
    axes.legend(frameon=False, ncols=len(peers), loc="upper center", bbox_to_anchor=(0.5, -0.08))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints a line a model, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=list(RUNGS), default=list(RUNGS), help="models")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default %(default)s)")
    parser.add_argument("--threads", type=int, default=cores(), metavar="N", help="of each (default %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    peers = ["naive", "ours", *(["torch", "torch-compile"] if find_spec("torch") else [])]
    results = climb(args.presets, peers, args.rounds, args.threads)
    machine = describe("cpu")
    for preset, of_peers in results.items():
        print(preset)
        for peer, r in of_peers.items():
            print(f"  {NAMES[peer]:20}{r['median_ms']:10,.1f} ms{r['peak_mb']:8,.0f} MB", flush=True)
    if args.plot:
        draw(args.plot, results, machine["processor"])
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
