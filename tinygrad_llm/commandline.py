"""The manners of every command line: a page of help that keeps its shape, and mistakes told in one sentence."""

import argparse
import io
import sys
from collections.abc import Callable
from typing import Any, NoReturn


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


def fail(program: str, error: object) -> int:
    """Print what went wrong as one line on stderr; returns 2, the exit code for it."""
    print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def os_reason(error: OSError) -> str:
    """What the system says, without its number: "Permission denied: 'name'"."""
    if error.strerror is None:
        return str(error)
    return error.strerror + (f": {error.filename!r}" if error.filename is not None else "")


def show_anything() -> None:
    """Let both outputs replace what a terminal cannot show: a character must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def guarded(program: str, act: Callable[[], None], stopped: str = "stopped") -> int:
    """Do it, and return the exit code: 0; 2 after one sentence on what was refused or failed; 130 after Ctrl-C."""
    try:
        act()
    except OSError as error:
        return fail(program, os_reason(error))
    except (ValueError, ImportError, RuntimeError, MemoryError) as error:
        return fail(program, error)
    except KeyboardInterrupt:
        print(f"{program}: {stopped}", file=sys.stderr)
        return 130
    return 0
