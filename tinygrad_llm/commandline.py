"""The manners of every command line: a page of help that keeps its shape, and mistakes told in one sentence."""

import argparse
import sys
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
