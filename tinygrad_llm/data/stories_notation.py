r"""The notation of a grammar with a memory: tables of rows, whose texts have slots.

    drink                              a plain table: rows stand apart by `|` or on lines of their own
        tea | (3) milk
    person(name, they, born)           a table with columns: one row a line, columns apart by `|`;
        Mia; Ida | she | a girl called {.name}      `;` writes several rows at once, `{.name}` is the row's own name
    story
        There lived {hero = person.born}. {Hero.they} drank {drink}./

A row is drawn with a probability proportional to its weight: 1, or the number of a leading `(3)`.

    {drink}          draw a row of the table and print its first column
    {person.they}    draw a row and print another column
    {hero = person}  the same, and remember the row as the fact `hero`
    {hero.they}      print a column of a remembered row: no draw (a name that is both is the fact)
    {Drink}          with a capital: what is printed starts with a capital
    {a drink}        with "a " or "an " before it, by the letter that follows; {A drink}: "A " or "An "
    /                a new line
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, eq=False)
class Slot:
    """`{fact = table.column}`. Without a table it is a mention of a fact; without a fact nothing is remembered."""

    fact: str
    table: str
    column: str  # "" is the first one
    article: bool
    capital: bool


Piece: TypeAlias = str | Slot
Template: TypeAlias = tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a table: what each of its columns prints, the first one under the key "" as well."""

    table: str
    index: int
    weight: float
    columns: dict[str, Template]


HEADER = re.compile(r"(\w+)(?:\(([\w, ]+)\))?")
SLOT = re.compile(r"\{(?:([aA]) )?(?:(\w+) = )?(\w+)(?:\.(\w+))?\}")


def read_tables(source: str) -> dict[str, list[Row]]:
    """The tables of a grammar. Raises: ValueError for a line that is not in the notation."""
    headers: dict[str, list[str]] = {}
    lines: dict[str, list[str]] = {}
    name = ""
    for line in source.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line[0].isspace() and name:
            lines[name].append(line.strip())
            continue
        header = HEADER.fullmatch(line.rstrip())
        if header is None or header[1] in headers:
            raise ValueError(f"stories: {line!r} must be the name of a new table")
        name = header[1]
        headers[name], lines[name] = re.split(r",\s*", header[2] or ""), []
    facts = {uncapitalised(match[1]) for match in re.finditer(r"(\w+) = ", source)}
    return {name: read_rows(name, headers[name], lines[name], facts) for name in headers}


def uncapitalised(name: str) -> str:
    """Hero -> hero."""
    return name[0].lower() + name[1:]


def read_rows(table: str, columns: list[str], lines: list[str], facts: set[str]) -> list[Row]:
    """The rows of one table, from its lines."""
    entries: list[list[str]] = []  # the columns of each row
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")]
        if columns == [""]:
            entries += [[cell] for cell in cells]
        elif len(cells) == len(columns):
            entries += [[name.strip(), *cells[1:]] for name in cells[0].split(";")]
        else:
            raise ValueError(f"stories: {line!r} has {len(cells)} columns, table {table!r} has {columns}")
    rows = []
    for index, (first, *others) in enumerate(entries):
        weighted = re.fullmatch(r"(?:\((\d+)\) )?(.+)", first)
        if weighted is None:
            raise ValueError(f"stories: a row of {table!r} is empty")
        texts = dict(zip(columns, [weighted[2], *others], strict=True))
        for own in columns[1:]:  # {.name} is the row's own column, which stands further left
            for left in columns[:columns.index(own)]:
                texts[own] = texts[own].replace(f"{{.{left}}}", texts[left])
        templates = {column: read_template(text, facts) for column, text in texts.items()}
        rows.append(Row(table, index, float(weighted[1] or 1), {**templates, "": templates[columns[0]]}))
    return rows


def read_template(text: str, facts: set[str]) -> Template:
    """The literal texts and slots of one cell; a slot that names one of the `facts` is a mention."""
    text = text.replace("/", "\n")
    pieces: list[Piece] = []
    at = 0
    for match in SLOT.finditer(text):
        article, fact, name, column = match.groups(default="")
        capital = (article or fact or name)[0].isupper()
        if fact:
            fact = uncapitalised(fact)
        elif (name := uncapitalised(name)) in facts:
            fact, name = name, ""
        pieces += [text[at:match.start()], Slot(fact, name, column, bool(article), capital)]
        at = match.end()
    pieces.append(text[at:])
    if any(isinstance(piece, str) and set(piece) & set("{}") for piece in pieces):
        raise ValueError(f"stories: a slot of {text!r} is not in the notation")
    return tuple(piece for piece in pieces if piece)
