"""How near each memory-bound CUDA kernel comes to the speed of a copy: python benchmarks/bandwidth.py

The bytes are those that the kernel must move, each array read or written once (the top of each .cu file says which).
Arrays are larger than the GPU's level-2 cache, and a kernel is started several times before the GPU is waited for.
With --dtype bfloat16 activations are of 16 bits beside weights in float32, as under autocast.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from machine import describe, need
from train_step import DTYPES

import tinygrad_llm as tg
from tinygrad_llm.kernels import CUDA

Case = tuple[str, Callable[[], Any], int]  # name, call, bytes
MIB = 1 << 20


def cases(rows: int, channels: int, vocabulary: int, dtype: Any) -> Iterator[Case]:
    """Calls of the kernels at GPT-2's widths."""

    def normal(*shape: int) -> Any:
        """Random numbers: a row of them repeated with different factors, which takes less time than to draw all."""
        row = tg.randn(shape[-1], device="cuda")
        return (row * tg.randn(shape[0], 1, device="cuda")).to(dtype).array if len(shape) == 2 else row.array

    k = CUDA
    x, g, w = normal(rows, channels), normal(rows, channels), normal(channels)
    size = x.nbytes
    _, mean, rstd = k.layer_norm(x, w, w, 1e-5)
    yield "layer norm", lambda: k.layer_norm(x, w, w, 1e-5), 2 * size
    yield "layer norm, backward", lambda: k.layer_norm_backward(g, x, w, mean, rstd, (True,) * 3), 3 * size
    yield "RMS norm", lambda: k.rms_norm(x, w, 1e-5), 2 * size
    yield "RMS norm, backward", lambda: k.rms_norm_backward(g, x, w, rstd, (True,) * 2), 3 * size
    yield "bias + GELU", lambda: k.activate(x, w, "gelu_tanh"), 2 * size
    yield "bias + GELU, backward", lambda: k.activate_backward(g, x, w, "gelu_tanh", (True, True)), 3 * size
    yield "shortcut + dropout", lambda: k.dropout(x, 7, 0.1, g), 3 * size
    yield "dropout, backward", lambda: k.dropout(g, 7, 0.1), 2 * size
    yield "sums of columns", lambda: k.column_sums(x), size
    s, y, mean, rstd = k.dropout_add_norm(x, 7, 0.1, g, w, w, 1e-5)
    yield "dropout + add + norm", lambda: k.dropout_add_norm(x, 7, 0.1, g, w, w, 1e-5), 4 * size
    needs = (True,) * 4
    yield "and backward", lambda: k.dropout_add_norm_backward(g, y, s, w, mean, rstd, 7, 0.1, needs), 5 * size
    s, t = x.reshape(-1, 1024), g.reshape(-1, 1024)
    yield "softmax of 1,024", lambda: k.softmax(s), 2 * size
    yield "softmax, backward", lambda: k.softmax_backward(t, s), 3 * size
    few = [tg.randn(4096, device="cuda").array.repeat(rows // 32) for _ in range(4)]  # weights and moments are float32
    rates = {"lr": 1e-9, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0, "step": 10}
    np.square(few[3], out=few[3])  # a second moment is not negative
    yield "AdamW", lambda: k.adamw(*[[x] for x in few], **rates), 7 * few[0].nbytes
    many = [[x[part] for part in weights(x.size, channels)] for x in few]
    yield f"AdamW, {len(many[0])} arrays", lambda: k.adamw(*many, **rates), 7 * sum(a.nbytes for a in many[0])
    yield "norm of gradients", lambda: k.clip(few[:2], float("inf")), 2 * few[0].nbytes
    count = rows // 32
    logits, one = normal(count, vocabulary), np.ones_like(x, np.float32, shape=count)
    targets = tg.randint(vocabulary, (count,), device="cuda").array
    _, lse = k.cross_entropy(logits, targets)
    yield "cross-entropy", lambda: k.cross_entropy(logits, targets), logits.nbytes
    back = (logits, targets, lse, one, one, 0 * one)
    yield "cross-entropy, backward", lambda: k.cross_entropy_backward(*back), 2 * logits.nbytes
    u = np.full_like(x, 0.5, np.float64, shape=(count, 1))
    yield "sampling", lambda: k.sample(logits, u, 1.0, None, None, None), logits.nbytes
    yield "sampling, top-k and top-p", lambda: k.sample(logits, u, 1.0, 50, 0.9, None), logits.nbytes


def weights(size: int, channels: int) -> list[slice]:
    """Where the arrays of at most 12 blocks of a GPT, long and short, lie one after the other among so many numbers."""
    square = channels * channels
    attention, network = [3 * square, 3 * channels, square, channels], [4 * square, 4 * channels, 4 * square, channels]
    block = [channels] * 2 + attention + [channels] * 2 + network
    ends = list(accumulate(block * min(12, size // sum(block)), initial=0))
    return [slice(start, end) for start, end in pairwise(ends)]


def milliseconds(call: Callable[[], Any], rounds: int, runs: int) -> float:
    """The median over rounds of the time of one of so many runs, which are given to the GPU while it is busy."""
    start, end = tg.cuda.Event(enable_timing=True), tg.cuda.Event(enable_timing=True)
    busy, other = (tg.ones(32 * MIB, device="cuda").array for _ in range(2))
    call()
    times = []
    for _ in range(rounds):
        for _ in range(32):
            np.copyto(busy, other)
        start.record()
        for _ in range(runs):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / runs)
    return statistics.median(times)


def main(argv: list[str] | None = None) -> None:
    """Prints a line a kernel: milliseconds, GB/s, share of a copy's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=131_072, metavar="N", help="of 768 floats (default %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of activations (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default %(default)s)")
    args = parser.parse_args(argv)
    if args.rows < 98_304 or args.rounds < 1:
        parser.error("--rows must be at least 98304, so that the arrays do not fit a cache, and --rounds at least 1")
    need("cuda")
    for fact, value in describe("cuda").items():
        print(f"{fact:10} {value}")
    source = tg.ones(256 * MIB, device="cuda").array
    target = np.empty_like(source)
    copy = 2 * source.nbytes / milliseconds(partial(np.copyto, target, source), args.rounds, 10) / 1e6
    del source, target
    print(f"{'copy':10} {copy:.0f} GB/s, read and written\n\n{'':26}{'ms':>9}{'GB/s':>9}{'of a copy':>11}")
    for name, call, count in cases(args.rows, 768, 50257, getattr(tg, args.dtype)):
        ms = milliseconds(call, args.rounds, 20)
        print(f"{name:26}{ms:9.3f}{count / ms / 1e6:9.0f}{count / ms / 1e6 / copy:11.0%}", flush=True)


if __name__ == "__main__":
    main()
