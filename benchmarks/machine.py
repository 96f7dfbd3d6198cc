"""What a number was measured on: processor, cores, versions, BLAS and its threads: python benchmarks/machine.py"""

import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import threadpoolctl

from tinygrad_llm import cuda, devices

OF_A_GPU = ("cupy-cuda13x", "cupy-cuda12x", "nvmath-python", "nvidia-cudnn-frontend", "nvidia-cudnn-cu13", "triton")


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas() -> str:
    """NumPy's BLAS, its version and its threads."""
    np.ones((2, 2)) @ np.ones((2, 2))
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return ", ".join(f"{p['internal_api']} {p['version']} ({p['num_threads']} threads)" for p in pools) or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package, without those that are absent."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe(device: str = "cpu") -> dict[str, str]:
    """One line a fact, for the head of a table."""
    gpu = {"GPU": f"{cuda.get_device_name()}, {cuda.mem_get_info()[1] / 1e9:.0f} GB"} if device == "cuda" else {}
    names = ("tinygrad_llm", "numpy", "torch", *(OF_A_GPU if gpu else ()))
    return gpu | {
        "processor": f"{processor()}, {cores()} cores",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {v}" for name, v in versions(*names).items()),
        "blas": blas(),
        "load": f"{os.getloadavg()[0]:.1f} processes in the last minute" if hasattr(os, "getloadavg") else "unknown",
    }


def need(device: str) -> None:
    """One sentence and exit code 2 where there is no such device."""
    problem = devices.cuda_problem() if device == "cuda" else None
    if problem:
        print(f"--device cuda: {problem}", file=sys.stderr)
        raise SystemExit(2)


def peak_rss_mb() -> float:
    """The largest memory this process has held, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # bytes on macOS, KiB elsewhere


if __name__ == "__main__":
    for fact, value in describe("cuda" if cuda.is_available() else "cpu").items():
        print(f"{fact:10} {value}")
