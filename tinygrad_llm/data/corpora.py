"""Where the text comes from: a file, a folder of files, or a corpus with a name."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from tinygrad_llm.data import known
from tinygrad_llm.data.readers import Record
from tinygrad_llm.data.windows import split
from tinygrad_llm.text.sources import files_of, read_parts

STORIES_CHARACTERS = 1_200_000
STORIES_SEED = 1


@dataclass(frozen=True)
class Floor:
    """What no model can beat: the information in the validation text, and the entropy of its source."""

    validation_nats: float  # -log p(validation text) under the distribution it was drawn from
    nats_per_character: float  # the entropy of the source


@dataclass(frozen=True)
class Corpus:
    """A text cut into a part to learn from and a part to be judged by; `floor` where the truth is known."""

    name: str
    train: str
    validation: str
    floor: Floor | None = None


@overload
def load(source: Literal["sms-spam", "alpaca", "instruction-data"]) -> list[Record]: ...  # type: ignore[overload-overlap]
@overload
def load(source: str | os.PathLike[str], validation_fraction: float = 0.1) -> Corpus: ...
def load(source: str | os.PathLike[str], validation_fraction: float = 0.1) -> Corpus | list[Record]:
    """The corpus at a path, the embedded one called "stories", or one of `known.CORPORA` by its name.

    A name comes before a path (./alpaca is a path). Where nobody fixed a validation text it is the last part. Of a
    table of examples, such as "alpaca", it is the rows: a dict each.

    Raises: ValueError, FileNotFoundError, OSError as `read`; ConnectionError as `known.fetch`.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"corpora.load: validation_fraction {validation_fraction} must lie between 0 and 1")
    if source == "stories":
        return embedded_stories(STORIES_CHARACTERS, validation_fraction)
    if is_name(source):
        return _named(str(source), validation_fraction)
    train, validation = split(read(source), (1 - validation_fraction, validation_fraction))
    return Corpus(printable(Path(source).name), train, validation)


def is_name(source: str | os.PathLike[str]) -> bool:
    """Whether `load` takes it for the name of a corpus, rather than for a path."""
    return isinstance(source, str) and (source == "stories" or source in known.CORPORA)


def _named(name: str, validation_fraction: float) -> Corpus | list[Record]:
    paths, rows = known.fetch(name), known.CORPORA[name].rows
    if rows is not None:
        return rows(paths["train"])
    mark = known.CORPORA[name].mark
    texts = {part: read(path).replace(mark, "") if mark else read(path) for part, path in paths.items()}
    if "validation" in texts:
        return Corpus(name, texts["train"], texts["validation"])
    return Corpus(name, *split(texts["train"], (1 - validation_fraction, validation_fraction)))


def printable(name: str) -> str:
    """A file's name with a mark for each byte that is not UTF-8, which plots and terminals could not show."""
    return os.fsencode(name).decode("utf-8", "replace")


def embedded_stories(characters: int, validation_fraction: float = 0.1) -> Corpus:
    """About `characters` characters of stories, the same at every call; both parts are whole stories."""
    from tinygrad_llm.data import stories  # here, because a run on another text need not read the grammar

    validation = stories.generate(STORIES_SEED + 1, round(characters * validation_fraction))
    train = stories.generate(STORIES_SEED, characters - round(characters * validation_fraction))
    floor = Floor(-stories.log_probability(validation), stories.entropy().nats_per_character)
    return Corpus("stories", train, validation, floor)


def read(path: str | os.PathLike[str]) -> str:
    """The text of a file, or of every .txt and .md file below a folder, in the order of their paths.

    Files are strict UTF-8; line ends are made uniform; the files of a folder are joined by a blank line.

    Raises: FileNotFoundError when there is nothing at path; ValueError for a folder without texts, an empty file or
    one that is not UTF-8, naming the byte.
    """
    path = Path(path)
    try:
        files = files_of(path)
    except FileNotFoundError as error:
        names = ", ".join(known.CORPORA)
        raise FileNotFoundError(f"{error}, or the name of a corpus: stories, {names}") from None
    texts = [_whole(file) for file in files]
    return "\n\n".join(text.rstrip("\n") for text in texts) + "\n" if path.is_dir() else texts[0]


def _whole(path: Path) -> str:
    text = "".join(read_parts(path))
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; give a text to learn from")
    return text
