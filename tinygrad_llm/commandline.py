"""The manners of every command line: a page of help that keeps its shape, and mistakes told in one sentence."""

import argparse
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NoReturn

from tinygrad_llm import cuda, devices


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the shape of its texts and reports a mistake in one line, exit code 2."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(formatter_class=_Page, allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        """Print the mistake, not the whole usage, and leave."""
        self.exit(fail(self.prog, f"{message.removeprefix('argument ')}; {self.prog} --help explains every flag"))


class _Page(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)


def add_device_flags(page: Any) -> None:
    """The flags that `use_device` reads; page: a parser or one of its groups."""
    page.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:1, where it computes [cpu]")
    page.add_argument("--gpu-memory", type=float, metavar="X", help="share of the GPU's memory to take at most [all]")
    about = "on a GPU the same bits in every run, where else a clock decides which kernels compute attention [no]"
    page.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=False, help=about)


def add_dtype_flag(page: Any) -> None:
    """The flag for the dtype of products, which a recipe checks; page: a parser or one of its groups."""
    about = "of products: float32, bfloat16 or float16; weights and their steps are float32 [float32]"
    page.add_argument("--dtype", default="float32", metavar="NAME", help=about)


def use_device(args: argparse.Namespace) -> None:
    """Check the device and let "cuda" mean that one. Raises: ValueError with what is missing, or what there is."""
    try:
        target = devices.device(args.device)
        devices.module_of(target)
    except RuntimeError as error:
        said = str(error).removeprefix("device: ").removeprefix(f"device {args.device}: ")
        raise ValueError(f"--device {args.device}: {said}") from None
    devices.deterministic = args.deterministic
    if target.index is not None:
        cuda.set_device(target)
    if args.gpu_memory is None:
        return
    if not 0 < args.gpu_memory <= 1:
        raise ValueError(f"--gpu-memory {args.gpu_memory}: must be a share above 0, and 1 at most")
    if target.type == "cpu":
        raise ValueError(f"--gpu-memory {args.gpu_memory}: only with --device cuda")
    cuda.set_per_process_memory_fraction(args.gpu_memory, target.index)


def fail(program: str, error: object) -> int:
    """Print what went wrong as one line on stderr; returns 2, the exit code for it."""
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def os_reason(error: OSError) -> str:
    """What the system says, without its number: "Permission denied: 'name'"."""
    if error.strerror is None:
        return str(error)
    return error.strerror + (f": {error.filename!r}" if error.filename is not None else "")


@contextmanager
def told_by(flag: str, path: str, words: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """What is wrong with a file is told by the flag that names it; words: a library's, each with a command line's."""
    try:
        yield
    except (OSError, ValueError) as error:
        said = str(error) if not isinstance(error, OSError) or error.strerror is None else error.strerror
        for theirs, ours in words.items():
            said = said.replace(theirs, ours)
        raise ValueError(f"{flag} {path}: {said.removeprefix(f'{path}: ')}") from None


def show_anything() -> None:
    """Let both outputs replace what a terminal cannot show: a character must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def guarded(program: str, act: Callable[[], int | None], stopped: str = "stopped") -> int:
    """Do it, and return the exit code: its own, or 0; 2 after a sentence on what was refused; 130 after Ctrl-C."""
    try:
        return act() or 0
    except OSError as error:
        return fail(program, os_reason(error))
    except (ValueError, ImportError, RuntimeError, MemoryError) as error:
        return fail(program, error)
    except KeyboardInterrupt:
        print(f"{program}: {stopped}", file=sys.stderr)
        return 130
