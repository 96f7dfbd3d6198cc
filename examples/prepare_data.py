"""Prepare a corpus: files of text -> tokens -> a folder of shards that examples/pretrain.py --data reads."""

import argparse
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinygrad_llm import data, get_num_threads, text
from tinygrad_llm.commandline import show_anything
from tinygrad_llm.data import Manifest, Progress, Settings
from tinygrad_llm.data.known import CORPORA
from tinygrad_llm.data.sources import PACKED, find_sources, sample_texts
from tinygrad_llm.training import console
from tinygrad_llm.training.cli import Parser, fail, os_reason
from tinygrad_llm.training.memory import format_bytes

PROGRAM = "prepare_data.py"
MOST_TO_LEARN = 2**26  # bytes of text that a vocabulary is learned from

DESCRIPTION = """\
Turn files of text into shards of token ids that training reads from the disk.

Any amount of text is read in constant memory. Interrupted at any moment, even by a kill,
the same command goes on where it was and ends with the same files."""

EPILOG = f"""\
what is read: .txt and .md (a document each, or several with --mark between them), .jsonl
(a document on each line, under --key), plain or packed as .gz or .zst, all in UTF-8

tokenizers: gpt2 and others that are published; bpe, wordpiece and unigram, which are learned
from up to {format_bytes(MOST_TO_LEARN)} of the text; char, simple and word, from the whole of a small one

what is written to --out:
  train-00000.ids, ...             token ids, as many as --shard-tokens in each
  validation-00000.ids, ...        the same, to judge by
  tokenizer.json                   what made them
  manifest.json                    counts and SHA-256 of each file; written last

corpora with a name, which are downloaded:
{chr(10).join(f"  {name:<18}{c.about}; {c.licence}" for name, c in CORPORA.items() if not c.rows)}

exit codes:
  0 done    2 refused or failed, with one sentence why    130 stopped by Ctrl-C

examples:
  python examples/prepare_data.py --data my-texts/ --tokenizer gpt2 --out shards/mine
  python examples/prepare_data.py --data my-texts/ --tokenizer bpe --out shards/mine
  python examples/prepare_data.py --data tiny-stories --tokenizer gpt2 --out shards/tiny
  python examples/pretrain.py --data shards/mine
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    usage = "%(prog)s --data PATH --out FOLDER [flags]"
    page = Parser(prog=PROGRAM, usage=usage, description=DESCRIPTION, epilog=EPILOG)
    page.add_argument("--data", required=True, metavar="PATH", help="file, folder of files, or name of a corpus")
    page.add_argument("--out", required=True, metavar="FOLDER", help="for the shards: new, empty, or begun before")
    page.add_argument(
        "--tokenizer", default="gpt2", metavar="NAME", help=f"{', '.join(text.names())}, or a tokenizer's file [gpt2]"
    )
    page.add_argument("--vocab-size", type=int, metavar="N", help="tokens at most, where they are learned [its own]")
    page.add_argument("--val-fraction", type=float, default=0.1, metavar="X", help="share to judge by [0.1]")
    page.add_argument("--val-data", metavar="PATH", help="file or folder to judge by, in place of a share")
    page.add_argument("--mark", metavar="WORD", help="between the documents of a file, such as '<|endoftext|>'")
    page.add_argument("--key", default="text", metavar="NAME", help="of the text in a JSON line [text]")
    page.add_argument("--shard-tokens", type=int, default=2**25, metavar="N", help="tokens in a shard [33554432]")
    page.add_argument("--workers", type=int, default=get_num_threads(), metavar="N", help="processes [one a core]")
    page.add_argument("--fresh", action="store_true", help="begin anew; removes the shards that --out has")
    return page


def sources(args: argparse.Namespace) -> tuple[Path, Path | None]:
    """The files or folders to learn from and to judge by, downloaded if --data is the name of a corpus."""
    judge = Path(args.val_data) if args.val_data is not None else None
    if args.data not in CORPORA:
        return Path(args.data), judge
    if CORPORA[args.data].rows:
        raise ValueError(f"--data {args.data}: a table of examples, not a text; data.load({args.data!r}) reads it")
    paths = data.fetch(args.data)
    return paths["train"], judge or paths.get("validation")


def tokenizer(args: argparse.Namespace, path: Path, settings: Settings) -> text.Tokenizer:
    """The tokenizer in a file, or the one of this name: learned from a sample of the text, where it learns."""
    name = args.tokenizer
    if name not in text.names():
        if not Path(name).exists():
            raise ValueError(f"--tokenizer {name}: neither a file nor one of {', '.join(text.names())}")
        if args.vocab_size is not None:
            raise ValueError(f"--vocab-size {args.vocab_size}: the tokenizer in {name} has its own; leave the flag out")
        return text.load(name)
    if name in text.tiktoken.ENCODINGS:
        return text.build(name, "", args.vocab_size)
    found = find_sources(path)
    if text.is_trainable(name):
        sample = sample_texts(found, MOST_TO_LEARN, settings.mark, settings.key)
        return text.train(name, sample, args.vocab_size)
    if sum(s.size for s in found) > MOST_TO_LEARN or any(s.holds_records or s.path.suffix in PACKED for s in found):
        able = ", ".join(other for other in text.names() if text.is_trainable(other))
        raise ValueError(
            f"--tokenizer {name}: knows only characters that it has seen, so it must see the whole text, which may be "
            f".txt and .md files of {format_bytes(MOST_TO_LEARN)} together; take one of {able}, which learn from a "
            f"sample and take any text, or the file of one made elsewhere"
        )
    return text.build(name, data.read(path), args.vocab_size)


class Bar:
    """Shows how far the text is read: a bar on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        if find_spec("tqdm") and sys.stdout.isatty():
            from tqdm import tqdm

            self._bar = tqdm(unit="B", unit_scale=True, file=sys.stdout, dynamic_ncols=True, leave=False)

    def __call__(self, progress: Progress) -> None:
        if self._bar is None:
            return
        if self._bar.total is None:  # the first call: what was done before is not of today's speed
            self._bar.total, self._bar.initial = progress.total, progress.done
        self._bar.set_postfix_str(f"{progress.tokens:,} tokens", refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def summary(out: Path, manifest: Manifest, seconds: float) -> str:
    """The table at the end."""
    rows = [("", "documents", "tokens", "shards", "size")]
    for split, shards in manifest.splits.items():
        size = sum((out / shard.file).stat().st_size for shard in shards)
        numbers = (f"{manifest.documents(split):,}", f"{manifest.tokens(split):,}", str(len(shards)))
        rows.append((split, *numbers, format_bytes(size)))
    tokens, read = sum(map(manifest.tokens, manifest.splits)), manifest.settings["bytes"]
    lines = [
        console.table(rows),
        "",
        f"text         {format_bytes(read)} in {manifest.settings['files']:,} files, {read / tokens:.2f} bytes a token",
        f"left out     {manifest.settings['empty_documents']:,} documents without text",
        f"tokenizer    {manifest.tokenizer}, {manifest.vocab_size:,} different tokens, {manifest.dtype}",
        f"time         {console.clock(seconds)}",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    start = time.monotonic()
    show_anything()
    args = parser().parse_args(argv)
    if args.workers < 0 or not args.out:
        return fail(PROGRAM, f"--workers {args.workers}: must be at least 0" if args.out else "--out is empty")
    bar = None
    try:
        path, judge = sources(args)
        mark = args.mark or (CORPORA[args.data].mark if args.data in CORPORA else None)
        settings = Settings(args.val_fraction, mark, args.key, args.shard_tokens)
        chosen = tokenizer(args, path, settings)
        bar = Bar()
        manifest = data.prepare(path, args.out, chosen, settings, args.workers, args.fresh, bar, judge)
        bar.close()
        data.verify(args.out)
    except OSError as error:
        kept = error.errno is not None and data.is_prepared(args.out)  # the disk's error, not one of ours
        return fail(PROGRAM, os_reason(error) + "; what was done is kept, the same command goes on with it" * kept)
    except (ValueError, RuntimeError, MemoryError) as error:
        return fail(PROGRAM, error)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        if bar:
            bar.close()
    print(summary(Path(args.out), manifest, time.monotonic() - start))
    print(f"\nshards in {args.out}; train with: python examples/pretrain.py --data {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
