"""Does training end as PyTorch's does? python benchmarks/verdict.py --data the-verdict.txt --against torch

The recipe of a book's chapter on pre-training: a GPT of GPT-2 124M's shape with 256 tokens of context learns a short
story by heart, 10 epochs of 9 steps of 2 windows, AdamW at 4e-4. verdict_listing.py runs it, the same file with either
library, each in a process of its own, one after the other. With the same seed both begin with the same weights and see
the same batches; with --dropout 0 the curves must lie on each other, with dropout they differ by its noise.

The published end, after step 86: training loss 0.57, validation loss 6.37 (Raschka 2024, "Build a Large Language Model
(From Scratch)", section 5.2).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import cores, describe

from tinygrad_llm import text
from tinygrad_llm.commandline import fail, os_reason
from tinygrad_llm.training import PRESETS
from tinygrad_llm.training.console import table

PROGRAM = "verdict.py"
LISTING = Path(__file__).with_name("verdict_listing.py")
SIDES = {"ours": ["-m", "tinygrad_llm.compat"], "torch": []}
NAMES = {"ours": "tinygrad_llm", "torch": "PyTorch"}
RECIPE = PRESETS["gpt2-124m"].recipe
PUBLISHED = {"train": 0.57, "validation": 6.37}
PROMPT = "Every effort moves you"


def order_of(args: argparse.Namespace) -> dict[str, Any]:
    """What both sides are told. Raises: OSError, or ValueError for a text that does not fill a window in each part."""
    story = args.data.read_text(encoding="utf-8")
    cut = int(0.9 * len(story))
    tokenizer = text.build(args.tokenizer, story)
    train, validation = (tokenizer.encode_ordinary(part) for part in (story[:cut], story[cut:]))
    recipe = RECIPE.replace(layers=args.layers, heads=args.heads, channels=args.channels, context=args.context)
    for name, part, windows in (("training", train, recipe.batch), ("validation", validation, 1)):
        if len(part) <= windows * recipe.context:
            raise ValueError(
                f"--data {args.data}: {len(part)} tokens to the {name} part do not fill {windows} windows of "
                f"{recipe.context}; give a longer text or a smaller --context"
            )
    return {
        "ids": [*train, *validation], "split": len(train),
        "config": {**recipe.model_config(tokenizer.vocab_size), "drop_rate": args.dropout, "tie_weights": False},
        "batch": recipe.batch, "epochs": args.epochs, "lr": recipe.lr, "weight_decay": recipe.weight_decay,
        "every": 5, "judged": 5, "seed": args.seed, "threads": args.threads,
        "prompt": tokenizer.encode_ordinary(PROMPT if args.tokenizer == "gpt2" else story[:20]), "words": args.words,
    }  # fmt: skip


def run(side: str, order: dict[str, Any]) -> tuple[list[dict[str, float]], list[int]]:
    """The evaluations of one side, each printed when it comes, and the ids that its model writes at the end.

    Raises: RuntimeError when its process fails; its own message stands above then.
    """
    limits = {f"{library}_NUM_THREADS": str(order["threads"]) for library in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, *SIDES[side], str(LISTING)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | limits
    )
    assert process.stdin and process.stdout
    with process.stdin:
        process.stdin.write(json.dumps(order) + "\n")
    curve: list[dict[str, float]] = []
    written: list[int] = []
    for line in process.stdout:
        record = json.loads(line)
        if "written" in record:
            written = record["written"]
            continue
        curve.append(record)
        losses = f"train {record['train']:7.4f}   validation {record['validation']:7.4f}"
        print(f"{NAMES[side]:<14}step {record['step']:>3}   {losses}   {record['seconds']:7.1f} s", flush=True)
    if process.wait():
        raise RuntimeError(f"{NAMES[side]} ended with exit code {process.returncode}; its own message stands above")
    return curve, written


def largest_difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, float]:
    """Over all evaluations, for both losses. Raises: ValueError where they are of different steps."""
    if [e["step"] for e in one] != [e["step"] for e in other]:
        raise ValueError("the sides were judged after different steps")
    return {name: max(abs(a[name] - b[name]) for a, b in zip(one, other, strict=True)) for name in PUBLISHED}


def draw(path: Path, curves: dict[str, list[dict[str, float]]], title: str) -> None:
    """Both losses of both sides over the steps, PyTorch's as a wide line under ours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, colour in (("train", "C0"), ("validation", "C1")):
        for side, width, alpha in (("torch", 7, 0.3), ("ours", 1.6, 1)):
            if side in curves:
                steps, losses = ([e[key] for e in curves[side]] for key in ("step", name))
                label = f"{name}, {NAMES[side]}: {losses[-1]:.2f} at the end"
                axes.plot(steps, losses, color=colour, linewidth=width, alpha=alpha, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def parser() -> argparse.ArgumentParser:
    """The command line; the sizes are there to try it on a small model."""
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("--data", type=Path, required=True, metavar="FILE", help="the-verdict.txt, or another short text")
    page.add_argument("--against", choices=("torch", "none"), default="torch", help="the other side [torch]")
    page.add_argument("--dropout", type=float, default=RECIPE.dropout, metavar="X", help=f"[{RECIPE.dropout}]")
    page.add_argument("--tokenizer", default="gpt2", metavar="NAME", help="[gpt2]")
    for name, value in (("layers", RECIPE.layers), ("heads", RECIPE.heads), ("channels", RECIPE.channels),
                        ("context", RECIPE.context), ("epochs", 10), ("words", 50), ("seed", 123),
                        ("threads", cores())):  # fmt: skip
        page.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"[{value}]")
    page.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    page.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves there")
    return page


def main(argv: list[str] | None = None) -> int:
    """Run both sides, compare, print, write; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        order = order_of(args)
        found = {side: run(side, order) for side in ("ours", args.against) if side != "none"}
    except OSError as error:
        return fail(PROGRAM, os_reason(error))
    except (ValueError, RuntimeError) as error:
        return fail(PROGRAM, error)
    curves = {side: curve for side, (curve, _) in found.items()}
    rows: list[tuple[str, ...]] = [(f"after step {curves['ours'][-1]['step']}", *PUBLISHED, "seconds a step")]
    if args.tokenizer == "gpt2":
        rows.append(("published", *(f"{loss:.2f}" for loss in PUBLISHED.values()), ""))
    for side, curve in curves.items():
        last = curve[-1]
        rows.append((NAMES[side], f"{last['train']:.4f}", f"{last['validation']:.4f}",
                     f"{last['seconds'] / last['step']:.2f}"))  # fmt: skip
    told = {name: value for name, value in order.items() if name != "ids"}
    record: dict[str, Any] = {"machine": describe(), "order": told, "curves": curves}
    if "torch" in curves:
        record["difference"] = largest_difference(curves["ours"], curves["torch"])
        record["same_text"] = found["ours"][1] == found["torch"][1]
        rows.append(("largest difference", *(f"{d:.1e}" for d in record["difference"].values()), ""))
    print(f"\n{table(rows)}")
    if "same_text" in record:
        print(f"\nafter training both write {'the same' if record['same_text'] else 'different'} {args.words} tokens")
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    if args.plot:
        draw(args.plot, curves, f"{args.data.name}, dropout {args.dropout:g}, seed {args.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
