"""How long a training step takes, against PyTorch: python benchmarks/train_step.py --preset baby --against torch

A step is forward, backward, clipping and AdamW, in float32 or under autocast. Each side runs in a process of its own
and they take turns (ours, PyTorch, ours, ...), so that only one computes at a time and a busy machine slows both alike.
Memory is the process's peak; on a GPU what the library has taken from it, and in brackets the most that arrays held.
There the time is that of a turn, from when the GPU is idle until it is again. The share of the peak is that of the
step's products in the rate of one large product, the fastest of any side in this run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import cores, describe, need

from tinygrad_llm.training.recipe import PRESETS, Recipe

# nanoGPT's "baby GPT": it learns Shakespeare on a laptop; here with a batch that two cores can take.
BABY = PRESETS["shakespeare-char"].recipe.replace(layers=6, heads=6, channels=384, context=256, batch=16)
RECIPES: dict[str, Recipe] = {name: preset.recipe for name, preset in PRESETS.items()} | {"baby": BABY}
VOCABULARY = {"gpt2-124m": 50257}  # the others spell: 65 characters, as tiny Shakespeare has
CHARACTERS = 65
DTYPES = ("float32", "bfloat16", "float16")

# Idle threads of a BLAS or an OpenMP runtime keep a core busy for up to 0.2 s after their last work.
PAUSE = 0.3


class Peer:
    """A process that runs peer.py. It begins to build what is ordered, as others may at once; `ready` waits for it."""

    def __init__(self, order: dict) -> None:
        limits = {f"{library}_NUM_THREADS": str(order["threads"]) for library in ("OMP", "OPENBLAS", "MKL")}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("peer.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | limits,
        )
        self.ms: list[list[float]] = []  # of each round
        self.losses: list[float] = []
        self.peak_mb = self.our_launches = 0.0
        self.graph = ""
        self.inspected: dict[str, Any] = {}
        self.parameters = 0
        self.product_gflops: float | None = None
        self._say(json.dumps(order))

    def ready(self) -> None:
        """Waits until all is built. Raises: RuntimeError when the process ends instead."""
        self.parameters = self._answer()["parameters"]

    def ask(self, line: str) -> dict[str, Any]:
        """Sends one line and waits for the answer. Raises: RuntimeError when the process ends instead."""
        self._say(line)
        return self._answer()

    def _say(self, line: str) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the next answer tells

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a peer ended with exit code {self.process.wait()}; its own message stands above")
        time.sleep(PAUSE)
        return json.loads(answer)

    def train(self, steps: int, measured: bool = True) -> None:
        """Trains so many steps; those of the warm-up are not measured."""
        answer = self.ask(str(steps))
        self.losses += answer["losses"]
        self.peak_mb, self.our_launches = answer["peak_mb"], answer["our_launches"]
        self.graph = answer["graph"]
        if measured:
            self.ms.append(answer["ms"])

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()

    def result(self) -> dict[str, Any]:
        """The measured numbers: milliseconds a step, peak memory in MB, losses."""
        times = [t for turn in self.ms for t in turn]
        return {
            "parameters": self.parameters,
            "median_ms": statistics.median(times),
            "fastest_ms": min(times),
            "round_medians_ms": [statistics.median(turn) for turn in self.ms],
            "product_gflops": self.product_gflops,
            "peak_mb": self.peak_mb,
            "our_launches": self.our_launches,
            "graph": self.graph,
            "first_loss": self.losses[0],
            "last_loss": self.losses[-1],
            **self.inspected,
        }


def order_of(recipe: Recipe, vocabulary: int, threads: int, **changes: Any) -> dict[str, Any]:
    """What a peer is told, but for its name.

    changes: device; dtype, of products and attention; tf32, for those in float32; graph, whether our step is one CUDA
    graph; attention, fused or plain.
    """
    return {
        "device": "cpu",
        "dtype": "float32",
        "tf32": False,
        "graph": False,
        "attention": "fused",
        "threads": threads,
        "config": recipe.model_config(vocabulary),
        "checkpoint": recipe.checkpoint,
        "batch": recipe.batch,
        "context": recipe.context,
        "lr": recipe.lr,
        "betas": [recipe.beta1, recipe.beta2],
        "weight_decay": recipe.weight_decay,
        **changes,
    }


def measure(
    order: dict, peers: list[str], rounds: int, steps: int, warmup: int, load: int = 0, inspect: bool = False
) -> dict[str, dict]:
    """The result of each peer, by name; another than ours that cannot train is left out, with a line that says so.

    inspect: on a GPU, also what one step keeps it busy with.

    Raises: RuntimeError when ours cannot train, or when their models differ in size.
    """
    running = {name: Peer({**order, "peer": name}) for name in peers}
    try:
        for name, peer in list(running.items()):
            try:
                peer.ready()
                peer.train(warmup, measured=False)
            except RuntimeError as error:
                if name == peers[0]:
                    raise
                print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
                del running[name]
        sizes = {name: peer.parameters for name, peer in running.items()}
        if len(set(sizes.values())) > 1:
            raise RuntimeError(f"the peers differ in their number of parameters, {sizes}: not the same work")
        for turn in range(rounds):
            for name, peer in running.items():
                with busy(load):
                    peer.train(steps)
                print(f"round {turn + 1}: {name} {statistics.median(peer.ms[-1]):.1f} ms", file=sys.stderr, flush=True)
        for peer in running.values():  # last: these arrays are no part of the steps' memory
            peer.product_gflops = peer.ask("rate")["product_gflops"]
        for name, peer in running.items():
            try:
                peer.inspected = peer.ask("inspect") if inspect else {}
            except RuntimeError as error:  # a tracer may fail where all else works
                print(f"a step of {name} is not inspected: {error}", file=sys.stderr, flush=True)
        return {name: peer.result() for name, peer in running.items()}
    finally:
        for peer in running.values():
            peer.close()


def operations(order: dict) -> float:
    """Those of a step's products: 6 a weight and token (2 forward, 4 backward), and attention's with half the keys."""
    c = order["config"]
    layers, width, tokens = c["n_layers"], c["emb_dim"], order["batch"] * order["context"]
    weights = layers * 12 * width * width + c["vocab_size"] * width
    return tokens * (6.0 * weights + layers * 6.0 * order["context"] * width)


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many other processes that compute all the while."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def ratios(results: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Our time over each other peer's: of the medians, and the smallest and largest of a round."""
    ours = results["ours"]
    found = {}
    for name, other in results.items():
        if name == "ours":
            continue
        pairs = zip(ours["round_medians_ms"], other["round_medians_ms"], strict=True)
        of_rounds = [a / b for a, b in pairs]
        found[name] = {
            "median": ours["median_ms"] / other["median_ms"],
            "lowest": min(of_rounds),
            "highest": max(of_rounds),
        }
    return found


def table(record: dict) -> str:
    """The record as text: machine, shapes, one line a peer, the ratios."""
    order, results = record["order"], record["results"]
    model = ", ".join(f"{key} {value}" for key, value in order["config"].items())
    tokens = order["batch"] * order["context"]
    lines = [f"{name:10} {fact}" for name, fact in record["machine"].items()]
    lines += [f"{'threads':10} {order['threads']}", f"{'model':10} {model}"]
    lines += [f"{'products':10} {order['dtype']}{', TF32 where float32' if order['tf32'] else ''}"]
    if record["load"]:
        lines += [f"{'beside':10} {record['load']} busy processes"]
    lines += [f"{'step':10} batch {order['batch']}, context {order['context']}: {tokens} tokens", ""]
    lines += [f"{'':14} {'median ms':>10} {'fastest ms':>10} {'tokens/s':>10} {'peak MB':>16} {'of peak':>8}   loss"]
    rate = max(r["product_gflops"] for r in results.values())
    for name, r in results.items():
        memory = f"{r['peak_mb']:.0f}" + (f" ({r['held_mb']:.0f})" if "held_mb" in r else "")
        lines += [
            f"{name:14} {r['median_ms']:10.1f} {r['fastest_ms']:10.1f} {1e3 * tokens / r['median_ms']:10.0f} "
            f"{memory:>16} {operations(order) / r['median_ms'] / 1e6 / rate:8.0%}   "
            f"{r['first_loss']:.3f} -> {r['last_loss']:.3f}"
        ]
    lines += [f"the peak: {rate:,.0f} GFLOP/s, the rate of a large product in the same run"]
    lines += [f"{name}'s step: {r['graph']}" for name, r in results.items() if r["graph"]]
    lines += [launches(name, r) for name, r in results.items() if "launches" in r]
    if results["ours"]["our_launches"] and "launches" not in results["ours"]:
        lines += [f"a step launches {results['ours']['our_launches']:.0f} of our kernels; CuPy's, cuBLAS' not counted"]
    lines += [
        f"our time / {name}'s: {r['median']:.2f} (rounds {r['lowest']:.2f} to {r['highest']:.2f})"
        for name, r in record["ratios"].items()
    ]
    return "\n".join(lines)


def launches(name: str, result: dict[str, Any]) -> str:
    """A line on what a step gives a GPU to do, and how much of the step that keeps it busy."""
    longest = ", ".join(f"{kernel[:40]} {ms:.1f}" for kernel, ms, _ in result["slowest"][:3])
    return (
        f"{name}: {result['launches']} launches of {result['kernels']} kernels and copies a step, "
        f"busy {result['busy_ms']:.1f} ms; longest {longest}"
    )


def add_step_flags(parser: argparse.ArgumentParser, preset: str) -> None:
    """Which model, and what a step of it is: --preset, --batch and --context."""
    parser.add_argument("--preset", choices=sorted(RECIPES), default=preset, help="model and step")
    parser.add_argument("--batch", type=int, metavar="N", help="windows a step (default: the preset's)")
    parser.add_argument("--context", type=int, metavar="N", help="tokens a window (default: the preset's)")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    positive: dict[str, Any] = {"type": int, "metavar": "N"}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_step_flags(parser, "shakespeare-char")
    parser.add_argument("--layers", **positive, help="blocks of the model (default: the preset's)")
    parser.add_argument("--load", type=int, default=0, metavar="N", help="busy processes beside each peer (default 0)")
    parser.add_argument("--dropout", type=float, metavar="P", help="of both models (default: the preset's)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where (default %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="autocast to it, in all (%(default)s)")
    parser.add_argument("--tf32", action="store_true", help="on a GPU, products of factors in TF32, in all")
    about = "on a GPU, our whole step as one CUDA graph, as the trainer does (default: yes, but not in float16)"
    parser.add_argument("--graph", action=argparse.BooleanOptionalAction, help=about)
    parser.add_argument("--checkpoint", action="store_true", help="activation checkpoints, in both models")
    parser.add_argument(
        "--against",
        nargs="*",
        choices=["torch", "torch-compile", "torch-bf16", "naive", "none"],
        help="the other peers (default: torch where it is installed)",
    )
    parser.add_argument("--steps", **positive, default=10, help="steps a round (default %(default)s)")
    parser.add_argument("--rounds", **positive, default=5, help="turns of each peer (default %(default)s)")
    parser.add_argument("--warmup", **positive, default=3, help="steps before the first round (default %(default)s)")
    parser.add_argument("--threads", **positive, default=cores(), help="threads of each peer (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args(argv)
    for name in ("batch", "context", "layers", "steps", "rounds", "warmup", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} {value}: must be at least 1")
    if args.against is None:
        args.against = ["torch"] if find_spec("torch") else []
    args.against = [name for name in args.against if name != "none"]
    if args.load < 0:
        parser.error(f"--load {args.load}: must be at least 0")
    can = args.device == "cuda" and args.dtype != "float16"
    if args.graph is None:
        args.graph = can
    if args.graph and not can:
        parser.error("--graph: takes --device cuda, and no float16, whose steps are skipped by what the gradients are")
    if not {"naive"}.issuperset(args.against) and not find_spec("torch"):
        parser.error(f"--against {' '.join(args.against)}: PyTorch is not installed; pip install torch")
    return args


def main(argv: list[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON file; the exit code, 1 where a peer could not train."""
    args = arguments(argv)
    need(args.device)
    names = ("batch", "context", "layers", "dropout")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    recipe = RECIPES[args.preset].replace(**changes)
    how = {name: getattr(args, name) for name in ("device", "dtype", "tf32", "graph", "checkpoint")}
    order = order_of(recipe, VOCABULARY.get(args.preset, CHARACTERS), args.threads, **how)
    peers = ["ours", *args.against]
    try:
        inspect = args.device == "cuda"
        results = measure(order, peers, args.rounds, args.steps, args.warmup, args.load, inspect)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    record = {
        "preset": args.preset,
        "load": args.load,
        "order": order,
        "machine": describe(args.device),
        "results": results,
        "ratios": ratios(results),
    }
    print(table(record))
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    return int(len(results) < len(peers))


if __name__ == "__main__":
    raise SystemExit(main())
