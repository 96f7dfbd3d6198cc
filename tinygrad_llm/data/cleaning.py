"""Documents through a row of steps that remove or change them; a report says what and why, and can be replayed.

The report has one JSON object a line: the steps, then a record for each thing done, in the order of the documents, and
at the end how many there were and a hash over all of them. It holds places and reasons, never the text itself. No step
needs to run again, nor the models and lists behind it, to give the same documents once more: `replay` does.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tinygrad_llm.files import replacing

VERSION = 1
Span = tuple[int, int, str]  # characters start..end become this text


class Finding(NamedTuple):
    """Why a document does not stay as it is: the spans are replaced, or without any it is removed.

    measure: the number that decided, such as a similarity.
    """

    reason: str
    measure: float | None = None
    spans: Sequence[Span] = ()


Judge = Callable[[int, str], Finding | None]


class Step(Protocol):
    """One reason to remove or to change documents."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    def start(self) -> Judge:
        """A judge that has seen nothing yet: (index, text) -> a finding, or None where the document may stay.

        The index is that of the document in the input; the text is what the steps before have left of it.
        """


def clean(documents: Iterable[str], steps: Sequence[Step], report: str | os.PathLike[str]) -> Iterator[str]:
    """The documents that the steps leave, one at a time; what they did goes into the file `report`.

    A document that a step removes is not seen by those after it. The report appears, whole, when the last document
    has been asked for; it does not if that never happens.

    Raises: TypeError for a document that is not a text; OSError when the report cannot be written.
    """
    judges = [(step.name, step.start()) for step in steps]
    whole, count, kept = hashlib.sha256(), 0, 0
    with replacing(report) as file:

        def write(record: dict[str, Any]) -> None:
            file.write((json.dumps(record, allow_nan=False) + "\n").encode())

        write({"report": "cleaning", "version": VERSION, "steps": [name for name, _ in judges]})
        for index, text in enumerate(documents):
            if not isinstance(text, str):
                raise TypeError(f"clean: document {index} must be a text, not {type(text).__name__}")
            digest = _digest(text)
            whole.update(digest)
            count += 1
            for name, judge in judges:
                finding = judge(index, text)
                if finding is None:
                    continue
                spans = {"spans": finding.spans} if finding.spans else {}
                what = {"step": name, "reason": finding.reason, "measure": finding.measure}
                write({"document": index, **what, "sha256": digest.hex(), **spans})
                if not spans:
                    break
                text = replaced(text, finding.spans)
            else:
                kept += 1
                yield text
        write({"documents": count, "kept": kept, "sha256": whole.hexdigest()})


def replay(documents: Iterable[str], report: str | os.PathLike[str]) -> Iterator[str]:
    """The documents that `clean` gave, from the same input and its report alone.

    Each document with a record is compared by its hash before it is touched; that the others are the same too is known
    when the last has been asked for.

    Raises: ValueError when a document is not the one of the report, or the report is no whole one.
    """
    records = read_report(report)
    next(records)
    record, whole, count = next(records), hashlib.sha256(), 0
    for index, text in enumerate(documents):
        digest = _digest(text)
        whole.update(digest)
        count += 1
        stays = True
        while record.get("document") == index:
            if record["sha256"] != digest.hex():
                raise ValueError(f"replay: document {index} is not the one that {report} was written for")
            stays = stays and "spans" in record
            text = replaced(text, record.get("spans", ()))
            record = next(records)
        if stays:
            yield text
    for _ in records:  # a report that goes on after its last line is none
        pass
    if record.get("documents") != count or record["sha256"] != whole.hexdigest():
        raise ValueError(f"replay: these {count} documents are not those that {report} was written for")


def replaced(text: str, spans: Sequence[Span]) -> str:
    """The text with each span replaced by its own text; they are in order and apart from each other.

    Raises: ValueError for spans that are not.
    """
    parts, end = [], 0
    for start, stop, instead in spans:
        if not end <= start < stop <= len(text):
            raise ValueError(f"replaced: span {start}..{stop} must lie in {end}..{len(text)}")
        parts += [text[end:start], instead]
        end = stop
    return "".join([*parts, text[end:]])


def read_report(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The lines of a report: what it is, its records, and the last with the numbers.

    Raises: ValueError naming the line that does not belong there, or for a report without its last line.
    """
    last: dict[str, Any] = {}
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise ValueError(f"{path}: line {number} is not JSON") from None
            if number == 1 and not _is_head(record):
                raise ValueError(f"{path}: not a report of what was cleaned")
            if number == 1 and record.get("version") != VERSION:
                raise ValueError(f"{path}: version {record.get('version')} of the report; {VERSION} is read here")
            if number > 1 and (not _is_record(record) or "documents" in last):
                raise ValueError(f"{path}: line {number} is no record")
            last = record
            yield record
    if "documents" not in last:
        raise ValueError(f"{path}: the report ends before its last line")


def _is_head(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and record.get("report") == "cleaning"
        and isinstance(record.get("steps"), list)
        and all(isinstance(name, str) for name in record["steps"])
    )


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        return False
    if "documents" in record:
        return isinstance(record["documents"], int) and isinstance(record.get("kept"), int)
    kinds = {"document": int, "step": str, "reason": str}
    spans = record.get("spans", [])
    return all(isinstance(record.get(key), kind) for key, kind in kinds.items()) and (
        isinstance(spans, list)
        and all(isinstance(s, list) and [type(part) for part in s] == [int, int, str] for s in spans)
    )


def summary(report: str | os.PathLike[str]) -> str:
    """A report in a few lines: how many documents each step removed and changed.

    Raises: as `read_report`.
    """
    records = read_report(report)
    counts = {name: [0, 0] for name in next(records)["steps"]}
    last: dict[str, Any] = {}
    for last in records:
        if "document" in last:
            counts.setdefault(last["step"], [0, 0])["spans" in last] += 1
    rows = [f"  {name:<20}{removed:>9,} removed{changed:>9,} changed" for name, (removed, changed) in counts.items()]
    return "\n".join([f"{last['documents']:,} documents, {last['kept']:,} kept", *rows])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
