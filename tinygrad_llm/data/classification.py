"""Texts with a label each: from records, in equal numbers, in parts, and as padded batches."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygrad_llm.data.readers import FORMATS, read_records


@dataclass(frozen=True)
class Labelled:
    """N texts, the number of each one's class (N,), and the classes' names."""

    texts: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], text: str = "text", label: str = "label") -> Labelled:
        """From a file of `read_records`, as TSV where its ending is none of those; columns' names in any case.

        TSV of two columns whose first line has neither of those names is label TAB text from that line on, like the SMS
        Spam Collection. One that gives other names than the usual ones means columns that are there.

        Raises: as `read_records` and `from_records`.
        """
        kind = Path(path).suffix.removeprefix(".").lower()
        kind = kind if kind in FORMATS else "tsv"
        bare = kind == "tsv" and (text, label) == ("text", "label") and _begins_at_once(path, (label, text))
        records = read_records(path, format=kind, columns=(label, text) if bare else None)
        spelled = {name.casefold(): name for name in records[0]}
        text, label = (name if name in records[0] else spelled.get(name.casefold(), name) for name in (text, label))
        return cls.from_records(records, text, label)

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        text: str = "text",
        label: str = "label",
        classes: Sequence[str] | None = None,
    ) -> Labelled:
        """From the columns `text` and `label`. classes: in this order, by default sorted by name.

        Raises: ValueError naming the record (from 0) without such a column, with an empty text, a label that is no text
        or number, or none of the classes; or when all have one class.
        """
        texts, names = [], []
        for place, record in enumerate(records):
            for column in (text, label):
                if column not in record:
                    raise ValueError(
                        f"record {place} has no column {column!r}; its columns are {', '.join(record)}; say which are "
                        f"meant by text= and label="
                    )
            if not isinstance(record[text], str) or not record[text].strip():
                raise ValueError(f"record {place}: the text in column {text!r} is empty: {record[text]!r}")
            if not isinstance(record[label], (str, int)) or record[label] == "":
                raise ValueError(f"record {place}: {record[label]!r} in column {label!r} is no label")
            texts.append(record[text])
            names.append(str(record[label]))
        chosen = tuple(sorted(set(names)) if classes is None else classes)
        numbers = {name: number for number, name in enumerate(chosen)}
        if unknown := [place for place, name in enumerate(names) if name not in numbers]:
            raise ValueError(f"record {unknown[0]}: label {names[unknown[0]]!r} is none of {', '.join(chosen)}")
        if len(set(names)) < 2:
            raise ValueError(f"all {len(texts)} records have one class, {names[:1]}; there is nothing to tell apart")
        return cls(texts, np.array([numbers[name] for name in names]), chosen)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int] | np.ndarray) -> Labelled:
        """Those with these indices, in this order."""
        return Labelled([self.texts[i] for i in indices], self.labels[np.asarray(indices, np.int64)], self.classes)

    def counts(self) -> dict[str, int]:
        """How many texts each class has."""
        return dict(zip(self.classes, np.bincount(self.labels, minlength=len(self.classes)).tolist(), strict=True))

    def balanced(self, seed: int = 123) -> Labelled:
        """As many of each class as the smallest has, drawn without replacement; they keep their order.

        Raises: ValueError for a class without texts.
        """
        least = min(self.counts().values())
        if not least:
            raise ValueError(f"balanced: a class has no texts: {self.counts()}")
        rng = np.random.default_rng(seed)
        of_class = (np.flatnonzero(self.labels == number) for number in range(len(self.classes)))
        return self.take(np.sort(np.concatenate([rng.permutation(found)[:least] for found in of_class])))

    def split(
        self, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 123, *, stratified: bool = False
    ) -> list[Labelled]:
        """Shuffled and cut, by default for training, validation and test; the parts' sizes are those of `partition`.

        stratified: each class is cut by itself, so that every part has the classes in the same proportion.
        """
        rng = np.random.default_rng(seed)
        if not stratified:
            return [self.take(part) for part in partition(rng.permutation(len(self)), fractions)]
        of_class = (rng.permutation(np.flatnonzero(self.labels == n)) for n in range(len(self.classes)))
        parts = zip(*(partition(found, fractions) for found in of_class), strict=True)
        return [self.take(rng.permutation(np.concatenate(part))) for part in parts]


def _begins_at_once(path: str | os.PathLike[str], names: Sequence[str]) -> bool:
    """Whether a file of two columns has none of these names in its first line that is not empty."""
    with open(path, "rb") as file:
        first = next((line for line in file if line.strip()), b"")
    found = first.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r\n").casefold().split("\t")
    return len(found) == 2 and not {name.casefold() for name in names} & set(found)


def partition(items: Any, fractions: Sequence[float]) -> list[Any]:
    """Cut a sequence into consecutive parts of floor(n * fraction), the last one with all that remains.

    Raises: ValueError unless the fractions are positive and sum to 1, or when a part would be empty.
    """
    if not fractions or any(not f > 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"partition: fractions {tuple(fractions)} must be positive and sum to 1")
    sizes = [math.floor(len(items) * f + 1e-9) for f in fractions[:-1]]  # 0.29 * 100 is 28.999999999999996
    ends = np.cumsum([0, *sizes]).tolist()
    parts = [items[a:b] for a, b in zip(ends, [*ends[1:], len(items)], strict=True)]
    if not all(len(part) for part in parts):
        raise ValueError(
            f"partition: {len(items)} items leave a part empty at fractions {tuple(fractions)}; give more items"
        )
    return parts


class LabelledBatch(NamedTuple):
    """ids (B, T) int64, labels (B,) int64, and last (B,): where each row's last real token stands.

    A causal model has read the whole text there, and only there: logits[arange(B), last] are (B, V) to classify by.
    """

    ids: np.ndarray
    labels: np.ndarray
    last: np.ndarray


def classification_batch(
    batch: Sequence[tuple[Sequence[int], int]],
    pad_id: int = 50256,
    *,
    max_length: int | None = None,
    length: int | None = None,
) -> LabelledBatch:
    """Pairs of ids and label as one batch, padded at the end to the longest, or to `length`.

    max_length: longer texts lose their end. To be used as DataLoader(collate_fn=partial(classification_batch, ...)).

    Raises: ValueError for a row without ids, or one longer than `length`.
    """
    rows = [list(ids)[:max_length] for ids, _ in batch]
    if empty := [i for i, row in enumerate(rows) if not row]:
        raise ValueError(f"classification_batch: row {empty[0]} has no ids")
    longest = max(map(len, rows))
    width = longest if length is None else length
    if longest > width:
        raise ValueError(
            f"classification_batch: a row of {longest} ids does not fit length {width}; cut it with max_length={width}"
        )
    ids = np.full((len(rows), width), pad_id, np.int64)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = row
    return LabelledBatch(ids, np.array([label for _, label in batch]), np.array([len(row) - 1 for row in rows]))
