"""Tables of records from a file: CSV, TSV, JSON or JSON lines, each record a dictionary with the columns' names."""

import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

FORMATS = ("csv", "tsv", "json", "jsonl")
Record = dict[str, Any]


def read_records(
    path: str | os.PathLike[str], *, format: str | None = None, columns: Sequence[str] | None = None
) -> list[Record]:
    """The records of a file, in its order; empty lines are none.

    format: one of FORMATS, by default the name's ending. columns: the columns' names where a CSV or TSV file has no
    line for them. CSV has quotes as in RFC 4180, where a field may have line ends; in TSV a quote is a character like
    any other. JSON is a list of objects, JSON lines an object a line. Files are strict UTF-8.

    Raises: ValueError naming the line for what is not UTF-8, has another number of fields than there are columns, or is
    no object; for a file without records or of an unknown format, a name that two columns share, or columns for JSON;
    OSError as open().
    """
    path = Path(path)
    kind = format or path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        path.stat()  # a file that is not there has no format either
        raise ValueError(
            f"{path}: unknown format {kind!r}; let its name end in, or say format=, one of {', '.join(FORMATS)}"
        )
    if columns is not None and kind in ("json", "jsonl"):
        raise ValueError(f"{path}: columns are for csv and tsv; the objects of {kind} name theirs themselves")
    with path.open("rb") as file:
        if kind == "json":
            records = _json(path, file)
        elif kind == "jsonl":
            records = [_object(path, number, line) for number, line in _lines(path, file) if line.strip()]
        else:
            rows = _csv(path, file) if kind == "csv" else _tsv(path, file)
            records = _named(path, rows, columns)
    if not records:
        raise ValueError(f"{path}: holds no records")
    return records


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Number and text of each line, its end with it."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: line {number} is not UTF-8: byte 0x{line[error.start]:02x} at its position {error.start} "
                f"({error.reason}); convert the file to UTF-8 first"
            ) from None
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def _tsv(path: Path, file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    for number, line in _lines(path, file):
        if line.strip("\r\n"):
            yield number, line.rstrip("\r\n").split("\t")


def _csv(path: Path, file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line for _, line in _lines(path, file)), strict=True)
    limit = csv.field_size_limit(sys.maxsize)  # by default a field of more than 128 KiB is refused
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num} is not CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _named(path: Path, rows: Iterator[tuple[int, list[str]]], columns: Sequence[str] | None) -> list[Record]:
    names = list(columns) if columns is not None else next(rows, (0, []))[1]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path}: two columns are called {twice[0]!r}")
    records = []
    for number, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{path}: line {number} has {len(row)} fields, but there are {len(names)} columns: {', '.join(names)}"
            )
        records.append(dict(zip(names, row, strict=True)))
    return records


def _json(path: Path, file: BinaryIO) -> list[Record]:
    content = "".join(line for _, line in _lines(path, file))
    found = _parsed(path, 1, content)
    if not isinstance(found, list):
        raise ValueError(f"{path}: must be a list of objects, not {type(found).__name__}; write JSON lines as .jsonl")
    for place, record in enumerate(found):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: record {place} must be an object, not {type(record).__name__}")
    return found


def _object(path: Path, number: int, line: str) -> Record:
    record = _parsed(path, number, line.rstrip("\r\n"))
    if not isinstance(record, dict):
        raise ValueError(f"{path}: line {number} must be an object, not {type(record).__name__}")
    return record


def _parsed(path: Path, number: int, text: str) -> Any:
    """The JSON value of a text that begins on this line of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise ValueError(f"{path}: line {line} is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"{path}: what begins at line {number} is nested too deep") from None
