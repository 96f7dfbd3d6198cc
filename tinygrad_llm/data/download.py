"""Files from the network into a cache: mirrors, a broken transfer gone on with, and never a file that is not right.

The standard library does it: those that download data sets neither go on with a broken transfer nor know mirrors.
"""

import hashlib
import os
import shutil
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from tinygrad_llm.files import replacing, write_atomically

FOLDER = "TINYGRAD_LLM_DATA"  # the environment variable that names the cache
SECONDS_TO_WAIT = 30.0
PIECE = 2**18


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be had from the network.

    name: in the cache. size: in bytes, at least about. sha256: None where nobody published it and we do not know it;
    then that of the first download is written to `<name>.sha256`, and every use is checked against it. urls: the
    address and its mirrors; or archive: a zip file that has it under the name member.
    """

    name: str
    size: int
    sha256: str | None = None
    urls: tuple[str, ...] = ()
    archive: "RemoteFile | None" = None
    member: str = ""

    def __str__(self) -> str:
        check = f"SHA-256 {self.sha256}" if self.sha256 else "whose SHA-256 nobody published"
        return f"{self.name} ({self.size:,} bytes, {check})"


def cache_folder() -> Path:
    """Where files are kept: TINYGRAD_LLM_DATA, else tinygrad_llm below XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tinygrad_llm")


def fetch_file(file: RemoteFile) -> Path:
    """The path of the file in the cache, downloaded if it is not there, and checked each time.

    Raises: ConnectionError when no address gives it, saying how to go on without a network; ValueError for a file in
    the cache that is not the published one, or a cache that cannot be written.
    """
    path = cache_folder() / file.name
    if path.is_file():
        return _checked(file, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if path.is_file():
                pass  # another process has brought it
            elif file.archive is None:
                _download(file, path)
            else:
                _unpack(file, path)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{path.parent}: cannot be written ({error}); name another folder in {FOLDER}") from None
    return _checked(file, path)


def _checked(file: RemoteFile, path: Path) -> Path:
    expected, found = file.sha256 or _recorded(path), _sha256(path)
    if expected is None:
        with suppress(OSError):  # a cache that cannot be written has been filled by someone who can
            write_atomically(_record(path), f"{found}  {file.name}\n".encode())
    elif found != expected:
        kind, what = ("published one", "it") if file.sha256 else ("first download's", f"it and {_record(path).name}")
        raise ValueError(
            f"{path}: its SHA-256 is {found}, the {kind} is {expected}; remove {what} to download it again, or name "
            f"another folder in {FOLDER}"
        )
    return path


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _recorded(path: Path) -> str | None:
    """The hash that was written down when a file without a published one came."""
    try:
        return _record(path).read_text().split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the file: a second process waits, and then finds it."""
    if find_spec("filelock") is None:
        raise ValueError("filelock is not installed; pip install -e '.[data]' brings what downloads need")
    from filelock import FileLock

    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


class _Failed(Exception):
    """An address did not give the file; the reason."""


def _download(file: RemoteFile, path: Path) -> None:
    """Try the addresses in turn, each again as long as it brings more, and put the file at path when it is right."""
    part = path.with_name(path.name + ".part")
    reasons = []
    for url in file.urls:
        before = -1
        while before < (before := part.stat().st_size if part.exists() else 0):
            try:
                _transfer(file, url, part)
                _check_part(file, part)
            except _Failed as reason:
                failed = f"{url}: {' '.join(str(reason).split())}"
                continue
            os.replace(part, path)
            _tag(part).unlink(missing_ok=True)
            return
        reasons.append(failed)
    raise ConnectionError(
        f"{file.name} could not be fetched ({'; '.join(reasons)}); without a network put {file} into the folder "
        f"{path.parent}, or into one that the environment variable {FOLDER} names"
    )


def _check_part(file: RemoteFile, part: Path) -> None:
    """Refuse and remove what is not the published file."""
    if file.sha256 and (found := _sha256(part)) != file.sha256:
        part.unlink()
        _tag(part).unlink(missing_ok=True)
        raise _Failed(f"what it sent has the SHA-256 {found}, not {file.sha256}")


def _unpack(file: RemoteFile, path: Path) -> None:
    """Take the file out of its archive."""
    assert file.archive is not None
    try:
        packed = fetch_file(file.archive)
    except ConnectionError as error:
        raise ConnectionError(f"{error}; or put {file}, which it has as {file.member}, there") from None
    try:
        with ZipFile(packed) as archive, archive.open(file.member) as member, replacing(path) as out:
            if archive.getinfo(file.member).file_size > 2 * file.size:
                raise ValueError(f"{packed}: {file.member} is more than twice the size that was expected")
            shutil.copyfileobj(member, out, PIECE)
    except (BadZipFile, KeyError, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{packed}: not a zip file with {file.member} ({error}); remove it and try again") from None


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _transfer(file: RemoteFile, url: str, part: Path) -> None:
    """Bring the content of url into the file part; what is there from before is gone on with, if it is of the same.

    The server's tag says whether: it is asked for the rest only if the content still has that tag.

    Raises: _Failed with the reason.
    """
    have = part.stat().st_size if part.exists() else 0
    known = _tag(part).read_text().splitlines() if have and _tag(part).exists() else []
    request = urllib.request.Request(url, headers={"User-Agent": "tinygrad_llm"})
    if len(known) == 2 and known[0] == url:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known[1])
    with _network(), _open(request, have) as reply:
        if reply is None:
            return
        if reply.status != 206:
            have = 0
        elif not reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise _Failed(f"it was asked for what follows byte {have} and sends something else")
        with _disk():
            _remember(url, reply.headers.get("ETag"), part)
        length = reply.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        _copy(reply, part, file, have, total)


@contextmanager
def _open(request: urllib.request.Request, have: int) -> Iterator[Any]:
    """The reply; None when the server says that the `have` bytes are all there are."""
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_TO_WAIT) as reply:
            yield reply
    except urllib.error.HTTPError as error:
        if error.code != 416 or error.headers.get("Content-Range") != f"bytes */{have}":
            raise
        yield None


def _remember(url: str, tag: str | None, part: Path) -> None:
    if tag and not tag.startswith("W/"):
        write_atomically(_tag(part), f"{url}\n{tag}\n".encode())
    else:
        _tag(part).unlink(missing_ok=True)


def _copy(reply: Any, part: Path, file: RemoteFile, have: int, total: int | None) -> None:
    """Copy the reply behind the first `have` bytes of part, with a bar on a terminal."""
    most = 2 * file.size + 2**20
    with _disk():
        out = part.open("r+b" if have else "wb")
    with out, _bar(file.name, have, total) as advance:
        out.seek(have)
        while have <= most and (piece := reply.read(PIECE)):
            with _disk():
                out.write(piece)
            have += len(piece)
            advance(len(piece))
    if have > most:
        part.unlink()
        raise _Failed(f"it sends more than twice the {file.size:,} bytes that were expected")
    if total is not None and have < total:
        raise _Failed(f"the transfer broke off after {have:,} of {total:,} bytes; the next one goes on there")


class _DiskError(Exception):
    """Carries an OSError of the disk past those of the network, which are OSErrors too."""


@contextmanager
def _network() -> Iterator[None]:
    try:
        yield
    except _DiskError as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None
    except (OSError, HTTPException, ValueError) as error:
        raise _Failed(str(error) or type(error).__name__) from None


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _DiskError from error


@contextmanager
def _bar(name: str, have: int, total: int | None) -> Iterator[Any]:
    if find_spec("tqdm") is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, initial=have, desc=name, unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update
