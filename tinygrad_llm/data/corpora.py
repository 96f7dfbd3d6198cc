"""Where the text comes from: a file, a folder of files, or a corpus with a name."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from tinygrad_llm.data import known
from tinygrad_llm.data.windows import split

SUFFIXES = (".txt", ".md")
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
def load(source: Literal["sms-spam", "alpaca", "instruction-data"]) -> list[dict[str, str]]: ...  # type: ignore[overload-overlap]
@overload
def load(source: str | os.PathLike[str], validation_fraction: float = 0.1) -> Corpus: ...
def load(source: str | os.PathLike[str], validation_fraction: float = 0.1) -> Corpus | list[dict[str, str]]:
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


def _named(name: str, validation_fraction: float) -> Corpus | list[dict[str, str]]:
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
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file() and not _hidden(p, path))
        if not files:
            raise ValueError(f"{path}: the folder holds no {' or '.join(SUFFIXES)} file")
        return "\n\n".join(_read_file(p).rstrip("\n") for p in files) + "\n"
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: there is no such file or folder; give a text file, a folder of texts, or the name of a "
            f"corpus: stories, {', '.join(known.CORPORA)}"
        )
    if not path.is_file():
        raise ValueError(f"{path}: neither a regular file nor a folder")
    return _read_file(path)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _read_file(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8: byte 0x{content[error.start]:02x} at position {error.start} ({error.reason}); "
            f"convert the file to UTF-8 first"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; give a text to learn from")
    return text
