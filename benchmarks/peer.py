"""One side of train_step.py, in a process of its own: it trains when it is told to, and is idle while others do.

Standard input: first one line of JSON, the order (`build` says what it holds), then a number of steps a line, or the
word rate. Standard output: one line of JSON for each: what was built, then what the steps took, or a product's rate.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import numpy as np
from machine import peak_rss_mb

from tinygrad_llm.kernels.cuda.launch import counted

CLIP = 1.0
FOR_GOOD = ExitStack()  # contexts that last as long as the process


def train_step(lib: Any, loss_of: Any, model: Any, optimizer: Any, ids: Any, targets: Any) -> float:
    """Forward, backward, clip, update: the same lines for both libraries, since the names are the same."""
    loss = loss_of(ids, targets)
    loss.backward()
    lib.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def way_to_the_loss(peer: str, device: str, lib: Any, model: Any) -> Any:
    """(ids, targets) -> loss, as a peer computes it: as it stands, compiled, or with products in bfloat16."""
    if peer == "torch-compile":
        return lib.compile(model.loss)
    if peer == "torch-bf16":
        return lib.autocast(device, lib.bfloat16)(model.loss)
    return model.loss


def build(order: dict) -> tuple[Any, Any, Any]:
    """The library, the model and the optimizer of an order {peer, device, threads, config, checkpoint, lr, ...}."""
    lib: Any
    make: Any
    if order["peer"] in ("ours", "naive"):
        lib, make = import_module("tinygrad_llm"), import_module("tinygrad_llm.models").GPTModel
        if order["peer"] == "naive":  # the reference kernels: plain NumPy, as one writes it first
            FOR_GOOD.enter_context(import_module("tinygrad_llm.kernels").use("reference"))
    else:
        lib, make = import_module("torch"), import_module("torch_gpt").GPT
    lib.set_num_threads(order["threads"])
    lib.set_float32_matmul_precision("high" if order["tf32"] else "highest")
    lib.manual_seed(0)
    model = make(order["config"], checkpoint=order["checkpoint"]).to(order["device"])
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": order["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = lib.optim.AdamW(groups, lr=order["lr"], betas=tuple(order["betas"]))
    return lib, model, optimizer


def product_rate(lib: Any) -> float:
    """10^9 operations a second of a large matrix product, (1024, 768) @ (768, 3072): the median of a few."""
    a, b = lib.rand(1024, 768), lib.rand(768, 3072)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 1024 * 768 * 3072 / sorted(times)[len(times) // 2] / 1e9


def batches(lib: Any, device: str, vocabulary: int, batch: int, context: int) -> Iterator[tuple[Any, Any]]:
    """Endless (ids, targets) of shape (B, T), equal for every peer."""
    rng = np.random.default_rng(0)
    while True:
        # Skewed towards small ids, so that there is something to learn and the loss shows that it is learnt.
        ids = (vocabulary * rng.random((batch, context + 1)) ** 3).astype(np.int64)
        yield tuple(lib.from_numpy(part.copy()).to(device) for part in (ids[:, :-1], ids[:, 1:]))


def main(order: dict, reply: Callable[[dict], None]) -> None:
    """Builds what is ordered, then trains as many steps as each line asks for."""
    lib, model, optimizer = build(order)
    data = batches(lib, order["device"], order["config"]["vocab_size"], order["batch"], order["context"])
    loss_of = way_to_the_loss(order["peer"], order["device"], lib, model)
    reply({"parameters": sum(p.numel() for p in model.parameters())})
    for line in sys.stdin:
        if line == "rate\n":
            reply({"product_gflops": product_rate(lib)})
            continue
        milliseconds, losses = [], []
        steps = int(line)
        with counted() as launches:
            for _ in range(steps):
                ids, targets = next(data)
                start = time.perf_counter()
                losses.append(train_step(lib, loss_of, model, optimizer, ids, targets))
                milliseconds.append(1e3 * (time.perf_counter() - start))
        peak = peak_rss_mb() if order["device"] == "cpu" else lib.cuda.memory_reserved() / 1e6
        reply({"ms": milliseconds, "losses": losses, "peak_mb": peak, "launches": launches.total() / max(steps, 1)})


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()), lambda record: print(json.dumps(record), flush=True))
