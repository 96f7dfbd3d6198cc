"""Pre-train a GPT: text -> tokenizer -> windows -> model -> training loop -> samples -> files."""

import argparse
import dataclasses
import hashlib
import json
import math
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_llm as tg
from tinygrad_llm import data, text
from tinygrad_llm.commandline import show_anything
from tinygrad_llm.data import Corpus, Row, Windows
from tinygrad_llm.data.manifest import MANIFEST
from tinygrad_llm.devices import cuda_problem
from tinygrad_llm.files import write_atomically
from tinygrad_llm.models import GPTModel, generate
from tinygrad_llm.models.checkpoint import save_pretrained
from tinygrad_llm.training import (
    PRESETS,
    BadStep,
    Checkpoints,
    Evaluation,
    Preset,
    Recipe,
    RunFolder,
    StopOnInterrupt,
    Trainer,
    check_out,
    console,
    locked,
    make_out,
    mean_loss,
    memory,
    open_out,
    peak_memory,
    perplexity,
    plot_loss,
    read_steps,
    speed,
)
from tinygrad_llm.training.cli import (
    Parser,
    add_recipe_flags,
    check_same,
    chosen_recipe,
    fail,
    file_flags,
    given_flags,
    os_reason,
)

PROGRAM = "pretrain.py"
Ids = np.ndarray | Row
FILES = (
    "model.safetensors", "config.json", "tokenizer.json", "run.json", "metrics.jsonl", "steps.csv", "loss.png",
    "checkpoints",
)  # fmt: skip
# What a run that goes on may be told anew; everything else decides its numbers.
FREE = (
    "out", "resume", "steps", "eval_every", "patience", "samples", "sample_tokens", "temperature", "prompt", "keep",
    "save_every", "save_minutes",
)  # fmt: skip

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
  run.json                         every flag's value; --config takes it
  metrics.jsonl                    one record per evaluation: step, tokens, train_loss,
                                   val_loss, lr, tokens_per_second, grad_norm
  steps.csv                        one line per step: tokens, loss, lr, grad_norm, seconds
  loss.png                         the curves over the tokens seen
  checkpoints/                     what --resume goes on from

Ctrl-C, or SIGTERM, ends the run after the step at work and keeps the model as it is then.
--resume goes on with the run in --out to the same numbers, to the last bit, as if it had
never stopped, however it ended. Give no flags or the same ones; with other --steps the
learning rate follows the schedule of the new number from then on.

exit codes:
  0 done    2 refused or failed, with one sentence why    130, 143 stopped by Ctrl-C, SIGTERM

examples:
  python examples/pretrain.py
  python examples/pretrain.py --preset shakespeare-char --data tinyshakespeare.txt
  python examples/pretrain.py --data my-notes/ --steps 500 --out runs/notes
  python examples/pretrain.py --preset gpt2-124m --data the-verdict
  python examples/pretrain.py --out runs/notes --resume
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
    run.add_argument("--config", metavar="FILE", help="TOML or JSON file of flags; those given here go before it")
    run.add_argument("--resume", action="store_true", help="go on with the run in --out; starts it if there is none")
    run.add_argument("--save-every", type=int, default=0, metavar="N", help="steps between checkpoints [0]")
    run.add_argument("--save-minutes", type=float, default=5.0, metavar="X", help="minutes between checkpoints [5]")
    run.add_argument("--keep", type=int, default=2, metavar="N", help="newest checkpoints to keep, beside the best [2]")
    add_recipe_flags(page)
    return page


def flags(argv: list[str] | None) -> argparse.Namespace:
    """The value of every flag: as given; else as the file of --config has it, or the run that goes on; else by default.

    Raises: OSError or ValueError for a file that gives none; ValueError for a flag that contradicts the run.
    """
    page = parser()
    given = given_flags(page, argv)
    if "config" in given:
        given = {**file_flags(page, given["config"]), **given}
    defaults = {action.dest: action.default for action in page._actions if action.dest != "help"}
    kept = Path(given.get("out", defaults["out"]) or ".", "run.json")
    before: dict[str, Any] = {}
    if given.get("resume") and kept.is_file():
        before = file_flags(page, kept)
        check_same(before, {k: v for k, v in given.items() if k != "config"}, FREE, kept.parent)
    return argparse.Namespace(**{**defaults, **before, **given})


def configuration(args: argparse.Namespace, recipe: Recipe) -> bytes:
    """Every flag's value but those of one call alone, as JSON."""
    values = {**vars(args), **dataclasses.asdict(recipe), "out": str(args.out)}
    kept = {k: v for k, v in values.items() if k not in ("out", "resume", "config") and v is not None}
    return (json.dumps(kept, indent=2) + "\n").encode()


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
    checkpoints: Checkpoints
    peak: float  # operations a second of this machine's matrix products


def prepare(args: argparse.Namespace) -> Run:
    """Check every wish, then make text, tokenizer, windows and model; writes nothing."""
    preset, recipe = chosen_recipe(args)
    check_machine(args)
    args.data = source(args, preset)
    corpus, tokenizer, *ids = material(args, preset)
    if tokenizer.vocab_size < 2:
        raise ValueError(f"--data: {corpus.name} has one different token only; there is nothing to learn from it")
    train = windows("training", ids[0], recipe.context, 1)
    validation = windows("validation", ids[1], recipe.context, recipe.context)
    config = recipe.model_config(tokenizer.vocab_size)
    memory.check_fits(config, recipe.batch, recipe.checkpoint)
    memory.check_disk(config, args.out, args.keep + 2)
    tg.manual_seed(args.seed)
    model = GPTModel(config, checkpoint=recipe.checkpoint).to(args.device)
    trainer = Trainer(model, recipe, train, validation, np.random.default_rng(args.seed), args.device)
    prompt = first_ids(args.prompt, tokenizer, corpus)
    about = {"text or tokenizer": fingerprint(args.data, ids)}
    checkpoints = Checkpoints(args.out / "checkpoints", args.keep, args.save_every, args.save_minutes, about)
    peak = speed.product_peak(args.device)
    return Run(recipe, corpus, tokenizer, model, trainer, validation, prompt, args.out, checkpoints, peak)


def fingerprint(path: str, ids: list[Ids]) -> str:
    """What tells a text, as this tokenizer cuts it, from every other: the SHA-256 of its ids, or of their checksums."""
    digest = hashlib.sha256()
    for part in ids:
        digest.update(Path(path, MANIFEST).read_bytes() if isinstance(part, Row) else np.ascontiguousarray(part).data)
    return digest.hexdigest()


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
    if args.save_every < 0 or not 0 <= args.save_minutes < math.inf:
        raise ValueError(f"--save-every {args.save_every} and --save-minutes {args.save_minutes:g} must be at least 0")
    if args.data == "" or args.out == "":
        raise ValueError(f"--{'data' if args.data == '' else 'out'} is empty; name a path (. is the current folder)")
    args.out = Path(args.out)
    check_out(args.out, FILES)


def source(args: argparse.Namespace, preset: Preset) -> str:
    """The path or the name of the text."""
    chosen = args.data if args.data is not None else preset.data
    if chosen is None:
        raise ValueError(f"--preset {args.preset} has no text of its own; name one with --data PATH, or --data stories")
    return chosen


def material(args: argparse.Namespace, preset: Preset) -> tuple[Corpus, text.Tokenizer, Ids, Ids]:
    """The text, its tokenizer, and the ids to learn from and to judge by."""
    path = args.data
    if data.is_prepared(path) and not data.corpora.is_name(path):
        if args.vocab_size is not None:
            raise ValueError(f"--vocab-size {args.vocab_size}: the shards in {path} have their tokenizer; leave it out")
        return prepared(path, args.tokenizer)
    args.tokenizer = args.tokenizer or preset.tokenizer
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
    config = recipe.model_config(tokenizer.vocab_size)
    needed = memory.training_bytes(config, recipe.batch, recipe.checkpoint)
    saved = memory.checkpoint_bytes(config)
    least = speed.least_seconds(config, recipe.steps * recipe.tokens_per_step, run.peak)
    print(
        f"needs      about {memory.format_bytes(needed)} of memory, {memory.format_bytes(saved)} a checkpoint, and at "
        f"least {console.clock(least)}: this machine's products make {run.peak / 1e9:,.0f} billion operations a second"
    )
    guess = math.log(tokenizer.vocab_size)
    print(f"an even guess costs ln {tokenizer.vocab_size} = {guess:.4f} nats a token\n", flush=True)


def train(run: Run, stop: StopOnInterrupt, args: argparse.Namespace) -> None:
    """Train, show, record, sample; go on from the newest checkpoint with --resume, and after steps too bad to skip."""
    recipe, trainer = run.recipe, run.trainer
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder(run.checkpoints, trainer, args.resume, warn))
        run.tokenizer.save(run.out / "tokenizer.json")  # only now: a run that may not go on must change nothing
        write_atomically(run.out / "run.json", configuration(args, recipe), durable=True)
        if folder.resumed is not None:
            print(f"going on after step {folder.resumed} of {recipe.steps}\n", flush=True)
        shown = console.progress(recipe.steps, start=trainer.step)
        stack.callback(shown.close)
        operations = speed.operations_per_token(recipe.model_config(run.tokenizer.vocab_size))

        def on_step(trainer: Trainer) -> None:
            step, loss, pace = trainer.step, trainer.last_loss or 0.0, trainer.tokens / trainer.seconds
            lr = trainer.optimizer.param_groups[0]["lr"]
            shown.step(loss, pace, lr, trainer.last_norm, pace * operations / run.peak)
            if step == 1:
                shown.write(f"the first step's loss: {loss:.4f}")
            folder.on_step(trainer)
            if step * recipe.samples // recipe.steps > (step - 1) * recipe.samples // recipe.steps and not stop():
                folder.save(trainer)
                shown.write(console.sample_block(sample(run, args.seed + step), step))

        def on_evaluation(trainer: Trainer, evaluation: Evaluation) -> None:
            folder.on_evaluation(trainer, evaluation)
            shown.evaluation(evaluation)

        def on_skip(trainer: Trainer, error: BadStep) -> None:
            shown.write(f"skipped: {error}")

        while True:
            try:
                trainer.run(on_step, on_evaluation, lambda: stop() or trainer.out_of_patience(), on_skip)
                break
            except BadStep as error:
                shown.write(f"back to the checkpoint after step {folder.rewind(trainer, error)}: {error}")
        folder.save(trainer)


def warn(text: str) -> None:
    """Say what must not be overlooked."""
    print(f"{PROGRAM}: warning: {text}", file=sys.stderr, flush=True)


def sample(run: Run, seed: int) -> str:
    """A text that the model goes on with after the prompt."""
    recipe, generator = run.recipe, tg.Generator().manual_seed(seed)
    ids = tg.tensor([run.prompt]).to(run.trainer.device)  # (1, T)
    ids = generate(
        run.model, ids, recipe.sample_tokens, recipe.context, temperature=recipe.temperature, generator=generator
    )
    return run.tokenizer.decode(ids[0].tolist())


def save(run: Run, floor: float | None) -> None:
    """The model and the picture; each file is written whole or not at all."""
    save_pretrained(run.model, run.out)
    title = f"{run.corpus.name}, {run.tokenizer.name} tokens"
    plot_loss(run.out / "loss.png", run.trainer.evaluations, title, floor, read_steps(run.out / "steps.csv"))


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


def files_to_move(run: Run, args: argparse.Namespace) -> tuple[str, ...]:
    """The names of an earlier run's files: none where it goes on, or was killed before its first checkpoint."""
    goes_on = args.resume and (run.checkpoints.steps() or not (run.out / "model.safetensors").exists())
    return () if goes_on else FILES


def kept(out: Path) -> str:
    """The files of a run that are there, each of them whole."""
    return ", ".join(name for name in FILES if (out / name).exists())


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    start = time.monotonic()
    show_anything()
    with ExitStack() as stack:
        try:
            args = flags(argv)
            run = prepare(args)
            make_out(run.out)
            stack.enter_context(locked(run.out))
            open_out(run.out, files_to_move(run, args))
        except OSError as error:
            return fail(PROGRAM, os_reason(error))
        except (ValueError, MemoryError, ImportError) as error:
            return fail(PROGRAM, error)
        except KeyboardInterrupt:
            print(f"{PROGRAM}: stopped before training began; nothing was written", file=sys.stderr)
            return 130
        return execute(run, args, start)


def execute(run: Run, args: argparse.Namespace, start: float) -> int:
    """The run from its first step to its table; returns the exit code."""
    introduce(run)
    floor = floor_per_token(run)
    try:
        with StopOnInterrupt() as stop:
            train(run, stop, args)
            save(run, floor)
            print("\n" + summary(run, floor, time.monotonic() - start))
    except BadStep as error:
        return fail(PROGRAM, f"{error}; no model was written; {run.out} keeps {kept(run.out)}")
    except ValueError as error:
        return fail(PROGRAM, f"--resume: {error}")
    except OSError as error:
        return fail(PROGRAM, f"--out {run.out}: {os_reason(error)}; once that is mended, --resume goes on")
    except MemoryError as error:
        return fail(PROGRAM, f"the memory is full at step {run.trainer.step} ({error}); lower --batch or --context")
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped at once; {run.out} keeps {kept(run.out)}", file=sys.stderr)
        return 130
    print(f"\nfiles in {run.out}: {kept(run.out)}")
    if stop():
        name = "Ctrl-C" if stop.number == signal.SIGINT else "SIGTERM"
        print(
            f"stopped by {name} after step {run.trainer.step} of {run.recipe.steps}; the files above were kept, and "
            f"--resume goes on"
        )
        return 128 + (stop.number or 0)
    if run.trainer.step < run.recipe.steps:
        print(f"ended after step {run.trainer.step}: no better validation loss in {run.recipe.patience} evaluations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
