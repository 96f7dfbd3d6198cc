"""The encodings that OpenAI published, by the library tiktoken and files that we verify."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygrad_llm.files import write_atomically
from tinygrad_llm.text.base import register
from tinygrad_llm.text.bpe_formats import read_ranks
from tinygrad_llm.text.encoding import EncodingTokenizer
from tinygrad_llm.text.loading import reads_content

SECONDS_TO_CONNECT = 8.0
ADDRESS = "https://openaipublic.blob.core.windows.net/"


@dataclass(frozen=True)
class VocabularyFile:
    """A file that an encoding is made of; tiktoken's cache calls it by the SHA-1 of its address."""

    folder: str
    name: str
    sha256: str

    @property
    def url(self) -> str:
        """Where OpenAI publishes it."""
        return f"{ADDRESS}{self.folder}/{self.name}"

    @property
    def cache_name(self) -> str:
        """Its name in tiktoken's cache folder."""
        return hashlib.sha1(self.url.encode()).hexdigest()

    def is_in(self, content: bytes) -> bool:
        """Whether content is the published file, to the byte."""
        return hashlib.sha256(content).hexdigest() == self.sha256


@dataclass(frozen=True)
class Published:
    """What an encoding is made of: its files, and the name of its split pattern."""

    pattern: str
    files: tuple[VocabularyFile, ...]


def _ranks(name: str, sha256: str) -> tuple[VocabularyFile, ...]:
    return (VocabularyFile("encodings", f"{name}.tiktoken", sha256),)


GPT2_FOLDER = "gpt-2/encodings/main"
GPT2_FILES = (
    VocabularyFile(GPT2_FOLDER, "vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    VocabularyFile(GPT2_FOLDER, "encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
)
ENCODINGS = {
    "gpt2": Published("gpt2", GPT2_FILES),
    "r50k_base": Published(
        "gpt2", _ranks("r50k_base", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930")
    ),
    "p50k_base": Published(
        "gpt2", _ranks("p50k_base", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069")
    ),
    "cl100k_base": Published(
        "gpt4", _ranks("cl100k_base", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7")
    ),
    "o200k_base": Published(
        "gpt4o", _ranks("o200k_base", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")
    ),
}


def published(encoding: str) -> Published:
    """What the encoding of this name is made of. Raises: ValueError for a name there is none of."""
    if encoding not in ENCODINGS:
        raise ValueError(f"TiktokenTokenizer: unknown encoding {encoding!r}; choose one of {', '.join(ENCODINGS)}")
    return ENCODINGS[encoding]


def cache_folder() -> Path:
    """The folder where tiktoken keeps its files: TIKTOKEN_CACHE_DIR, else its own default."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(named) if named else Path(tempfile.gettempdir(), "data-gym-cache")


def _read_whole(path: Path) -> bytes:
    """The bytes of a file, or of the file it points to.

    A git checkout without symbolic links (Windows, some archives) leaves a link as a small text that names its
    target; we follow it. The SHA-256 decides in any case what is accepted.
    """
    content = path.read_bytes()
    if len(content) < 256 and b"\n" not in content.strip() and b"\0" not in content:
        target = path.parent / content.decode(errors="replace").strip()
        if target.is_file():
            return target.read_bytes()
    return content


def find(file: VocabularyFile, folder: Path) -> bytes | None:
    """The content of the file in folder, under tiktoken's name for it or under its own; None when it is not there.

    Raises: ValueError for a file that is there but damaged.
    """
    damaged = []
    for path in (folder / file.cache_name, folder / file.name):
        if path.is_file():
            content = _read_whole(path)
            if file.is_in(content):
                return content
            damaged.append(path)
    if damaged:
        raise ValueError(
            f"tiktoken's files: {damaged[0]} is not OpenAI's {file.name} (its SHA-256 is not {file.sha256}); delete it "
            f"or put the file from {file.url} there"
        )
    return None


def is_cached(encoding: str) -> bool:
    """Whether all files of an encoding are in the cache folder, whole, so that it needs no network."""
    try:
        return all(find(file, cache_folder()) is not None for file in published(encoding).files)
    except (OSError, ValueError):
        return False


def download(file: VocabularyFile, encoding: str) -> bytes:
    """The content of the file from the network, checked. Raises: ConnectionError, saying how to do without it."""
    import urllib.request  # here, because it brings ssl and http along and most runs never need it

    try:
        with urllib.request.urlopen(file.url, timeout=SECONDS_TO_CONNECT) as reply:
            content = reply.read()
    except OSError as error:
        expected = " and ".join(
            f"{f.name} (under this name or as {f.cache_name}; SHA-256 {f.sha256})" for f in published(encoding).files
        )
        raise ConnectionError(
            f"{encoding} tokenizer: {file.url} could not be fetched ({error}); without a network put {expected} into a "
            f"folder and name it in the environment variable TIKTOKEN_CACHE_DIR (now {cache_folder()}): where there is "
            f"a network, `python -m tinygrad_llm.text fetch {encoding} --to FOLDER` makes such a folder; or go on with "
            f"--tokenizer char"
        ) from None
    if not file.is_in(content):
        raise ConnectionError(
            f"{encoding} tokenizer: what {file.url} sent is not OpenAI's {file.name} (its SHA-256 is not {file.sha256})"
        )
    return content


def fetch(encoding: str, folder: Path) -> list[Path]:
    """Put the files of an encoding into folder under tiktoken's names: from the cache folder, else from the network.

    With TIKTOKEN_CACHE_DIR=folder the encoding needs no network, here and in any program that uses tiktoken.

    Raises: ValueError for an unknown encoding or a damaged file, ConnectionError, OSError.
    """
    paths = []
    for file in published(encoding).files:
        content = find(file, folder) or find(file, cache_folder()) or download(file, encoding)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / file.cache_name, content)
        paths.append(folder / file.cache_name)
    return paths


def vocabulary_files(encoding: str) -> dict[str, bytes]:
    """The verified content of each file by its cache name: from the cache folder, else from the network into it."""
    folder, contents = cache_folder(), {}
    for file in published(encoding).files:
        content = find(file, folder)
        if content is None:
            content = download(file, encoding)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / file.cache_name, content)
            except OSError:
                pass  # a cache that cannot be written costs the next run a download, nothing else
        contents[file.cache_name] = content
    return contents


def _make(encoding: str, contents: dict[str, bytes] | None = None) -> Any:
    """tiktoken's encoding, made from files that we verified; from these contents, else from those we find.

    tiktoken deletes a cache file whose hash is wrong and asks the network without a time limit, so it is only ever
    shown a private folder that holds the files.
    """
    import tiktoken

    if encoding in tiktoken.registry.ENCODINGS:
        return tiktoken.get_encoding(encoding)
    contents = contents or vocabulary_files(encoding)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            Path(folder, name).write_bytes(content)
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        try:
            return tiktoken.get_encoding(encoding)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


@register
class TiktokenTokenizer(EncodingTokenizer):
    """One of OpenAI's encodings, GPT-2's by default: 50,257 ids, any text; tiktoken is imported when one is made.

    encoding: "gpt2", "r50k_base" (GPT-3), "p50k_base" (Codex), "cl100k_base" (GPT-4) or "o200k_base" (GPT-4o).

    Raises: ValueError for another name; ConnectionError when its files are neither in the cache folder nor to be had
    from the network.
    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """

    name = "gpt2"

    def __init__(self, encoding: str | None = None) -> None:
        encoding = encoding or type(self).name
        pattern = published(encoding).pattern
        self._run_by(_make(encoding), pattern)
        self.name = encoding  # type: ignore[misc]  # each encoding is a kind of its own, whichever way it was made

    @classmethod
    def build(cls, text: str) -> "TiktokenTokenizer":
        """The one tokenizer of this encoding, whatever the text is."""
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Nothing: the name says it all."""
        return {}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "TiktokenTokenizer":
        """The one tokenizer of this encoding."""
        return cls()

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process makes it anew from the verified files; tiktoken's own way would ask the network."""
        return TiktokenTokenizer, (self.name,)

    def __repr__(self) -> str:
        return f"TiktokenTokenizer({self.name!r})"


for _encoding in ENCODINGS:
    if _encoding != TiktokenTokenizer.name:

        @register
        class _OfThisName(TiktokenTokenizer):
            name = _encoding


def _read_rank_file(content: bytes) -> TiktokenTokenizer | None:
    """A published rank file, known by its hash. Raises: ValueError for another one, which says too little."""
    for encoding, parts in ENCODINGS.items():
        for file in parts.files:
            if file.name.endswith(".tiktoken") and file.is_in(content):
                _make(encoding, {file.cache_name: content})
                return TiktokenTokenizer(encoding)
    if not content.strip():
        return None
    try:
        read_ranks(content[: content.find(b"\n") + 1] or content)
    except ValueError:
        return None
    raise ValueError(
        "a rank file of tiktoken, but none of the published ones: it says neither how text is split nor which special "
        "tokens there are; load it with BPETokenizer.from_tiktoken(path, pattern=..., special_tokens=...)"
    )


reads_content(_read_rank_file)
