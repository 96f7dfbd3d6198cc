"""Pairs of answers to one instruction, of which one is preferred: read, encoded, and generated ones to begin with.

The generated pairs ask for a message to somebody. Both answers say what was asked for; the chosen one is polite, the
rejected one is rude. A program knows which is which, so that a model's own answers can be counted.
"""

import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from tinygrad_llm.data.instructions import Example, Style, alpaca, encode_entries
from tinygrad_llm.text.base import Tokenizer


class Pair(NamedTuple):
    """A prompt with the answer that is preferred, and with the other one."""

    chosen: Example
    rejected: Example


def check_pair(entry: Mapping[str, Any], place: int) -> None:
    """Raise a ValueError unless an entry has an instruction and two answers, chosen and rejected, that differ."""
    for key in ("instruction", "chosen", "rejected"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise ValueError(f"entry {place} must have a text as its {key!r}, found {entry.get(key)!r}")
    if not isinstance(entry.get("input", ""), str):
        raise ValueError(f"entry {place} must have a text as its 'input', found {entry['input']!r}")
    if entry["chosen"] == entry["rejected"]:
        raise ValueError(f"entry {place} has one text as chosen and as rejected: {entry['chosen']!r:.80}")


def encode_pairs(entries: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, style: Style = alpaca) -> list[Pair]:
    """Entries with instruction, perhaps input, chosen and rejected, as ids; both answers follow the same prompt.

    Raises: ValueError naming the entry that lacks a text, or whose answers are one.
    """
    for place, entry in enumerate(entries):
        check_pair(entry, place)
    chosen, rejected = (
        encode_entries([{**entry, "output": entry[key]} for entry in entries], tokenizer, style)
        for key in ("chosen", "rejected")
    )
    return list(map(Pair, chosen, rejected))


WORDS = {
    slot: words.split("|")
    for slot, words in {
        "name": "Anna|Ben|Carla|David|Emma|Felix|Grace|Hugo|Ida|Jonas|Kim|Leo|Mara|Noah|Olga|Paul|Rosa|Sam|Tina|Wim",
        "thing": "book|lamp|ladder|bicycle|umbrella|camera|kettle|guitar|basket|map|key|tent",
        "place": "the station|the library|the garden|the office|the market|the school|the harbour|the cafe",
        "time": "at noon|at six|tonight|tomorrow|on Sunday|this evening|after work|before lunch",
    }.items()
}
ASKED = (  # what is asked for, how the answers say it, and what they must say: the words of these slots
    ("bring the {thing} to {place} {time}", ("name", "thing", "place", "time")),
    ("wait at {place} {time}", ("name", "place", "time")),
    ("return the {thing} {time}", ("name", "thing", "time")),
    ("clean the {thing} {time}", ("name", "thing", "time")),
    ("look for the {thing} at {place}", ("name", "thing", "place")),
)
INSTRUCTIONS = (("Ask {name} to {act}.", ""), ("Write to {name} and ask for this.", "{act}"))
CHOSEN = (
    "Dear {name}, could you please {act}? Thank you very much.",
    "Hello {name}, would you be so kind as to {act}? I would be grateful.",
    "Good morning, {name}. Please {act}, if you can. Many thanks!",
    "Dear {name}, I hope you are well. Would you please {act}? Thank you.",
)
REJECTED = (
    "{name}, {act}, and hurry up.",
    "Hey {name}! I told you to {act}. How slow can you be?",
    "Listen, {name}: {act}, or you will be sorry.",
    "{name}, stop wasting my time and {act}.",
)
MOST = 20_000  # entries: under half of all that there are, so that a new one is soon drawn
POLITE = re.compile(r"\b(?:please|thanks?|grateful|so kind)\b", re.IGNORECASE)
RUDE = re.compile(r"\b(?:hurry up|told you|how slow|or you will|listen|stop wasting|hey)\b", re.IGNORECASE)


def generate(seed: int, count: int) -> list[dict[str, Any]]:
    """Entries with instruction, input, chosen, rejected, and as `facts` what an answer must say; no prompt comes twice.

    The same for a seed everywhere. Raises: ValueError for a negative number, or more entries than MOST.
    """
    if seed < 0 or count < 0:
        raise ValueError(f"preferences.generate: seed {seed} and count {count} must not be negative")
    if count > MOST:
        raise ValueError(f"preferences.generate: {count} different prompts are too many; ask for {MOST} at most")
    draw = Random(seed).random

    def one_of(options: Sequence[Any]) -> Any:
        return options[int(draw() * len(options))]

    entries: dict[tuple[str, str], dict[str, Any]] = {}
    while len(entries) < count:
        words: dict[str, str] = {slot: one_of(options) for slot, options in WORDS.items()}
        act, slots = one_of(ASKED)
        words["act"] = act.format(**words)
        instruction, given, chosen, rejected = (
            part.format(**words) for part in (*one_of(INSTRUCTIONS), one_of(CHOSEN), one_of(REJECTED))
        )
        entry = {"instruction": instruction, "input": given, "chosen": chosen, "rejected": rejected}
        entries.setdefault((instruction, given), {**entry, "facts": [words[slot] for slot in slots]})
    return list(entries.values())


def is_polite(answer: str) -> bool:
    """Whether an answer has a polite word and no rude one."""
    return POLITE.search(answer) is not None and RUDE.search(answer) is None


def says_all(entry: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer to a generated entry says everything that it was to say."""
    return all(fact in answer for fact in entry["facts"])


def obeyed(entries: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> dict[str, float]:
    """The shares of answers to generated entries that are polite, that say all they were to say, and that do both."""
    polite = [is_polite(answer) for answer in answers]
    whole = [says_all(entry, answer) for entry, answer in zip(entries, answers, strict=True)]
    both = [p and w for p, w in zip(polite, whole, strict=True)]
    return {name: sum(found) / len(found) for name, found in (("polite", polite), ("whole", whole), ("both", both))}
