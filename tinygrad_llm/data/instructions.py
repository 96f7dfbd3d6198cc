"""Instructions with their answers: as a text in one of several styles, as ids, and as padded batches with targets.

Source: Taori et al., Stanford Alpaca (2023), for its prompt; Abdin et al., Phi-3 technical report (2024), section 2.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.data.padding import padded_length
from tinygrad_llm.files import write_atomically
from tinygrad_llm.text.base import Tokenizer

IGNORED = -100  # a target that cross_entropy leaves out
Entry = Mapping[str, Any]
Message = Mapping[str, str]


class Prompt(NamedTuple):
    """What the model is given, and what it should answer; the text to learn from is the one after the other."""

    prompt: str
    answer: str


Style = Callable[[Entry], Prompt]


def alpaca(entry: Entry) -> Prompt:
    """An entry in Alpaca's style; the part for the input is left out where there is none."""
    check_entry(entry, answered="output" in entry)
    given = f"\n\n### Input:\n{entry['input']}" if entry.get("input") else ""
    return Prompt(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{entry['instruction']}{given}\n\n### Response:\n",
        entry.get("output", ""),
    )


def phi3(entry: Entry) -> Prompt:
    """An entry in the style of Phi-3, much shorter: a user's turn and the assistant's."""
    check_entry(entry, answered="output" in entry)
    given = f"\n{entry['input']}" if entry.get("input") else ""
    return Prompt(f"<|user|>\n{entry['instruction']}{given}\n\n<|assistant|>\n", entry.get("output", ""))


STYLES: dict[str, Style] = {"alpaca": alpaca, "phi3": phi3}


def check_entry(entry: Entry, place: int | None = None, answered: bool = True) -> None:
    """Raise a ValueError unless an entry has the texts instruction and output, not empty, and perhaps input.

    answered: whether it must have an output; one that asks need not.
    """
    name = "an entry" if place is None else f"entry {place}"
    for key in ("instruction", "output", "input") if answered else ("instruction", "input"):
        value = entry.get(key, "" if key == "input" else None)
        if not isinstance(value, str):
            raise ValueError(f"{name} must have a text as its {key!r}, found {value!r}")
        if key != "input" and not value.strip():
            raise ValueError(f"{name} has an empty {key!r}")


class Example(NamedTuple):
    """A row of ids, and for each whether it belongs to an answer (to be learned even where prompts are not)."""

    ids: list[int]
    answers: list[bool]


@dataclass(frozen=True)
class ChatTemplate:
    """How turns become one text: `begin` before everything, then of each turn opening.format(role), text and closing.

    roles: those that may speak, the one that the model learns last.
    """

    opening: str
    closing: str
    begin: str = ""
    roles: tuple[str, ...] = ("system", "user", "assistant")

    def render(self, messages: Sequence[Message], ask: bool = False) -> str:
        """The conversation as a text. ask: with the opening of an answer at the end, for a model to go on from.

        Raises: as `turns`.
        """
        turns = "".join(self.opening.format(role=role) + text + self.closing for role, text in self.turns(messages))
        return self.begin + turns + (self.opening.format(role=self.roles[-1]) if ask else "")

    def encode(self, messages: Sequence[Message], tokenizer: Tokenizer, ask: bool = False) -> Example:
        """The conversation as ids; answers are the assistant's texts, each with its closing.

        The template's own marks become special tokens where the tokenizer has them. What the turns say never does: a
        user cannot write an assistant's turn.

        Raises: as `turns`.
        """
        ids = self._marks(self.begin, tokenizer)
        answers = [False] * len(ids)
        for role, text in self.turns(messages):
            opening = self._marks(self.opening.format(role=role), tokenizer)
            said = tokenizer.encode_ordinary(text) + self._marks(self.closing, tokenizer)
            ids += opening + said
            answers += [False] * len(opening) + [role == self.roles[-1]] * len(said)
        if ask:
            opening = self._marks(self.opening.format(role=self.roles[-1]), tokenizer)
            ids, answers = ids + opening, answers + [False] * len(opening)
        return Example(ids, answers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the template as a JSON object of its fields, beside a model that learned it."""
        write_atomically(path, json.dumps(asdict(self), ensure_ascii=False, indent=1).encode() + b"\n")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "ChatTemplate":
        """The template that `save` wrote. Raises: ValueError naming the file and the rule it breaks; OSError."""
        try:
            fields = json.loads(Path(path).read_bytes())
            if not isinstance(fields, dict) or not {"opening", "closing"} <= set(fields) <= set(_TEMPLATE):
                raise ValueError(f"expected the keys {', '.join(_TEMPLATE)}, of which the last two may be missing")
            roles = fields.setdefault("roles", list(cls.roles))
            texts = [value for key, value in fields.items() if key != "roles"]
            if not isinstance(roles, list) or not roles or not all(isinstance(x, str) for x in [*texts, *roles]):
                raise ValueError("roles must be a list of texts, and the rest texts")
            template = cls(**{**fields, "roles": tuple(roles)})
            if {*"{}"} & {*template.opening.replace("{role}", "")} or not template.closing.strip():
                raise ValueError("the only braces of the opening may be {role}, and the closing must show")
            return template
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not a chat template: {error}") from None

    def turns(self, messages: Sequence[Message]) -> list[tuple[str, str]]:
        """Role and text of each message.

        Raises: ValueError for no messages, an unknown role or a text that is none, naming the message.
        """
        if not messages:
            raise ValueError("ChatTemplate: there are no messages")
        for place, message in enumerate(messages):
            role, text = message.get("role"), message.get("content")
            if role not in self.roles:
                raise ValueError(f"ChatTemplate: message {place} has role {role!r}; roles are {', '.join(self.roles)}")
            if not isinstance(text, str):
                raise ValueError(f"ChatTemplate: message {place} must have a text as its 'content', found {text!r}")
        return [(message["role"], message["content"]) for message in messages]

    @staticmethod
    def _marks(text: str, tokenizer: Tokenizer) -> list[int]:
        return tokenizer.encode(text, allowed_special="all") if text else []


_TEMPLATE = ("opening", "closing", "begin", "roles")

PHI3_CHAT = ChatTemplate("<|{role}|>\n", "<|end|>\n")
CHATML = ChatTemplate("<|im_start|>{role}\n", "<|im_end|>\n")


Form = Callable[[Entry], Prompt] | ChatTemplate
FORMS: dict[str, Form] = {**STYLES, "chat": CHATML}
FORM_FILE = "chat_template.json"  # beside the weights of a model that learned a form


def encode_entries(entries: Sequence[Entry], tokenizer: Tokenizer, form: Form = alpaca) -> list[Example]:
    """Entries as ids. Prompt and answer are encoded each by itself, so that the boundary is one between ids.

    Special tokens in the texts are ordinary text. In a chat's form an entry is a user's turn and the assistant's.

    Raises: ValueError naming the entry that lacks a text.
    """
    examples = []
    for place, entry in enumerate(entries):
        check_entry(entry, place)
        if isinstance(form, ChatTemplate):
            examples.append(form.encode(turns_of(entry), tokenizer))
            continue
        prompt, answer = (tokenizer.encode_ordinary(part) for part in form(entry))
        examples.append(Example(prompt + answer, [False] * len(prompt) + [True] * len(answer)))
    return examples


def render_entry(entry: Entry, form: Form = alpaca) -> str:
    """An entry as the text to learn from."""
    check_entry(entry)
    return form.render(turns_of(entry)) if isinstance(form, ChatTemplate) else "".join(form(entry))


def ask_entry(entry: Entry, tokenizer: Tokenizer, form: Form = alpaca) -> list[int]:
    """The ids of an entry's prompt, for a model to go on from: those that the entry's Example begins with."""
    check_entry(entry, answered=False)
    if isinstance(form, ChatTemplate):
        return form.encode(turns_of(entry)[:1], tokenizer, ask=True).ids
    return tokenizer.encode_ordinary(form(entry).prompt)


def ask(messages: Sequence[Message], tokenizer: Tokenizer, form: Form) -> list[int]:
    """The ids of a conversation, for a model to go on from.

    A style of single instructions knows no conversation: the last message is the instruction, the others are left out.

    Raises: as `ChatTemplate.turns`; ValueError for a system's text where the form has no place for it.
    """
    if isinstance(form, ChatTemplate):
        return form.encode(messages, tokenizer, ask=True).ids
    if any(message["role"] == "system" for message in messages):
        raise ValueError(f"the model was tuned on single instructions ({form.__name__}): it takes no system's text")
    return ask_entry({"instruction": messages[-1]["content"]}, tokenizer, form)


def closing(form: Form) -> str:
    """The text at which an answer ends; empty where the token for the end of text alone ends it."""
    return form.closing.strip() if isinstance(form, ChatTemplate) else ""


def turns_of(entry: Entry) -> list[Message]:
    """An entry as a user's turn, the input below the instruction, and the assistant's if there is an output."""
    asked = entry["instruction"] + (f"\n{entry['input']}" if entry.get("input") else "")
    answer = [{"role": "assistant", "content": entry["output"]}] if "output" in entry else []
    return [{"role": "user", "content": asked}, *answer]


def save_form(form: Form, path: str | os.PathLike[str]) -> None:
    """Write the form beside a model that learned it: a chat template's fields, or the name of a style."""
    if isinstance(form, ChatTemplate):
        form.save(path)
    else:
        write_atomically(path, json.dumps({"style": form.__name__}).encode() + b"\n")


def read_form(path: str | os.PathLike[str]) -> Form:
    """The form that `save_form` wrote. Raises: ValueError naming the file and the rule it breaks; OSError."""
    try:
        fields = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or "style" not in fields:
        return ChatTemplate.from_file(path)
    if fields["style"] not in [*STYLES]:  # a file may say anything, also what no dictionary takes
        raise ValueError(f"{path}: style {fields['style']!r} is unknown; styles are {', '.join(STYLES)}")
    return STYLES[fields["style"]]


class InstructionBatch(NamedTuple):
    """inputs and targets (B, T), int64: what `model.loss` takes as tensors."""

    inputs: np.ndarray
    targets: np.ndarray


def instruction_batch(
    batch: Sequence[Example | Sequence[int]],
    pad_id: int = 50256,
    ignore_index: int = IGNORED,
    *,
    allowed_max_length: int | None = None,
    mask_prompt: bool = False,
    multiple: int = 1,
) -> InstructionBatch:
    """Rows of ids as inputs, and as targets one step ahead, padded to the longest, or to a multiple of a number.

    The first padding after a row is a target, so that the model learns to end; those after it are ignore_index. With
    mask_prompt so are all targets that belong to no answer, which needs Examples. What is longer than
    allowed_max_length loses its end. To be used as DataLoader(collate_fn=partial(instruction_batch, ...)).

    Raises: ValueError for a row without ids, mask_prompt without answers, or a row that is left without a target.
    """
    rows = [list(row.ids if isinstance(row, Example) else row) for row in batch]
    if empty := [i for i, row in enumerate(rows) if not row]:
        raise ValueError(f"instruction_batch: row {empty[0]} has no ids")
    width = padded_length(max(map(len, rows)), multiple, allowed_max_length)
    inputs = np.full((len(rows), width), pad_id, np.int64)
    targets = np.full((len(rows), width), ignore_index, np.int64)
    for b, row in enumerate(rows):
        inputs[b, : len(row)] = row
        targets[b, : len(row)] = [*row[1:], pad_id]
        if mask_prompt:
            targets[b, : len(row)][~_learned(batch[b], b)] = ignore_index
    inputs, targets = inputs[:, :allowed_max_length], targets[:, :allowed_max_length]
    if bare := np.flatnonzero((targets == ignore_index).all(axis=1)).tolist():
        raise ValueError(
            f"instruction_batch: row {bare[0]} of {len(rows[bare[0]])} ids has no answer within {inputs.shape[1]}; "
            f"allow a greater length or leave it out"
        )
    return InstructionBatch(inputs, targets)


def _learned(row: Example | Sequence[int], place: int) -> np.ndarray:
    """Which targets belong to an answer; the end after one does."""
    if not isinstance(row, Example):
        raise ValueError(f"instruction_batch: row {place} does not say what is an answer; mask_prompt needs Examples")
    return np.array([*row.answers[1:], row.answers[-1]], bool)
