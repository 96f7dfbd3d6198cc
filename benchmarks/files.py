"""save and load of a state dict of 500 MiB: seconds, and how far the memory rises above the tensors or the file.

Each measurement has a process of its own; PyTorch is measured too where it is installed, each on its own file.
"""

import importlib
import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

MEBI = 2**20
TENSORS, ROWS, COLUMNS = 25, 1024, 5 * 1024


def peak() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(library: str, act: str, path: str) -> None:
    """One library's act on one file, in this process; prints a line."""
    lib = importlib.import_module(library)
    state = {f"w{i}": lib.ones(ROWS, COLUMNS) for i in range(TENSORS)} if act == "save" else {}
    before, start = peak(), time.perf_counter()
    if act == "save":
        lib.save(state, path)
    else:
        total = sum(float(tensor.sum()) for tensor in lib.load(path).values())
        assert total == TENSORS * ROWS * COLUMNS
    seconds = time.perf_counter() - start
    size = Path(path).stat().st_size / MEBI
    print(f"{library:14s}{act:6s}{size:8.0f} MiB{seconds:8.2f} s   memory rose by {peak() - before:.0f} MiB")


def main() -> None:
    """Every act in a process of its own."""
    if len(sys.argv) == 4:
        measure(*sys.argv[1:])
        return
    for name, fact in describe().items():
        print(f"{name:10s} {fact}")
    with tempfile.TemporaryDirectory() as folder:
        for library in ("tinygrad_llm", "torch"):
            if importlib.util.find_spec(library) is None:
                continue
            for act in ("save", "load"):
                subprocess.run([sys.executable, __file__, library, act, f"{folder}/{library}.pt"], check=True)


if __name__ == "__main__":
    main()
