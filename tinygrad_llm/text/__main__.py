"""Tokenizers on the command line: train one, look at one, fetch the files of a published one."""

import argparse
import sys
from pathlib import Path

from tinygrad_llm import text
from tinygrad_llm.commandline import Parser, guarded, show_anything
from tinygrad_llm.text import BPETokenizer, tiktoken
from tinygrad_llm.text.splitting import PATTERNS

PROGRAM = "python -m tinygrad_llm.text"
KINDS = [name for name in text.names() if text.is_trainable(name)]
BPE_OPTIONS = ("pattern", "min_frequency", "workers")

EPILOG = f"""\
examples:
  {PROGRAM} train my-texts/ --vocab-size 8192 --out tokenizer.json
  {PROGRAM} train my-texts/ --kind unigram --vocab-size 8000 --out unigram.json
  {PROGRAM} show tokenizer.json "Hello, world"
  {PROGRAM} show gpt2 "Every effort moves you" --merges
  {PROGRAM} fetch gpt2 --to tokenizer-files     for a machine without a network
"""


def parser() -> Parser:
    """The command line."""
    page = Parser(prog=PROGRAM, description=__doc__, epilog=EPILOG)
    commands = page.add_subparsers(dest="command", metavar="COMMAND", required=True)

    train = commands.add_parser("train", help="learn a vocabulary from texts", description=train_tokenizer.__doc__)
    train.add_argument("source", nargs="+", type=Path, metavar="PATH", help="text file, or folder of .txt and .md ones")
    train.add_argument("--kind", choices=KINDS, default="bpe", help="what learns [bpe]")
    train.add_argument("--vocab-size", type=int, metavar="N", help="tokens at most [8192 of bpe, 4096 of the others]")
    train.add_argument("--out", type=Path, default=Path("tokenizer.json"), metavar="FILE", help="[tokenizer.json]")
    only = train.add_argument_group("of bpe alone")
    only.add_argument("--pattern", choices=PATTERNS, help="how text is split before merging [gpt2]")
    only.add_argument("--min-frequency", type=int, metavar="N", help="of a pair that is merged [2]")
    only.add_argument("--workers", type=int, metavar="N", help="processes that read [one a core, if it pays]")

    show = commands.add_parser("show", help="how a tokenizer cuts a text", description=show_tokens.__doc__)
    show.add_argument("tokenizer", metavar="TOKENIZER", help="file or folder of one, or a published name such as gpt2")
    show.add_argument("text", metavar="TEXT", help="- reads standard input")
    show.add_argument("--merges", action="store_true", help="byte-pair encoding step by step")

    fetch = commands.add_parser("fetch", help="the files of a published encoding", description=fetch_files.__doc__)
    fetch.add_argument("encoding", choices=tiktoken.ENCODINGS, metavar="NAME", help=", ".join(tiktoken.ENCODINGS))
    fetch.add_argument("--to", type=Path, metavar="FOLDER", help="[tiktoken's cache folder]")
    return page


def train_tokenizer(args: argparse.Namespace) -> None:
    """Learn a vocabulary from texts and write the tokenizer."""

    def progress(what: str, done: int, of: int | None) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{done:,}{'' if of is None else f' of {of:,}'} {what}", end="", file=sys.stderr, flush=True)

    if not args.out.resolve().parent.is_dir():
        raise ValueError(f"--out {args.out}: there is no such folder; make it first")
    options = {key: value for key in BPE_OPTIONS if (value := getattr(args, key)) is not None}
    if args.kind == "bpe":
        size = BPETokenizer.default_size if args.vocab_size is None else args.vocab_size
        tokenizer: text.Tokenizer = BPETokenizer.train(args.source, size, progress=progress, **options)
    elif options:
        raise ValueError(f"--{min(options).replace('_', '-')} is of bpe alone; {args.kind} has no such setting")
    else:
        tokenizer = text.train(args.kind, args.source, args.vocab_size)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    tokenizer.save(args.out)
    last = ", ".join(tokenizer.shown(range(max(0, tokenizer.vocab_size - 10), tokenizer.vocab_size)))
    print(f"{args.out}: {tokenizer.vocab_size:,} tokens, the last of them {last}")


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


COMMANDS = {"train": train_tokenizer, "show": show_tokens, "fetch": fetch_files}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    args = parser().parse_args(argv)
    return guarded(f"{PROGRAM} {args.command}", lambda: COMMANDS[args.command](args), "stopped; nothing was written")


if __name__ == "__main__":
    sys.exit(main())
