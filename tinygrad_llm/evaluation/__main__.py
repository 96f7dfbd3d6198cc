"""Measure a model: the loss of texts, multiple choice, exact match, a judge's scores, published benchmarks."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinygrad_llm import text
from tinygrad_llm.commandline import Parser, guarded, show_anything
from tinygrad_llm.data import read_records
from tinygrad_llm.devices import cuda_problem
from tinygrad_llm.evaluation.choices import NORMS, Question, accuracy, answer_questions
from tinygrad_llm.evaluation.judge import PATHS, PROMPT, Judge, Judged, judge_all, prompt_for
from tinygrad_llm.evaluation.matching import Normalization, matches
from tinygrad_llm.evaluation.text_loss import TextLoss, text_loss
from tinygrad_llm.files import write_atomically
from tinygrad_llm.models import GPTModel, commandline
from tinygrad_llm.training import console

PROGRAM = "python -m tinygrad_llm.evaluation"

EPILOG = f"""\
exit codes:
  0 done    2 refused or failed, with one sentence why    130 stopped by Ctrl-C

examples:
  {PROGRAM} perplexity --model runs/pretrain book.txt --stride 16
  {PROGRAM} choices --model runs/pretrain questions.jsonl --json report.json
  {PROGRAM} match responses.json --ignore-case
  {PROGRAM} judge responses.json --address http://localhost:11434 --api ollama --judge llama3
  {PROGRAM} harness --model gpt2 --tasks hellaswag,arc_easy --limit 100
"""


def parser() -> Parser:
    """The command line."""
    page = Parser(prog=PROGRAM, description=__doc__, epilog=EPILOG)
    commands = page.add_subparsers(dest="command", metavar="COMMAND", required=True)

    losses = commands.add_parser("perplexity", help="what texts cost a model", description=perplexity.__doc__)
    losses.add_argument("file", nargs="+", metavar="FILE", help="text in UTF-8")
    _model_flags(losses)
    losses.add_argument("--context", type=int, metavar="N", help="tokens of a window [the model's]")
    losses.add_argument("--stride", type=int, metavar="N", help="by which the window moves [half the context]")

    several = commands.add_parser("choices", help="questions with answers to choose", description=choices.__doc__)
    several.add_argument("file", metavar="FILE", help=".json or .jsonl; answers are numbers from 0 or texts")
    _model_flags(several)
    _key_flags(several, context="before the choices", choices="list of texts", answer="the right one")
    several.add_argument("--delimiter", default=" ", metavar="TEXT", help="between context and choice [a space]")

    match = commands.add_parser("match", help="responses that are as expected", description=match_responses.__doc__)
    match.add_argument("file", metavar="FILE", help=".json, .jsonl, .csv or .tsv of responses")
    _key_flags(match, response="what the model wrote", expected="what is right: a text or a list of them")
    match.add_argument("--ignore-case", action="store_true", help="a capital is a small letter")
    match.add_argument("--ignore-punctuation", action="store_true", help="punctuation and symbols do not count")

    judge = commands.add_parser("judge", help="responses scored by a model", description=judge_responses.__doc__)
    judge.add_argument("file", metavar="FILE", help=".json, .jsonl, .csv or .tsv of responses")
    judge.add_argument("--address", required=True, metavar="URL", help="of the judge, as http://localhost:11434")
    judge.add_argument("--judge", required=True, metavar="NAME", help="the model that is asked there")
    judge.add_argument("--api", choices=tuple(PATHS), default="openai", help="what the address speaks [openai]")
    _key_flags(judge, instruction="the task", input="added to it, if there", response="to be scored", expected="right")
    judge.add_argument("--prompt", metavar="FILE", help="with {instruction}, {expected} and {response} [our own]")
    judge.add_argument("--scores", metavar="FILE", help="JSON lines of all that was said [FILE-judged.jsonl]")
    judge.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds for an answer [120]")
    judge.add_argument("--retries", type=int, default=3, metavar="N", help="of a question without a good answer [3]")
    judge.add_argument("--key-from", metavar="NAME", help="environment variable that holds the server's key")

    harness = commands.add_parser("harness", help="benchmarks of lm-eval", description=run_harness.__doc__)
    _model_flags(harness)
    harness.add_argument("--tasks", required=True, metavar="NAMES", help="such as hellaswag,mmlu; lm-eval ls tasks")
    harness.add_argument("--include-path", metavar="FOLDER", help="with tasks of your own, as YAML")
    harness.add_argument("--fewshot", type=int, metavar="N", help="examples before each question [the task's]")
    harness.add_argument("--limit", type=int, metavar="N", help="questions of each task [all]")
    for command in commands.choices.values():
        command.add_argument("--json", metavar="FILE", help="write all numbers into it")
    return page


def _model_flags(page: argparse.ArgumentParser) -> None:
    page.add_argument("--model", required=True, metavar="NAME", help="folder of a run, or weights from elsewhere")
    page.add_argument("--batch", type=int, default=8, metavar="N", help="texts at once [8]")
    page.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where it computes [cpu]")


KEYS = {"expected": "output", "response": "model_response"}  # as the book's files have them


def _key_flags(page: argparse.ArgumentParser, **keys: str) -> None:
    for name, what in keys.items():
        usual = KEYS.get(name, name)
        page.add_argument(f"--{name}", default=usual, metavar="KEY", help=f"{what} [{usual}]")


def loaded(args: argparse.Namespace) -> tuple[GPTModel, text.Tokenizer]:
    """The model and its tokenizer: a run's folder has both, weights without a tokenizer are GPT-2's."""
    if args.batch < 1:
        raise ValueError(f"--batch {args.batch}: must be at least 1")
    if args.device == "cuda" and (problem := cuda_problem()):
        raise ValueError(f"--device cuda: {problem}")
    if Path(args.model, commandline.TOKENIZER).is_file():
        model, tokenizer = commandline.load_run(args.model)
    else:
        model, tokenizer = commandline.load_base(args.model)
    return model.to(args.device), tokenizer


def perplexity(args: argparse.Namespace) -> dict[str, Any]:
    """What texts cost a model: each token once, given those before it in a window that moves by --stride."""
    contents = [(name, _read(name)) for name in args.file]
    model, tokenizer = loaded(args)
    most = model.config.context_length
    size = most if args.context is None else args.context
    if not 1 <= size <= most:
        raise ValueError(f"--context {size}: must lie in 1..{most}, what the model can see")
    if args.stride is not None and not 1 <= args.stride <= size:
        raise ValueError(f"--stride {args.stride}: must lie in 1..{size}, the context")
    found: dict[str, TextLoss] = {}
    for name, content in contents:
        try:
            found[name] = text_loss(model, tokenizer, content, size, args.stride, args.batch)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    rows = [["text", "tokens", "nats/token", "perplexity", "bits/byte"]]
    total = sum(list(found.values())[1:], start=next(iter(found.values())))
    for name, loss in [*found.items(), *([("all", total)] if len(found) > 1 else [])]:
        numbers = (f"{loss.tokens:,}", f"{loss.nats_per_token:.4f}", f"{loss.perplexity:,.2f}")
        rows.append([name, *numbers, f"{loss.bits_per_byte:.4f}"])
    print(console.table(rows))
    return {"texts": {name: loss.to_dict() for name, loss in found.items()}, "all": total.to_dict()}


def choices(args: argparse.Namespace) -> dict[str, Any]:
    """Multiple choice by log-likelihood: the answer is what the model finds likeliest after the context."""
    try:
        records = read_records(args.file)
        questions = Question.from_records(records, args.context, args.choices, args.answer)
        model, tokenizer = loaded(args)
        answered = answer_questions(model, tokenizer, questions, args.delimiter, args.batch)
    except ValueError as error:
        raise ValueError(f"{args.file}: {str(error).removeprefix(f'{args.file}: ')}") from None
    shares = {norm: accuracy(answered, norm) for norm in NORMS}
    chance = sum(1 / len(question.choices) for question in questions) / len(questions)
    rows = [["likeliest by", "right"], *([f"ln p per {norm}" if norm != "sum" else "ln p", f"{share:.2%}"]
                                         for norm, share in shares.items())]  # fmt: skip
    print(console.table([*rows, ["chance", f"{chance:.2%}"]]))
    print(f"{len(questions):,} questions")
    return {"accuracy": shares, "chance": chance, "questions": [a.to_dict() for a in answered]}


def match_responses(args: argparse.Namespace) -> dict[str, Any]:
    """The share of responses that are what was expected, but for space at the ends and how much between words."""
    records = read_records(args.file)
    responses = [_field(args.file, n, record, args.response) for n, record in enumerate(records)]
    expected = [_expected(args.file, n, record, args.expected) for n, record in enumerate(records)]
    right = matches(responses, expected, Normalization(args.ignore_case, args.ignore_punctuation))
    share = sum(right) / len(right)
    numbers = [f"{len(right):,}", f"{sum(right):,}", f"{share:.2%}"]
    print(console.table([["responses", "right", "exact match"], numbers]))
    return {"exact_match": share, "right": right}


def judge_responses(args: argparse.Namespace) -> dict[str, Any]:
    """Scores from 0 to 100 by a model behind an address; all that was asked and said is kept, and not asked again."""
    if args.key_from and args.key_from not in os.environ:
        raise ValueError(f"--key-from {args.key_from}: there is no such environment variable")
    key = os.environ[args.key_from] if args.key_from else None
    judge = Judge(args.address, args.judge, args.api, args.timeout, args.retries, key=key)
    template = _read(args.prompt) if args.prompt else PROMPT
    prompts = []
    for place, record in enumerate(read_records(args.file)):
        task = _field(args.file, place, record, args.instruction)
        more = record.get(args.input)
        task += f"\n{more}" if isinstance(more, str) and more else ""
        expected = _field(args.file, place, record, args.expected)
        prompts.append(prompt_for(task, expected, _field(args.file, place, record, args.response), template))
    path = Path(args.scores) if args.scores else Path(args.file).with_name(f"{Path(args.file).stem}-judged.jsonl")

    def on_score(place: int, found: Judged) -> None:
        said = "no score" if found.score is None else f"{found.score}"
        print(f"{place + 1}/{len(prompts)}: {said}", file=sys.stderr)

    found = judge_all(judge, prompts, path, on_score)
    scores = [record.score for record in found if record.score is not None]
    mean = sum(scores) / len(scores) if scores else None
    shown = "none" if mean is None else f"{mean:.2f}"
    print(console.table([["responses", "scored", "mean score"], [f"{len(found):,}", f"{len(scores):,}", shown]]))
    print(f"all that was said is in {path}")
    return {"mean": mean, "scored": len(scores), "records": [vars(record) for record in found]}


def run_harness(args: argparse.Namespace) -> dict[str, Any]:
    """Tasks of EleutherAI's lm-evaluation-harness by its own tool; pip install -e '.[lm-eval]' brings it."""
    from tinygrad_llm.evaluation.harness import HarnessModel, evaluate

    model, tokenizer = loaded(args)
    tasks = [name for name in args.tasks.split(",") if name]
    adapted = HarnessModel(model, tokenizer, args.batch)
    table, results = evaluate(adapted, tasks, args.include_path, args.fewshot, args.limit)
    print(table)
    return results


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 at byte {error.start}") from None


def _field(name: str, place: int, record: dict[str, Any], key: str) -> str:
    """The text that a record has under a key."""
    if key not in record:
        raise ValueError(f"{name}: record {place} has no {key!r}; it has {', '.join(record)}")
    if not isinstance(record[key], str):
        raise ValueError(f"{name}: record {place} must have a text as its {key!r}, not {record[key]!r}")
    return record[key]


def _expected(name: str, place: int, record: dict[str, Any], key: str) -> str | Sequence[str]:
    """The text, or list of texts, that a record has under a key."""
    several = record.get(key)
    if isinstance(several, list) and several and all(isinstance(one, str) for one in several):
        return several
    return _field(name, place, record, key)


COMMANDS = {
    "perplexity": perplexity, "choices": choices, "match": match_responses, "judge": judge_responses,
    "harness": run_harness,
}  # fmt: skip


def measure(args: argparse.Namespace) -> None:
    """Run a command and write its numbers, if --json says where to."""
    if args.json and (Path(args.json).is_dir() or not Path(args.json).absolute().parent.is_dir()):
        raise ValueError(f"--json {args.json}: is a folder, or in none that exists; name a file")
    values = COMMANDS[args.command](args)
    if args.json:
        write_atomically(args.json, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    show_anything()
    args = parser().parse_args(argv)
    return guarded(PROGRAM, lambda: measure(args))


if __name__ == "__main__":
    sys.exit(main())
