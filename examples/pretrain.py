"""Pre-train a GPT: text -> tokenizer -> windows -> model -> training loop -> samples -> files."""

import argparse
import itertools
import math
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import tinygrad_llm as tg
from tinygrad_llm import data, text
from tinygrad_llm.commandline import show_anything
from tinygrad_llm.data import Corpus, Row, Windows
from tinygrad_llm.devices import cuda_problem
from tinygrad_llm.models import GPTModel, generate
from tinygrad_llm.models.checkpoint import save_pretrained
from tinygrad_llm.training import (
    PRESETS,
    Evaluation,
    MetricsFile,
    NonFiniteLoss,
    Preset,
    Recipe,
    StopOnInterrupt,
    Trainer,
    console,
    mean_loss,
    memory,
    peak_memory,
    perplexity,
    plot_loss,
)
from tinygrad_llm.training.cli import Parser, add_recipe_flags, chosen_recipe, fail, os_reason

PROGRAM = "pretrain.py"
Ids = np.ndarray | Row
FILES = ("model.safetensors", "config.json", "tokenizer.json", "metrics.jsonl", "loss.png")

DESCRIPTION = """\
Train a small GPT from nothing on the CPU and watch it learn.

Without arguments it learns for two minutes or so from short stories that ship with
the package. They are drawn from a grammar whose entropy is known exactly, so that the
run can also say how far the model is from the best that any model could do."""

EPILOG = f"""\
presets:
{chr(10).join(f"  {name:<18}{p.about}" for name, p in PRESETS.items())}

files, all in the folder --out; those of an earlier run in it move to earlier-1, -2, ...:
  model.safetensors, config.json   the model
  tokenizer.json                   what turns text into its tokens
  metrics.jsonl                    one record per evaluation: step, tokens, train_loss,
                                   val_loss, lr, tokens_per_second
  loss.png                         loss and perplexity over the tokens seen

Ctrl-C ends the run after the step at work and keeps the model as it is then.

exit codes:
  0 done    2 refused or failed, with one sentence why    130 stopped by Ctrl-C

examples:
  python examples/pretrain.py
  python examples/pretrain.py --preset shakespeare-char --data tinyshakespeare.txt
  python examples/pretrain.py --data my-notes/ --steps 500 --out runs/notes
  python examples/pretrain.py --preset gpt2-124m --data the-verdict
  python examples/pretrain.py --data shards/mine       # made by examples/prepare_data.py
"""


def parser() -> argparse.ArgumentParser:
    """The command line, which reads like a page of a manual."""
    usage = "%(prog)s [--preset NAME] [--data PATH] [--out FOLDER] [flags]"
    page = Parser(prog=PROGRAM, usage=usage, description=DESCRIPTION, epilog=EPILOG)
    run = page.add_argument_group("the run")
    run.add_argument("--preset", default="stories", metavar="NAME", help="where the values come from [stories]")
    run.add_argument(
        "--data", metavar="PATH", help="text file, folder of .txt and .md files or of shards, or name of a corpus"
    )
    run.add_argument("--tokenizer", metavar="NAME", help=f"{' or '.join(text.names())} [the preset's]")
    run.add_argument(
        "--vocab-size", type=int, metavar="N", help="tokens at most, where they are learned [the preset's or its own]"
    )
    run.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="X", help="last part of the text, to judge by [0.1]"
    )
    run.add_argument("--prompt", metavar="TEXT", help="what samples begin with [an empty line]")
    run.add_argument("--seed", type=int, default=1337, metavar="N", help="of weights, windows, dropout, samples [1337]")
    run.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it computes [cpu]")
    run.add_argument("--out", default="runs/pretrain", metavar="FOLDER", help="for the files [runs/pretrain]")
    add_recipe_flags(page)
    return page


@dataclass(frozen=True)
class Run:
    """Everything that stands before the first step."""

    recipe: Recipe
    corpus: Corpus
    tokenizer: text.Tokenizer
    model: GPTModel
    trainer: Trainer
    validation: Windows
    prompt: list[int]
    out: Path


def prepare(args: argparse.Namespace) -> Run:
    """Check every wish, then make text, tokenizer, windows and model; writes nothing."""
    preset, recipe = chosen_recipe(args)
    check_machine(args)
    corpus, tokenizer, *ids = material(args, preset)
    if tokenizer.vocab_size < 2:
        raise ValueError(f"--data: {corpus.name} has one different token only; there is nothing to learn from it")
    train = windows("training", ids[0], recipe.context, 1)
    validation = windows("validation", ids[1], recipe.context, recipe.context)
    config = recipe.model_config(tokenizer.vocab_size)
    memory.check_fits(config, recipe.batch, recipe.checkpoint)
    tg.manual_seed(args.seed)
    model = GPTModel(config, checkpoint=recipe.checkpoint).to(args.device)
    trainer = Trainer(model, recipe, train, validation, np.random.default_rng(args.seed), args.device)
    prompt = first_ids(args.prompt, tokenizer, corpus)
    return Run(recipe, corpus, tokenizer, model, trainer, validation, prompt, args.out)


def check_machine(args: argparse.Namespace) -> None:
    """Refuse what this machine cannot do, before any work is put into it."""
    if args.device == "cuda" and (problem := cuda_problem()):
        raise ValueError(f"--device cuda: {problem}")
    for library in ("matplotlib", "tqdm"):
        if find_spec(library) is None:
            raise ValueError(f"{library} is not installed; pip install -e '.[examples]' brings it")
    if not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed {args.seed}: must lie in [0, 2**63)")
    if not 0 < args.val_fraction < 1:
        raise ValueError(f"--val-fraction {args.val_fraction}: must lie between 0 and 1")
    if args.tokenizer is not None and args.tokenizer not in text.names():
        raise ValueError(f"--tokenizer {args.tokenizer}: unknown; choose one of {', '.join(text.names())}")
    if args.data == "" or args.out == "":
        raise ValueError(f"--{'data' if args.data == '' else 'out'} is empty; name a path (. is the current folder)")
    args.out = Path(args.out)
    if args.out.is_symlink() or args.out.exists():
        if not args.out.is_dir():
            raise ValueError(f"--out {args.out}: exists and is not a folder; name another one")
        check_ours(args.out)


def check_ours(out: Path) -> None:
    """Refuse a folder whose files bear a run's names but are no run's: every run begins with its metrics."""
    present = [name for name in FILES if (out / name).exists()]
    if present and "metrics.jsonl" not in present:
        raise ValueError(f"--out {out}: holds {', '.join(present)} of something else; name another folder")


def source(args: argparse.Namespace, preset: Preset) -> str:
    """The path or the name of the text."""
    chosen = args.data if args.data is not None else preset.data
    if chosen is None:
        raise ValueError(f"--preset {args.preset} has no text of its own; name one with --data PATH, or --data stories")
    return chosen


def material(args: argparse.Namespace, preset: Preset) -> tuple[Corpus, text.Tokenizer, Ids, Ids]:
    """The text, its tokenizer, and the ids to learn from and to judge by."""
    path = source(args, preset)
    if data.is_prepared(path) and not data.corpora.is_name(path):
        if args.vocab_size is not None:
            raise ValueError(f"--vocab-size {args.vocab_size}: the shards in {path} have their tokenizer; leave it out")
        return prepared(path, args.tokenizer)
    corpus = data.load(path, args.val_fraction)
    if not isinstance(corpus, Corpus):
        raise ValueError(f"--data {path}: a table of examples, not a text")
    tokenizer = tokenizer_for(corpus, args, preset)
    train, validation = (
        data.ids_array(tokenizer.encode_ordinary(part), tokenizer.vocab_size)
        for part in (corpus.train, corpus.validation)
    )
    return corpus, tokenizer, train, validation


def tokenizer_for(corpus: Corpus, args: argparse.Namespace, preset: Preset) -> text.Tokenizer:
    """The tokenizer of the run; one that has ids for any text never sees the validation text."""
    name = args.tokenizer or preset.tokenizer
    size = preset.vocab_size if args.vocab_size is None and name == preset.tokenizer else args.vocab_size
    return text.build(name, corpus.train if text.is_trainable(name) else corpus.train + corpus.validation, size)


def prepared(folder: str, tokenizer: str | None) -> tuple[Corpus, text.Tokenizer, Ids, Ids]:
    """What examples/prepare_data.py made of a text; as the text itself stands its beginning."""
    manifest = data.verify(folder)
    if tokenizer not in (None, manifest.tokenizer):
        raise ValueError(
            f"--tokenizer {tokenizer}: the shards in {folder} were made with {manifest.tokenizer}; leave the flag out, "
            f"or prepare the text again"
        )
    shards = data.Shards(folder)
    train, validation = shards.row("train"), shards.row("validation")
    beginning = shards.tokenizer.decode(train[:256].tolist())
    return Corpus(Path(folder).resolve().name, beginning, ""), shards.tokenizer, train, validation


def windows(part: str, ids: Ids, context: int, stride: int) -> Windows:
    """The windows of a part of the text."""
    if len(ids) < context + 1:
        raise ValueError(
            f"the {part} text has {len(ids)} tokens and one window needs {context} + 1; give a longer text with "
            f"--data, a smaller --context, or another --val-fraction"
        )
    return Windows(ids, context, stride)


def first_ids(prompt: str | None, tokenizer: text.Tokenizer, corpus: Corpus) -> list[int]:
    """The ids that samples begin with: the prompt's; else an empty line, or how the text begins."""
    if prompt is None:
        prompt = "\n\n" if "\n\n" in corpus.train else corpus.train[0]
    if not prompt:
        raise ValueError("--prompt is empty; a sample needs at least one token to go on from")
    try:
        return tokenizer.encode(prompt, allowed_special="all")
    except ValueError as error:
        raise ValueError(f"--prompt {prompt!r}: {error}") from None


def introduce(run: Run) -> None:
    """What is going to happen, in a few lines."""
    recipe, tokenizer = run.recipe, run.tokenizer
    train, validation = len(run.trainer.train.ids), len(run.validation.ids)
    parameters = sum(p.numel() for p in run.model.parameters())
    print(f"text       {run.corpus.name}: {train:,} tokens to learn from, {validation:,} to judge by")
    print(f"tokenizer  {tokenizer.name}, {tokenizer.vocab_size:,} different tokens")
    print(
        f"model      {parameters:,} parameters: {recipe.layers} layers, {recipe.heads} heads, "
        f"{recipe.channels} channels, {recipe.context} tokens of context"
    )
    print(
        f"training   {recipe.steps:,} steps of {recipe.tokens_per_step:,} tokens, learning rate {recipe.lr:g} to "
        f"{recipe.min_lr:g}"
    )
    guess = math.log(tokenizer.vocab_size)
    print(f"an even guess costs ln {tokenizer.vocab_size} = {guess:.4f} nats a token\n", flush=True)


def train(run: Run, stop: StopOnInterrupt, seed: int) -> None:
    """Train, show, record, sample."""
    recipe, trainer = run.recipe, run.trainer
    generator = tg.Generator().manual_seed(seed)
    shown = console.progress(recipe.steps)

    def on_step(trainer: Trainer) -> None:
        step, loss = trainer.step, trainer.last_loss or 0.0
        shown.step(loss, trainer.tokens / trainer.seconds)
        if step == 1:
            shown.write(f"the first step's loss: {loss:.4f}")
        if step * recipe.samples // recipe.steps > (step - 1) * recipe.samples // recipe.steps and not stop():
            shown.write(console.sample_block(sample(run, generator), step))

    def on_evaluation(trainer: Trainer, evaluation: Evaluation) -> None:
        metrics.write(evaluation)
        shown.evaluation(evaluation)

    with MetricsFile(run.out / "metrics.jsonl") as metrics:
        try:
            trainer.run(on_step, on_evaluation, stop)
        finally:
            shown.close()


def sample(run: Run, generator: tg.Generator) -> str:
    """A text that the model goes on with after the prompt."""
    recipe = run.recipe
    ids = tg.tensor([run.prompt]).to(run.trainer.device)  # (1, T)
    ids = generate(
        run.model, ids, recipe.sample_tokens, recipe.context, temperature=recipe.temperature, generator=generator
    )
    return run.tokenizer.decode(ids[0].tolist())


def save(run: Run, floor: float | None) -> None:
    """The model, its tokenizer and the picture; each file is written whole or not at all."""
    save_pretrained(run.model, run.out)
    run.tokenizer.save(run.out / "tokenizer.json")
    title = f"{run.corpus.name}, {run.tokenizer.name} tokens"
    plot_loss(run.out / "loss.png", run.trainer.evaluations, title, floor)


def floor_per_token(run: Run) -> float | None:
    """What no model can beat on this very validation text, in nats a token; None where the truth is not known."""
    floor = run.corpus.floor
    return None if floor is None else floor.validation_nats / len(run.validation.ids)


def summary(run: Run, floor: float | None, seconds: float) -> str:
    """The table at the end."""
    last = run.trainer.evaluations[-1]
    losses = (last.train_loss, last.val_loss)
    rows = [
        ("", "training", "validation"),
        ("loss, nats a token", *(f"{loss:.4f}" for loss in losses)),
        ("perplexity", *(f"{perplexity(loss):,.2f}" for loss in losses)),
    ]
    trainer, peak = run.trainer, peak_memory()
    speed = trainer.tokens / trainer.seconds if trainer.seconds else 0.0
    lines = [
        console.table(rows),
        "",
        f"tokens/s     {speed:,.0f}",
        f"peak memory  {memory.format_bytes(peak) if peak else 'unknown'}",
        f"time         {console.clock(seconds)}, of which {console.clock(trainer.seconds)} in training steps",
    ]
    if floor is not None and trainer.step == run.recipe.steps:  # who presses Ctrl-C does not want to wait for it
        lines += ["", distance_from_floor(run, floor)]
    return "\n".join(lines)


def distance_from_floor(run: Run, floor: float) -> str:
    """The model on the whole validation text against the best that is possible."""
    loss = mean_loss(run.model, run.validation.batches(run.recipe.batch), run.trainer.device)
    assert run.corpus.floor is not None
    entropy = run.corpus.floor.nats_per_character * len(run.corpus.validation) / len(run.validation.ids)
    return (
        f"on the whole validation text the model pays {loss:.4f} nats a token; no model can pay less than {floor:.4f}\n"
        f"(the grammar's entropy: {entropy:.4f}), so it is {loss - floor:.4f} nats a token above the floor"
    )


def open_out(out: Path) -> None:
    """Make the folder, and move an earlier run's files in it out of the way: nothing is lost by running again."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        earlier = [out / name for name in FILES if (out / name).exists()]
        if earlier:
            number = next(n for n in itertools.count(1) if not (out / f"earlier-{n}").exists())
            aside = out / f"earlier-{number}"
            aside.mkdir()
            for path in earlier:
                path.rename(aside / path.name)
        (out / "metrics.jsonl").touch()
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be written ({os_reason(error)}); name another folder") from None
    if earlier:
        print(f"{out} held an earlier run; its files are now in {aside}")


def kept(out: Path) -> str:
    """The files of a run that are there, each of them whole."""
    return ", ".join(name for name in FILES if (out / name).exists())


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    start = time.monotonic()
    show_anything()
    args = parser().parse_args(argv)
    try:
        run = prepare(args)
        open_out(run.out)
    except OSError as error:
        return fail(PROGRAM, os_reason(error))
    except (ValueError, MemoryError, ImportError) as error:
        return fail(PROGRAM, error)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped before training began; nothing was written", file=sys.stderr)
        return 130

    introduce(run)
    floor = floor_per_token(run)
    try:
        with StopOnInterrupt() as stop:
            train(run, stop, args.seed)
            save(run, floor)
            print("\n" + summary(run, floor, time.monotonic() - start))
    except NonFiniteLoss as error:
        return fail(PROGRAM, f"{error}; no model was written, {run.out / 'metrics.jsonl'} has the evaluations before")
    except OSError as error:
        return fail(PROGRAM, f"--out {run.out}: {os_reason(error)}")
    except MemoryError as error:
        return fail(PROGRAM, f"the memory is full at step {run.trainer.step} ({error}); lower --batch or --context")
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped at once; {run.out} keeps {kept(run.out)}", file=sys.stderr)
        return 130
    print(f"\nfiles in {run.out}: {kept(run.out)}")
    if run.trainer.step < run.recipe.steps:
        print(f"stopped by Ctrl-C after step {run.trainer.step} of {run.recipe.steps}; the files above were kept")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
