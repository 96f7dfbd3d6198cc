"""OpenAI's GPT-2 by name, downloaded and kept by Hugging Face's own library."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path

NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
OWNER = "openai-community"
FILES = ("config.json", "model.safetensors")
CHUNK = 2**22


def is_name(name: str) -> bool:
    """Whether a model of OpenAI's is meant, with or without its owner's name."""
    return name.removeprefix(f"{OWNER}/") in NAMES


def download(name: str) -> Path:
    """The folder of the model in the library's cache; a transfer that broke goes on where it stopped.

    What is in the cache is taken without asking the network.

    Raises: ImportError without the library; ConnectionError without a network, saying which files are needed and how to
    go on without; ValueError for a file that is not the published one.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ImportError(
            f"{name} is downloaded with huggingface_hub, which is not installed; pip install 'tinygrad_llm[hub]' "
            f"brings it, or give a folder that has {' and '.join(FILES)}"
        ) from None
    repository = f"{OWNER}/{name.removeprefix(f'{OWNER}/')}"
    try:
        paths = [_file(hf_hub_download, repository, file) for file in FILES]
    except Exception as error:  # the library, and the one for the network below it, have many kinds of it
        raise ConnectionError(
            f"{name}: {' and '.join(FILES)} of https://huggingface.co/{repository} are not in the cache and could not "
            f"be downloaded ({_first_line(error)}); bring them into a folder on a machine with a network, and give "
            f"that folder instead of the name"
        ) from None
    _check(paths[1])
    return paths[0].parent


def _file(hf_hub_download: Callable[..., str], repository: str, file: str) -> Path:
    """A file out of the cache or else from the network; warnings of attempts that fail are not shown one by one."""
    try:
        return Path(hf_hub_download(repository, file, local_files_only=True))
    except Exception:  # it is not there, in whatever way the library says so
        log = logging.getLogger("huggingface_hub")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            return Path(hf_hub_download(repository, file))
        finally:
            log.setLevel(level)


def _check(path: Path) -> None:
    """Compare a large file with its SHA-256, which is its name in the cache."""
    expected = path.resolve().name
    if not re.fullmatch(r"[0-9a-f]{64}", expected):
        return
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    if found.hexdigest() != expected:
        raise ValueError(
            f"{path.resolve()}: damaged, its SHA-256 is {found.hexdigest()}; remove it to download it again"
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
