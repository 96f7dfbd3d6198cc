"""Downloads from a server of this process; nothing here asks the network."""

import hashlib
import http.server
import io
import os
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest

from tinygrad_llm.data import download, fetch, known, load, read_records
from tinygrad_llm.data.download import RemoteFile, cache_folder, fetch_file

pytest.importorskip("filelock")
CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; breaks off after `breaks` bytes of each reply; `asked` has the range of each request."""

    content, tag, breaks, status = CONTENT, '"one"', None, 200

    def __init__(self):
        self.asked = []
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request, address):
        """Say nothing of a client that hangs up."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        start = 0
        if wanted and self.headers.get("If-Range") == server.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.content) or server.status != 200:
            self.send_response(416 if server.status == 200 else server.status)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start:][: server.breaks])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(download.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PIECE", 2**16)
    return tmp_path / "cache"


def remote(*urls, **values):
    return RemoteFile("file.bin", len(CONTENT), **{"sha256": SHA256, "urls": urls, **values})


def names(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_file_is_downloaded_once(server, cache):
    for _ in range(2):
        assert fetch_file(remote(server.url)).read_bytes() == CONTENT
    assert server.asked == [None] and names(cache) == {"file.bin"}


def test_a_broken_transfer_goes_on_where_it_broke_off(server, cache):
    server.breaks = 300_000
    assert fetch_file(remote(server.url)).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert names(cache) == {"file.bin"}


def test_a_transfer_that_was_killed_goes_on_in_the_next_run(server, cache, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    for when in ("_check_part", "_sha256"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(download, when, killed)
            fetch_file(remote(server.url))
        assert "file.bin" not in names(cache)
    assert fetch_file(remote(server.url)).read_bytes() == CONTENT
    assert server.asked == [None, *[f"bytes={len(CONTENT)}-"] * 2]  # the server says that nothing is missing


def test_another_content_is_never_joined_to_the_first_part_of_the_old(server, cache):
    server.breaks = 0
    with pytest.raises(ConnectionError):
        fetch_file(remote(server.url))
    (cache / "file.bin.part").write_bytes(b"old" * 10)
    (cache / "file.bin.part.tag").write_text(f'{server.url}\n"old"\n')
    server.breaks = None
    assert fetch_file(remote(server.url, sha256=None)).read_bytes() == CONTENT


def test_a_wrong_file_is_refused_and_the_mirror_asked(server, cache):
    with Server() as wrong:
        wrong.content = CONTENT[:-1] + b"!"
        thread = threading.Thread(target=wrong.serve_forever, args=(0.01,))
        thread.start()
        assert fetch_file(remote(wrong.url, server.url)).read_bytes() == CONTENT
        with pytest.raises(ConnectionError, match=f"what it sent has the SHA-256 [0-9a-f]+, not {SHA256}"):
            fetch_file(RemoteFile("other.bin", len(CONTENT), SHA256, (wrong.url,)))
        wrong.shutdown()
        thread.join()
    assert names(cache) == {"file.bin"}


def test_a_file_that_never_ends_is_cut_off(server, cache):
    server.content = b"x" * 2_000_000
    with pytest.raises(ConnectionError, match="more than twice the 100 bytes"):
        fetch_file(RemoteFile("file.bin", 100, None, (server.url,)))


def test_without_a_network_it_says_how_to_go_on(server, cache):
    server.status = 404
    closed = "http://127.0.0.1:9/file"
    with pytest.raises(ConnectionError) as caught:
        fetch_file(remote(server.url, closed))
    for expected in (server.url, "404", closed, "file.bin (1,048,576 bytes", SHA256, str(cache), "TINYGRAD_LLM_DATA"):
        assert expected in str(caught.value)
    assert names(cache) == set()


def test_a_damaged_file_in_the_cache_is_refused_and_kept(server, cache):
    path = fetch_file(remote(server.url))
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"its SHA-256 is [0-9a-f]+, the published one is {SHA256}; remove it to"):
        fetch_file(remote(server.url))
    assert path.read_bytes() == b"damaged"


def test_where_no_hash_is_published_the_first_one_is_kept(server, cache):
    file = remote(server.url, sha256=None)
    path = fetch_file(file)
    assert (cache / "file.bin.sha256").read_text().split() == [SHA256, "file.bin"]
    path.write_bytes(CONTENT[1:])
    with pytest.raises(ValueError, match=r"the first download's is .* remove it and file\.bin\.sha256"):
        fetch_file(file)


def packed(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def test_a_file_is_taken_out_of_its_archive(server, cache):
    server.content = packed(inside=CONTENT, other=b"")
    archive = RemoteFile("a.zip", len(server.content), urls=(server.url,))
    assert fetch_file(remote(archive=archive, member="inside")).read_bytes() == CONTENT
    with pytest.raises(ValueError, match=r"a\.zip: not a zip file with nothing"):
        fetch_file(RemoteFile("x.bin", 5, archive=archive, member="nothing"))
    with pytest.raises(ValueError, match="more than twice the size"):
        fetch_file(RemoteFile("x.bin", 5, archive=archive, member="inside"))
    assert names(cache) == {"a.zip", "a.zip.sha256", "file.bin"}
    server.status = 500
    with pytest.raises(ConnectionError, match=rf"b\.zip .* or put y\.bin \(9 bytes, SHA-256 {SHA256}\)"):
        fetch_file(RemoteFile("y.bin", 9, SHA256, archive=RemoteFile("b.zip", 1, urls=(server.url,)), member="y"))


def test_a_full_disk_is_no_trouble_of_the_network(server, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        fetch_file(remote(server.url, server.url))
    assert len(server.asked) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv(download.FOLDER, str(tmp_path / "taken" / "below"))
    with pytest.raises(ValueError, match=r"cannot be written .* name another folder in TINYGRAD_LLM_DATA"):
        fetch_file(remote("http://127.0.0.1:9/"))


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.delenv(download.FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", os.path.join("some", "cache"))
    assert cache_folder() == Path("some", "cache", "tinygrad_llm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "tinygrad_llm"


@pytest.fixture
def library(server, monkeypatch):
    """Corpora that the server has, of each kind."""
    text = b"One story.\n<|end|>\nAnother story.\n"
    table = b'[{"instruction": "Add.", "output": "3"}]'
    contents = {"story": text, "table": table, "spam": b"ham\thello you\nspam\twin!\n"}
    rows = {"table": partial(read_records, format="json"), "spam": known.CORPORA["sms-spam"].rows}
    server.content = packed(**contents)
    archive = RemoteFile("all.zip", len(server.content), urls=(server.url,))
    files = {n: RemoteFile(n, len(c), archive=archive, member=n) for n, c in contents.items()}
    for name, file in files.items():
        entry = known.Known("", "", {"train": file}, "<|end|>", rows.get(name))
        monkeypatch.setitem(known.CORPORA, name, entry)
    monkeypatch.setitem(
        known.CORPORA, "pair", known.Known("", "", {"train": files["story"], "validation": files["spam"]})
    )
    return server


def test_a_text_is_loaded_by_its_name_and_so_are_rows(library):
    corpus = load("story", 0.5)
    assert corpus.name == "story" and corpus.train + corpus.validation == "One story.\n\nAnother story.\n"
    assert load("pair").validation == "ham\thello you\nspam\twin!\n"
    assert load("table") == [{"instruction": "Add.", "output": "3"}]
    assert load("spam") == [{"label": "ham", "text": "hello you"}, {"label": "spam", "text": "win!"}]
    assert len(library.asked) == 1


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no corpus of this name; choose one of the-verdict, tiny-shakespeare"):
        fetch("moby-dick")


def test_every_corpus_says_where_it_is_and_whose():
    for name, corpus in known.CORPORA.items():
        assert corpus.about and corpus.licence and "train" in corpus.files, name
        for file in corpus.files.values():
            source = file.archive or file
            assert len(source.urls) >= 2 and all(url.startswith("https://") for url in source.urls)
            assert file.size > 0 and (file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32)


REAL = os.environ.get("TINYGRAD_LLM_DATA")


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("the-verdict", lambda c: (c.train + c.validation).startswith("I HAD always thought Jack Gisburn")),
        ("tiny-shakespeare", lambda c: len(c.train + c.validation) == 1_115_394),
        ("sms-spam", lambda rows: [sum(r["label"] == kind for r in rows) for kind in ("ham", "spam")] == [4827, 747]),
        ("instruction-data", lambda rows: len(rows) == 1100 and set(rows[0]) == {"instruction", "input", "output"}),
    ],
)
def test_the_real_files_are_those_of_the_table(name, check, monkeypatch):
    if not REAL or not (Path(REAL) / known.CORPORA[name].files["train"].name).is_file():
        pytest.skip("TINYGRAD_LLM_DATA names no folder with the file")
    monkeypatch.setenv("TINYGRAD_LLM_DATA", REAL)
    assert check(load(name))
