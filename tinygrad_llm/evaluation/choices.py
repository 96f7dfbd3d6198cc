"""Multiple choice: the answer that a model finds likeliest to go on with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.models.commandline import END
from tinygrad_llm.models.scoring import Scored, score_rows
from tinygrad_llm.nn import Module
from tinygrad_llm.text import Tokenizer

NORMS = ("sum", "token", "byte")  # what the log-likelihood of a choice is divided by: nothing, its tokens, its bytes


@dataclass(frozen=True)
class Question:
    """A context, texts that may follow it, and which of them is right."""

    context: str
    choices: tuple[str, ...]
    answer: int

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        context: str = "context",
        choices: str = "choices",
        answer: str = "answer",
    ) -> list[Question]:
        """From the columns of these names; an answer is a number from 0, also as a text, or one of the choices.

        Raises: ValueError naming the record (from 0) and what is wrong with it.
        """
        found = []
        for place, record in enumerate(records):
            if missing := [name for name in (context, choices, answer) if name not in record]:
                raise ValueError(f"record {place} has no {missing[0]!r}; it has {', '.join(record)}")
            before, texts, right = record[context], record[choices], record[answer]
            if not isinstance(before, str):
                raise ValueError(f"record {place}: {context!r} must be a text, not {before!r}")
            if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(x, str) and x for x in texts):
                raise ValueError(f"record {place}: {choices!r} must be a list of two texts or more, none of them empty")
            found.append(cls(before, tuple(texts), _number(right, texts, f"record {place}: {answer!r}")))
        return found


def _number(right: Any, texts: Sequence[str], name: str) -> int:
    """Which of the texts is right."""
    if isinstance(right, str) and texts.count(right) == 1:
        return texts.index(right)
    number = int(right) if isinstance(right, str) and right.isascii() and right.isdigit() else right
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(texts):
        raise ValueError(f"{name} must be one of the choices or a number in 0..{len(texts) - 1}, not {right!r}")
    return number


class Pair(NamedTuple):
    """The ids of a context and its continuation in one row, of which those from number `first` on continue."""

    ids: list[int]
    first: int


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> Pair:
    """A context's ids, and those that follow them where it is encoded as one text with its continuation.

    Spaces at the context's end are taken for the continuation's beginning, as most tokenizers do. An empty context is
    the end of the text before it. Where a token would lie across the border (a context that ends within a word), what
    the continuation has of it is not judged; all this is as the harness has it, so that the numbers are the same.

    Raises: ValueError for an empty continuation, or an empty context where the tokenizer has no end of text.
    Source: Gao et al., The language model evaluation harness (2024).
    """
    if not continuation:
        raise ValueError("encode_pair: the continuation is empty; there is nothing to judge")
    if not context:
        if END not in tokenizer.special_tokens:
            raise ValueError(f"encode_pair: the context is empty, and the tokenizer has no {END} to stand for it")
        return Pair([tokenizer.special_tokens[END], *tokenizer.encode_ordinary(continuation)], 1)
    kept = context.rstrip()
    continuation, context = context[len(kept) :] + continuation, kept
    before, whole = tokenizer.encode_ordinary(context), tokenizer.encode_ordinary(context + continuation)
    if not before:
        raise ValueError(f"encode_pair: {context + continuation!r:.80} has no token before the one to judge")
    return Pair(before + (whole[len(before) :] or whole[-1:]), len(before))


def score_pairs(model: Module, pairs: Sequence[Pair], batch: int = 8) -> list[Scored]:
    """What a model thinks of each continuation; of a context that is too long it sees the end.

    Raises: ValueError for a continuation that is longer than the model's context.
    """
    size = model.config.context_length
    if long := [len(ids) - first for ids, first in pairs if len(ids) - first > size]:
        raise ValueError(f"a continuation has {long[0]} tokens, but the model's context is {size}; leave it out")
    kept = [(ids[-size - 1 :], first - max(0, len(ids) - size - 1)) for ids, first in pairs]
    return score_rows(model, [ids for ids, _ in kept], [first for _, first in kept], size, 0, batch)


@dataclass(frozen=True)
class Answered:
    """ln p of each choice of a question, each one's tokens and bytes, and the number of the right one."""

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    answer: int

    def chosen(self, norm: str = "sum") -> int:
        """The number of the likeliest choice; norm: one of NORMS. Of equal ones the first."""
        divisors = {"sum": 1, "token": self.tokens, "byte": self.bytes}
        if norm not in divisors:
            raise ValueError(f"chosen: norm must be one of {', '.join(NORMS)}, not {norm!r}")
        return int(np.argmax(self.nats / divisors[norm]))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "nats": self.nats.tolist(), "tokens": self.tokens.tolist(), "bytes": self.bytes.tolist(),
            "answer": self.answer, "chosen": {norm: self.chosen(norm) for norm in NORMS},
        }  # fmt: skip


def answer_questions(
    model: Module, tokenizer: Tokenizer, questions: Sequence[Question], delimiter: str = " ", batch: int = 8
) -> list[Answered]:
    """The log-likelihood of every choice, each after its context and the delimiter.

    The bytes of a choice are those of its own text, without the delimiter.

    Raises: ValueError naming the question that cannot be encoded, or is too long.
    """
    pairs = []
    for place, question in enumerate(questions):
        try:
            pairs += [encode_pair(tokenizer, question.context, delimiter + choice) for choice in question.choices]
        except ValueError as error:
            raise ValueError(f"question {place}: {error}") from None
    scored = iter(score_pairs(model, pairs, batch))
    answered = []
    for question in questions:
        found = [next(scored) for _ in question.choices]
        answered.append(
            Answered(
                np.array([s.logp.sum() for s in found]),
                np.array([len(s.logp) for s in found]),
                np.array([len(choice.encode()) for choice in question.choices]),
                question.answer,
            )
        )
    return answered


def accuracy(answered: Sequence[Answered], norm: str = "sum") -> float:
    """The share of questions whose right choice is the likeliest. Raises: ValueError without questions."""
    if not answered:
        raise ValueError("accuracy: there are no questions")
    return sum(a.chosen(norm) == a.answer for a in answered) / len(answered)
