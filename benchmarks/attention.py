"""Causal attention against the rate of a large product: python benchmarks/attention.py --device cuda --dtype bfloat16

Forward and backward by our kernels, by those of them that only a Hopper runs, by cuDNN's where its frontend is
installed (which adds up gradients in one order, as ours do, or in any, as PyTorch does unless it is told otherwise), by
the ways that are chosen where all are allowed, for each direction apart, and by PyTorch's, in turns in one process, on
queries, keys and values that lie beside each other in rows, as one projection leaves them. Any of these can go back
from where another one went, so forward of one side and backward of another are what a mix of them takes. A batch has
16,384 tokens and 2,048 channels. Counted are half the scores: 2 B H T^2 D operations forward, 5 B H T^2 D backward.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from machine import cores, describe, need
from peer import moment, product_rate
from train_step import DTYPES

import tinygrad_llm as tg
from tinygrad_llm import kernels
from tinygrad_llm.kernels.cuda import choice, cudnn, heads
from tinygrad_llm.kernels.cuda.heads_16 import HOPPER_16, TENSOR_CORES_16
from tinygrad_llm.kernels.cuda.launch import is_hopper

Both = tuple[Callable[[], Any], Callable[[], Any]]  # forward, and backward of one forward that was
CHOSEN = "chosen"  # by measurement, of all
HOPPERS = {f"wgmma, {i}": way for i, way in enumerate(HOPPER_16)}
OF_CUDNN = {"cuDNN": True, "cuDNN, any order": False}  # whether gradients are added up in one order


def parts(lib: Any, where: dict[str, Any], shape: tuple[int, int, int, int], seed: int = 0) -> list[Any]:
    """Queries, keys, values (B, H, T, D) out of one array of random rows, and a gradient (B, H, T, D)."""
    batch, heads, t, d = shape
    rng = np.random.default_rng(seed)
    row = rng.standard_normal((1, t, 4, heads, d), np.float32)  # the same for all of a batch but for a factor
    rows = lib.from_numpy(row * rng.standard_normal((batch, 1, 1, 1, 1), np.float32)).to(where["device"])
    rows = rows.to(getattr(lib, where["dtype"]))
    qkv, g = rows[:, :, :3].clone(), rows[:, :, 3].clone()
    return [*(qkv[:, :, i].transpose(1, 2) for i in range(3)), g.transpose(1, 2)]


def ours(where: dict[str, Any], shape: tuple[int, int, int, int], name: str) -> Both:
    """Our kernels, those for a Hopper alone, cuDNN's, or what is chosen of all."""
    q, k, v, g = (x.array for x in parts(tg, where, shape))
    scale, of = shape[-1] ** -0.5, kernels.of(q)

    def forward() -> Any:
        with allowed(name):
            return of.attention(q, k, v, None, True, scale, None, 0.0)[1]

    def backward() -> Any:
        with allowed(name):
            return of.attention_backward(g, q, k, v, saved, scale, None, 0.0, False)

    saved = forward()
    for _ in range(choice.BEFORE if name == CHOSEN else 0):  # and once more each when they are timed
        forward(), backward()
    return forward, backward


@contextmanager
def allowed(name: str) -> Iterator[None]:
    """Inside, attention is computed by this side alone."""
    before = cudnn.deterministic
    cudnn.deterministic = OF_CUDNN.get(name, before)
    flash, of_cudnn = name not in OF_CUDNN, name == CHOSEN or name in OF_CUDNN
    way = HOPPERS.get(name, TENSOR_CORES_16)
    try:
        with ExitStack() as stack:
            stack.enter_context(tg.backends.cuda.sdp_kernel(enable_flash=flash, enable_cudnn=of_cudnn))
            if name == CHOSEN:
                tg.backends.cuda.enable_wgmma_sdp(True)
            elif flash:
                stack.enter_context(heads.only(way))
            yield
    finally:
        cudnn.deterministic = before


def theirs(lib: Any, where: dict[str, Any], shape: tuple[int, int, int, int]) -> Both:
    """PyTorch's scaled_dot_product_attention, by whichever kernel it takes."""
    q, k, v, g = parts(lib, where, shape)
    factors = [x.detach().requires_grad_() for x in (q, k, v)]
    attention = partial(lib.nn.functional.scaled_dot_product_attention, *factors, is_causal=True)
    y = attention()
    return attention, lambda: lib.autograd.grad(y, factors, g, retain_graph=True)


def milliseconds(lib: Any, device: str, call: Callable[[], Any], runs: int) -> float:
    """The time of one of so many calls in a row, after one that is not timed."""
    call()
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(runs):
            call()
        return 1e3 * (time.perf_counter() - start) / runs
    now = moment(lib)
    first = now()
    for _ in range(runs):
        call()
    last = now()
    last.synchronize()
    return first.elapsed_time(last) / runs


def compare(
    libraries: dict[str, Any], where: dict[str, Any], shape: tuple[int, int, int, int], rounds: int, runs: int
) -> dict[str, list[float | None]]:
    """Of each side the median milliseconds forward and backward; what one cannot do is left out, with a line."""
    made: dict[str, list[Callable[[], Any]]] = {}
    for name, lib in libraries.items():
        made[name] = []
        try:
            both = theirs(lib, where, shape) if name == "torch" else ours(where, shape, name)
            for call in both:
                call()
                made[name].append(call)
        except RuntimeError as error:
            if name == "ours":
                raise
            what = f"{name}'s backward" if made[name] else name
            print(f"{what} is left out at {shape}: {error}", file=sys.stderr, flush=True)
    turns: dict[str, list[list[float]]] = {name: [[], []] for name, calls in made.items() if calls}
    for _ in range(rounds):
        for way in range(2):
            for name, both_times in turns.items():
                if way < len(made[name]):
                    both_times[way].append(milliseconds(libraries[name], where["device"], made[name][way], runs))
    return {name: [statistics.median(times) if times else None for times in both] for name, both in turns.items()}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    positive: dict[str, Any] = {"type": int, "metavar": "N"}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where (default %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the arrays (default %(default)s)")
    parser.add_argument("--tokens", nargs="+", **positive, default=[1024, 2048, 4096, 8192], help="of a sequence")
    parser.add_argument("--widths", nargs="+", **positive, default=[64, 128], help="of a head")
    parser.add_argument("--in-all", **positive, default=16384, help="tokens of a batch (default %(default)s)")
    parser.add_argument("--channels", **positive, default=2048, help="of all heads (default %(default)s)")
    parser.add_argument("--against", nargs="*", choices=["cudnn", "torch", "none"], help="default: what is installed")
    parser.add_argument("--rounds", **positive, default=5, help="turns of each (default %(default)s)")
    parser.add_argument("--runs", **positive, default=10, help="calls in a turn (default %(default)s)")
    parser.add_argument("--threads", **positive, default=cores(), help="of a CPU (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args(argv)
    if min(*args.tokens, *args.widths, args.in_all, args.channels, args.rounds, args.runs, args.threads) < 1:
        parser.error("--tokens, --widths, --in-all, --channels, --rounds, --runs and --threads must be at least 1")
    if args.device == "cpu" and args.dtype != "float32":
        parser.error(f"--dtype {args.dtype}: takes --device cuda; a CPU computes in float32")
    if max(args.tokens) > args.in_all or max(args.widths) > args.channels:
        parser.error("--tokens and --widths must be at most --in-all and --channels, of which they are parts")
    if args.against is None:
        args.against = ["cudnn", "torch"]
        args.against = [name for name in args.against if find_spec(name)]
    elif "torch" in args.against and not find_spec("torch"):
        parser.error("--against torch: PyTorch is not installed; pip install torch")
    if args.device == "cuda" and "cudnn" in args.against and cudnn.problem():
        print(cudnn.problem())
    if args.device == "cpu" or args.dtype == "float32" or cudnn.problem():
        args.against = [name for name in args.against if name != "cudnn"]
    return args


def main(argv: list[str] | None = None) -> None:
    """Prints a line for each size and side: milliseconds, 10^12 operations a second, share of a large product's."""
    args = arguments(argv)
    need(args.device)
    libraries: dict[str, Any] = {"ours": tg}
    if args.device == "cuda" and args.dtype != "float32":
        libraries |= dict.fromkeys(HOPPERS if is_hopper(0) else (), tg)
        libraries |= dict.fromkeys(OF_CUDNN if "cudnn" in args.against else (), tg) | {CHOSEN: tg}
    if "torch" in args.against:
        import torch

        libraries["torch"] = torch
    for lib in libraries.values():
        lib.set_num_threads(args.threads)
    where = {"device": args.device, "dtype": args.dtype}
    rate = max(product_rate(lib, args.device, getattr(lib, args.dtype)) for lib in libraries.values()) / 1e3
    for fact, value in describe(args.device).items():
        print(f"{fact:10} {value}")
    print(f"{'peak':10} {rate:.1f} TFLOP/s, a large product in {args.dtype}\n")
    print(f"{'tokens':>7}{'width':>7}  {'':17}" + "".join(f"{way:>12} ms{'TFLOP/s':>9}{'share':>7}" for way in
                                                        ("forward", "backward")))  # fmt: skip
    record = []
    for width in args.widths:
        for t in args.tokens:
            shape = (args.in_all // t, args.channels // width, t, width)
            scores = shape[0] * shape[1] * t * t * width / 1e9  # thousand millions, against milliseconds
            for name, both in compare(libraries, where, shape, args.rounds, args.runs).items():
                rates = [None if ms is None else times * scores / ms for times, ms in zip((2, 5), both, strict=True)]
                line = "".join(
                    f"{'':31}" if ms is None or r is None else f"{ms:15.3f}{r:9.1f}{r / rate:7.0%}"
                    for ms, r in zip(both, rates, strict=True)
                )
                print(f"{t:7}{width:7}  {name:17}{line}".rstrip(), flush=True)
                record.append({"tokens": t, "width": width, "side": name, "ms": both, "tflops": rates})
    if args.json:
        facts = {"machine": describe(args.device), "peak_tflops": rate, **where}
        args.json.write_text(json.dumps({**facts, "sides": record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
