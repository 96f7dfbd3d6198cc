"""Tune a GPT to prefer some answers to others (DPO): pairs -> answers -> preferences -> rewards, own answers."""

import argparse
import json
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import tinygrad_llm as tg
from tinygrad_llm import nn, text
from tinygrad_llm.commandline import Parser, add_device_flags, guarded, show_anything, told_by
from tinygrad_llm.data import FORM_FILE, STYLES, Pair, encode_pairs, partition, preferences, read_records, save_form
from tinygrad_llm.data.instructions import Example
from tinygrad_llm.data.preferences import check_pair
from tinygrad_llm.files import write_atomically
from tinygrad_llm.models import GPTModel, Sampling, commandline, generate_batch, save_adapter, save_pretrained
from tinygrad_llm.nn.lora import trainable
from tinygrad_llm.random import Generator
from tinygrad_llm.training import StopOnInterrupt, check_out, console
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
from tinygrad_llm.training.epochs import EpochRecipe, EpochTrainer
from tinygrad_llm.training.out_folder import BASE
from tinygrad_llm.training.preference_plots import plot_preferences
from tinygrad_llm.training.preferences import (
    AnswerTrainer,
    PreferenceRecipe,
    PreferenceTrainer,
    Referred,
    Rewards,
    measure_pairs,
    refer,
)
from tinygrad_llm.training.session import RUN_FILES, checkpoints_of, exit_code, open_run, origin, working_in

PROGRAM = "finetune_preferences.py"
ANSWERS = "answers.json"
FILES = (
    *RUN_FILES, "curves.png", ANSWERS, "model.safetensors", "config.json", "adapter_model.safetensors",
    "adapter_config.json", "tokenizer.json", FORM_FILE, BASE,
)  # fmt: skip
VOCABULARY = 600  # byte pairs of a model that begins with nothing
CONTEXT = 96  # tokens of it
VALIDATION, TEST = 100, 200  # generated pairs
SHARES = (0.85, 0.05, 0.1)  # of a file's pairs: to learn from, to choose by, to test

DESCRIPTION = """\
Teach a GPT which of two answers is preferred, by direct preference optimization.

Without arguments a small GPT first learns from nothing to write short messages, some
polite and some rude, and then, from pairs alone, to be polite. A program can tell which
is which, so the model's own answers to new instructions are counted before and after."""

EPILOG = f"""\
files, all in the folder --out; those of an earlier run in it move to earlier-1, -2, ...:
  metrics.jsonl                    one record an evaluation; the last one has the reward
                                   accuracy and margin on pairs that were never seen
  curves.png                       loss, reward accuracy, and the rewards of both answers
  answers.json                     the test's entries, with the model's own answers
  model.safetensors, config.json   the model, or with --train lora
  adapter_model.safetensors, adapter_config.json   the adapter, as PEFT reads it
  tokenizer.json, chat_template.json   how it reads, and the style in which it is asked
  base/                            where answering is learned first: the model before it
                                   knew preferences, with all such files of that run
{RESUMING}
examples:
  python examples/finetune_preferences.py
  python examples/finetune_preferences.py --train lora --out runs/polite-lora
  python examples/finetune_preferences.py --data pairs.json --model gpt2 --train lora --beta 0.1
  python examples/finetune_preferences.py --resume
  python examples/chat.py --model runs/preferences
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    page = Parser(prog=PROGRAM, usage="%(prog)s [--data FILE] [--model NAME] [--train all|lora] [--out FOLDER] [flags]",
                  description=DESCRIPTION, epilog=EPILOG)  # fmt: skip
    run = page.add_argument_group("the run")
    run.add_argument(
        "--data", metavar="FILE", help=".json or .jsonl of instruction, input, chosen, rejected [generated]"
    )
    run.add_argument("--model", metavar="NAME", help="gpt2, gpt2-medium, ... or a folder or file with weights [none]")
    run.add_argument("--train", choices=("all", "lora"), default="all", help="what learns the preferences [all]")
    run.add_argument("--style", choices=tuple(STYLES), help="of the prompts [phi3, with --data alpaca]")
    run.add_argument("--out", default="runs/preferences", metavar="FOLDER", help="for the files [runs/preferences]")
    add_device_flags(run)
    add_graph_flag(run)
    add_resume_flags(run)
    how = page.add_argument_group("how preferences are learned")
    how.add_argument("--beta", type=float, metavar="X", help="how strongly the model stays as it was [1; --model 0.1]")
    how.add_argument("--epochs", type=int, default=1, metavar="N", help="times through the pairs [1]")
    how.add_argument("--batch", type=int, default=16, metavar="N", help="pairs a step [16]")
    how.add_argument(
        "--lr", type=float, metavar="X", help="highest learning rate [5e-5, lora 3e-4; --model 5e-6, 5e-5]"
    )
    how.add_argument("--weight-decay", type=float, default=0.0, metavar="X", help="of the matrices [0]")
    how.add_argument("--rank", type=int, default=8, metavar="N", help="of the adapters of --train lora [8]")
    how.add_argument("--alpha", type=float, default=16.0, metavar="X", help="their product counts alpha / rank [16]")
    how.add_argument("--seed", type=int, default=123, metavar="N", help="of pairs, weights, order and answers [123]")
    first = page.add_argument_group("answering, which is learned first")
    first.add_argument(
        "--answers", choices=("both", "chosen", "none"), help="from which [both; --data chosen; --model none]"
    )
    first.add_argument("--answer-epochs", type=int, default=4, metavar="N", help="times through them [4]")
    first.add_argument("--answer-lr", type=float, metavar="X", help="highest learning rate [3e-3, --model 5e-5]")
    own = page.add_argument_group("without --data")
    own.add_argument("--pairs", type=int, metavar="N", help="to learn from [2000]")
    size = page.add_argument_group("the model without --model")
    size.add_argument("--layers", type=int, metavar="N", help="transformer blocks [2]")
    size.add_argument("--heads", type=int, metavar="N", help="attention heads [4]")
    size.add_argument("--channels", type=int, metavar="N", help="width of the residual stream [96]")
    return page


@dataclass(frozen=True)
class Run:
    """Everything that stands before the first step."""

    model: GPTModel
    tokenizer: text.Tokenizer
    entries: tuple[list[dict[str, Any]], ...]  # to learn from, to choose by, to test
    pairs: tuple[list[Pair], ...]  # the same as ids
    end: int  # the id at which an answer ends
    about: dict[str, str]  # what its checkpoints belong to


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before any work is put into it; fill in the defaults that depend on others."""
    check_run_flags(args)
    check_without(args, "model", SHAPE)
    check_without(args, "data", ["pairs"])
    fresh, lora = args.model is None, args.train == "lora"
    usual = {
        "style": "phi3" if args.data is None else "alpaca", "beta": 1.0 if fresh else 0.1,
        "lr": (3e-4 if lora else 5e-5) if fresh else (5e-5 if lora else 5e-6), "answer_lr": 3e-3 if fresh else 5e-5,
        "answers": "none" if not fresh else "both" if args.data is None else "chosen",
        **({"layers": 2, "heads": 4, "channels": 96} if fresh else {}), **({} if args.data else {"pairs": 2000}),
    }  # fmt: skip
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ("pairs", "rank"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)}: must be at least 1")
    if fresh and args.answers == "none":
        raise ValueError("--answers none: without --model nothing has been learned yet that answers")
    check_out(Path(args.out), model=args.model)


def recipe_of(args: argparse.Namespace) -> PreferenceRecipe:
    """The flags that are a recipe's."""
    given = {f.name: getattr(args, f.name) for f in fields(PreferenceRecipe) if hasattr(args, f.name)}
    return PreferenceRecipe(**given)


def entries_of(args: argparse.Namespace) -> tuple[list[dict[str, Any]], ...]:
    """Entries to learn from, to choose by and to test."""
    if args.data is None:
        found = preferences.generate(args.seed, TEST + VALIDATION + args.pairs)
        return found[TEST + VALIDATION :], found[TEST : TEST + VALIDATION], found[:TEST]
    with told_by("--data", args.data):
        found = read_records(args.data)
        for place, entry in enumerate(found):
            check_pair(entry, place)
        return tuple(partition(found, SHARES))


def prepare(args: argparse.Namespace) -> Run:
    """Entries, tokenizer and model; writes nothing."""
    check(args)
    recipe_of(args)
    answer_recipe(args)
    entries = entries_of(args)
    style = STYLES[args.style]
    tg.manual_seed(args.seed)
    if args.model:
        model, tokenizer = commandline.load_base(args.model, 0.0)
    else:
        texts = ["".join(style({**e, "output": e[key]})) for e in entries[0] for key in ("chosen", "rejected")]
        tokenizer = text.BPETokenizer.train(texts, VOCABULARY)
        longest = max(len(tokenizer.encode_ordinary(t)) for t in texts)
        model = GPTModel({
            "vocab_size": tokenizer.vocab_size, "context_length": max(CONTEXT, min(longest + 1, 1024)),
            "emb_dim": args.channels, "n_heads": args.heads, "n_layers": args.layers, "drop_rate": 0.0,
            "qkv_bias": True, "tie_weights": True,
        })  # fmt: skip
    if (end := tokenizer.special_tokens.get(commandline.END)) is None:
        raise ValueError(f"--model {args.model}: its tokenizer has no {commandline.END}, at which an answer could end")
    fitting = [fitted(part, tokenizer, args, model.config.context_length) for part in entries]
    kept, pairs = zip(*fitting, strict=True)
    return Run(model.to(args.device), tokenizer, kept, pairs, end, origin(pairs, model))


def fitted(
    entries: list[dict[str, Any]], tokenizer: text.Tokenizer, args: argparse.Namespace, context: int
) -> tuple[list[dict[str, Any]], list[Pair]]:
    """The entries and pairs that fit the context with the end after them; the others are counted and left out."""
    pairs = encode_pairs(entries, tokenizer, STYLES[args.style])
    fits = [i for i, pair in enumerate(pairs) if max(len(example.ids) for example in pair) <= context]
    if not fits:
        raise ValueError(f"none of {len(pairs)} pairs fits the context of {context} tokens; give shorter ones")
    if left := len(pairs) - len(fits):
        print(f"left out   {left:,} of {len(pairs):,} pairs, longer than the context of {context} tokens")
    return [entries[i] for i in fits], [pairs[i] for i in fits]


def answer_recipe(args: argparse.Namespace) -> EpochRecipe:
    """How answering is learned, before preferences."""
    if args.answer_epochs < 1 or not args.answer_lr > 0:
        raise ValueError(
            f"--answer-epochs {args.answer_epochs} must be at least 1, --answer-lr {args.answer_lr} above 0"
        )
    return EpochRecipe(epochs=args.answer_epochs, batch=16, lr=args.answer_lr, seed=args.seed)


def learn_to_answer(run: Run, args: argparse.Namespace, stop: StopOnInterrupt) -> AnswerTrainer:
    """The next token's loss on the chosen answers, or on both of each pair, as if people had written either."""
    train, validation = (
        [p.chosen for p in part] + ([p.rejected for p in part] if args.answers == "both" else [])
        for part in run.pairs[:2]
    )
    out, graphs = Path(args.out, BASE), {"graph": args.graph, "warn": warner(PROGRAM)}
    trainer = AnswerTrainer(run.model, answer_recipe(args), train, validation, run.end, **graphs)
    print(f"first      {len(train):,} answers, {args.answer_epochs} times: what an answer looks like", flush=True)
    with open_run(PROGRAM, args, checkpoints_of(args, run.about, out), trainer) as folder:

        def on_record(trainer: EpochTrainer[Example], record: dict[str, Any]) -> None:
            folder.on_evaluation(trainer, record)
            print(f"epoch {record['epoch']:>3}/{args.answer_epochs}   validation {record['val_loss']:.4f}", flush=True)

        trainer.run(folder.on_step, on_record, stop)
        folder.save(trainer)
    trainer.finish()
    save_model(run, out)
    print()
    return trainer


def own_answers(run: Run, args: argparse.Namespace) -> list[str]:
    """What the model itself answers to the test's instructions, drawn as it thinks (temperature 1), by one seed."""
    style, draws = STYLES[args.style], Generator()
    draws.manual_seed(args.seed)
    prompts = [run.tokenizer.encode_ordinary(style({**e, "output": e["chosen"]}).prompt) for e in run.entries[2]]
    longest = max(len(p.chosen.ids) for p in run.pairs[2])
    answers = []
    for start in range(0, len(prompts), 50):
        part = prompts[start : start + 50]
        rows = generate_batch(run.model, part, longest, eos_id=run.end, sampling=Sampling(1.0), generator=draws)
        written = [row[len(prompt) :] for row, prompt in zip(rows, part, strict=True)]
        answers += [run.tokenizer.decode(ids[:-1] if ids[-1:] == [run.end] else ids).strip() for ids in written]
    return answers


def tune(run: Run, args: argparse.Namespace, stop: StopOnInterrupt) -> PreferenceTrainer:
    """Learn preferences; measure before and after, and write all files."""
    out, test = Path(args.out), run.entries[2]
    if args.train == "lora":
        nn.apply_lora(run.model, rank=args.rank, alpha=args.alpha)
    print(f"model      {trainable(run.model)}", flush=True)
    before = own_answers(run, args)
    referred = refer(run.model, run.pairs[2], run.end)
    graphs = {"graph": args.graph, "warn": warner(PROGRAM)}
    trainer = PreferenceTrainer(run.model, recipe_of(args), run.pairs[0], run.pairs[1], run.end, **graphs)
    with open_run(PROGRAM, args, checkpoints_of(args, run.about), trainer) as folder:

        def on_record(trainer: EpochTrainer[Referred], record: dict[str, Any]) -> None:
            folder.on_evaluation(trainer, record)
            print(f"step {record['step']:>5}   loss {record['val_loss']:.4f}   right order "
                  f"{record['val_accuracy']:6.1%}   margin {record['val_margin']:6.3f}   chosen "
                  f"{record['val_chosen']:6.3f}   rejected {record['val_rejected']:7.3f}", flush=True)  # fmt: skip

        trainer.run(folder.on_step, on_record, stop)
        folder.save(trainer)
        trainer.finish()
        with trainer.timed("test"):
            after, found = own_answers(run, args), measure_pairs(run.model, referred, run.end, args.beta)
        last = summary(run, args, found, before, after)
        folder.write({"step": trainer.step, **last, "seconds": trainer.spent})
    save(run, args, out)
    kept = [{**e, "before": b, "after": a} for e, b, a in zip(test, before, after, strict=True)]
    write_atomically(out / ANSWERS, (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode())
    title = f"{len(test)} pairs to test, {found.accuracy:.1%} in the right order"
    plot_preferences(out / "curves.png", trainer.history, title)
    show(run, last, kept)
    print(f"\nreward accuracy {found.accuracy:.2%}, margin {found.margin:.3f} on {len(test)} unseen pairs, in "
          f"{console.clock(trainer.spent)}")  # fmt: skip
    print(f"files in {out}: {', '.join(name for name in FILES if (out / name).exists())}")
    return trainer


def summary(run: Run, args: argparse.Namespace, found: Rewards, before: list[str], after: list[str]) -> dict[str, Any]:
    """The numbers of the test."""
    own: dict[str, Any] = {}
    if args.data is None:
        said = {"own_before": before, "own_after": after}
        own = {name: preferences.obeyed(run.entries[2], answers) for name, answers in said.items()}
    counts = trainable(run.model)
    return {
        "test_loss": found.loss, "test_accuracy": found.accuracy, "test_margin": found.margin, "tested": len(after),
        "trainable": counts.trainable, "parameters": counts.total, **own,
    }  # fmt: skip


def show(run: Run, last: dict[str, Any], kept: list[dict[str, Any]]) -> None:
    """Some own answers, and how many are as preferred."""
    for entry in kept[:3]:
        asked = " ".join(filter(None, (entry["instruction"], entry.get("input", ""))))
        print(f"\nasked      {asked}\nbefore     {entry['before']!r}\nafter      {entry['after']!r}")
    if "own_before" in last:
        rows = [["own answers", "polite", "say all", "both"]]
        rows += [[when, *(f"{share:.1%}" for share in last[f"own_{when}"].values())] for when in ("before", "after")]
        print(f"\n{console.table(rows)}")


def save_model(run: Run, folder: Path) -> None:
    """The model and its tokenizer."""
    save_pretrained(run.model, folder)
    run.tokenizer.save(folder / "tokenizer.json")


def save(run: Run, args: argparse.Namespace, out: Path) -> None:
    """The model with the lowest loss on the validation pairs, or its adapter."""
    if args.train == "lora":
        base = args.model if args.answers == "none" else BASE
        save_adapter(run.model, out, base=os.path.abspath(base) if base != BASE and Path(base).exists() else base)
        run.tokenizer.save(out / "tokenizer.json")
    else:
        save_model(run, out)
    save_form(STYLES[args.style], out / FORM_FILE)


def act(argv: list[str] | None) -> int:
    """All that a command line asks for; returns the exit code."""
    args = effective_flags(parser(), argv)
    run = prepare(args)
    with working_in(args, run.about) as stop:
        sizes = [len(part) for part in run.pairs]
        print(f"pairs      {sizes[0]:,} to learn from, {sizes[1]:,} to choose by, {sizes[2]:,} to test")
        first = None if args.answers == "none" else learn_to_answer(run, args, stop)
        last = first if first and stop() else tune(run, args, stop)
    return exit_code(stop, last)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    return guarded(PROGRAM, lambda: act(argv), "stopped at once")


if __name__ == "__main__":
    sys.exit(main())
