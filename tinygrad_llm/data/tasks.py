"""Small tasks whose right answers a program knows: instructions to learn from that ship as a generator.

Every task has exactly one right answer, so that accuracy is the share of responses that equal it. The words are those
of the stories (`data.stories`), so that a model which has read these knows them; what the instructions want of them is
new to it. Tasks of one call of `generate` differ in their prompts, so any cut through them leaves parts that share
none. What a test part then asks is unseen as a whole: other words together, in another order, or another story. It is
no test of words that were never seen, and the sums are few enough that each was seen around other things.
"""

import re
from bisect import bisect
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import Any

from tinygrad_llm.data.stories import grammar
from tinygrad_llm.data.stories_engine import Facts, Grammar

NUMBERS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
PLACES = ("first", "second", "third", "fourth")
NAMES = (
    "Mia", "Nora", "Ida", "Lucy", "Zoe", "Tess", "Ruby", "Greta", "Tom", "Ben", "Otto", "Max", "Leo", "Sam", "Finn",
    "Hugo", "Dora", "Gus",
)  # fmt: skip
OPPOSITES = {  # both ways
    "old": "new", "fat": "thin", "long": "short", "wide": "narrow", "cold": "warm", "dirty": "clean",
    "black": "white", "ugly": "beautiful", "huge": "tiny", "tall": "small", "noisy": "quiet", "empty": "full",
}  # fmt: skip
OPPOSITE = OPPOSITES | {b: a for a, b in OPPOSITES.items()}
PAST = {
    "paints": "painted", "counts": "counted", "juggles": "juggled", "draws": "drew", "polishes": "polished",
    "hides": "hid", "mends": "mended", "stacks": "stacked", "sells": "sold", "kicks": "kicked", "sorts": "sorted",
    "washes": "washed", "knits": "knitted", "swaps": "swapped", "buries": "buried", "throws": "threw",
    "folds": "folded", "cooks": "cooked", "fixes": "fixed", "finds": "found", "loves": "loved", "sees": "saw",
}  # fmt: skip
HOME = re.compile(r"in an? \w+ \w+ \w+ the \w+")

Task = tuple[str, str, str]  # what to do, what it is done to, the answer
Words = Sequence[str]


class Draw:
    """Draws from random.Random.random alone, whose numbers Python keeps from version to version."""

    def __init__(self, seed: int) -> None:
        self.uniform = Random(seed).random

    def number(self, low: int, high: int) -> int:
        """One of low..high."""
        return low + int(self.uniform() * (high - low + 1))

    def one(self, options: Words) -> str:
        """One of them."""
        return options[self.number(0, len(options) - 1)]

    def some(self, options: Words, count: int) -> list[str]:
        """So many different ones."""
        left = list(options)
        return [left.pop(self.number(0, len(left) - 1)) for _ in range(count)]

    def nouns(self, low: int, high: int) -> list[str]:
        """Between low and high different nouns."""
        return self.some(words("noun"), self.number(low, high))


@cache
def words(table: str) -> tuple[str, ...]:
    """The words of a table of the stories."""
    return tuple(str(row.columns[""][0]) for row in grammar().tables[table])


def a(phrase: str) -> str:
    """With its article; as in the stories, the letter decides."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def counting(number: int, noun: str) -> str:
    """As in "one lamp" and "two lamps"."""
    return f"{NUMBERS[number - 1]} {noun}{'s' * (number > 1)}"


# --- the kinds: each draws a task ------------------------------------------------------------------------------------


def repeated(draw: Draw) -> Task:
    """The same words once more."""
    found = ", ".join(draw.nouns(2, 4))
    return "Say it again:", found, f"It is {found}."


def reversed_(draw: Draw) -> Task:
    """Words in the reverse order."""
    found = draw.nouns(2, 3)
    return "Say it from last to first:", ", ".join(found), f"It is {', '.join(found[::-1])}."


def in_order(draw: Draw) -> Task:
    """Words by the order of their letters."""
    found = draw.nouns(2, 3)
    return "Say it from A to Z:", ", ".join(found), f"It is {', '.join(sorted(found))}."


def placed(draw: Draw) -> Task:
    """The word at a place."""
    found = draw.nouns(2, 4)
    place = draw.number(0, len(found) - 1)
    return f"What is the {PLACES[place]} word?", ", ".join(found), f"It is {found[place]}."


def plural(draw: Draw) -> Task:
    """Two things in the plural."""
    things = [f"{draw.one(words('look'))} {noun}" for noun in draw.nouns(2, 2)]
    given, many = (" and ".join(map(form, things)) for form in (a, "{}s".format))
    return "Say it of many:", given, f"They are {many}."


def past(draw: Draw) -> Task:
    """A sentence in the past tense; some of its verbs are irregular."""
    verb, who, what = draw.one([*PAST]), draw.one(NAMES), f"{draw.one(words('look'))} {draw.one(words('noun'))}s"
    return "Say it of long ago:", f"{who} {verb} {what}.", f"{who} {PAST[verb]} {what}."


def opposite(draw: Draw) -> Task:
    """Two things, each with the opposite look."""
    pairs = [*zip(draw.some([*OPPOSITE], 2), draw.nouns(2, 2), strict=True)]
    given, wanted = (" and ".join(a(f"{way(x)} {noun}") for x, noun in pairs) for way in (str, OPPOSITE.__getitem__))
    return "Say the opposite:", given, f"It is {wanted}."


def sums(draw: Draw) -> Task:
    """A sum or a difference, up to twelve, told as a little story."""
    first, second = sorted((draw.number(1, 12), draw.number(1, 11)), reverse=True)
    who, noun = draw.one(NAMES), draw.one(words("noun"))
    if first + second <= 12:
        act, result = "finds {} more", first + second
    elif first > second:
        act, result = "loses {}", first - second
    else:
        return sums(draw)
    given = f"{who} has {counting(first, noun)} and {act.format(NUMBERS[second - 1])}."
    return "How many are there then?", given, f"{who} has {counting(result, noun)}."


def counted(draw: Draw) -> Task:
    """How many words there are."""
    found = draw.nouns(1, 6)
    return "How many words are there?", ", ".join(found), f"It is {counting(len(found), 'word')}."


def contained(draw: Draw) -> Task:
    """Whether a thing is among others."""
    found = draw.nouns(3, 5)
    asked = found.pop(draw.number(0, len(found) - 1))
    there = draw.uniform() < 0.5
    if there:
        found.insert(draw.number(0, len(found)), asked)
    return f"Is there {a(asked)}?", ", ".join(found), f"Yes, there is {a(asked)}." if there else f"No, no {asked}."


def story(draw: Draw) -> Task:
    """A question on the first lines of a story."""
    text, facts = opening(draw)
    (hero, was, mood), (friend, were, deed) = (
        (printed(who, facts), printed(who, facts, "was"), printed(what, facts))
        for who, what in (("hero", "mood"), ("friend", "deed"))
    )
    home = HOME.search(text[0].lower() + text[1:])
    assert home is not None
    questions = {
        "Who is it about?": f"It is about {hero}.",
        f"Who is the friend of {hero}?": f"The friend of {hero} {were} {friend}.",
        f"What did {hero} eat?": f"{hero} ate {printed('taste', facts)} {printed('treat', facts)}.",
        f"Where did {hero} live?": f"{hero} lived {home[0]}.",
        f"How {was} {hero}?": f"{hero} {was} {mood}.",
        f"What did {friend} do?": f"{friend} {deed}.",
    }
    question = draw.one([*questions])
    return question, text, questions[question]


KINDS: dict[str, Callable[[Draw], Task]] = {
    "repeat": repeated, "reverse": reversed_, "sort": in_order, "place": placed, "plural": plural, "past": past,
    "opposite": opposite, "sum": sums, "count": counted, "contain": contained, "story": story,
}  # fmt: skip


def opening(draw: Draw) -> tuple[str, Facts]:
    """The first line of a story, and the facts in it."""
    language: Grammar = grammar()
    stack, text = language.start, ""
    facts: Facts = {}
    while "\n" not in text:
        piece, slot, rest = language.advance(stack, facts)
        text += piece
        if slot is None:
            break
        rows, _, sums = language.draws(slot, facts)
        row = rows[bisect(sums, draw.uniform())]
        stack, facts = language.after(slot, row, rest, facts)
    return text.partition("\n")[0], facts


def printed(fact: str, facts: Facts, column: str = "") -> str:
    """A column of a fact, by default what it is called."""
    return str(facts[fact].columns[column][0])


def generate(seed: int, count: int) -> list[dict[str, Any]]:
    """Entries with the keys kind, instruction, input and output, the kinds in turn; no two have the same prompt.

    Half of them have what the task is about as their input, the others in the instruction. The same for a seed
    everywhere; more of them begin with the fewer.

    Raises: ValueError for a negative number.
    """
    if seed < 0 or count < 0:
        raise ValueError(f"tasks.generate: seed {seed} and count {count} must not be negative")
    draw = Draw(seed)
    entries: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    names = [*KINDS]
    while len(entries) < count:
        kind = names[len(entries) % len(names)]
        what, about, answer = KINDS[kind](draw)
        if (what, about) in seen:
            continue
        seen.add((what, about))
        apart = draw.uniform() < 0.5
        given = (what, about) if apart else (f"{what} {about}", "")
        entries.append({"kind": kind, "instruction": given[0], "input": given[1], "output": answer})
    return entries
