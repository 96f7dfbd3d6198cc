"""What a tuned model answers to entries, and how often that is right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tinygrad_llm.data.instructions import Form, ask_entry, closing
from tinygrad_llm.models.generation import generate_batch
from tinygrad_llm.models.gpt import GPTModel
from tinygrad_llm.text import Tokenizer
from tinygrad_llm.training.console import printable

Entry = Mapping[str, Any]


def respond(
    model: GPTModel,
    tokenizer: Tokenizer,
    form: Form,
    entries: Sequence[Entry],
    tokens: int,
    end: int,
    batch: int = 50,
) -> list[str]:
    """The answer to each entry's prompt, the likeliest token each time: up to the id `end`, or of `tokens` tokens."""
    prompts = [ask_entry(entry, tokenizer, form) for entry in entries]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # rows of a batch are padded to the longest
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        rows = generate_batch(model, [prompts[i] for i in chosen], tokens, eos_id=end)
        for i, row in zip(chosen, rows, strict=True):
            written = row[len(prompts[i]) :]
            answers[i] = shown(tokenizer.decode(written[:-1] if written[-1:] == [end] else written), form)
    return answers


def shown(written: str, form: Form) -> str:
    """The answer in what a model wrote: up to the form's closing, without space around it."""
    mark = closing(form)
    return (written.partition(mark)[0] if mark else written).strip()


def is_right(entry: Entry, response: str) -> bool:
    """Whether a response is the entry's output, but for space around it."""
    return response.strip() == entry["output"].strip()


def accuracy(entries: Sequence[Entry], responses: Sequence[str]) -> tuple[float, dict[str, float]]:
    """The share of responses that are right, of all and of each kind (where entries have one), from 0 to 1.

    Raises: ValueError without entries.
    """
    if not entries:
        raise ValueError("accuracy: there are no entries")
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for entry, response in zip(entries, responses, strict=True):
        kind = entry.get("kind", "")
        asked[kind] += 1
        right[kind] += is_right(entry, response)
    return right.total() / asked.total(), {kind: right[kind] / n for kind, n in asked.items() if kind}


def samples(entries: Sequence[Entry], responses: Sequence[str], share: float | None) -> str:
    """Some questions with the model's answers, and what is right where it is something else; share: of right answers.

    Each stands in one line, and none steers a terminal.
    """
    lines = [] if share is None else [f"right answers: {share:.0%}"]
    for entry, response in zip(entries, responses, strict=True):
        asked = " ".join(filter(None, (entry["instruction"], entry.get("input"))))
        wanted = "" if is_right(entry, response) else f"   (right: {entry['output']})"
        lines += [f"  {_in_a_line(asked)}", f"    -> {_in_a_line(response)}{_in_a_line(wanted)}"]
    return "\n".join(lines) + "\n"


def _in_a_line(shown: str) -> str:
    return printable(shown).replace("\n", "\\n")
