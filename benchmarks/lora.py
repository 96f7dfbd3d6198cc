"""A step of LoRA against one of all weights, and against PEFT's: python benchmarks/lora.py --against peft

GPT-2 in float32, next-token loss, forward, backward, clipping and AdamW. All sides have weights of the same shapes, and
the same adapters beside all products of the blocks; each is a process of its own and they take turns, so that only one
computes at a time. int8 is LoRA with the frozen weights in eight bits. Memory is what the process held at most, in all
and beyond what it held before its first step.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from machine import cores, describe

SIZES = {"124m": (50257, 768, 12, 12), "small": (5000, 384, 6, 6)}  # vocabulary, channels, heads, layers


def ours(side: str, order: dict) -> tuple[Callable[[Any], Any], list[Any], Any]:
    """Loss of ids, what learns, and the library."""
    lib: Any = import_module("tinygrad_llm")
    from tinygrad_llm import nn
    from tinygrad_llm.models import GPTModel

    vocab, channels, heads, layers = SIZES[order["size"]]
    lib.set_num_threads(order["threads"])
    model = GPTModel({
        "vocab_size": vocab, "context_length": order["context"], "emb_dim": channels, "n_heads": heads,
        "n_layers": layers, "drop_rate": 0.0, "qkv_bias": True, "tie_weights": True,
    })  # fmt: skip
    if side in ("lora", "int8"):
        nn.apply_lora(model, rank=order["rank"], alpha=order["rank"])
    if side == "int8":
        nn.quantize_frozen(model)
    return lambda ids: model.loss(ids[:, :-1], ids[:, 1:]), [p for p in model.parameters() if p.requires_grad], lib


def theirs(order: dict) -> tuple[Callable[[Any], Any], list[Any], Any]:
    """The same with transformers and PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    vocab, channels, heads, layers = SIZES[order["size"]]
    torch.set_num_threads(order["threads"])
    none: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=vocab, n_positions=order["context"], n_embd=channels, n_head=heads,
                                      n_layer=layers, **none))  # fmt: skip
    wanted = LoraConfig(r=order["rank"], lora_alpha=order["rank"], target_modules=["c_attn", "c_proj", "c_fc"])
    model: Any = get_peft_model(base, wanted).train()

    def loss(ids: Any) -> Any:
        logits = model(ids[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return loss, [p for p in model.parameters() if p.requires_grad], torch


def serve(order: dict) -> None:
    """Take as many steps as each line of standard input says; answer with their times."""
    loss_of, parameters, lib = theirs(order) if order["side"] == "peft" else ours(order["side"], order)
    vocab = SIZES[order["size"]][0]
    ids = lib.tensor(np.random.default_rng(0).integers(0, vocab, (order["batch"], order["context"] + 1)))
    optimizer = lib.optim.AdamW(parameters, lr=1e-4)
    before = _peak()
    print(json.dumps({"learns": sum(p.numel() for p in parameters)}), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            loss = loss_of(ids)
            optimizer.zero_grad()
            loss.backward()
            lib.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps({"ms": times, "loss": loss.item(), "mb": _peak() - before, "peak": _peak()}), flush=True)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(order: dict, sides: list[str], rounds: int, steps: int) -> dict[str, Any]:
    """The sides in turns, after a step each that is not measured."""
    limits = {f"{library}_NUM_THREADS": str(order["threads"]) for library in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, str(Path(__file__).resolve()), "--serve"]
    running: dict[str, Any] = {}
    results: dict[str, Any] = {}
    try:
        for side in sides:
            asked = json.dumps({**order, "side": side})
            running[side] = subprocess.Popen(
                [*command, asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | limits
            )
            results[side] = {"learns": _answer(running[side])["learns"], "ms": []}
            _ask(running[side], 1)
        for _ in range(rounds):
            for side, process in running.items():
                answer = _ask(process, steps)
                results[side]["ms"] += answer["ms"]
                results[side] |= {"mb": answer["mb"], "peak": answer["peak"]}
                time.sleep(0.3)  # idle threads of a BLAS keep a core busy for a while
    finally:
        for process in running.values():
            process.communicate()
    return {side: {**r, "ms": statistics.median(r["ms"]), "fastest": min(r["ms"])} for side, r in results.items()}


def _ask(process: Any, steps: int) -> dict[str, Any]:
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    return _answer(process)


def _answer(process: Any) -> dict[str, Any]:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a side ended with exit code {process.wait()}; its own message stands above")
    return json.loads(line)


def main(argv: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--size", choices=sorted(SIZES), default="124m", help="of GPT-2 (default %(default)s)")
    parser.add_argument("--against", choices=["peft", "none"], help="(default: peft where it is installed)")
    for name, value in (
        ("batch", 2),
        ("context", 256),
        ("rank", 16),
        ("steps", 1),
        ("rounds", 3),
        ("threads", cores()),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help="(default %(default)s)")
    args = parser.parse_args(argv)
    if args.serve:
        serve(json.loads(args.serve))
        return
    for name in ("batch", "context", "rank", "steps", "rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: must be at least 1")
    against = args.against or ("peft" if find_spec("peft") and find_spec("transformers") else "none")
    sides = ["lora", "int8", "full", *([] if against == "none" else [against])]
    order = {name: getattr(args, name) for name in ("size", "batch", "context", "rank", "threads")}
    results = measure(order, sides, args.rounds, args.steps)
    print("\n".join(f"{name:10} {fact}" for name, fact in describe("cpu").items()))
    columns = " ".join(f"{name:>10}" for name in ("median ms", "fastest ms", "MB beyond", "MB in all"))
    print(f"step       {order}\n\n{'':6} {'learns':>12} {columns}")
    for side, r in results.items():
        print(f"{side:6} {r['learns']:12,} {r['ms']:10.1f} {r['fastest']:10.1f} {r['mb']:10.0f} {r['peak']:10.0f}")
    for side in sides[1:]:
        times = results["lora"]["ms"] / results[side]["ms"], results["lora"]["fastest"] / results[side]["fastest"]
        print(f"lora / {side}: time {times[0]:.2f} (fastest {times[1]:.2f}), "
              f"memory {results['lora']['mb'] / max(results[side]['mb'], 1):.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
