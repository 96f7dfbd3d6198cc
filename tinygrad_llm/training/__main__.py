"""Runs beside each other: python -m tinygrad_llm.training compare runs/*."""

import sys

from tinygrad_llm.training.cli import Parser, fail, os_reason
from tinygrad_llm.training.compare import comparison, read_runs
from tinygrad_llm.training.plots import plot_runs

PROGRAM = "python -m tinygrad_llm.training"


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = Parser(prog=PROGRAM, description="What runs have come to.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="compare", parser_class=Parser)
    compare = actions.add_parser("compare", help="a table of runs, and their curves in one picture")
    compare.add_argument("runs", nargs="+", metavar="FOLDER", help="what examples/pretrain.py wrote to its --out")
    compare.add_argument("--out", default="compare.png", metavar="FILE", help="the picture [compare.png]")
    args = parser.parse_args(argv)
    try:
        runs = read_runs(args.runs)
        print(comparison(runs))
        plot_runs(args.out, runs)
    except ImportError:
        return fail(PROGRAM, "matplotlib is not installed; pip install -e '.[examples]' brings it")
    except OSError as error:
        return fail(PROGRAM, os_reason(error))
    except ValueError as error:
        return fail(PROGRAM, error)
    print(f"\ntheir curves: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
