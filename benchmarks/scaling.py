"""What twice the batch, context or depth costs: python benchmarks/scaling.py --against torch --plot scaling.png

Each grows alone from a model of 6 layers of 384 channels; milliseconds are set beside the operations of a step's
products. Where the line of operations a second is level, a step costs what its arithmetic costs.
"""

import argparse
from pathlib import Path
from typing import Any

from pictures import keep, panels, turns
from train_step import BABY, CHARACTERS, measure, operations, order_of

START = BABY.replace(batch=4, context=256, layers=6)
AXES: dict[str, list[int]] = {
    "context": [128, 256, 512, 1024, 2048],
    "batch": [1, 2, 4, 8, 16],
    "layers": [3, 6, 12, 24],
}


def sweep(axis: str, values: list[int], peers: list[str], rounds: int, threads: int) -> list[dict[str, Any]]:
    """A record for each value: operations of a step and, for each peer, its milliseconds."""
    records = []
    for value in values:
        order = order_of(START.replace(**{axis: value}), CHARACTERS, threads, checkpoint=False)
        results = measure(order, peers, rounds, 1, warmup=1)
        ms = {name: result["median_ms"] for name, result in results.items()}
        records.append({"value": value, "operations": operations(order), "ms": ms})
        rates = ", ".join(f"{name} {t:,.0f} ms, {operations(order) / t / 1e6:,.0f} GFLOP/s" for name, t in ms.items())
        print(f"{axis} {value:5}: {operations(order) / 1e9:7,.0f} GFLOP, {rates}", flush=True)
    return records


def draw(path: Path, found: dict[str, list[dict[str, Any]]], machine: str) -> None:
    """A panel an axis: 10^9 operations a second of each peer."""
    figure, places = panels(len(found), (4 * len(found), 3.6))
    for panel, (axis, records) in zip(places, found.items(), strict=True):
        for i, name in enumerate(records[0]["ms"]):
            rates = [r["operations"] / r["ms"][name] / 1e6 for r in records]
            panel.plot([r["value"] for r in records], rates, "o-", color=f"C{i}", label=name)
        panel.set_xscale("log", base=2)
        panel.set_xticks([r["value"] for r in records], [str(r["value"]) for r in records])
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.set_xlabel(axis)
    places[0].set_ylabel("GFLOP/s of a whole step")
    places[0].legend(frameon=False)
    figure.suptitle(f"{START.layers} layers, {START.channels} channels, {START.batch} x {START.context}: {machine}",
                    fontsize=10)  # fmt: skip
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints a line a value, and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES), help="what grows")
    parser.add_argument("--most", type=int, default=2048, metavar="N", help="leave larger values out")
    parser.add_argument("--against", nargs="*", choices=["torch", "torch-compile"], default=[], help="other peers")
    args = turns(parser, argv, 3)
    peers = ["ours", *args.against]
    found = {
        axis: sweep(axis, [v for v in AXES[axis] if v <= args.most], peers, args.rounds, args.threads)
        for axis in args.axes
    }
    keep(args, found, draw)


if __name__ == "__main__":
    main()
