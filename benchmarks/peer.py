"""One side of train_step.py, in a process of its own: it trains when it is told to, and is idle while others do.

Standard input: first one line of JSON, the order (`order_of` in train_step.py makes it), then a line for each task: a
number of steps, or the word `rate` or `inspect`. Standard output: one line of JSON for each: what was built, then what
the steps took, the speed of a large product, what one step keeps a GPU busy with.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
from machine import peak_rss_mb

from tinygrad_llm.kernels.cuda.launch import counted

CLIP = 1.0
FOR_GOOD = ExitStack()  # contexts that last as long as the process
PRODUCT = {"cpu": (1024, 768, 3072), "cuda": (8192, 8192, 8192)}  # of which the rate is measured
DRAWN = 4_000_037  # random numbers, which are repeated where more are wanted: to draw all would take seconds
EAGER = 3  # steps before one is captured as a graph: all that is made once has been made by then
LAUNCHES = ("LaunchKernel", "GraphLaunch", "Memcpy", "Memset")  # what a call that gives a GPU work has in its name


class Training:
    """A model, its optimizer and its data, as an order wants them: the same lines for both libraries."""

    def __init__(self, order: dict):
        self.order, self.device = order, order["device"]
        self.lib, self.model, self.optimizer = build(order)
        self.dtype = getattr(self.lib, "bfloat16" if order["peer"] == "torch-bf16" else order["dtype"])
        self.scaler = self.lib.amp.GradScaler(self.device, enabled=order["dtype"] == "float16")
        self.loss_of = self.lib.compile(self.model.loss) if order["peer"] == "torch-compile" else self.model.loss
        self.data = batches(self.lib, self.device, order["config"]["vocab_size"], order["batch"], order["context"])
        self.graph = "wanted" if order["graph"] and order["peer"] == "ours" and self.device == "cuda" else ""
        self.step: Callable[[Any, Any], Any] = self.eager
        self.done = 0
        self.reserved = self.held = 0.0  # the most memory that was taken from a GPU, and that arrays held in a capture

    def eager(self, ids: Any, targets: Any) -> Any:
        """Forward in the order's dtype, backward, clip, update; the loss. Nothing here waits for a GPU."""
        with self.autocast():
            loss = self.loss_of(ids, targets)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        self.lib.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def autocast(self) -> Any:
        """The context in which products and attention are computed in the order's dtype."""
        same = self.dtype is self.lib.float32
        return nullcontext() if same else self.lib.autocast(self.device, dtype=self.dtype)

    def capture(self, ids: Any, targets: Any) -> None:
        """From now on the step is one CUDA graph, which finds its batch where these tensors lie; or why it is not."""
        graph, self.reserved = self.lib.cuda.CUDAGraph(), self.lib.cuda.memory_reserved() / 1e6
        self.lib.cuda.reset_peak_memory_stats()
        try:
            with self.lib.cuda.graph(graph):
                loss = self.eager(ids, targets)
        except Exception as error:  # a library that cannot be captured says so in its own way
            self.graph = f"no graph: {type(error).__name__}: {' '.join(str(error).split())}"
            self.optimizer.zero_grad(set_to_none=True)
            return

        def step(new_ids: Any, new_targets: Any) -> Any:
            ids.copy_(new_ids)
            targets.copy_(new_targets)
            graph.replay()
            return loss.clone()

        self.step, self.graph = step, "one graph"
        self.held = self.lib.cuda.max_memory_allocated() / 1e6

    def train(self, steps: int) -> dict[str, Any]:
        """Milliseconds and losses of so many steps. A GPU is waited for once, at the end: each gets its share."""
        lib, work = self.lib, [next(self.data) for _ in range(steps)]
        milliseconds, losses = [], []
        with counted() as launches:
            if self.device == "cuda":
                lib.cuda.synchronize()
            before = time.perf_counter()
            for ids, targets in work:
                start = time.perf_counter()
                losses.append(self.step(ids, targets))
                self.done += 1
                if self.device == "cpu":
                    losses[-1] = losses[-1].item()
                    milliseconds.append(1e3 * (time.perf_counter() - start))
                if self.graph == "wanted" and self.done == EAGER:
                    self.capture(ids.clone(), targets.clone())
            if steps and self.device == "cuda":
                lib.cuda.synchronize()
                milliseconds = [1e3 * (time.perf_counter() - before) / steps]
        peak = peak_rss_mb()
        if self.device == "cuda":  # either library gives nothing back of itself, but for ours before a capture
            peak = self.reserved = max(self.reserved, lib.cuda.memory_reserved() / 1e6)
        losses = [loss if isinstance(loss, float) else loss.item() for loss in losses]
        answer = {"ms": milliseconds, "losses": losses, "peak_mb": peak, "graph": self.graph}
        return answer | {"our_launches": launches.total() / max(steps, 1)}

    def inspect(self) -> dict[str, Any]:
        """Of one more step on a GPU: the most memory its arrays held, and its work as `traced` tells it."""
        ids, targets = next(self.data)
        self.lib.cuda.synchronize()
        self.lib.cuda.reset_peak_memory_stats()
        with counted() as launches:
            self.step(ids, targets)
        self.lib.cuda.synchronize()
        held = max(self.held, self.lib.cuda.max_memory_allocated() / 1e6)  # a replay allocates nothing
        return {"held_mb": held, "our_kernels": dict(launches)} | traced(lambda: self.step(ids, targets))


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
    if order["attention"] == "plain":  # with the array of all scores, as one writes it first
        for kind in ("flash", "mem_efficient", "cudnn"):
            getattr(lib.backends.cuda, f"enable_{kind}_sdp")(False)
        if lib.__name__ == "torch":  # else its products there are in float32, and ours are not
            lib.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    lib.manual_seed(0)
    model = make(order["config"], checkpoint=order["checkpoint"]).to(order["device"])
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": order["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    fused = order["device"] == "cuda"  # PyTorch's fastest there; ours has one form
    return lib, model, lib.optim.AdamW(groups, lr=order["lr"], betas=tuple(order["betas"]), fused=fused)


def traced(step: Callable[[], Any]) -> dict[str, Any]:
    """What a step gives a GPU to do, whoever launches it: our kernels, CuPy's, cuBLAS'; {} where it cannot be traced.

    PyTorch's profiler is asked, in our own process, too: CUPTI tells it of all the process' calls. `launches` are the
    calls that start work, `kernels` what then ran, copies included, `busy_ms` the sum of their times; then the
    kernels that took most, each with its milliseconds and how often it ran.
    """
    if not find_spec("torch"):
        return {}
    torch = import_module("torch")
    if not torch.cuda.is_available():
        return {}
    profiler = import_module("torch.profiler")
    try:
        with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as trace:
            step()
            torch.cuda.synchronize()
        return told([(e.name, "CUDA" in str(e.device_type), e.time_range.elapsed_us()) for e in trace.events()])
    except Exception as error:  # no right to trace, or another tracer: the times are worth having without it
        print(f"the step cannot be traced: {error}", file=sys.stderr)
        return {}


def told(events: list[tuple[str, bool, float]]) -> dict[str, Any]:
    """The numbers of `traced` from a trace's events: (name, whether on the GPU, microseconds)."""
    times: dict[str, list[float]] = {}
    for name, on_gpu, us in events:
        if on_gpu:
            times.setdefault(name, []).append(us / 1e3)
    longest = sorted(times.items(), key=lambda item: -sum(item[1]))
    return {
        "launches": sum(not on_gpu and any(part in name for part in LAUNCHES) for name, on_gpu, _ in events),
        "kernels": sum(map(len, times.values())),
        "busy_ms": sum(map(sum, times.values())),
        "slowest": [(name, sum(ms), len(ms)) for name, ms in longest[:20]],
    }


def product_rate(lib: Any, device: str = "cpu", dtype: Any = None, runs: int = 12) -> float:
    """10^9 operations a second of a large product, by the median of a few: what the machine gives, to compare with.

    On a CPU in float32, on a GPU in `dtype`; of random numbers, since zeros are multiplied faster.
    """
    m, k, n = PRODUCT[device]
    drawn = np.random.default_rng(0).standard_normal(DRAWN, np.float32)
    factors = [lib.from_numpy(np.resize(drawn, shape)).to(device) for shape in ((m, k), (k, n))]
    if device == "cpu":
        clock, elapsed = time.perf_counter, lambda start, end: end - start
    else:
        factors = [a.to(dtype) for a in factors]
        clock, elapsed = moment(lib), lambda start, end: start.elapsed_time(end) / 1e3
    with lib.no_grad():
        factors[0] @ factors[1]
        moments = [clock()]
        for _ in range(runs):
            factors[0] @ factors[1]
            moments.append(clock())
    if device == "cuda":
        lib.cuda.synchronize()
    seconds = sorted(elapsed(a, b) for a, b in pairwise(moments))
    return 2 * m * k * n / seconds[runs // 2] / 1e9


def moment(lib: Any) -> Callable[[], Any]:
    """A clock on a GPU: an event behind what it was given so far."""

    def now() -> Any:
        event = lib.cuda.Event(enable_timing=True)
        event.record()
        return event

    return now


def batches(lib: Any, device: str, vocabulary: int, batch: int, context: int) -> Iterator[tuple[Any, Any]]:
    """Endless (ids, targets) of shape (B, T), equal for every peer."""
    rng = np.random.default_rng(0)
    while True:
        # Skewed towards small ids, so that there is something to learn and the loss shows that it is learnt.
        ids = (vocabulary * rng.random((batch, context + 1)) ** 3).astype(np.int64)
        yield tuple(lib.from_numpy(part.copy()).to(device) for part in (ids[:, :-1], ids[:, 1:]))


def main(order: dict, reply: Callable[[dict], None]) -> None:
    """Builds what is ordered, then trains as many steps as each line asks for."""
    training = Training(order)
    reply({"parameters": sum(p.numel() for p in training.model.parameters())})
    for line in sys.stdin:
        if line == "rate\n":
            reply({"product_gflops": product_rate(training.lib, training.device, training.dtype)})
        elif line == "inspect\n":
            reply(training.inspect())
        else:
            reply(training.train(int(line)))


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()), lambda record: print(json.dumps(record), flush=True))
