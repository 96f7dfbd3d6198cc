"""Tokenizers on the command line: train one, look at one, fetch the files of a published one."""

import argparse
import io
import sys
from pathlib import Path

from tinygrad_llm import text
from tinygrad_llm.commandline import Parser, fail, os_reason
from tinygrad_llm.text import BPETokenizer, tiktoken
from tinygrad_llm.text.bytelevel import visible
from tinygrad_llm.text.splitting import PATTERNS

PROGRAM = "python -m tinygrad_llm.text"

EPILOG = f"""\
examples:
  {PROGRAM} train my-texts/ --vocab-size 8192 --out tokenizer.json
  {PROGRAM} show tokenizer.json "Hello, world"
  {PROGRAM} show gpt2 "Every effort moves you" --merges
  {PROGRAM} fetch gpt2 --to tokenizer-files     for a machine without a network
"""


def parser() -> Parser:
    """The command line."""
    page = Parser(prog=PROGRAM, description=__doc__, epilog=EPILOG)
    commands = page.add_subparsers(dest="command", metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="learn a byte-pair vocabulary from texts", description=train_bpe.__doc__)
    train.add_argument("source", nargs="+", type=Path, metavar="PATH", help="text file, or folder of .txt and .md ones")
    train.add_argument("--vocab-size", type=int, default=8192, metavar="N", help="tokens at most [8192]")
    train.add_argument("--out", type=Path, default=Path("tokenizer.json"), metavar="FILE", help="[tokenizer.json]")
    train.add_argument("--pattern", choices=PATTERNS, default="gpt2", help="how text is split before merging [gpt2]")
    train.add_argument("--min-frequency", type=int, default=2, metavar="N", help="of a pair that is merged [2]")
    train.add_argument("--workers", type=int, metavar="N", help="processes that read [one a core, if it pays]")

    show = commands.add_parser("show", help="how a tokenizer cuts a text", description=show_tokens.__doc__)
    show.add_argument("tokenizer", metavar="TOKENIZER", help="file or folder of one, or a published name such as gpt2")
    show.add_argument("text", metavar="TEXT", help="- reads standard input")
    show.add_argument("--merges", action="store_true", help="byte-pair encoding step by step")

    fetch = commands.add_parser("fetch", help="the files of a published encoding", description=fetch_files.__doc__)
    fetch.add_argument("encoding", choices=tiktoken.ENCODINGS, metavar="NAME", help=", ".join(tiktoken.ENCODINGS))
    fetch.add_argument("--to", type=Path, metavar="FOLDER", help="[tiktoken's cache folder]")
    return page


def train_bpe(args: argparse.Namespace) -> None:
    """Learn byte-pair merges from texts and write the tokenizer."""

    def progress(what: str, done: int, of: int | None) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{done:,}{'' if of is None else f' of {of:,}'} {what}", end="", file=sys.stderr, flush=True)

    if not args.out.resolve().parent.is_dir():
        raise ValueError(f"--out {args.out}: there is no such folder; make it first")
    tokenizer = BPETokenizer.train(
        args.source,
        args.vocab_size,
        pattern=args.pattern,
        min_frequency=args.min_frequency,
        workers=args.workers,
        progress=progress,
    )
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    tokenizer.save(args.out)
    print(f"{args.out}: {tokenizer.vocab_size:,} tokens; the last of the merges:")
    last = tokenizer.merges[-10:]
    print("  " + ", ".join(visible(left + right) for left, right in last) if last else "  none")


def show_tokens(args: argparse.Namespace) -> None:
    """Print the tokens of a text with their ids."""
    passage = sys.stdin.read() if args.text == "-" else args.text
    known = args.tokenizer in tiktoken.ENCODINGS and not Path(args.tokenizer).exists()
    tokenizer = text.build(args.tokenizer, "") if known else text.load(args.tokenizer)
    if args.merges:
        if not isinstance(tokenizer, text.EncodingTokenizer):
            raise ValueError(f"--merges: the {tokenizer.name} tokenizer merges nothing; give one of byte-pair encoding")
        for step in tokenizer.trace(passage):
            print(step)
        print()
    ids = tokenizer.encode(passage, allowed_special="all")
    for i, token in zip(ids, tokenizer.shown(ids), strict=True):
        print(f"{i:>7}  {token}")
    size = len(passage.encode("utf-8", "replace"))
    print(f"{len(ids):,} tokens, {size:,} bytes" + (f", {size / len(ids):.2f} bytes a token" if ids else ""))


def fetch_files(args: argparse.Namespace) -> None:
    """Put the files of a published encoding into a folder, verified, from the cache or the network.

    TIKTOKEN_CACHE_DIR=FOLDER then makes the encoding work without a network.
    """
    folder = args.to or tiktoken.cache_folder()
    for path in tiktoken.fetch(args.encoding, folder):
        print(path)
    print(f"TIKTOKEN_CACHE_DIR={folder} makes {args.encoding} work without a network")


COMMANDS = {"train": train_bpe, "show": show_tokens, "fetch": fetch_files}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end a run
    args = parser().parse_args(argv)
    try:
        COMMANDS[args.command](args)
    except OSError as error:
        return fail(f"{PROGRAM} {args.command}", os_reason(error))
    except (ValueError, RuntimeError, MemoryError) as error:
        return fail(f"{PROGRAM} {args.command}", error)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
