"""Write on with a model that was trained: a run's folder and a prompt in, text out."""

import argparse
import sys
import time
from pathlib import Path

from tinygrad_llm import tensor, text
from tinygrad_llm.commandline import Parser, add_device_flags, guarded, show_anything, use_device
from tinygrad_llm.data import instructions
from tinygrad_llm.models import GPTModel, beam_search, commandline, perplexity, stream_text
from tinygrad_llm.models.streaming import TextDecoder

PROGRAM = "generate.py"

DESCRIPTION = """\
Continue a text with a model of yours. FOLDER is what examples/pretrain.py wrote:
model.safetensors, config.json and tokenizer.json. A model that was tuned to follow
instructions has their style beside it (chat_template.json): the prompt is then an
instruction, asked in that style, and the answer stands on a line of its own."""

EPILOG = """\
The prompt and its continuation go to standard output, figures about them to standard error.

exit codes:
  0 done    2 refused or failed, with one sentence why    130 stopped by Ctrl-C

examples:
  python examples/generate.py runs/pretrain "Once upon a time"
  python examples/generate.py runs/pretrain --file beginning.txt --tokens 500 --top-p 0.9 --stream
  echo "The lighthouse" | python examples/generate.py runs/pretrain --temperature 0
  python examples/generate.py runs/pretrain "The end" --beams 4
  python examples/generate.py runs/instructions "Say it from A to Z: lamp, kite" --temperature 0
  python examples/generate.py runs/pretrain --file chapter.txt --tokens 0    # only: how likely is it?
"""


def parser() -> Parser:
    """The command line."""
    page = Parser(prog=PROGRAM, usage="%(prog)s FOLDER [PROMPT] [flags]", description=DESCRIPTION, epilog=EPILOG)
    page.add_argument("folder", metavar="FOLDER", help="of a run")
    page.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to go on from [standard input]")
    page.add_argument("--file", metavar="PATH", help="read the prompt from it")
    page.add_argument("--stream", action="store_true", help="show each token as it comes")
    page.add_argument("--beams", type=int, metavar="N", help="the likeliest text that N candidates find, no draws")
    page.add_argument("--length-penalty", type=float, default=1.0, metavar="X", help="of beams: more is longer [1]")
    commandline.add_template_flag(page)
    commandline.add_sampling_flags(page)
    machine = page.add_argument_group("the machine")
    add_device_flags(machine)
    commandline.add_dtype_flag(machine)
    return page


def prompt_of(args: argparse.Namespace) -> str:
    """The prompt, from the one place that it is given in."""
    if args.prompt is not None and args.file is not None:
        raise ValueError("--file and a PROMPT are both given; leave one out")
    if args.file is not None:
        try:
            return Path(args.file).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"--file {args.file}: not UTF-8 at byte {error.start}") from None
    return sys.stdin.read().removesuffix("\n") if args.prompt is None else args.prompt


def ids_of(prompt: str, tokenizer: text.Tokenizer, form: instructions.Form | None) -> list[int]:
    """The prompt's tokens, at least one, or those of an instruction in its form."""
    try:
        if form is not None:
            return instructions.ask([{"role": "user", "content": prompt}], tokenizer, form)
        ids = tokenizer.encode(prompt, allowed_special="all")
    except ValueError as error:
        raise ValueError(f"the prompt: {error}") from None
    if not ids:
        raise ValueError("the prompt is empty; the model needs one token at least to go on from")
    return ids


def searched(args: argparse.Namespace, model: GPTModel, tokenizer: text.Tokenizer, ids: list[int]) -> str:
    """What beam search finds."""
    size, slide = commandline.window(args, model)
    ends = commandline.ends(args, tokenizer)
    found = beam_search(
        model, tensor([ids], device=args.device), args.tokens, args.beams, args.length_penalty, size, ends, slide=slide
    )[0].tolist()  # fmt: skip
    decoder = TextDecoder(tokenizer, ids)
    return "".join(decoder.feed(token) for token in found[len(ids) :] if token not in ends) + decoder.finish()


def write(args: argparse.Namespace) -> None:
    """Everything: read, check, write on, judge."""
    sampling, draws = commandline.sampling(args), commandline.generator(args)
    if args.beams is not None and args.beams < 1:
        raise ValueError(f"--beams {args.beams}: must be at least 1")
    if args.beams is not None and args.stop:
        raise ValueError("--stop does not go with --beams, which knows the text only at its end")
    use_device(args)
    model, tokenizer = commandline.load_run(args.folder, args.device, args.dtype)
    size, slide = commandline.window(args, model)
    prompt, form = prompt_of(args), commandline.form(args, args.folder)
    ids = ids_of(prompt, tokenizer, form)
    stops = [*args.stop, *filter(None, [instructions.closing(form) if form else ""])]
    print(prompt, end="\n" if form else "", flush=args.stream)
    start, pieces = time.perf_counter(), []
    try:
        if args.beams is not None:
            pieces = [searched(args, model, tokenizer, ids)]
            print(pieces[0], end="")
        else:
            written = stream_text(
                model, tokenizer, ids, args.tokens, size, stop=stops, eos_id=commandline.ends(args, tokenizer),
                sampling=sampling, generator=draws, slide=slide,
            )  # fmt: skip
            for piece in written:
                pieces.append(piece)
                print(piece, end="", flush=args.stream)
    finally:
        print(flush=True)  # what is told of an end before its time stands on a line of its own
    seconds = time.perf_counter() - start
    if len(ids) > size:
        print(f"{PROGRAM}: of the prompt's {len(ids)} tokens the model sees the last {size} at most", file=sys.stderr)
    if len(ids) > 1:
        judged = perplexity(model, tensor([ids], device=args.device), size)
        print(f"prompt: {len(ids)} tokens, perplexity {judged:,.2f}", file=sys.stderr)
    print(f"written: {len(''.join(pieces))} characters in {seconds:.1f} s", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    args = parser().parse_args(argv)
    return guarded(PROGRAM, lambda: write(args))


if __name__ == "__main__":
    sys.exit(main())
