"""Fine-tune a GPT to classify: labelled texts -> balanced parts -> a new head -> training -> measures."""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tinygrad_llm as tg
from tinygrad_llm import nn, text
from tinygrad_llm.commandline import (
    Parser,
    add_device_flags,
    add_dtype_flag,
    guarded,
    os_reason,
    show_anything,
    told_by,
    use_device,
)
from tinygrad_llm.data import Labelled, messages
from tinygrad_llm.files import write_atomically
from tinygrad_llm.models import GPTModel, commandline, load_adapter, save_adapter, save_pretrained
from tinygrad_llm.models.adapters import base_of, is_adapter
from tinygrad_llm.nn.lora import BLOCK_LAYERS, trainable
from tinygrad_llm.training import Checkpoints, StopOnInterrupt, console
from tinygrad_llm.training.classifier import (
    ClassifierRecipe,
    ClassifierTrainer,
    Row,
    encode,
    language_head_of,
    measure,
    probabilities,
)
from tinygrad_llm.training.classifier_plots import plot_confusion, plot_curves
from tinygrad_llm.training.cli import (
    RESUMING,
    SHAPE,
    add_graph_flag,
    add_resume_flags,
    check_run_flags,
    check_without,
    warner,
)
from tinygrad_llm.training.configuration import effective_flags, program_of
from tinygrad_llm.training.epochs import EpochTrainer
from tinygrad_llm.training.out_folder import check_out
from tinygrad_llm.training.session import RUN_FILES, checkpoints_of, exit_code, open_run, origin, working_in

PROGRAM = "finetune_classifier.py"
DESCRIBED = "classifier.json"
FILES = (
    *RUN_FILES, "curves.png", "confusion.png", "model.safetensors", "config.json", "adapter_model.safetensors",
    "adapter_config.json", "tokenizer.json", DESCRIBED,
)  # fmt: skip
TRAIN = ("head", "last", "all", "lora")
FROZEN = ("float32", "int8")
VOCABULARY = 1000  # byte pairs of a model that begins with nothing

DESCRIPTION = """\
Teach a GPT to tell classes of texts apart, and measure how well it does.

Without arguments a small GPT learns from nothing to tell spam from ham, in messages that
are generated here. With --model it begins with weights that were trained before."""

EPILOG = f"""\
what learns (--train):
  head    the new head alone
  last    head, last block and final norm, as in the book's chapter
  all     everything
  lora    head and adapters beside all products of the blocks
With --frozen int8 the rest of the weights takes 27 % of its memory, rounded a little.

files, all in the folder --out; those of an earlier run in it move to earlier-1, -2, ...:
  metrics.jsonl                    one record an epoch; the last one has test_accuracy,
                                   precision, recall and F1 of each class
  curves.png, confusion.png        loss and accuracy; which class was taken for which
  model.safetensors, config.json   the model, as transformers reads it, or with --train lora
  adapter_model.safetensors, adapter_config.json   the adapter, as PEFT reads it
  tokenizer.json, classifier.json  what --predict needs besides
{RESUMING}
examples:
  python examples/finetune_classifier.py
  python examples/finetune_classifier.py --data SMSSpamCollection
  python examples/finetune_classifier.py --data reviews.csv --text review --label stars
  python examples/finetune_classifier.py --data SMSSpamCollection --model gpt2 --train lora
  python examples/finetune_classifier.py --model gpt2-medium --train lora --frozen int8
  python examples/finetune_classifier.py --resume
  python examples/finetune_classifier.py --predict "You won a prize, call now"
  cat messages.txt | python examples/finetune_classifier.py --predict -
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    page = Parser(prog=PROGRAM, usage="%(prog)s [--data FILE] [--model NAME] [--out FOLDER] [flags]",
                  description=DESCRIPTION, epilog=EPILOG)  # fmt: skip
    run = page.add_argument_group("the run")
    run.add_argument("--data", metavar="FILE", help=".csv, .tsv, .json, .jsonl, or lines of label TAB text [generated]")
    run.add_argument("--text", default="text", metavar="NAME", help="column of the texts [text]")
    run.add_argument("--label", default="label", metavar="NAME", help="column of the classes [label]")
    run.add_argument("--model", metavar="NAME", help="gpt2, gpt2-medium, ... or a folder or file with weights [none]")
    run.add_argument("--train", choices=TRAIN, help="what learns [all, with --model last]")
    run.add_argument("--out", default="runs/classifier", metavar="FOLDER", help="for the files [runs/classifier]")
    run.add_argument("--predict", metavar="TEXT", help="classify a text, each line of a file, or of standard input (-)")
    add_device_flags(run)
    add_graph_flag(run)
    add_dtype_flag(run)
    add_resume_flags(run)
    how = page.add_argument_group("how it learns, in brackets the values without and with --model")
    how.add_argument("--epochs", type=int, metavar="N", help="times through the texts [10, 5]")
    how.add_argument("--batch", type=int, default=8, metavar="N", help="texts a step [8]")
    how.add_argument("--lr", type=float, metavar="X", help="highest learning rate [2e-3, 5e-5; lora 5e-4]")
    how.add_argument("--weight-decay", type=float, default=0.1, metavar="X", help="of the matrices [0.1]")
    how.add_argument("--drop-tokens", type=float, metavar="X", help="share of tokens hidden in training [0.1, 0]")
    how.add_argument("--language", type=float, metavar="X", help="weight of the next token's loss beside [0.5, 0]")
    how.add_argument("--rank", type=int, default=16, metavar="N", help="of the adapters of --train lora [16]")
    how.add_argument("--alpha", type=float, default=16.0, metavar="X", help="their product counts alpha / rank [16]")
    how.add_argument(
        "--frozen", choices=FROZEN, default="float32", help="how weights that do not learn are kept in memory [float32]"
    )
    how.add_argument("--seed", type=int, default=123, metavar="N", help="of parts, weights, order and dropout [123]")
    size = page.add_argument_group("the model without --model")
    size.add_argument("--layers", type=int, metavar="N", help="transformer blocks [2]")
    size.add_argument("--heads", type=int, metavar="N", help="attention heads [4]")
    size.add_argument("--channels", type=int, metavar="N", help="width of the residual stream [96]")
    size.add_argument("--dropout", type=float, metavar="X", help="share of activations dropped [0.2, 0]")
    size.add_argument("--context", type=int, metavar="N", help="tokens of a text that are read [the longest's, to 256]")
    return page


@dataclass(frozen=True)
class Run:
    """Everything that stands before the first step."""

    model: GPTModel
    tokenizer: text.Tokenizer
    trainer: ClassifierTrainer
    checkpoints: Checkpoints
    test: list[Row]
    classes: tuple[str, ...]
    context: int
    counts: str


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be, before any work is put into it; fill in the defaults that depend on others."""
    check_run_flags(args)
    if args.train is None:
        args.train = "last" if args.model else "all"
    if args.train != "all" and not args.model:
        raise ValueError(f"--train {args.train}: without --model nothing has been learned yet that could stay as it is")
    if args.frozen == "int8" and args.train == "all":
        raise ValueError("--frozen int8: nothing is frozen with --train all")
    check_without(args, "model", SHAPE)
    if args.context is not None and args.context < 1:
        raise ValueError(f"--context {args.context}: must be at least 1")
    fresh = args.model is None
    usual = {
        "epochs": 10 if fresh else 5, "lr": 2e-3 if fresh else 5e-4 if args.train == "lora" else 5e-5,
        "drop_tokens": 0.1 if fresh else 0.0, "language": 0.5 if fresh else 0.0, "dropout": 0.2 if fresh else 0.0,
        **({"layers": 2, "heads": 4, "channels": 96} if fresh else {}),
    }  # fmt: skip
    for name, value in usual.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.language and args.train != "all":
        raise ValueError(f"--language {args.language}: only with --train all, where the token embedding learns too")
    check_out(Path(args.out), model=args.model)


def recipe_of(args: argparse.Namespace) -> ClassifierRecipe:
    """The flags that are a recipe's."""
    names = ("epochs", "batch", "lr", "weight_decay", "drop_tokens", "language", "seed", "dtype")
    return ClassifierRecipe(**{name: getattr(args, name) for name in names})


def labelled(args: argparse.Namespace) -> Labelled:
    """The texts with their classes."""
    if args.data is None:
        return Labelled.from_records(messages.generate(args.seed, 1500))
    with told_by("--data", args.data, {"text= and label=": "--text and --label"}):
        return Labelled.from_file(args.data, args.text, args.label)


def split(found: Labelled, args: argparse.Namespace) -> list[Labelled]:
    """As many texts of each class, in three parts."""
    counts = found.counts()
    rarest = min(counts, key=lambda name: counts[name])
    try:
        return found.balanced(args.seed).split(seed=args.seed)
    except ValueError as error:
        raise ValueError(
            f"--data {args.data}: of each class as many texts are taken as the rarest has, {counts[rarest]} of "
            f"{rarest!r:.40}; {str(error).removeprefix('partition: ')}, or leave that class out"
        ) from None


def prepare(args: argparse.Namespace) -> Run:
    """Texts, tokenizer, model and trainer; writes nothing."""
    check(args)
    recipe = recipe_of(args)
    found = labelled(args)
    parts = split(found, args)
    tg.manual_seed(args.seed)
    tokenizer = tokenizer_for(args, parts[0].texts)
    longest = max(len(tokenizer.encode_ordinary(t)) for t in parts[0].texts)
    if args.model:
        model = commandline.read_model(args.model, drop_rate=args.dropout)
        most = model.config.context_length
        if args.context is not None and args.context > most:
            raise ValueError(f"--context {args.context}: --model {args.model} reads {most} tokens at most")
        context = args.context or min(longest, most)
        commandline.check_tokenizer(args.model, model, tokenizer)
    else:
        context = args.context or min(longest, 256)
        model = GPTModel({
            "vocab_size": tokenizer.vocab_size, "context_length": context, "emb_dim": args.channels,
            "n_heads": args.heads, "n_layers": args.layers, "drop_rate": args.dropout, "qkv_bias": True,
            "tie_weights": True,
        })  # fmt: skip
    counts = choose_what_learns(model, args, len(found.classes))
    model.to(args.device)
    rows = [encode(part, tokenizer, context) for part in parts]
    checkpoints = checkpoints_of(args, origin(rows, model))
    head = language_head_of(model) if args.language else None
    about = model, recipe, rows[0], rows[1], len(found.classes), head
    trainer = ClassifierTrainer(*about, graph=args.graph, warn=warner(PROGRAM))
    return Run(model, tokenizer, trainer, checkpoints, rows[2], found.classes, context, counts)


def tokenizer_for(args: argparse.Namespace, texts: list[str]) -> text.Tokenizer:
    """That of the model, or one learned from the training texts."""
    if args.model is None:
        return text.BPETokenizer.train(texts, VOCABULARY)
    return commandline.tokenizer_of(args.model)


def choose_what_learns(model: GPTModel, args: argparse.Namespace, classes: int) -> str:
    """Put the new head in and freeze the rest of the model; says how much learns."""
    model.replace_head(classes, bias=False)
    if args.train == "lora":
        nn.apply_lora(model, rank=args.rank, alpha=args.alpha, targets=BLOCK_LAYERS, train=("out_head",))
        return learning_and_packed(model, args)
    model.requires_grad_(args.train == "all")
    learning: list[nn.Module] = [model.out_head]
    if args.train == "last":
        learning += [model.trf_blocks[-1], model.final_norm]
    for module in learning:
        module.requires_grad_(True)
    return learning_and_packed(model, args)


def learning_and_packed(model: GPTModel, args: argparse.Namespace) -> str:
    """Pack what rests if so asked; says how much learns and what packing saved."""
    packed = f", {nn.quantize_frozen(model)}" if args.frozen == "int8" else ""
    return f"{trainable(model)}{packed}"


def train(run: Run, args: argparse.Namespace, stop: StopOnInterrupt) -> None:
    """Learn, show and record; then measure on the test texts and write all files."""
    out, trainer = Path(args.out), run.trainer
    print(f"texts      {len(trainer.train):,} to learn from, {len(trainer.validation):,} to choose by, "
          f"{len(run.test):,} to test; classes {', '.join(run.classes)}")  # fmt: skip
    print(f"model      {run.counts}, {run.context} tokens of a text, {run.tokenizer.vocab_size:,} different ones")
    with open_run(PROGRAM, args, run.checkpoints, trainer) as folder:

        def on_epoch(trainer: EpochTrainer[Row], record: dict[str, Any]) -> None:
            folder.on_evaluation(trainer, record)
            print(
                f"epoch {record['epoch']:>3}/{args.epochs}   training {record['train_loss']:.4f} "
                f"{record['train_accuracy']:6.1%}   validation {record['val_loss']:.4f} {record['val_accuracy']:6.1%}",
                flush=True,
            )

        trainer.run(folder.on_step, on_epoch, stop)
        folder.save(trainer)
        trainer.finish()
        with trainer.timed("test"), trainer.precision.region():
            test = measure(run.model, run.test, len(run.classes), device=args.device)
        per_class = test.per_class(run.classes)
        folder.write({
            "step": trainer.step, "test_loss": test.loss, "test_accuracy": test.accuracy, "classes": per_class,
            "confusion": test.confusion.tolist(), "seconds": trainer.spent,
        })  # fmt: skip
    save(run, args, out)
    plot_curves(out / "curves.png", trainer.history, "loss and accuracy over the epochs")
    plot_confusion(out / "confusion.png", test.confusion, run.classes, f"{len(run.test)} test texts, "
                   f"{test.accuracy:.1%} right")  # fmt: skip
    rows = [["class", "precision", "recall", "F1"]]
    rows += [[name, *(f"{values[k]:.1%}" for k in ("precision", "recall", "f1"))] for name, values in per_class.items()]
    print(f"\n{console.table(rows)}\n\ntest accuracy {test.accuracy:.2%} in {console.clock(trainer.spent)}")
    print(f"files in {out}: {', '.join(name for name in FILES if (out / name).exists())}")


def save(run: Run, args: argparse.Namespace, out: Path) -> None:
    """The model of the best epoch, or its adapter, and what predicting needs besides."""
    if args.train == "lora":
        save_adapter(run.model, out, base=os.path.abspath(args.model) if Path(args.model).exists() else args.model)
    else:
        nn.unpack_frozen(run.model)  # written as they counted in training
        save_pretrained(run.model, out, layout="huggingface", classes=run.classes)
    run.tokenizer.save(out / "tokenizer.json")
    values = {"classes": list(run.classes), "context": run.context, "frozen": args.frozen}
    write_atomically(out / DESCRIBED, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def predict(args: argparse.Namespace) -> None:
    """Print the class and all probabilities of a text, or of each line that is not empty."""
    use_device(args)
    out = Path(args.out)
    try:
        values = json.loads((out / DESCRIBED).read_text("utf-8"))
        classes, context = values["classes"], values["context"]
    except FileNotFoundError:
        held = f", but a run of {program}" if (program := program_of(out)) else ""
        raise ValueError(f"--out {out}: has no {DESCRIBED}{held}; train a classifier there first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out / DESCRIBED}: damaged ({error})") from None
    model = commandline.read_model(base_of(out) if is_adapter(out) else out)
    if is_adapter(out):
        load_adapter(model, out)
        if values.get("frozen") == "int8":  # as it was measured
            nn.quantize_frozen(model)
    if len(classes) != (outputs := len(model.out_head.weight)):
        raise ValueError(f"--out {out}: {DESCRIBED} has {len(classes)} classes, the model beside it {outputs}")
    tokenizer = text.load(out / "tokenizer.json")
    texts = texts_to_predict(args.predict)
    ids = [tokenizer.encode_ordinary(t)[:context] for t in texts]
    for line, row in zip(texts, probabilities(model.to(args.device), ids, args.device), strict=True):
        shares = "  ".join(f"{name} {p:.3f}" for name, p in zip(classes, row, strict=True))
        print(f"{classes[row.argmax()]}\t{shares}\t{line}")


def texts_to_predict(given: str) -> list[str]:
    """The text itself, or the lines of a file or of standard input."""
    try:
        if given == "-":
            found = sys.stdin.read().splitlines()
        elif Path(given).is_file():
            found = Path(given).read_text("utf-8").splitlines()
        else:
            found = [given]
    except UnicodeDecodeError as error:
        raise ValueError(f"--predict {given}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:  # a text may be too long for a name
        if Path(given[:50]).exists():
            raise ValueError(f"--predict: {os_reason(error)}") from None
        found = [given]
    texts = [line for line in found if line.strip()]
    if not texts:
        raise ValueError("--predict: the text is empty; give at least a word")
    return texts


def act(argv: list[str] | None) -> int:
    """All that a command line asks for; returns the exit code."""
    args = effective_flags(parser(), argv)
    if args.predict is not None:
        predict(args)
        return 0
    run = prepare(args)
    with working_in(args, run.checkpoints.about) as stop:
        train(run, args, stop)
    return exit_code(stop, run.trainer)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    return guarded(PROGRAM, lambda: act(argv), "stopped at once")


if __name__ == "__main__":
    sys.exit(main())
