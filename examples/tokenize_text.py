"""The same sentence through every tokenizer: what is a token, and how many does it take?"""

import argparse
import os
import sys
import time

from tinygrad_llm import data, text
from tinygrad_llm.commandline import Parser, guarded, show_anything
from tinygrad_llm.training import console

PROGRAM = "tokenize_text.py"
SENTENCE = 'A brave girl named Otto said, "Unbelievable lighthouses shine at midnight!"'
CHARACTERS = 200_000
COLORS = (46, 43, 42, 45, 44, 41)  # backgrounds: cyan, yellow, green, magenta, blue, red

DESCRIPTION = """\
Show how each tokenizer cuts a sentence. Those that learn their vocabulary learn it from
the beginning of the stories that ship with the package, or of a text of yours."""

EPILOG = """\
Colours are shown on a terminal, unless the environment variable NO_COLOR is set.

examples:
  python examples/tokenize_text.py
  python examples/tokenize_text.py "Strč prst skrz krk 🙂"
  python examples/tokenize_text.py --data my-texts/ --only bpe,wordpiece,unigram
"""


def parser() -> Parser:
    """The command line."""
    page = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EPILOG)
    page.add_argument("sentence", nargs="?", default=SENTENCE, metavar="TEXT", help="what to cut")
    page.add_argument("--data", default="stories", metavar="PATH", help="text to learn from [stories]")
    page.add_argument(
        "--characters", type=int, default=CHARACTERS, metavar="N", help=f"of it to learn from [{CHARACTERS}]"
    )
    page.add_argument("--only", metavar="NAMES", help=f"some of {', '.join(text.names())}")
    return page


def chosen(only: str | None) -> list[str]:
    """The names of the tokenizers to show."""
    if only is None:
        return text.names()
    for name in only.split(","):
        if name not in text.names():
            raise ValueError(f"--only {name}: unknown; choose some of {', '.join(text.names())}")
    return only.split(",")


def absent(name: str) -> bool:
    """Whether it is a published encoding whose files are not here."""
    return name in text.tiktoken.ENCODINGS and not text.tiktoken.is_cached(name)


def painted(tokens: list[str], colored: bool) -> str:
    """The tokens side by side, each with the next colour behind it, or with lines between them."""
    if not colored:
        return "|".join(tokens)
    return "".join(f"\x1b[30;{COLORS[i % len(COLORS)]}m{token}\x1b[0m" for i, token in enumerate(tokens))


def wants_color() -> bool:
    """Whether standard output is a terminal and nobody asked for no colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def show(args: argparse.Namespace) -> None:
    """Cut the sentence with each tokenizer, then compare them in a table."""
    if not args.sentence:
        raise ValueError("the text is empty; give one to cut")
    if args.characters < 1:
        raise ValueError(f"--characters {args.characters}: must be at least 1")
    names = chosen(args.only)
    corpus = data.load(args.data)
    lesson = (corpus.train + corpus.validation)[: args.characters]
    size = len(args.sentence.encode("utf-8", "replace"))
    rows = [("tokenizer", "vocabulary", "tokens", "bytes a token", "decoded", "seconds to make")]
    for name in filter(lambda name: not absent(name), names):
        start = time.perf_counter()
        tokenizer = text.build(name, lesson)
        seconds = f"{time.perf_counter() - start:.2f}"
        try:
            ids = tokenizer.encode(args.sentence, allowed_special="all")
        except ValueError as error:
            print(f"{name}\n  {error}\n")
            rows.append((name, f"{tokenizer.vocab_size:,}", "-", "-", "-", seconds))
            continue
        print(f"{name}\n  {painted(tokenizer.shown(ids), wants_color())}\n", flush=True)
        same = "the same" if tokenizer.decode(ids) == args.sentence else "differs"
        ratio = f"{size / len(ids):.2f}" if ids else "-"
        rows.append((name, f"{tokenizer.vocab_size:,}", f"{len(ids)}", ratio, same, seconds))
    print(console.table(rows))
    if missing := [name for name in names if absent(name)]:
        print(
            f"\nnot shown, because their files are not here: {', '.join(missing)}\n"
            f"python -m tinygrad_llm.text fetch NAME brings them"
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    args = parser().parse_args(argv)
    return guarded(PROGRAM, lambda: show(args))


if __name__ == "__main__":
    sys.exit(main())
