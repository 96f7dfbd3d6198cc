"""Each tuned kernel against its reference and against PyTorch's op: python benchmarks/ops.py --against torch

Forward and backward of an op at the shapes of GPT-2 124M with 4 x 256 tokens (or of --preset). The three take turns in
one process, a round each, with a pause before each: idle threads of a BLAS or of OpenMP keep a core busy for a while.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from machine import cores, describe
from train_step import CHARACTERS, PAUSE, RECIPES, VOCABULARY

import tinygrad_llm
from tinygrad_llm import kernels

Step = Callable[[], Any]


def cases(lib: Any, recipe: Any, vocabulary: int) -> Iterator[tuple[str, Callable[..., Any], Sequence[Any]]]:
    """Name, function of tensors, and the tensors' shapes; the names of both libraries are the same."""
    F = lib.nn.functional
    B, T, C, H = recipe.batch, recipe.context, recipe.channels, recipe.heads
    N, D = B * T, C // H
    targets = lib.from_numpy(np.random.default_rng(0).integers(0, vocabulary, N))
    ids = targets.reshape(B, T)
    yield "linear C to 4C", lambda x, w, b: F.linear(x, w, b), [(B, T, C), (4 * C, C), (4 * C,)]
    yield "GELU, tanh form", lambda x: F.gelu(x, approximate="tanh"), [(B, T, 4 * C)]
    yield "layer norm", lambda x, w, b: F.layer_norm(x, (C,), w, b), [(B, T, C), (C,), (C,)]
    yield "softmax", lambda x: F.softmax(x, -1), [(B, H, T, T)]
    heads = [(B, H, T, D)] * 3
    yield "causal attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), heads
    yield "embedding", lambda w: F.embedding(ids, w), [(vocabulary, C)]
    yield "cross-entropy", lambda x: F.cross_entropy(x, targets), [(N, vocabulary)]
    head_and_loss = [(N, C), (vocabulary, C)]
    yield "head + cross-entropy", lambda x, w: F.linear_cross_entropy(x, w, targets), head_and_loss


def forward_and_backward(lib: Any, function: Callable[..., Any], shapes: Sequence[Any]) -> Step:
    """One run of an op, recorded, and of its gradients."""
    rng = np.random.default_rng(1)
    tensors = [lib.from_numpy(rng.standard_normal(shape, np.float32)).requires_grad_() for shape in shapes]
    g = lib.ones_like(function(*tensors).detach())

    def run() -> None:
        function(*tensors).backward(g)
        for t in tensors:
            t.grad = None

    return run


def adamw(lib: Any, count: int) -> Step:
    """A step of AdamW on so many parameters; PyTorch's in its fused form."""
    p = lib.nn.Parameter(lib.zeros(count))
    p.grad = lib.ones(count)
    return lib.optim.AdamW([p], fused=True).step


def by_reference(run: Step) -> Step:
    """The same with every tuned kernel switched off."""

    def slow() -> None:
        with kernels.use("reference"):
            run()

    return slow


def timed(run: Step, seconds: float) -> float:
    """Median milliseconds of the runs that fit into so many seconds, of one at least."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(RECIPES), default="gpt2-124m", help="whose shapes")
    parser.add_argument("--against", choices=["torch", "none"], help="default: torch where it is installed")
    parser.add_argument("--only", metavar="TEXT", default="", help="ops whose name has this in it")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="of a turn (default %(default)s)")
    parser.add_argument("--threads", type=int, default=cores(), metavar="N", help="of each (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.threads < 1 or args.seconds < 0:
        parser.error("--rounds and --threads must be at least 1, --seconds not negative")
    if args.against == "torch" and not find_spec("torch"):
        parser.error("--against torch: PyTorch is not installed; pip install torch")
    if args.against is None:
        args.against = "torch" if find_spec("torch") else "none"
    return args


def main(argv: list[str] | None = None) -> None:
    """Prints a line an op: milliseconds of ours, of the reference, of PyTorch's, and ours over PyTorch's."""
    args = arguments(argv)
    libraries: dict[str, Any] = {"ours": tinygrad_llm}
    if args.against == "torch":
        import torch

        libraries["torch"] = torch
    for lib in libraries.values():
        lib.set_num_threads(args.threads)
    # the recipe of the preset, with a batch of 4 for GPT-2: what two cores can take
    recipe = RECIPES[args.preset].replace(**({"batch": 4, "context": 256} if args.preset == "gpt2-124m" else {}))
    vocabulary = VOCABULARY.get(args.preset, CHARACTERS)
    steps: dict[str, dict[str, Callable[[], Step]]] = {}  # made when it is their turn: memory
    for name, lib in libraries.items():
        for case, function, shapes in cases(lib, recipe, vocabulary):
            steps.setdefault(case, {})[name] = partial(forward_and_backward, lib, function, shapes)
        steps.setdefault("AdamW, 20 M", {})[name] = partial(adamw, lib, 20_000_000)
    for fact, value in describe().items():
        print(f"{fact:10} {value}")
    print(f"shapes     {args.preset}, batch {recipe.batch}, context {recipe.context}; {args.threads} threads\n")
    peers = ["ours", "reference", *list(libraries)[1:]]
    print(f"{'forward + backward, ms':24}" + "".join(f"{name:>12}" for name in peers) + f"{'ours / torch':>16}")
    record = {}
    for case, makers in steps.items():
        if args.only not in case:
            continue
        running = {name: make() for name, make in makers.items()}
        running["reference"] = by_reference(running["ours"])
        turns: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(args.rounds):
            for name in peers:
                time.sleep(PAUSE)
                turns[name].append(timed(running[name], args.seconds))
        record[case] = turns
        medians = {name: statistics.median(times) for name, times in turns.items()}
        ratio = f"{medians['ours'] / medians['torch']:16.2f}" if "torch" in medians else ""
        print(f"{case:24}" + "".join(f"{medians[name]:12.2f}" for name in peers) + ratio, flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": describe(), "preset": args.preset, "ms": record}, indent=1))


if __name__ == "__main__":
    main()
