"""How long `import tinygrad_llm` takes, in milliseconds, and which modules take it: python benchmarks/import_time.py

Each import happens in a fresh interpreter that finds the bytecode in place, as after a first run. NumPy's own import is
shown beside it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from machine import describe

MODULES = ("numpy", "tinygrad_llm")


def fresh_python(flags: list[str], code: str, cache: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new interpreter that keeps its bytecode in the folder `cache`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def import_ms(module: str, cache: str) -> float:
    """Milliseconds that the import takes in a fresh interpreter."""
    code = f"import time; start = time.perf_counter(); import {module}; print(1e3 * (time.perf_counter() - start))"
    return float(fresh_python([], code, cache).stdout)


def slowest(module: str, count: int, cache: str) -> list[tuple[float, str]]:
    """The modules with the most time of their own, as (milliseconds, name), by -X importtime."""
    report = fresh_python(["-X", "importtime"], f"import {module}", cache).stderr
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
    with tempfile.TemporaryDirectory() as cache:
        for module in MODULES:
            import_ms(module, cache)  # compiles
        for _ in range(args.rounds):
            for module in MODULES:
                turns[module].append(import_ms(module, cache))
        top = slowest("tinygrad_llm", args.top, cache)
    for name, fact in describe().items():
        print(f"{name:10} {fact}")
    print()
    for module, times in turns.items():
        median, least = statistics.median(times), min(times)
        print(f"import {module:14} {median:7.1f} ms (median of {args.rounds}, least {least:.1f})")
    print("\nslowest modules of their own, ms")
    for ms, name in top:
        print(f"{ms:8.1f}  {name}")


if __name__ == "__main__":
    main()
