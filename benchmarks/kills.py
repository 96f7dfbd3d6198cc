"""Does a killed run end as one that was not? python benchmarks/kills.py --kills 50

A run of examples/pretrain.py is killed with SIGKILL again and again and resumed each time: at a random moment, at one
of the operations on files that a checkpoint is made of, with a disk that is full in the middle of a checkpoint, or with
its newest checkpoint damaged. The losses of every step, the evaluations and the weights must be those of a run without
kills, to the last bit; no kill may cost more than the interval between two checkpoints.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tinygrad_llm.training import read_metrics, read_steps
from tinygrad_llm.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]
KINDS = ("moment", "moment", "file operation", "file operation", "full disk", "damaged")
INTERVAL = 5  # steps between checkpoints
FLAGS = [
    "--tokenizer=char", "--layers=2", "--heads=2", "--channels=32", "--context=32", "--batch=4", "--dropout=0.1",
    "--eval-every=20", "--eval-windows=8", "--samples=3", "--sample-tokens=8", f"--save-every={INTERVAL}",
]  # fmt: skip

# Runs pretrain.py; dies at the n-th opening, renaming, making or removing of a checkpoint's files, or has a full disk.
DRIVER = """
import os, runpy, resource, signal, sys
kind, number, script = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.argv = sys.argv[3:]
if kind == "full disk":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
if kind == "file operation":
    left = [number]
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and "step-" in str(arguments[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
runpy.run_path(script, run_name="__main__")
"""


def start(out: Path, text: Path, steps: int, kind: str = "none", number: int = 0) -> subprocess.Popen[str]:
    """One process of the run in `out`, which goes on with what is there."""
    script = str(ROOT / "examples" / "pretrain.py")
    flags = [*FLAGS, "--data", str(text), "--out", str(out), "--steps", str(steps), "--resume"]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, kind, str(number), script, *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def damage(out: Path, chance: random.Random) -> bool:
    """Cut off or change a file of the newest checkpoint; False where the one before it is not there to be used."""
    checkpoints = Checkpoints(out / "checkpoints")
    if len(checkpoints.steps()) < 2:
        return False
    newest = checkpoints.path(checkpoints.steps()[-1])
    path = chance.choice(sorted(newest.iterdir()))
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    if chance.random() < 0.5:
        content[place] ^= 1 << chance.randrange(8)
    else:
        del content[place:]
    path.write_bytes(content)
    return True


def lines_done(out: Path) -> int:
    """The newest step that reached the file of steps."""
    path = out / "steps.csv"
    return int(max(read_steps(path)["step"], default=0)) if path.exists() and path.stat().st_size else 0


def torture(out: Path, text: Path, steps: int, kills: int, seed: int, whole: float) -> Counter[str]:
    """Kill the run in `out` so many times, each time after it went on; returns how often of each kind."""
    chance, done = random.Random(seed), Counter[str]()
    while sum(done.values()) < kills:
        kind = chance.choice(KINDS)
        number = chance.randrange(1, 200) if kind == "file operation" else chance.randrange(1000, 70_000)
        before = lines_done(out)
        process = start(out, text, steps, kind, number)
        if kind in ("moment", "damaged"):
            time.sleep(chance.uniform(0.3, 1.5 * whole / 4))
            process.kill()
        _, errors = process.communicate()
        newest = max(Checkpoints(out / "checkpoints").steps(), default=0)
        assert "Traceback" not in errors, errors
        assert process.returncode in (0, 2, -9), (process.returncode, errors)
        assert before - newest <= INTERVAL, f"a {kind} lost the steps from {newest} to {before}"
        if process.returncode == 0:  # it reached its end before the blow fell: the next one is for a new run
            break
        if kind == "damaged" and not damage(out, chance):
            kind = "moment"
        done[kind] += 1
        print(f"{sum(done.values()):>3} {kind}: exit {process.returncode}, newest checkpoint {newest}", flush=True)
    return done


def compare(one: Path, other: Path) -> None:
    """Raises: AssertionError unless two runs have the same losses, evaluations and weights."""
    for name in ("step", "tokens", "loss", "lr", "grad_norm"):
        assert read_steps(one / "steps.csv")[name] == read_steps(other / "steps.csv")[name], name
    records = [
        [
            {k: v for k, v in record.items() if k != "tokens_per_second"}
            for record in read_metrics(path / "metrics.jsonl")
        ]
        for path in (one, other)
    ]
    assert records[0] == records[1], records
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    total, runs = Counter[str](), 0
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch, "book.txt")
        text.write_text("the cat sat on the mat, and the dog sat on the cat.\n" * 100)
        begin = time.monotonic()
        assert start(Path(scratch, "whole"), text, args.steps).wait() == 0
        whole = time.monotonic() - begin
        while sum(total.values()) < args.kills:
            out = Path(scratch, f"killed-{runs}")
            total += torture(out, text, args.steps, args.kills - sum(total.values()), args.seed + runs, whole)
            process = start(out, text, args.steps)
            _, errors = process.communicate()
            assert process.returncode == 0, errors
            compare(Path(scratch, "whole"), out)
            runs += 1
            print(f"run {runs}: {args.steps} steps, as without kills to the last bit", flush=True)
    print(f"{sum(total.values())} kills in {runs} runs: {', '.join(f'{n} {kind}' for kind, n in total.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
