"""Does a killed run end as one that was not? python benchmarks/kills.py --kills 50

A run of examples/pretrain.py, or with --run of another example, is killed with SIGKILL again and again and resumed each
time: at a random moment, at one of its operations on files, with a disk that is full in the middle of a checkpoint, or
with its newest checkpoint damaged. The losses of every step, the evaluations and the weights must be those of a run
without kills, to the last bit; no kill may cost more than the interval between two checkpoints.
"""

import argparse
import json
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
from tinygrad_llm.training.session import BASE

ROOT = Path(__file__).parents[1]
KINDS = ("moment", "moment", "file operation", "file operation", "full disk", "damaged")
INTERVAL = 5  # steps between checkpoints
SMALL = ["--layers=2", "--heads=2", "--channels=32", f"--save-every={INTERVAL}"]
FLAGS = {
    "pretrain": ["--tokenizer=char", "--context=32", "--batch=4", "--dropout=0.1", "--eval-every=20",
                 "--eval-windows=8", "--samples=3", "--sample-tokens=8", "--steps=400"],
    "finetune_classifier": ["--batch=4", "--dropout=0.1", "--drop-tokens=0.1", "--epochs=12"],
    "finetune_instructions": ["--style=phi3", "--batch=4", "--dropout=0.1", "--epochs=4", "--answer-tokens=3",
                              "--pretrain-steps=60"],
    "finetune_preferences": ["--style=phi3", "--answers=both", "--answer-epochs=3", "--batch=4", "--epochs=5"],
}  # fmt: skip
WORDS = ("tea", "cat", "sun", "log", "map", "key", "pen", "cup", "dog", "hat")
NAMES = ("model.safetensors", "responses.json", "answers.json", "classifier.json", "curves.png")  # as far as there are

# Runs an example; dies at the n-th opening, renaming, making or removing of a file in --out, or has a full disk.
DRIVER = """
import os, runpy, resource, signal, sys
from tinygrad_llm.data import corpora
corpora.STORIES_CHARACTERS = 40_000
kind, number, out, script = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
sys.argv = sys.argv[4:]
if kind == "full disk":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
if kind == "file operation":
    left = [number]
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and out in str(arguments[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
runpy.run_path(script, run_name="__main__")
"""


def write_data(path: Path, example: str) -> None:
    """What an example learns from: a text, or entries on pairs of words."""
    if example == "pretrain":
        path.write_text("the cat sat on the mat, and the dog sat on the cat.\n" * 100)
        return
    rows = [
        {"text": f"{a} {b} {a}", "label": str(a < b), "instruction": f"Say {a}", "input": b, "output": a,
         "chosen": f"yes {a}", "rejected": f"no {b}"}
        for a in WORDS for b in WORDS
    ]  # fmt: skip
    random.Random(0).shuffle(rows)
    path.write_text(json.dumps(rows))


def start(example: str, out: Path, data: Path, kind: str = "none", number: int = 0) -> subprocess.Popen[str]:
    """One process of the run in `out`, which goes on with what is there."""
    script = str(ROOT / "examples" / f"{example}.py")
    flags = [*SMALL, *FLAGS[example], "--data", str(data), "--out", str(out), "--resume"]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, kind, str(number), str(out), script, *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def parts(out: Path) -> list[Path]:
    """The folders of a run that have checkpoints, the newest first: its own, and that of what was trained before."""
    return [folder for folder in (out, out / BASE) if Checkpoints(folder / "checkpoints").steps()]


def damage(out: Path, chance: random.Random) -> bool:
    """Cut off or change a file of the newest checkpoint; False where the one before it is not there to be used."""
    checkpoints = Checkpoints(parts(out)[0] / "checkpoints") if parts(out) else None
    if checkpoints is None or len(checkpoints.steps()) < 2:
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


def lines_done(folder: Path) -> int:
    """The newest step that reached the file of steps."""
    path = folder / "steps.csv"
    return int(max(read_steps(path)["step"], default=0)) if path.exists() and path.stat().st_size else 0


def torture(example: str, out: Path, data: Path, kills: int, seed: int, whole: float) -> Counter[str]:
    """Kill the run in `out` so many times, each time after it went on; returns how often of each kind."""
    chance, done = random.Random(seed), Counter[str]()
    while sum(done.values()) < kills:
        kind = chance.choice(KINDS)
        number = chance.randrange(1, 400) if kind == "file operation" else chance.randrange(1000, 70_000)
        before = {folder: lines_done(folder) for folder in (out, out / BASE)}
        process = start(example, out, data, kind, number)
        if kind in ("moment", "damaged"):
            time.sleep(chance.uniform(0.3, 1.5 * whole / 4))
            process.kill()
        _, errors = process.communicate()
        assert "Traceback" not in errors, errors
        assert process.returncode in (0, 2, -9), (process.returncode, errors)
        steps = {folder: max(Checkpoints(folder / "checkpoints").steps(), default=0) for folder in before}
        for folder, line in before.items():
            assert line - steps[folder] <= INTERVAL, f"a {kind} lost the steps from {steps[folder]} to {line}"
        if process.returncode == 0:  # it reached its end before the blow fell: the next one is for a new run
            break
        if kind == "damaged" and not damage(out, chance):
            kind = "moment"
        done[kind] += 1
        print(f"{sum(done.values()):>3} {kind}: exit {process.returncode}, newest checkpoint {steps[out]}", flush=True)
    return done


def compare(one: Path, other: Path) -> None:
    """Raises: AssertionError unless two runs have the same losses, evaluations, weights and answers."""
    assert [folder.name for folder in parts(one)][1:] == [folder.name for folder in parts(other)][1:]
    for mine, its in zip(parts(one), parts(other), strict=True):
        for name in ("step", "tokens", "loss", "lr", "grad_norm"):
            assert read_steps(mine / "steps.csv")[name] == read_steps(its / "steps.csv")[name], name
        records = [
            [
                {k: v for k, v in record.items() if k not in ("tokens_per_second", "seconds")}
                for record in read_metrics(path / "metrics.jsonl")
            ]
            for path in (mine, its)
        ]
        assert records[0] == records[1], records
        for name in NAMES:
            assert (mine / name).exists() == (its / name).exists(), name
            assert not (mine / name).exists() or (mine / name).read_bytes() == (its / name).read_bytes(), name


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--run", choices=[*FLAGS], default="pretrain", help="which example [pretrain]")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    total, runs = Counter[str](), 0
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "book.txt" if args.run == "pretrain" else "entries.json")
        write_data(data, args.run)
        begin = time.monotonic()
        assert start(args.run, Path(scratch, "whole"), data).wait() == 0
        whole = time.monotonic() - begin
        while sum(total.values()) < args.kills:
            out = Path(scratch, f"killed-{runs}")
            total += torture(args.run, out, data, args.kills - sum(total.values()), args.seed + runs, whole)
            process = start(args.run, out, data)
            _, errors = process.communicate()
            assert process.returncode == 0, errors
            compare(Path(scratch, "whole"), out)
            runs += 1
            print(f"run {runs}: as without kills to the last bit", flush=True)
    print(f"{sum(total.values())} kills in {runs} runs: {', '.join(f'{n} {kind}' for kind, n in total.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
