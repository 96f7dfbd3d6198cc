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
from machine import cores, describe, need
from peer import DRAWN
from train_step import CHARACTERS, DTYPES, PAUSE, RECIPES, VOCABULARY

import tinygrad_llm
from tinygrad_llm import kernels

Step = Callable[[], Any]
AT_ONCE = 10  # runs that a GPU is given before it is waited for: it works on one while the next is prepared


def cases(
    lib: Any, device: str, recipe: Any, vocabulary: int
) -> Iterator[tuple[str, Callable[..., Any], Sequence[Any]]]:
    """Name, function of tensors, and the tensors' shapes; the names of both libraries are the same."""
    F = lib.nn.functional
    B, T, C, H = recipe.batch, recipe.context, recipe.channels, recipe.heads
    N, D = B * T, C // H
    targets = lib.from_numpy(np.random.default_rng(0).integers(0, vocabulary, N)).to(device)
    ids = targets.reshape(B, T)
    yield "linear C to 4C", lambda x, w, b: F.linear(x, w, b), [(B, T, C), (4 * C, C), (4 * C,)]
    yield "GELU, tanh form", lambda x: F.gelu(x, approximate="tanh"), [(B, T, 4 * C)]
    layers = getattr(F, "layers", None)  # ours: chains that are one op
    chain = layers and partial(layers.activated_linear, form="gelu_tanh")
    chain = chain or (lambda x, b, w, c: F.linear(F.gelu(x + b, approximate="tanh"), w, c))
    yield "bias, GELU, 4C to C", chain, [(B, T, 4 * C), (4 * C,), (C, 4 * C), (C,)]
    add = layers.dropout_add if layers else lambda x, y, p, training: y + F.dropout(x, p, training)
    yield "shortcut + dropout", lambda x, y: add(x, y, 0.1, True), [(B, T, C)] * 2
    yield "layer norm", lambda x, w, b: F.layer_norm(x, (C,), w, b), [(B, T, C), (C,), (C,)]
    yield "softmax", lambda x: F.softmax(x, -1), [(B, H, T, T)]
    heads = [(B, H, T, D)] * 3
    yield "causal attention", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), heads
    yield "embedding", lambda w: F.embedding(ids, w), [(vocabulary, C)]
    yield "cross-entropy", lambda x: F.cross_entropy(x, targets), [(N, vocabulary)]
    head_and_loss = [(N, C), (vocabulary, C)]
    loss = getattr(F, "linear_cross_entropy", None) or (lambda x, w, t: F.cross_entropy(F.linear(x, w), t))
    yield "head + cross-entropy", lambda x, w: loss(x, w, targets), head_and_loss


def forward_and_backward(
    lib: Any, device: str, function: Callable[..., Any], shapes: Sequence[Any], dtype: str, rows: Sequence[int]
) -> Step:
    """One run of an op, recorded, and of its gradients.

    Where dtype is one of 16 bits, under autocast, as in a training step: what begins with a number of `rows` is an
    activation and comes in 16 bits, weights in float32.
    """
    narrow = getattr(lib, dtype)
    arrays = [np.resize(np.random.default_rng(1).standard_normal(DRAWN, np.float32), shape) for shape in shapes]
    tensors = [lib.from_numpy(array).to(device) for array in arrays]
    tensors = [t.to(narrow) if t.shape[0] in rows else t for t in tensors]
    tensors = [t.requires_grad_() for t in tensors]

    def forward() -> Any:
        if dtype == "float32":
            return function(*tensors)
        with lib.autocast(device, dtype=narrow):
            return function(*tensors)

    g = lib.ones_like(forward().detach())

    def run() -> None:
        forward().backward(g)
        for t in tensors:
            t.grad = None

    return run


def adamw(lib: Any, device: str, count: int) -> Step:
    """A step of AdamW on so many parameters; PyTorch's in its fused form."""
    p = lib.nn.Parameter(lib.zeros(count, device=device))
    p.grad = lib.ones(count, device=device)
    return lib.optim.AdamW([p], fused=True).step


def by_reference(run: Step) -> Step:
    """The same with every tuned kernel switched off."""

    def slow() -> None:
        with kernels.use("reference"):
            run()

    return slow


def waiting(run: Step, wait: Step) -> Step:
    """AT_ONCE runs, and until the GPU has done them all."""

    def many() -> None:
        for _ in range(AT_ONCE):
            run()
        wait()

    return many


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
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where (default %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of activations (default %(default)s)")
    parser.add_argument("--tf32", action="store_true", help="on a GPU, products of factors in TF32, in all")
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
    need(args.device)
    libraries: dict[str, Any] = {"ours": tinygrad_llm}
    if args.against == "torch":
        import torch

        libraries["torch"] = torch
    for lib in libraries.values():
        lib.set_num_threads(args.threads)
        lib.set_float32_matmul_precision("high" if args.tf32 else "highest")
    # the recipe of the preset, for GPT-2 with what two cores can take, or a GPU is filled by
    room = {"batch": 4, "context": 256} if args.device == "cpu" else {"batch": 8, "context": 1024}
    recipe = RECIPES[args.preset].replace(**(room if args.preset == "gpt2-124m" else {}))
    vocabulary = VOCABULARY.get(args.preset, CHARACTERS)
    steps: dict[str, dict[str, Callable[[], Step]]] = {}  # made when it is their turn: memory
    for name, lib in libraries.items():
        for case, function, shapes in cases(lib, args.device, recipe, vocabulary):
            what = (lib, args.device, function, shapes, args.dtype, (recipe.batch, recipe.batch * recipe.context))
            steps.setdefault(case, {})[name] = partial(forward_and_backward, *what)
        steps.setdefault("AdamW, 20 M", {})[name] = partial(adamw, lib, args.device, 20_000_000)
    for fact, value in describe(args.device).items():
        print(f"{fact:10} {value}")
    size = f"batch {recipe.batch}, context {recipe.context}, {args.dtype}"
    print(f"shapes     {args.preset}, {size}; {args.threads} threads\n")
    peers = ["ours", "reference", *list(libraries)[1:]]
    print(f"{'forward + backward, ms':24}" + "".join(f"{name:>12}" for name in peers) + f"{'ours / torch':>16}")
    record = {}
    for case, makers in steps.items():
        if args.only not in case:
            continue
        running = {name: make() for name, make in makers.items()}
        running["reference"] = by_reference(running["ours"])
        if args.device == "cuda":
            waits = {name: libraries.get(name, tinygrad_llm).cuda.synchronize for name in running}
            running = {name: waiting(run, waits[name]) for name, run in running.items()}
        turns: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(args.rounds):
            for name in peers:
                time.sleep(PAUSE if args.device == "cpu" else 0)
                turns[name].append(timed(running[name], args.seconds))
        record[case] = turns
        runs = AT_ONCE if args.device == "cuda" else 1
        medians = {name: statistics.median(times) / runs for name, times in turns.items()}
        ratio = f"{medians['ours'] / medians['torch']:16.2f}" if "torch" in medians else ""
        print(f"{case:24}" + "".join(f"{medians[name]:12.2f}" for name in peers) + ratio, flush=True)
    if args.json:
        facts = {"machine": describe(args.device), "preset": args.preset}
        args.json.write_text(json.dumps(facts | {"ms": record}, indent=1))


if __name__ == "__main__":
    main()
