"""From plain NumPy to PyTorch, step by step, as a picture: python benchmarks/ladder.py --plot benchmarks/ladder.png

Three models, each trained by the same lines with the reference kernels (plain NumPy, as one writes it first), with ours
and by PyTorch, in turns as train_step.py does it; bars show how many times as fast as plain NumPy each is. With
--device cuda it is GPT-2 124M, and each rung adds one of the things that make a GPU fast, to ours and to PyTorch.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import need
from pictures import keep, panels, turns
from train_step import CHARACTERS, RECIPES, VOCABULARY, measure, operations, order_of

MODELS = {  # preset -> changes to its recipe, steps a round
    "shakespeare-char": ({}, 20),
    "baby": ({}, 1),
    "gpt2-124m": ({"batch": 4, "context": 256, "dropout": 0.0}, 1),
}
NAMES = {"naive": "plain NumPy", "ours": "tinygrad_llm", "torch": "PyTorch", "torch-compile": "PyTorch, compiled"}
START = {"batch": 8, "context": 1024, "dropout": 0.0}  # of GPT-2 124M on a GPU
RUNGS: dict[str, dict[str, Any]] = {  # what each adds to those before it
    "float32": {"attention": "plain"},
    "TF32": {"tf32": True},
    "bfloat16": {"dtype": "bfloat16"},
    "flash attention": {"attention": "fused"},
    "one graph": {"graph": True},  # PyTorch's step is compiled instead
    "larger batch": {},  # --batch
}


def climb(presets: list[str], peers: list[str], rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """The results of train_step.py for each preset and peer."""
    found = {}
    for preset in presets:
        changes, steps = MODELS[preset]
        order = order_of(RECIPES[preset].replace(**changes), VOCABULARY.get(preset, CHARACTERS), threads)
        found[preset] = measure(order | {"checkpoint": False}, peers, rounds, steps, warmup=1)
        print(preset)
        for peer, r in found[preset].items():
            print(f"  {NAMES[peer]:20}{r['median_ms']:10,.1f} ms{r['peak_mb']:8,.0f} MB", flush=True)
    return found


def climb_gpu(names: list[str], against: bool, batch: int, rounds: int, threads: int) -> dict[str, dict[str, Any]]:
    """The results of train_step.py for each rung that ours can take, as rows of a table while they come in."""
    found: dict[str, dict[str, Any]] = {}
    how: dict[str, Any] = {"device": "cuda"}
    print("| rung | batch | tinygrad_llm | of the peak | memory | PyTorch | memory | times as fast |")
    print("|---|---|---|---|---|---|---|---|")
    for name, adds in RUNGS.items():
        how |= adds or {"batch": batch}
        if name not in names:
            continue
        order = order_of(RECIPES["gpt2-124m"].replace(**START), VOCABULARY["gpt2-124m"], threads, **how)
        other = ["torch-compile" if how.get("graph") else "torch"] if against else []
        try:
            results = measure(order, ["ours", *other], rounds, 5, warmup=5)
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            continue
        found[name] = {("torch" if side in other else side): r | order for side, r in results.items()}
        print(row(name, order, found[name]), flush=True)
    return found


def row(name: str, order: dict[str, Any], sides: dict[str, dict[str, Any]]) -> str:
    """A rung as a row of the table: tokens a second, share of the peak, memory taken, of both sides; their ratio."""
    rate = max(r["product_gflops"] for r in sides.values())
    cells = [name, f"{order['batch']} x {order['context']}"]
    for side in ("ours", "torch"):
        if side not in sides:
            cells += ["", ""]
            continue
        r = sides[side]
        cells += [f"{1e3 * order['batch'] * order['context'] / r['median_ms']:,.0f} tokens/s"]
        cells += [f"{operations(order) / r['median_ms'] / 1e6 / rate:.0%}"] * (side == "ours")
        cells += [f"{r['peak_mb'] / 1e3:.1f} GB"]
    cells += [f"{sides['torch']['median_ms'] / sides['ours']['median_ms']:.2f}" if "torch" in sides else ""]
    return "| " + " | ".join(cells) + " |"


def in_all(results: dict[str, dict[str, Any]]) -> list[str]:
    """The sides that every group has: one that could not train may be missing."""
    first, *others = results.values()
    return [side for side in first if all(side in other for other in others)]


def draw(path: Path, results: dict[str, dict[str, Any]], machine: str) -> None:
    """Bars of speed over the first side's (plain NumPy's), a group for each model, with milliseconds a step on them."""
    figure, (axes,) = panels(1, (9, 4.5))
    sides = in_all(results)
    width = 0.8 / len(sides)
    for i, side in enumerate(sides):
        places = [group + (i - (len(sides) - 1) / 2) * width for group in range(len(results))]
        speeds = [r["naive"]["median_ms"] / r[side]["median_ms"] for r in results.values()]
        bars = axes.bar(places, speeds, width * 0.92, label=NAMES[side], color=f"C{i}")
        axes.bar_label(bars, [f"{r[side]['median_ms']:,.0f} ms" for r in results.values()], fontsize=8, padding=2)
    finish(figure, axes, list(results), "speed, plain NumPy = 1", f"One training step in float32: {machine}", path)


def draw_gpu(path: Path, results: dict[str, dict[str, Any]], machine: str) -> None:
    """Bars of tokens a second, a group for each rung."""
    figure, (axes,) = panels(1, (9, 4.5))
    sides = in_all(results)
    for i, side in enumerate(sides):
        places = [group + (i - (len(sides) - 1) / 2) * 0.4 for group in range(len(results))]
        speeds = [r[side]["batch"] * r[side]["context"] / r[side]["median_ms"] for r in results.values()]
        bars = axes.bar(places, speeds, 0.37, label=NAMES[side], color=f"C{i + 1}")
        axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], fontsize=8, padding=2)
    finish(figure, axes, list(results), "thousand tokens a second", f"GPT-2 124M, 1,024 tokens: {machine}", path)


def finish(figure: Any, axes: Any, groups: list[str], unit: str, title: str, path: Path) -> None:
    """Name groups and bars, and write the figure."""
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10)
    axes.margins(y=0.12)
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Measures, prints a line a model or a rung, and draws; the exit code, 1 where a rung could not be taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where (default %(default)s)")
    parser.add_argument("--presets", nargs="+", choices=list(MODELS), default=list(MODELS), help="models, on a CPU")
    parser.add_argument("--rungs", nargs="+", choices=list(RUNGS), default=list(RUNGS), help="of a GPU's ladder")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="of its last rung (default %(default)s)")
    args = turns(parser, argv, 5)
    if args.batch < 1:
        parser.error(f"--batch {args.batch}: must be at least 1")
    need(args.device)
    there = find_spec("torch") is not None
    if args.device == "cuda":
        found = climb_gpu(args.rungs, there, args.batch, args.rounds, args.threads)
        if found:
            keep(args, found, draw_gpu, "cuda")
        return int(len(found) < len(set(args.rungs)))
    peers = ["naive", "ours", *(["torch", "torch-compile"] if there else [])]
    keep(args, climb(args.presets, peers, args.rounds, args.threads), draw)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
