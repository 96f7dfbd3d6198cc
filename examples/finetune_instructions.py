"""Tune a GPT to follow instructions: entries -> prompts in a style -> batches -> training -> measured answers."""

import argparse
import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_llm as tg
from tinygrad_llm import data, devices, nn, text
from tinygrad_llm.commandline import Parser, add_device_flags, add_dtype_flag, guarded, show_anything, told_by
from tinygrad_llm.data import FORM_FILE, FORMS, Example, ExampleBatches, Form, JudgedExamples, Windows, tasks
from tinygrad_llm.data.instructions import check_entry
from tinygrad_llm.data.padding import LENGTHS
from tinygrad_llm.files import write_atomically
from tinygrad_llm.models import GPTConfig, GPTModel, commandline, save_adapter, save_pretrained
from tinygrad_llm.nn.lora import trainable
from tinygrad_llm.training import PRESETS, Evaluation, Recipe, StopOnInterrupt, Trainer, check_out, console
from tinygrad_llm.training.classifier_plots import plot_curves
from tinygrad_llm.training.cli import (
    RESUMING,
    SHAPE,
    add_graph_flag,
    add_resume_flags,
    check_run_flags,
    check_without,
    warner,
)
from tinygrad_llm.training.configuration import effective_flags
from tinygrad_llm.training.out_folder import BASE
from tinygrad_llm.training.responses import accuracy, respond, samples
from tinygrad_llm.training.session import RUN_FILES, checkpoints_of, exit_code, open_run, origin, run_shown, working_in

PROGRAM = "finetune_instructions.py"
RESPONSES = "responses.json"
FILES = (
    *RUN_FILES, "curves.png", RESPONSES, "model.safetensors", "config.json", "adapter_model.safetensors",
    "adapter_config.json", "tokenizer.json", FORM_FILE,
)  # fmt: skip
STORIES = PRESETS["stories"]
CONTEXT = 128  # tokens of the model that is pre-trained here
CUT_BY = 4000  # entries that its tokenizer learns from, beside the stories
VALIDATION, TEST = 240, 600  # generated tasks
Parts = tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]  # to learn from, to watch, to test
SHARES = (0.85, 0.1, 0.05)  # of a file's entries: to learn from, to test, to watch, as in the book's chapter

DESCRIPTION = """\
Teach a GPT to follow instructions, and measure how often its answers are right.

Without arguments a small GPT first reads short stories and then learns to solve tasks on
their words: to reverse, sort and count them, plurals, the past tense, opposites, sums,
and questions on a story. A program knows each task's one right answer, and the tasks of
the test stand nowhere in training: other words together, or another story."""

EPILOG = f"""\
files, all in the folder --out; those of an earlier run in it move to earlier-1, -2, ...:
  metrics.jsonl                    one record an evaluation; the last one has test_accuracy
                                   and that of each kind of task
  curves.png                       loss and accuracy
  responses.json                   the test's entries, each with the model's response
  model.safetensors, config.json   the model, as transformers reads it, or with --train lora
  adapter_model.safetensors, adapter_config.json   the adapter, as PEFT reads it
  tokenizer.json, chat_template.json   how it reads, and the style in which it is asked
  base/                            without --model: the model before it was tuned, with all
                                   such files of that run
{RESUMING}
examples:
  python examples/finetune_instructions.py
  python examples/finetune_instructions.py --model runs/instructions/base --train lora --out runs/lora
  python examples/finetune_instructions.py --data instruction-data.json --model gpt2
  python examples/finetune_instructions.py --resume
  python examples/chat.py --model runs/instructions --temperature 0
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    page = Parser(prog=PROGRAM, usage="%(prog)s [--data FILE] [--model NAME] [--train all|lora] [--out FOLDER] [flags]",
                  description=DESCRIPTION, epilog=EPILOG)  # fmt: skip
    run = page.add_argument_group("the run")
    run.add_argument("--data", metavar="FILE", help=".json, .jsonl, .csv or .tsv of instruction, input, output [tasks]")
    run.add_argument("--model", metavar="NAME", help="gpt2, gpt2-medium, ... or a folder or file with weights [none]")
    run.add_argument("--train", choices=("all", "lora"), default="all", help="what learns [all]")
    run.add_argument("--style", choices=[*FORMS], help="how the model is asked [phi3, with --data alpaca]")
    run.add_argument("--out", default="runs/instructions", metavar="FOLDER", help="for the files [runs/instructions]")
    add_device_flags(run)
    add_graph_flag(run)
    add_dtype_flag(run)
    add_resume_flags(run)
    how = page.add_argument_group("how it learns, in brackets the values without and with --data")
    how.add_argument("--epochs", type=int, metavar="N", help="times through the entries [4, 2]")
    how.add_argument("--batch", type=int, metavar="N", help="entries a step [32, 8]")
    how.add_argument("--accumulate", type=int, default=1, metavar="N", help="batches whose gradients make a step [1]")
    how.add_argument("--lr", type=float, metavar="X", help="highest learning rate [2e-3, 5e-5; lora 5e-3, 5e-4]")
    how.add_argument("--weight-decay", type=float, default=0.1, metavar="X", help="of the matrices [0.1]")
    how.add_argument("--mask-prompt", action=argparse.BooleanOptionalAction, help="learn the answers alone [yes, no]")
    how.add_argument("--max-length", type=int, metavar="N", help="tokens of an entry, the rest is cut [the model's]")
    how.add_argument("--dropout", type=float, default=0.0, metavar="X", help="share of activations dropped [0]")
    how.add_argument("--rank", type=int, default=6, metavar="N", help="of the adapters of --train lora [6]")
    how.add_argument("--alpha", type=float, metavar="X", help="their product counts alpha / rank [twice the rank]")
    how.add_argument("--seed", type=int, default=123, metavar="N", help="of tasks, weights and order [123]")
    how.add_argument("--evaluations", type=int, default=8, metavar="N", help="with samples of answers, evenly [8]")
    how.add_argument("--answer-tokens", type=int, metavar="N", help="that an answer may have [40, 256]")
    own = page.add_argument_group("without --data, without --model")
    own.add_argument("--tasks", type=int, metavar="N", help="to learn from [36000]")
    own.add_argument("--pretrain-steps", type=int, metavar="N", help="on the stories, before [1200]")
    for name in SHAPE:
        default = getattr(STORIES.recipe, name)
        own.add_argument(f"--{name}", type=int, metavar="N", help=f"of the model [{default}]")
    return page


@dataclass(frozen=True)
class Run:
    """Everything that stands before the first step, but the model where it has to be pre-trained first."""

    tokenizer: text.Tokenizer
    form: Form
    parts: Parts
    end: int  # the id at which an answer ends
    stream: ExampleBatches
    judged: tuple[JudgedExamples, JudgedExamples]  # of the entries to learn from and of those to watch
    recipe: Recipe
    model: GPTModel | None
    corpus: data.Corpus | None  # to pre-train on
    about: dict[str, str]  # what its checkpoints belong to


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before any work is put into it; fill in the defaults that depend on others."""
    check_run_flags(args)
    check_without(args, "model", [*SHAPE, "pretrain_steps"])
    check_without(args, "data", ["tasks"])
    own, lora = args.data is None, args.train == "lora"
    usual = {
        "style": "phi3" if own else "alpaca", "epochs": 4 if own else 2, "batch": 32 if own else 8,
        "lr": (5e-3 if lora else 2e-3) if own else (5e-4 if lora else 5e-5), "mask_prompt": own,
        "answer_tokens": 40 if own else 256, "alpha": 2.0 * args.rank,
        **({"tasks": 36_000} if own else {}),
        **({} if args.model else {"pretrain_steps": 1200, **{name: getattr(STORIES.recipe, name) for name in SHAPE}}),
    }  # fmt: skip
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ("epochs", "batch", "accumulate", "evaluations", "answer_tokens", "tasks", "rank", "pretrain_steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    if args.max_length is not None and args.max_length < 1:
        raise ValueError(f"--max-length {args.max_length}: must be at least 1")
    if not args.alpha > 0:
        raise ValueError(f"--alpha {args.alpha}: must be positive")
    if not args.model:
        reader(args)  # which knows what its flags may be
    check_out(Path(args.out), model=args.model)


def entries_of(args: argparse.Namespace) -> Parts:
    """Entries to learn from, to watch and to test."""
    if args.data is None:
        found = tasks.generate(args.seed, TEST + VALIDATION + args.tasks)
        return found[TEST + VALIDATION :], found[TEST : TEST + VALIDATION], found[:TEST]
    with told_by("--data", args.data):
        found = data.read_records(args.data)
        for place, entry in enumerate(found):
            check_entry(entry, place)
        train, test, validation = data.partition(found, SHARES)
    return train, validation, test


def prepare(args: argparse.Namespace) -> Run:
    """Entries, tokenizer, batches, and the model or the text for it; writes nothing."""
    check(args)
    parts, form = entries_of(args), FORMS[args.style]
    model = corpus = None
    if args.model:
        model, tokenizer = commandline.load_base(args.model, args.dropout)
        config = model.config
    else:
        corpus = data.load("stories")
        asked = "\n\n".join(data.render_entry(entry, form) for entry in parts[0][:CUT_BY])
        tokenizer = text.build(STORIES.tokenizer, corpus.train + asked, STORIES.vocab_size)
        config = GPTConfig(**reader(args).model_config(tokenizer.vocab_size))
    end = tokenizer.special_tokens.get(commandline.END)
    if end is None:
        raise ValueError(f"--model {args.model}: its tokenizer has no {commandline.END}, at which an answer could end")
    length = args.max_length or config.context_length
    if length > config.context_length:
        raise ValueError(f"--max-length {length}: the model reads {config.context_length} tokens at most")
    collate = partial(data.instruction_batch, pad_id=end, allowed_max_length=length, mask_prompt=args.mask_prompt)
    train, watched = (
        examples_of(data.encode_entries(part, tokenizer, form), length, what)
        for part, what in ((parts[0], "training"), (parts[1], "validation"))
    )
    stream = ExampleBatches(train, args.batch, collate, args.seed)
    if devices.device(args.device).type == "cuda":  # so that few shapes come; a run may go on on another device
        stream.collate = partial(collate, multiple=LENGTHS)
    judged = JudgedExamples(train[: len(watched)], collate), JudgedExamples(watched, collate)
    recipe, about = recipe_of(args, config, len(stream)), origin([train, watched], model)
    return Run(tokenizer, form, parts, end, stream, judged, recipe, model, corpus, about)


def examples_of(found: list[Example], length: int, what: str) -> list[Example]:
    """Those whose answer begins within the length; the others are counted.

    Raises: ValueError where none is left.
    """
    fitting = [example for example in found if any(example.answers[:length])]
    if not fitting:
        raise ValueError(f"no {what} entry has its answer within {length} tokens; allow more, or take another model")
    if left := len(found) - len(fitting):
        print(f"left out   {left:,} {what} entries, whose prompts alone have {length} tokens or more")
    return fitting


def recipe_of(args: argparse.Namespace, config: GPTConfig, batches: int) -> Recipe:
    """How the model is tuned, on so many batches an epoch."""
    steps = max(1, args.epochs * batches // args.accumulate)
    return Recipe(
        layers=config.n_layers, heads=config.n_heads, channels=config.emb_dim, context=config.context_length,
        dropout=args.dropout, qkv_bias=config.qkv_bias, tie_weights=config.tie_weights, steps=steps,
        batch=args.batch, accumulate=args.accumulate, lr=args.lr, min_lr=0.0, warmup=min(100, steps // 10), beta2=0.99,
        weight_decay=args.weight_decay, eval_every=-(-steps // args.evaluations), eval_windows=VALIDATION,
        sample_tokens=args.answer_tokens, dtype=args.dtype,
    )  # fmt: skip


def reader(args: argparse.Namespace) -> Recipe:
    """How a model is pre-trained on the stories."""
    steps, shape = args.pretrain_steps, {name: getattr(args, name) for name in SHAPE}
    return STORIES.recipe.replace(
        context=CONTEXT, dropout=args.dropout, steps=steps, eval_every=steps, eval_windows=40, dtype=args.dtype,
        **shape,
    )  # fmt: skip


# --- before: reading stories -----------------------------------------------------------------------------------------


def pretrained(run: Run, args: argparse.Namespace, stop: StopOnInterrupt) -> tuple[GPTModel, Trainer]:
    """A small GPT that has read the stories, and its trainer; it is kept in the folder `base`."""
    assert run.corpus is not None
    size, recipe, out = run.tokenizer.vocab_size, reader(args), Path(args.out, BASE)
    tg.manual_seed(args.seed)
    model = GPTModel(recipe.model_config(size)).to(args.device)
    train, validation = (
        Windows(data.ids_array(run.tokenizer.encode_ordinary(part), size), CONTEXT, stride)
        for part, stride in ((run.corpus.train, 1), (run.corpus.validation, CONTEXT))
    )
    print(f"first      {recipe.steps:,} steps of {recipe.tokens_per_step:,} tokens on stories, into {out}", flush=True)
    rng, graphs = np.random.default_rng(args.seed), {"graph": args.graph, "warn": warner(PROGRAM)}
    trainer = Trainer(model, recipe, train, validation, rng, args.device, **graphs)
    with open_run(PROGRAM, args, checkpoints_of(args, run.about, out), trainer) as folder:
        run_shown(folder, trainer, stop)
    save_pretrained(model, out)
    run.tokenizer.save(out / "tokenizer.json")
    print()
    return model, trainer


# --- tuning ----------------------------------------------------------------------------------------------------------


def tune(run: Run, model: GPTModel, args: argparse.Namespace, stop: StopOnInterrupt) -> Trainer:
    """Learn, show answers and record; then measure on the test's entries and write all files."""
    out = Path(args.out)
    if args.train == "lora":
        tg.manual_seed(args.seed)
        nn.apply_lora(model, rank=args.rank, alpha=args.alpha)
    generator = np.random.default_rng(args.seed)
    graphs = {"graph": args.graph, "warn": warner(PROGRAM)}
    trainer = Trainer(model.to(args.device), run.recipe, *run.judged, generator, args.device, run.stream, **graphs)
    introduce(run, model, args)
    answers = partial(respond, model, run.tokenizer, run.form, tokens=args.answer_tokens, end=run.end)
    watched = run.parts[1][: 60 if args.data is None else 3]
    with open_run(PROGRAM, args, checkpoints_of(args, run.about), trainer) as folder:

        def on_evaluation(shown: console.Progress, evaluation: Evaluation) -> Evaluation:
            with trainer.timed("answers"):
                responses = answers(watched)
            share = accuracy(watched, responses)[0] if args.data is None else None
            first = (evaluation.step // run.recipe.eval_every * 3) % max(1, len(watched) - 2)
            shown.write(samples(watched[first : first + 3], responses[first : first + 3], share))
            return dataclasses.replace(evaluation, val_accuracy=share)

        run_shown(folder, trainer, stop, on_evaluation=on_evaluation)
        test = run.parts[2]
        with trainer.timed("answers"):
            responses = answers(test)
        share, kinds = accuracy(test, responses)
        counts = trainable(model)
        folder.write({
            "step": trainer.step, "tokens": trainer.tokens, "test_accuracy": share, "kinds": kinds, "tested": len(test),
            "trainable": counts.trainable, "parameters": counts.total, "seconds": trainer.spent,
        })  # fmt: skip
    save(run, model, args, out)
    answered = [{**entry, "model_response": given} for entry, given in zip(test, responses, strict=True)]
    write_atomically(out / RESPONSES, (json.dumps(answered, indent=2, ensure_ascii=False) + "\n").encode())
    title = f"{len(test)} entries to test, {share:.1%} answered exactly"
    plot_curves(out / "curves.png", trainer.history, title, "step", "loss (nats a token)")
    if kinds:
        rows = [["task", "right"], *([kind, f"{x:.0%}"] for kind, x in kinds.items())]
        print(f"\n{console.table(rows)}")
    print(f"\ntest accuracy {share:.2%}, exact answers of {len(test)}, in {console.clock(trainer.spent)}")
    print(f"files in {out}: {', '.join(name for name in FILES if (out / name).exists())}")
    return trainer


def introduce(run: Run, model: GPTModel, args: argparse.Namespace) -> None:
    """What is going to happen, in a few lines."""
    recipe, (train, validation, test) = run.recipe, map(len, run.parts)
    alone = ", of the answers alone" if args.mask_prompt else ""
    print(f"entries    {train:,} to learn from, {validation:,} to watch, {test:,} to test, in the style {args.style}")
    print(f"model      {trainable(model)}, {recipe.context} tokens of context")
    print(f"training   {recipe.steps:,} steps of {recipe.batch * recipe.accumulate} entries{alone}, learning rate "
          f"{recipe.lr:g}\n", flush=True)  # fmt: skip


def save(run: Run, model: GPTModel, args: argparse.Namespace, out: Path) -> None:
    """The model or its adapter, and what it takes to ask it."""
    if args.train == "lora":
        base = args.model or BASE
        save_adapter(model, out, base=os.path.abspath(base) if args.model and Path(base).exists() else base)
    else:
        save_pretrained(model, out, layout="huggingface")
    run.tokenizer.save(out / "tokenizer.json")
    data.save_form(run.form, out / FORM_FILE)


def act(argv: list[str] | None) -> int:
    """All that a command line asks for; returns the exit code."""
    args = effective_flags(parser(), argv)
    run = prepare(args)
    with working_in(args, run.about) as stop:
        model, trainer = (run.model, None) if run.model else pretrained(run, args, stop)
        if trainer is None or not stop():
            trainer = tune(run, model, args, stop)
    return exit_code(stop, trainer)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    return guarded(PROGRAM, lambda: act(argv), "stopped at once")


if __name__ == "__main__":
    sys.exit(main())
