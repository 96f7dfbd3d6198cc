"""How long `import tinygrad_llm` takes, in milliseconds, and which modules take it: python benchmarks/import_time.py

Each import happens in a fresh interpreter. Most of it is NumPy's own import, which is shown beside it.
"""

import argparse
import statistics
import subprocess
import sys

from machine import describe

MODULES = ("numpy", "tinygrad_llm")


def import_ms(module: str) -> float:
    """Milliseconds that the import takes in a fresh interpreter."""
    code = f"import time; start = time.perf_counter(); import {module}; print(1e3 * (time.perf_counter() - start))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def slowest(module: str, count: int) -> list[tuple[float, str]]:
    """The modules with the most time of their own, as (milliseconds, name), by -X importtime."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    rows = []
    for line in report.splitlines():
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():  # the first line is the head
            rows.append((int(own) / 1e3, name.strip()))
    return sorted(rows, reverse=True)[:count]


def main(argv: list[str] | None = None) -> None:
    """Prints the medians and the slowest modules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="imports of each (default %(default)s)")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="modules to list (default %(default)s)")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")

    turns: dict[str, list[float]] = {module: [] for module in MODULES}
    for _ in range(args.rounds):
        for module in MODULES:
            turns[module].append(import_ms(module))
    for name, fact in describe().items():
        print(f"{name:10} {fact}")
    print()
    for module, times in turns.items():
        median, least = statistics.median(times), min(times)
        print(f"import {module:14} {median:7.1f} ms (median of {args.rounds}, least {least:.1f})")
    print("\nslowest modules of their own, ms")
    for ms, name in slowest("tinygrad_llm", args.top):
        print(f"{ms:8.1f}  {name}")


if __name__ == "__main__":
    main()
