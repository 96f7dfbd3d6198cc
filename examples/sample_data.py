"""What a model is given: windows and strides drawn, documents packed into rows, corpora mixed."""

import argparse
import os
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from tinygrad_llm import data, text
from tinygrad_llm.commandline import Parser, guarded, show_anything
from tinygrad_llm.data import Mixture, PackedRows, Windows
from tinygrad_llm.training.console import table

PROGRAM = "sample_data.py"
WIDTH = 72  # columns of a drawing
ROWS = 12  # lines of a drawing
COLOURS = (36, 33, 35, 32, 34, 31)

DESCRIPTION = """\
Draw how a text becomes what a model trains on: windows at several strides, documents
padded and packed into rows, corpora mixed by temperature.

Without arguments it takes the short stories that ship with the package."""

EPILOG = """\
Colours are left out where NO_COLOR is set, and in a file or a pipe.

exit codes:
  0 done    2 refused, with one sentence why

examples:
  python examples/sample_data.py
  python examples/sample_data.py --data the-verdict.txt --tokenizer gpt2 --context 4
  python examples/sample_data.py --data large.txt small.txt --alpha 0.3
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    usage = "%(prog)s [--data PATH ...] [--context N] [--stride N] [flags]"
    page = Parser(prog=PROGRAM, usage=usage, description=DESCRIPTION, epilog=EPILOG)
    about = "text files, folders of texts, or stories [stories]"
    page.add_argument("--data", nargs="+", default=["stories"], metavar="PATH", help=about)
    page.add_argument("--tokenizer", default="word", metavar="NAME", help=f"{' or '.join(text.names())} [word]")
    page.add_argument("--context", type=int, default=8, metavar="N", help="ids of a window's input, T [8]")
    page.add_argument("--stride", type=int, default=4, metavar="N", help="drawn beside strides 1 and T [4]")
    page.add_argument("--length", type=int, default=512, metavar="N", help="ids of a packed row [512]")
    page.add_argument("--alpha", type=float, default=0.7, metavar="X", help="corpora are mixed by size^alpha [0.7]")
    page.add_argument("--seed", type=int, default=0, metavar="N", help="of the mixture's order [0]")
    return page


class Pen:
    """Draws letters and blocks, in colour where the terminal is one that shows it."""

    def __init__(self, stream: TextIO) -> None:
        self.coloured = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        try:
            "█░·".encode(stream.encoding or "ascii")
            self.full, self.half, self.blank = "█", "░", "·"
        except UnicodeEncodeError:
            self.full, self.half, self.blank = "#", "+", "."

    def bar(self, owners: np.ndarray) -> str:
        """A cell for each owner, a letter and a colour of its own; a negative one is blank."""
        cells = (self.blank if owner < 0 else self.paint(letter(owner), owner) for owner in owners.tolist())
        return "".join(cells)

    def paint(self, drawn: str, owner: int) -> str:
        """In the owner's colour."""
        return f"\033[{COLOURS[owner % len(COLOURS)]}m{drawn}\033[0m" if self.coloured else drawn

    def title(self, title: str) -> str:
        """A heading."""
        return f"\n\033[1m{title}\033[0m" if self.coloured else f"\n{title}\n{'-' * len(title)}"


def letter(owner: int) -> str:
    """a for 0, b for 1, ...; after z come the capitals, then a again."""
    return string.ascii_letters[owner % len(string.ascii_letters)]


def windows_drawn(pen: Pen, ids: np.ndarray, tokenizer: text.Tokenizer, context: int, stride: int) -> list[str]:
    """The first windows at strides 1, `stride` and T over the first ids, and what each stride means for the whole."""
    shown = min(len(ids), max(24, 2 * context + 1))
    cell = -(-shown // WIDTH)  # ids that one cell of the drawing stands for
    first = Windows(ids, context)
    x, y = ([tokenizer.decode([i]) for i in part.tolist()] for part in first[0])
    lines = [
        pen.title(f"Windows of {context} ids over {len(ids):,}"),
        f"the first one reads    {quoted(x)}",
        f"and should answer      {quoted(y)}",
    ]
    for step in sorted({1, stride, context}):
        windows = Windows(ids, context, step)
        lines += ["", f"stride {step}: {len(windows):,} windows, {predictions(context, step)}"]
        for index in range(min(len(windows), ROWS // 2 + 2)):
            start = index * step
            if start + context >= shown:
                break
            read, last = context // cell, 1 if cell == 1 else 0
            drawn = pen.paint(pen.full * read + pen.half * last, index)
            lines.append(f"  {pen.blank * (start // cell)}{drawn}{pen.blank * ((shown - start) // cell - read - last)}")
    if cell > 1:
        return [*lines, "", f"{pen.full} {cell} ids that are read"]
    return [*lines, "", f"{pen.full} an id that is read and, from the second on, a target; {pen.half} the last target"]


def predictions(context: int, stride: int) -> str:
    """How often an id in the middle of the text is a target."""
    if context % stride == 0:
        often = context // stride
        return f"each id a target {'once' if often == 1 else f'{often} times'}"
    if stride > context:
        return f"{stride - context} of {stride} ids never a target"
    return f"each id a target {context // stride} or {context // stride + 1} times"


def quoted(tokens: Sequence[str], width: int = 48) -> str:
    """Tokens as they stand in the text, line ends written out, cut to fit a line."""
    line = "|".join(repr(token)[1:-1] for token in tokens)
    return line if len(line) <= width else line[: width - 3] + "..."


def packing_drawn(pen: Pen, documents: list[np.ndarray], length: int) -> list[str]:
    """The first documents in padded rows, packed with cuts and packed without, and the gain over all documents."""
    few = documents[: ROWS - 2]
    cell = -(-length // WIDTH)  # ids that one cell of the drawing stands for
    lines = [pen.title(f"Packing {len(documents):,} documents into rows of {length}")]
    padded = []
    for number, document in enumerate(few):
        for start in range(0, len(document), length):
            padded.append(np.where(np.arange(start, start + length) < len(document), number, -1))
    lines += [f"a row each, padded ({'one cell is ' + str(cell) + ' ids' if cell > 1 else 'a cell is an id'}):"]
    lines += [f"  {pen.bar(owners[::cell])}" for owners in padded[:ROWS]]
    for split, name in ((True, "one after another, cut where a row is full"), (False, "best fit, none cut that fits")):
        packed = PackedRows(few, length, split=split)
        drawn = packed.take(range(min(len(packed), ROWS)))
        lines += ["", f"{name}:", *(f"  {pen.bar(owners[::cell])}" for owners in drawn.documents)]
    lines += ["", "all of them, with cuts:", indented(PackedRows(documents, length).report())]
    return [*lines, "", "and without:", indented(PackedRows(documents, length, split=False).report())]


def indented(shown: object) -> str:
    """Each line two columns in."""
    return "\n".join(f"  {line}" for line in str(shown).splitlines())


def mixing_drawn(pen: Pen, parts: dict[str, np.ndarray], context: int, alpha: float, seed: int) -> list[str]:
    """What each corpus's share is, how often it is gone through, and the order of the first windows."""
    sources = {name: Windows(ids, context, context) for name, ids in parts.items()}
    total = sum(len(source) for source in sources.values())
    mixture = Mixture(sources, alpha=alpha, seed=seed)
    order, _ = mixture.places(WIDTH)
    first = pen.bar(order)
    mixture.places(max(0, total - WIDTH))
    rows = [("", "windows", "by size", f"alpha {alpha:g}", "epochs")]
    for number, (name, source) in enumerate(sources.items()):
        shares = f"{len(source) / total:.1%}", f"{mixture.shares[name]:.1%}"
        rows.append((f"{letter(number)}  {name}", f"{len(source):,}", *shares, f"{mixture.epochs[name]:.2f}"))
    return [
        pen.title(f"Mixing {len(sources)} corpora by size^{alpha:g}"),
        table(rows),
        f"epochs after {sum(mixture.drawn.values()):,} windows; the first {WIDTH} come from",
        f"  {first}",
    ]


def corpora(args: argparse.Namespace) -> tuple[text.Tokenizer, dict[str, str]]:
    """A tokenizer for all texts, and the texts by name; a text alone is cut into three of unequal size.

    Raises: ValueError, OSError as `data.load` and `text.build`.
    """
    for name in ("context", "stride", "length"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: must be at least 1")
    if not 0 <= args.alpha < float("inf") or args.seed < 0:
        raise ValueError(f"--alpha {args.alpha} and --seed {args.seed} must be at least 0")
    names = [Path(source).name for source in args.data]
    if len(set(names)) < len(names):
        raise ValueError(f"--data: two texts have the same name: {', '.join(names)}")
    loaded = [data.load(source) for source in args.data]
    if len(loaded) > 1:
        texts = {corpus.name: corpus.train + corpus.validation for corpus in loaded}
    else:
        whole = loaded[0].train + loaded[0].validation
        cut = data.split(whole, (0.8, 0.15, 0.05))
        texts = {f"{loaded[0].name}, part {n}": part for n, part in enumerate(cut, 1)}
    return text.build(args.tokenizer, "".join(texts.values())), texts


def draw(args: argparse.Namespace) -> None:
    """Print the drawings. Raises: ValueError, OSError as `corpora`."""
    tokenizer, texts = corpora(args)
    parts = {name: np.array(tokenizer.encode_ordinary(passage), np.int64) for name, passage in texts.items()}
    short = [name for name, ids in parts.items() if len(ids) < args.context + 1]
    if short:
        raise ValueError(f"--data: {short[0]} has fewer than --context {args.context} + 1 tokens; lower --context")
    paragraphs = [part for passage in texts.values() for part in passage.split("\n\n") if part.strip()]
    documents = [np.array(ids) for part in paragraphs if (ids := tokenizer.encode_ordinary(part))]
    pen = Pen(sys.stdout)
    lines = windows_drawn(pen, np.concatenate([*parts.values()]), tokenizer, args.context, args.stride)
    lines += packing_drawn(pen, documents, args.length)
    lines += mixing_drawn(pen, parts, args.context, args.alpha, args.seed)
    try:
        print("\n".join(lines).lstrip("\n"), flush=True)
    except BrokenPipeError:  # whoever reads, a pager perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    args = parser().parse_args(argv)
    return guarded(PROGRAM, lambda: draw(args))


if __name__ == "__main__":
    sys.exit(main())
