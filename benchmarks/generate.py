"""Tokens a second of GPT-2 124M with random weights: python benchmarks/generate.py [--device cuda --dtype bfloat16]

Greedy, with and without the cache, for one prompt and for several at once, and Hugging Face transformers' `generate`
where it is installed. Each side has a process of its own (decoding.py) and they take turns, so that only one computes
at a time and a busy machine slows all alike. Two short turns warm each side up; the second decides how many tokens all
sides write of a batch, so that the slowest takes about --seconds for a turn. Beside them the speed of reading memory,
measured in the same turns: every token reads every weight once, so that no batch of one can be faster than it allows.
The prompt's time is left out; on a GPU what a turn records of its first tokens is in it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from machine import cores, describe, versions

from tinygrad_llm.models import GPTConfig

WARM_UP = 2, 8  # tokens of the turns before those that count
FEWEST = 8  # tokens of a turn that still say something
PAUSE = 0.3  # idle threads of an OpenMP runtime keep a core busy for up to 0.2 s after their last work
USUAL: dict[str, Any] = {"drop_rate": 0.0, "qkv_bias": True, "tie_weights": True}
TINY = GPTConfig(vocab_size=1000, context_length=64, emb_dim=64, n_heads=4, n_layers=2, **USUAL)
MODELS = {"gpt2-124m": GPTConfig(**USUAL), "tiny": TINY}


class Peer:
    """A process that runs decoding.py."""

    def __init__(self, order: dict) -> None:
        limits = {f"{library}_NUM_THREADS": str(order["threads"]) for library in ("OMP", "OPENBLAS", "MKL")}
        limits["HF_HUB_OFFLINE"] = "1"  # nothing is to be fetched
        command = [sys.executable, str(Path(__file__).with_name("decoding.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | limits
        )
        self.weights = self.ask(order)["weights"]

    def ask(self, order: dict) -> dict[str, Any]:
        """Sends one line and waits for the answer. Raises: RuntimeError when the process ends instead."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"a peer ended with exit code {self.process.wait()}; its own message stands above")
        time.sleep(PAUSE)
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()


def tokens_of_turn(seconds_of_token: list[float], most: int, seconds: float) -> int:
    """How many tokens all write, at most `most`, so that the slowest needs about so many seconds."""
    slowest = max(1e-9, *seconds_of_token)  # where there was next to nothing to measure
    return max(min(FEWEST, most), min(most, int(seconds / slowest)))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of each turn by peer and batch, and bytes a second; what it was asked, too."""
    config, where = MODELS[args.model].to_dict(), {"device": args.device, "dtype": args.dtype}
    running: dict[str, Peer] = {}
    try:
        for name in ["ours", *args.against]:
            running[name] = Peer({"peer": name, "threads": args.threads, "config": config} | where)
        if len({peer.weights for peer in running.values()}) > 1:
            raise RuntimeError(f"the models differ in size: { {name: p.weights for name, p in running.items()} }")
        size = (4 if args.dtype == "float32" else 2) * running["ours"].weights
        memory = Peer({"peer": "bandwidth", "threads": args.threads, "bytes": size} | where)
        running["bandwidth"] = memory
        speeds: dict[str, list[float]] = {}
        launches: dict[int, int] = {}
        bandwidths, counts = [], {}
        memory.ask({})
        for batch in args.batch:
            slowest = []
            for name in ("ours", *args.against):
                for tokens in WARM_UP:
                    tokens = min(tokens, args.tokens)
                    answer = running[name].ask({"batch": batch, "prompt": args.prompt, "tokens": tokens})
                slowest += [answer["seconds"] / tokens] * (name != "without")  # which has a number of its own
                launches |= {batch: answer["launches"]} if "launches" in answer else {}
            counts[batch] = tokens_of_turn(slowest, args.tokens, args.seconds)
        for turn in range(args.rounds):
            bandwidths.append(memory.ask({})["bytes_a_second"])
            for batch in args.batch:
                for name in ("ours", *args.against):
                    tokens = min(4, counts[batch]) if name == "without" else counts[batch]
                    answer = running[name].ask({"batch": batch, "prompt": args.prompt, "tokens": tokens})
                    speed = batch * tokens / answer["seconds"]
                    speeds.setdefault(f"{name}, batch {batch}", []).append(speed)
                    print(f"round {turn + 1}: {name}, batch {batch}: {speed:.1f} tokens/s", file=sys.stderr)
        record = {"bytes": size, "bandwidth": bandwidths, "speeds": speeds, "tokens": counts}
        return record | where | ({"launches": launches} if launches else {})
    finally:
        for peer in running.values():
            peer.close()


def table(record: dict[str, Any], batches: list[int]) -> str:
    """Medians for a person to read, the share of what memory allows, and the ratios."""
    medians = {name: statistics.median(speeds) for name, speeds in record["speeds"].items()}
    bandwidth = statistics.median(record["bandwidth"])
    lines = [f"{fact:10} {value}" for fact, value in record["machine"].items()]
    moved = "copied" if record["device"] == "cuda" else "read"
    lines += [f"{'memory':10} {moved} at {bandwidth / 1e9:.1f} GB/s; weights {record['bytes'] / 1e6:.0f} MB"]
    for batch, count in record.get("launches", {}).items():
        lines += [f"{'launches':10} {count} a token of batch {batch}, 1 where it is recorded"]
    for batch, count in record["tokens"].items():
        lines += [f"{'turn':10} {count} tokens of each row of batch {batch}"]
    lines += [""]
    lines += [f"{'':24}{'tokens/s':>10}{'lowest':>10}{'highest':>10}{'GB/s of weights':>17}{'of memory':>11}"]
    for name, speeds in record["speeds"].items():
        read = medians[name] / int(name.rpartition(" ")[2]) * record["bytes"]
        numbers = f"{medians[name]:10.1f}{min(speeds):10.1f}{max(speeds):10.1f}"
        lines += [f"{name:24}{numbers}{read / 1e9:17.1f}{read / bandwidth:11.0%}"]
    lines += [""]
    for batch in batches:
        mine = medians[f"ours, batch {batch}"]
        lines += [
            f"batch {batch}: {mine / other:.2f} times {name.partition(',')[0]}"
            for name, other in medians.items()
            if name.endswith(f" {batch}") and not name.startswith("ours")
        ]
    for batch in batches[1:]:
        more = medians[f"ours, batch {batch}"] / medians[f"ours, batch {batches[0]}"]
        lines += [f"batch {batch}: {more:.2f} times batch {batches[0]}"]
    return "\n".join(lines)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument("--model", choices=sorted(MODELS), default="gpt2-124m", help="(default %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default %(default)s)")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="(default %(default)s)"
    )
    parser.add_argument("--batch", **number, nargs="+", help="prompts at once (default 1 8, on a GPU 1 8 64)")
    parser.add_argument("--prompt", **number, default=16, help="tokens of a prompt (default %(default)s)")
    parser.add_argument("--tokens", **number, help="to write in a turn at most (default 32, on a GPU 256)")
    parser.add_argument(
        "--seconds", type=float, default=4.0, metavar="S", help="of a turn, for which fewer tokens are written (4)"
    )
    parser.add_argument("--rounds", **number, default=3, help="turns of each peer (default %(default)s)")
    parser.add_argument("--threads", **number, default=cores(), help="of each peer (default %(default)s)")
    parser.add_argument(
        "--against",
        nargs="*",
        choices=["without", "transformers", "none"],
        help="the other peers: ours without the cache, transformers (default: both, on a GPU the second, if installed)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    args = parser.parse_args(argv)
    on_gpu = args.device == "cuda"
    args.batch = args.batch or ([1, 8, 64] if on_gpu else [1, 8])
    if args.tokens is None:
        args.tokens = 256 if on_gpu else 32
    for name, value in {**vars(args), "batch": min(args.batch)}.items():
        if isinstance(value, int) and value < 1:
            parser.error(f"--{name} {value}: must be at least 1")
    if not args.seconds > 0:
        parser.error(f"--seconds {args.seconds}: must be positive")
    context = MODELS[args.model].context_length
    if args.prompt + args.tokens + 1 > context:
        parser.error(f"--prompt {args.prompt} and --tokens {args.tokens}: more than the context of {context}")
    installed = bool(find_spec("transformers") and find_spec("torch"))
    if args.against is None:
        args.against = [*([] if on_gpu else ["without"]), *(["transformers"] if installed else [])]
    args.against = [name for name in args.against if name != "none"]
    if "transformers" in args.against and not installed:
        parser.error("--against transformers: not installed; pip install transformers torch")
    return args


def main(argv: list[str] | None = None) -> None:
    """Measures, prints the table and writes the JSON file."""
    args = arguments(argv)
    record = measure(args)
    peer = ", ".join(f"{name} {version}" for name, version in versions("transformers").items())
    record["machine"] = describe(args.device) | {"peer": peer}
    print(table(record, args.batch))
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
