r"""A grammar with a memory: draw a text, read the draws back from the text, and compute its entropy exactly.

A story is written from left to right. Each slot of the notation (`stories_notation`) draws a row of a table, and a row
that is remembered is a fact: what is drawn later may mention it. One law is added: a draw leaves out the rows of its
table that facts hold, so two facts of one table differ.

The formulae. A text is the outcome of its draws x1, x2, ...; the distribution of each draw is known from those before
it, so the chain rule gives its exact probability and the exact entropy,

    log p(text) = sum_i log p(x_i | x_1 .. x_{i-1}),
    H(s) = sum_x p(x | s) (-log p(x | s) + H(s after x)),        s = what is still to print, and the facts.

The first line is the probability of the *draws*. It is that of the text if the text determines the draws, which
`check_prefix_code` proves: where the texts of the rows of every slot form a prefix code (none begins another), a
reader who goes from left to right knows each draw by the end of its slot.

Source: Shannon, A Mathematical Theory of Communication (1948), section 6; Cover and Thomas, Elements of Information
Theory, theorem 2.5.1 (the chain rule) and section 5.1 (prefix codes).
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from functools import cache
from graphlib import TopologicalSorter
from itertools import accumulate, combinations
from typing import TypeAlias

from tinygrad_llm.data.stories_notation import Row, Slot, Template, read_tables

STORY = Slot(fact="", table="story", column="", article=False, capital=False)


@dataclass(frozen=True, eq=False)
class Kind:
    """Rows of one table and one weight that differ in their words alone."""

    weight: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class Stack:
    """What is still to print. Equal stacks are one object (see `Grammar.push`), so that they are fast keys."""

    piece: str | float | Slot  # a number stands for a text of that length
    rest: Stack | None


Facts: TypeAlias = dict[str, Row]
Draws: TypeAlias = tuple[list[Row], list[float], list[float]]  # rows, their probabilities, the running sums of these
State: TypeAlias = tuple[Stack | None, frozenset[tuple[str, Kind]]]
Reader: TypeAlias = tuple[str, Stack | None, Facts]  # printed and not yet compared, still to print, known
Pair: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Derivation:
    """The draws behind one text: the row's index for each, and the log-probability of them all."""

    end: int
    choices: tuple[int, ...]
    log_probability: float


class Grammar:
    """The language of the table `story` of a grammar in the notation of `stories_notation`.

    Raises: ValueError for a slot whose table, fact or column does not exist, and for a table that contains itself.
    """

    def __init__(self, source: str) -> None:
        self.tables = read_tables(source)
        self._stacks: dict[tuple[str | float | Slot, Stack | None], Stack] = {}
        self._draws: dict[tuple[str, tuple[Row, ...]], Draws] = {}
        for method in ("template", "kinds", "outline", "needs", "slot_needs"):
            setattr(self, method, cache(getattr(self, method)))
        slots = [slot for table in self.tables for slot in self.slots(table)]
        self.tables_of: dict[str, set[str]] = {}  # fact: the tables it is drawn from
        for slot in slots:
            if slot.fact and slot.table:
                self.tables_of.setdefault(slot.fact, set()).add(slot.table)
        for slot in slots:
            self._check(slot)
        TopologicalSorter({  # refuses a table within itself, which would have no end
            table: {row.table for slot in self.slots(table) for row in self.rows_of(slot)} for table in self.tables
        }).prepare()
        self.start = self.push((STORY,), None)

    def _check(self, slot: Slot) -> None:
        if slot.table and slot.table not in self.tables:
            raise ValueError(f"stories: there is no table {slot.table!r}, nor a fact of that name")
        for row in self.rows_of(slot):
            if slot.column not in row.columns:
                raise ValueError(f"stories: table {row.table!r} has no column {slot.column!r}, it has {[*row.columns]}")

    def slots(self, table: str) -> list[Slot]:
        """Every slot in the rows of a table."""
        return [piece for row in self.tables[table] for template in row.columns.values()
                for piece in template if isinstance(piece, Slot)]

    def rows_of(self, slot: Slot) -> list[Row]:
        """Every row that the slot may print."""
        tables = [slot.table] if slot.table else sorted(self.tables_of[slot.fact])
        return [row for table in tables for row in self.tables[table]]

    # --- one step -------------------------------------------------------------------------------------------------

    def template(self, row: Row, slot: Slot) -> Template:
        """What the slot prints for this row: its column, with the slot's article and capital on the first piece."""
        first, *others = row.columns[slot.column]
        if isinstance(first, Slot):
            article, capital = first.article or slot.article, first.capital or slot.capital
            return replace(first, article=article, capital=capital), *others
        if slot.article:
            first = ("an " if first[0] in "aeiou" else "a ") + first
        return first[0].upper() + first[1:] if slot.capital else first, *others

    def push(self, template: Iterable[str | float | Slot], rest: Stack | None) -> Stack | None:
        """The stack that prints the template and then the rest."""
        for piece in reversed([*template]):
            rest = self._stacks.setdefault((piece, rest), Stack(piece, rest))
        return rest

    def advance(self, stack: Stack | None, facts: Facts) -> tuple[str, Slot | None, Stack | None]:
        """Print as far as the next draw -> (text, the slot to draw or None at the end, what comes after it)."""
        text = ""
        while stack is not None:
            piece, stack = stack.piece, stack.rest
            if not isinstance(piece, Slot):
                text += str(piece)
            elif piece.table:
                return text, piece, stack
            else:
                stack = self.push(self.template(facts[piece.fact], piece), stack)
        return text, None, None

    def draws(self, slot: Slot, facts: Facts) -> Draws:
        """The rows that the slot may draw here, p = weight / sum of weights, and the running sums of p."""
        taken = tuple(row for row in facts.values() if row.table == slot.table)
        if (slot.table, taken) not in self._draws:
            rows = [row for row in self.tables[slot.table] if row not in taken]
            if not rows:
                raise ValueError(f"stories: facts hold every row of {slot.table!r}, add one")
            total = sum(row.weight for row in rows)
            p = [row.weight / total for row in rows]
            self._draws[slot.table, taken] = rows, p, [*accumulate(p[:-1])]
        return self._draws[slot.table, taken]

    def after(self, slot: Slot, row: Row, rest: Stack | None, facts: Facts) -> tuple[Stack | None, Facts]:
        """The state once `slot` has drawn `row`."""
        return self.push(self.template(row, slot), rest), {**facts, slot.fact: row} if slot.fact else facts

    # --- write and read -------------------------------------------------------------------------------------------

    def generate(self, uniform: Callable[[], float]) -> tuple[str, tuple[int, ...]]:
        """One text and its draws; `uniform` gives numbers in [0, 1), one a draw."""
        stack = self.start
        facts: Facts = {}
        texts: list[str] = []
        choices: list[int] = []
        while True:
            text, slot, rest = self.advance(stack, facts)
            texts.append(text)
            if slot is None:
                return "".join(texts), tuple(choices)
            rows, _, sums = self.draws(slot, facts)
            row = rows[bisect(sums, uniform())]
            choices.append(row.index)
            stack, facts = self.after(slot, row, rest, facts)

    def derivations(self, text: str, start: int = 0) -> tuple[list[Derivation], int]:
        """Every derivation of a text that begins at text[start], and how far the best attempt came."""
        found, furthest = [], start
        todo: list[tuple[int, Stack | None, Facts, tuple[int, ...], float]] = [(start, self.start, {}, (), 0.0)]
        while todo:
            at, stack, facts, choices, log_p = todo.pop()
            printed, slot, rest = self.advance(stack, facts)
            if not text.startswith(printed, at):
                continue
            at += len(printed)
            furthest = max(furthest, at)
            if slot is None:
                found.append(Derivation(at, choices, log_p))
                continue
            for row, p in zip(*self.draws(slot, facts)[:2], strict=True):
                first = self.template(row, slot)[0]
                if isinstance(first, Slot) or text.startswith(first, at):
                    todo.append((at, *self.after(slot, row, rest, facts), (*choices, row.index), log_p + math.log(p)))
        return found, furthest

    def parse(self, text: str) -> Iterator[Derivation]:
        """The one derivation of each story of `text`, which is whole stories end to end.

        Raises: ValueError where the text leaves the language.
        """
        at = 0
        while at < len(text):
            found, furthest = self.derivations(text, at)
            if not found:
                raise ValueError(f"stories: no story reads {text[at:furthest][-30:]!r} and then "
                                 f"{text[furthest:furthest + 30]!r} (character {furthest})")
            (derivation,) = found  # one, because every slot is a prefix code
            at = derivation.end
            yield derivation

    # --- exact expectations ---------------------------------------------------------------------------------------

    def entropy(self) -> tuple[float, float]:
        """(H in nats, E[characters]) of one text, by recursion over the grammar: nothing is sampled.

        Rows that differ in their words alone are of one kind. Exchange two of them and the draws to come keep their
        probabilities, so the recursion goes over kinds instead of rows, each word as long as the mean of its kind
        (lengths add up, and expectation is linear). That keeps the states few: which of the nouns is held does
        not matter, that one is held does.

        Raises: ValueError for a grammar that may mention a fact before it is drawn or run out of rows.
        """
        return self._expectation(self.start, {}, {})

    def _expectation(self, stack: Stack | None, facts: dict[str, Kind], memo: dict[State, Pair]) -> Pair:
        """(E[nats], E[characters]) of all that is to come after this state."""
        facts = {fact: facts[fact] for fact in self.needs(stack) if fact in facts}
        state = stack, frozenset(facts.items())
        if state in memo:
            return memo[state]
        nats = characters = 0.0
        slot = None
        while stack is not None and slot is None:
            piece, stack = stack.piece, stack.rest
            if not isinstance(piece, Slot):
                characters += len(piece) if isinstance(piece, str) else piece
            elif piece.table:
                slot = piece
            elif piece.fact in facts:
                stack = self.push(self.outline(facts[piece.fact], piece), stack)
            else:
                raise ValueError(f"stories: a story may mention {piece.fact!r} before it is drawn")
        if slot is not None:
            free = {kind: len(kind.rows) - [*facts.values()].count(kind) for kind in self.kinds(slot.table)}
            total = sum(number * kind.weight for kind, number in free.items())
            if not total:
                raise ValueError(f"stories: facts may hold every row of {slot.table!r}, add one")
            for kind, number in free.items():
                if number:
                    known = {**facts, slot.fact: kind} if slot.fact else facts
                    future = self._expectation(self.push(self.outline(kind, slot), stack), known, memo)
                    p = kind.weight / total
                    nats += number * p * (future[0] - math.log(p))
                    characters += number * p * future[1]
        memo[state] = nats, characters
        return memo[state]

    def needs(self, stack: Stack | None) -> frozenset[str]:
        """The facts that this stack may mention, or whose rows its draws leave out."""
        return self.needs(stack.rest) | self.slot_needs(stack.piece) if stack else frozenset()

    def slot_needs(self, piece: str | float | Slot) -> frozenset[str]:
        if not isinstance(piece, Slot):
            return frozenset()
        facts = [piece.fact] if not piece.table else [fact for fact, tables in self.tables_of.items()
                                                      if piece.table in tables]
        return frozenset(facts).union(*(self.slot_needs(inner) for row in self.rows_of(piece)
                                        for inner in row.columns[piece.column]))

    def kinds(self, table: str) -> list[Kind]:
        """The rows of a table, those that differ in their words alone put together."""
        alike: dict[object, list[Row]] = {}
        for row in self.tables[table]:
            shape = [[astuple(piece) if isinstance(piece, Slot) else None for piece in template]
                     for template in row.columns.values()]
            alike.setdefault((row.weight, str(shape)), []).append(row)
        return [Kind(rows[0].weight, tuple(rows)) for rows in alike.values()]

    def outline(self, kind: Kind, slot: Slot) -> tuple[float | Slot, ...]:
        """What the slot prints for a row of this kind, each word replaced by the mean length of such words."""
        templates = [self.template(row, slot) for row in kind.rows]
        return tuple(pieces[0] if isinstance(pieces[0], Slot) else sum(map(len, pieces)) / len(pieces)
                     for pieces in zip(*templates, strict=True))

    # --- proof ----------------------------------------------------------------------------------------------------

    def check_prefix_code(self) -> int:
        """Prove that a text has one derivation: in no slot does what one row prints begin what another prints.

        Facts from outside a slot are taken to be anything (but the same for both rows), and the law that facts
        differ is left aside, so the proof covers more than the grammar prints. Capitals are not told apart, and
        articles follow from the letter after them, so it holds for `{Drink}` and `{a drink}` as well.
        Returns the number of slots.
        Raises: ValueError naming the slot and the text that two of its rows share.
        """
        slots = {(slot.table, slot.column, slot.fact if self.slots(slot.table) else ""): slot  # words read no facts
                 for table in self.tables for slot in self.slots(table) if slot.table}
        for slot in [STORY, *slots.values()]:
            for one, two in combinations(self.tables[slot.table], 2):
                shared = self._clash(("", *self.after(slot, one, None, {})), ("", *self.after(slot, two, None, {})))
                if shared is not None:
                    raise ValueError(f"stories: two rows of {slot.table!r} may both begin {shared!r}")
        return len(slots) + 1

    def _clash(self, a: Reader, b: Reader) -> str | None:
        """A text that a prints in full while b prints it too or goes on from it (or the other way round), or None."""
        for one, two in ((a, b), (b, a)):
            text, stack, facts = one
            if text:
                continue
            if stack is None:
                return ""
            piece, rest = stack.piece, stack.rest
            if not isinstance(piece, Slot):
                return self._clash((str(piece), rest, facts), two)
            known = not piece.table and piece.fact in facts
            for row in [facts[piece.fact]] if known else self.rows_of(piece):
                other = two if piece.table else (*two[:2], {piece.fact: row, **two[2]})  # both know what is outside
                shared = self._clash(("", *self.after(piece, row, rest, facts)), other)
                if shared is not None:
                    return shared
            return None
        n = min(len(a[0]), len(b[0]))
        if a[0][:n].lower() != b[0][:n].lower():
            return None
        shared = self._clash((a[0][n:], *a[1:]), (b[0][n:], *b[1:]))
        return None if shared is None else a[0][:n] + shared
