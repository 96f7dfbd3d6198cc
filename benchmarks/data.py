"""What batches from memory-mapped shards cost beside a training step, each way of drawing them.

The share that counts is that of the thread which trains: the time it waits for a batch, step by step, between the
same training steps.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

import tinygrad_llm as tg
from tinygrad_llm.data import Prefetch, RandomWindows, Row, ShuffledWindows, Stream, Windows
from tinygrad_llm.data.shards import Header, map_shard, write_shard
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import PRESETS, Trainer


def arguments() -> argparse.Namespace:
    """The command line."""
    page = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    page.add_argument("--preset", default="shakespeare-char", choices=[*PRESETS])
    page.add_argument("--shards", type=int, default=8, metavar="N")
    page.add_argument("--tokens", type=int, default=2**24, metavar="N", help="in a shard")
    page.add_argument("--steps", type=int, default=40, metavar="N", help="measured, for each stream")
    page.add_argument("--no-model", action="store_true", help="only the batches, without training steps between them")
    args = page.parse_args()
    for name in ("shards", "tokens", "steps"):
        if getattr(args, name) < 1:
            page.error(f"--{name} {getattr(args, name)}: must be at least 1")
    return args


def row(folder: Path, shards: int, tokens: int) -> Row:
    """A row of random ids in files of its own."""
    rng, parts = np.random.default_rng(0), []
    for i in range(shards):
        path, header = folder / f"{i}.ids", Header(np.dtype("<u2"), tokens, 0, "00" * 32)
        write_shard(path, [rng.integers(65, size=tokens, dtype=np.uint16)], np.empty(0), header)
        parts.append(map_shard(path, header)[0])
    return Row(parts)


class Timed:
    """A stream that notes how long each batch is waited for, in ms."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.waits = stream, list[float]()

    def __iter__(self) -> "Timed":
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        batch = next(self.stream)
        self.waits.append((time.perf_counter() - start) * 1e3)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The stream's."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The stream's."""
        self.stream.load_state_dict(state)


def main() -> None:
    """Measure each stream; print a line for each."""
    args = arguments()
    recipe = PRESETS[args.preset].recipe
    for name, fact in describe().items():
        print(f"{name:10s} {fact}")
    with tempfile.TemporaryDirectory() as folder:
        ids = row(Path(folder), args.shards, args.tokens)
        windows = Windows(ids, recipe.context)
        memory = Windows(ids[: args.tokens], recipe.context)
        rng = np.random.default_rng
        streams: dict[str, Callable[[], Stream]] = {
            "random, in memory": lambda: RandomWindows(memory, recipe.batch, rng(0)),
            "random, shards": lambda: RandomWindows(windows, recipe.batch, rng(0)),
            "shuffled, shards": lambda: ShuffledWindows(windows, recipe.batch, 0),
            "shuffled, prefetched": lambda: Prefetch(ShuffledWindows(windows, recipe.batch, 0)),
        }
        print(f"\nbatches of {recipe.batch} x {recipe.context} out of {args.shards} shards of {args.tokens:,} ids")
        print(f"{'':22}{'ms a batch':>12}{'slowest':>10}" + ("" if args.no_model else f"{'ms a step':>12}{'share':>9}"))
        for name, make in streams.items():
            print(f"{name:22}" + measure(make(), args, memory))


def measure(stream: Stream, args: argparse.Namespace, judged: Windows) -> str:
    """The waits for the batches of a stream, between training steps unless these are left out."""
    recipe, timed, step = PRESETS[args.preset].recipe, Timed(stream), 0.0
    if args.no_model:
        for _ in range(args.steps):
            next(timed)
    else:
        tg.manual_seed(0)
        model = GPTModel(recipe.model_config(65))
        trainer = Trainer(model, recipe, judged, judged, np.random.default_rng(0), stream=timed)
        seconds = []
        for _ in range(args.steps):
            start = time.perf_counter()
            trainer.train_step()
            seconds.append(time.perf_counter() - start)
        step = statistics.median(seconds) * 1e3
    if isinstance(stream, Prefetch):
        stream.close()
    wait = statistics.median(timed.waits)
    return f"{wait:12.3f}{max(timed.waits):10.3f}" + (f"{step:12.1f}{wait / step:9.2%}" if step else "")


if __name__ == "__main__":
    main()
