"""GPT-2's byte-pair encoding, by the library tiktoken and the two files that OpenAI published."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygrad_llm.files import write_atomically
from tinygrad_llm.text.base import Tokenizer, register

SECONDS_TO_CONNECT = 8.0


@dataclass(frozen=True)
class VocabularyFile:
    """A file that the encoding is made of; tiktoken's cache calls it by the SHA-1 of its address."""

    name: str
    sha256: str

    @property
    def url(self) -> str:
        """Where OpenAI publishes it."""
        return f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{self.name}"

    @property
    def cache_name(self) -> str:
        """Its name in tiktoken's cache folder."""
        return hashlib.sha1(self.url.encode()).hexdigest()

    def is_in(self, content: bytes) -> bool:
        """Whether content is the published file, to the byte."""
        return hashlib.sha256(content).hexdigest() == self.sha256


FILES = (
    VocabularyFile("vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    VocabularyFile("encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
)


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
            f"gpt2 tokenizer: {damaged[0]} is not OpenAI's {file.name} (its SHA-256 differs); delete it or put "
            f"the file from {file.url} there"
        )
    return None


def download(file: VocabularyFile) -> bytes:
    """The content of the file from the network, checked. Raises: ConnectionError, saying how to do without it."""
    import urllib.request  # here, because it brings ssl and http along and most runs never need it

    try:
        with urllib.request.urlopen(file.url, timeout=SECONDS_TO_CONNECT) as reply:
            content = reply.read()
    except OSError as error:
        expected = " and ".join(f"{f.name} (as {f.cache_name} or under its own name)" for f in FILES)
        raise ConnectionError(
            f"gpt2 tokenizer: {file.url} could not be fetched ({error}); without a network put {expected} into a "
            f"folder and name it in the environment variable TIKTOKEN_CACHE_DIR (now {cache_folder()}), or go on "
            f"with --tokenizer char"
        ) from None
    if not file.is_in(content):
        raise ConnectionError(f"gpt2 tokenizer: what {file.url} sent is not OpenAI's {file.name} (SHA-256 differs)")
    return content


def vocabulary_files() -> dict[str, bytes]:
    """The verified content of each file by its cache name: from the cache folder, else from the network into it."""
    folder, contents = cache_folder(), {}
    for file in FILES:
        content = find(file, folder)
        if content is None:
            content = download(file)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / file.cache_name, content)
            except OSError:
                pass  # a cache that cannot be written costs the next run a download, nothing else
        contents[file.cache_name] = content
    return contents


def _gpt2_encoding() -> Any:
    """tiktoken's encoding, made from files that we verified.

    tiktoken deletes a cache file whose hash is wrong and asks the network without a time limit, so it is only ever
    shown a private folder that holds both files.
    """
    import tiktoken

    if "gpt2" in tiktoken.registry.ENCODINGS:
        return tiktoken.get_encoding("gpt2")
    contents = vocabulary_files()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            Path(folder, name).write_bytes(content)
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        try:
            return tiktoken.get_encoding("gpt2")
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


@register
class TiktokenTokenizer(Tokenizer):
    """GPT-2's tokenizer: 50,257 ids, any text; tiktoken is imported when the first one is made.

    Raises: ConnectionError when its files are neither in the cache folder nor to be had from the network.
    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
    """

    name = "gpt2"

    def __init__(self, encoding: str = "gpt2") -> None:
        if encoding != "gpt2":
            raise ValueError(f"TiktokenTokenizer: encoding {encoding!r} is not supported; use 'gpt2'")
        self._encoding = _gpt2_encoding()
        self.vocab_size = self._encoding.n_vocab
        self.special_tokens = dict(self._encoding._special_tokens)

    @classmethod
    def build(cls, text: str) -> "TiktokenTokenizer":
        """The one GPT-2 tokenizer, whatever the text is."""
        return cls()

    def encode_ordinary(self, text: str) -> list[int]:
        """Text -> ids."""
        return self._encoding.encode_ordinary(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; bytes that are not UTF-8 (a character cut in two) become U+FFFD."""
        return self._encoding.decode(self.check_ids(ids))

    def to_dict(self) -> dict[str, Any]:
        """Nothing: the name says it all."""
        return {}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "TiktokenTokenizer":
        """The one GPT-2 tokenizer."""
        return cls()
