"""Preparation in this process, in forks that are killed at each of their writes, and with worker processes."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.data import (
    Settings,
    Shards,
    Windows,
    is_prepared,
    manifest,
    open_shard,
    preparation,
    prepare,
    shards,
    sources,
    verify,
)
from tinygrad_llm.text import CharTokenizer

pytest.importorskip("filelock")
ROOT = Path(__file__).parents[2]


class Letters(CharTokenizer):
    """Characters, with an end of text as the last id."""

    name = "letters"

    def __init__(self, characters: str) -> None:
        super().__init__(characters)
        self.special_tokens: dict[str, int] = {"<|endoftext|>": self.vocab_size}
        self.vocab_size += 1


@pytest.fixture(autouse=True)
def known_letters(monkeypatch):
    monkeypatch.setitem(text.base._KINDS, "letters", Letters)


LETTERS = Letters("abcdefghijklmnopqrstuvwxyz \n")
TEXTS = ["the cat sat on the mat\n" * 30, "a dog", " \n", "and one more document\n" * 9, *"abcdefgh" * 3]


@pytest.fixture
def small(monkeypatch):
    for module in (sources, preparation):
        monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(preparation, "CHECKPOINT_EVERY", 100)


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    for i, content in enumerate(TEXTS):
        (tmp_path / "texts" / f"{i:02d}.txt").write_text(content)
    return tmp_path / "texts"


def content(folder):
    """Every visible file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def split_documents(opened, split):
    row = opened.row(split)
    return [opened.tokenizer.decode(part[:-1]) for part in np.split(row[:], row.ends)[:-1]]


def test_documents_come_back_in_order_and_every_tenth_is_for_validation(texts, tmp_path, small):
    made = prepare(texts, tmp_path / "out", LETTERS, Settings(0.1, shard_tokens=200))
    opened, documents = Shards(tmp_path / "out"), [t for t in TEXTS if t.strip()]
    assert split_documents(opened, "validation") == documents[9::10]
    assert split_documents(opened, "train") == [d for i, d in enumerate(documents) if i % 10 != 9]
    assert (opened.row("train")[opened.row("train").ends - 1] == LETTERS.special_tokens["<|endoftext|>"]).all()
    assert len(made.splits["train"]) >= 3 and all(s.tokens >= 200 for s in made.splits["train"][:-1])
    assert made.settings["empty_documents"] == 1 and made.settings["bytes"] == sum(map(len, TEXTS))
    assert made == verify(tmp_path / "out") == manifest.read_manifest(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir() if p.suffix == ".partial"} == set()


@settings(max_examples=15)
@given(
    documents=st.lists(st.text("ab \n", min_size=1).filter(str.strip), min_size=4, max_size=30),
    shard_tokens=st.integers(1, 100),
    share=st.floats(0.25, 0.6),
)
def test_nothing_is_lost_whatever_the_size_of_a_shard(tmp_path_factory, documents, shard_tokens, share):
    folder = tmp_path_factory.mktemp("law")
    (folder / "in.jsonl").write_text("".join(json.dumps({"body": d}) + "\n" for d in documents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK", 64)
        made = prepare(folder / "in.jsonl", folder / "out", LETTERS, Settings(share, None, "body", shard_tokens))
    opened = Shards(folder / "out")
    judged = [int((i + 1) * share) > int(i * share) for i in range(len(documents))]
    assert split_documents(opened, "validation") == [d for d, v in zip(documents, judged, strict=True) if v]
    assert split_documents(opened, "train") == [d for d, v in zip(documents, judged, strict=True) if not v]
    assert made.documents("train") + made.documents("validation") == len(documents)


def test_of_one_long_text_the_last_part_is_for_validation(tmp_path):
    whole = "some words in a row, and again some. " * 500
    (tmp_path / "book.txt").write_text(whole)
    tokenizer = text.build("char", whole)
    made = prepare(tmp_path / "book.txt", tmp_path / "out", tokenizer, Settings(0.2))
    opened = Shards(tmp_path / "out")
    train, validation = (tokenizer.decode(opened.row(split)[:]) for split in ("train", "validation"))
    assert train + validation == whole and abs(len(validation) - 0.2 * len(whole)) < 20
    assert made.end_of_text is None and opened.row("train").ends.tolist() == [len(train)]


def test_the_number_of_workers_changes_nothing(texts, tmp_path, small, monkeypatch):
    tokenizer = text.build("char", "".join(TEXTS))  # a worker has no Letters
    for workers in (0, 2):
        prepare(texts, tmp_path / str(workers), tokenizer, Settings(shard_tokens=100), workers)
    assert content(tmp_path / "0") == content(tmp_path / "2")


def forked(act) -> int:
    """Run act in a forked process; returns its exit status, negative for a signal."""
    child = os.fork()
    if not child:
        try:
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(number: int, act) -> int:
    """Run act in a fork that gets SIGKILL at the number-th call that touches the disk."""

    def counted(real):
        def call(*arguments, **keywords):
            nonlocal number
            number -= 1
            if number < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **keywords)

        return call

    def patched():
        steps = [(os, "replace"), (os, "fsync"), (os, "chmod"), (Path, "unlink"), (open_shard, "write_shard")]
        for owner, name in [*steps, *((open_shard.OpenShard, n) for n in ("append", "seal", "clear"))]:
            setattr(owner, name, counted(getattr(owner, name)))
        act()

    return forked(patched)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_write_it_goes_on_and_the_files_are_those_of_an_uninterrupted_run(texts, tmp_path, small):
    chosen = Settings(shard_tokens=300)
    prepare(texts, tmp_path / "whole", LETTERS, chosen)
    expected, number, status = content(tmp_path / "whole"), 0, -signal.SIGKILL
    while status:
        out = tmp_path / f"killed-{number}"
        status = killed_at(number, lambda out=out: prepare(texts, out, LETTERS, chosen))
        assert status in (0, -signal.SIGKILL)
        if status and not (out / manifest.MANIFEST).exists():
            with pytest.raises((ValueError, FileNotFoundError), match=r"interrupted|no manifest"):
                Shards(out)
        elif status:
            verify(out)
        prepare(texts, out, LETTERS, chosen)
        assert content(out) == expected, number
        assert not [p for p in out.glob(".*.*") if p.name != manifest.CHECKED]
        number += 1
    assert number > 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_disk_that_is_full_stops_it_and_loses_nothing(texts, tmp_path, small):
    prepare(texts, tmp_path / "whole", LETTERS, Settings(shard_tokens=10_000))

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
        try:
            prepare(texts, tmp_path / "out", LETTERS, Settings(shard_tokens=10_000))
        except OSError as error:
            os._exit(42 if error.errno == errno.EFBIG else 3)

    assert forked(limited) == 42
    with pytest.raises(ValueError, match="interrupted; give the same command again"):
        Shards(tmp_path / "out")
    prepare(texts, tmp_path / "out", LETTERS, Settings(shard_tokens=10_000))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


SCRIPT = """
import sys, pathlib
from tinygrad_llm import text
from tinygrad_llm.data import Settings, prepare, sources
if __name__ == "__main__":
    tokenizer = text.load(sys.argv[3])
    prepare(sys.argv[1], sys.argv[2], tokenizer, Settings(shard_tokens=2**19), workers=2,
            on_progress=lambda p: print(p.done, flush=True))
"""


def test_killed_with_workers_at_work_it_goes_on_and_the_lock_is_free(tmp_path):
    (tmp_path / "book.txt").write_text("once upon a time there was a king who had no crown, and so on\n" * 120_000)
    (tmp_path / "script.py").write_text(SCRIPT)
    tokenizer = text.build("char", (tmp_path / "book.txt").read_text())
    tokenizer.save(tmp_path / "tokenizer.json")
    command = [sys.executable, *(str(tmp_path / n) for n in ("script.py", "book.txt", "out", "tokenizer.json"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    with pytest.raises(ValueError, match="another process is preparing this folder"):
        prepare(tmp_path / "book.txt", tmp_path / "out", tokenizer, Settings(shard_tokens=2**19))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split() if children.is_file() else []
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 30
    while any(Path("/proc", pid).exists() for pid in workers):  # they do not outlive the one that was killed
        assert time.monotonic() < end
        time.sleep(0.02)
    with pytest.raises(ValueError, match="interrupted"):
        Shards(tmp_path / "out")
    for name in ("out", "whole"):
        prepare(tmp_path / "book.txt", tmp_path / name, tokenizer, Settings(shard_tokens=2**19))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_an_interrupted_preparation_refuses_other_files_and_settings(texts, tmp_path, small, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        prepare(texts, tmp_path / "out", LETTERS, on_progress=lambda p: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(ValueError, match="cannot be gone on with: it was begun with other files, settings"):
        prepare(texts, tmp_path / "out", LETTERS, Settings(0.2))
    (texts / "00.txt").write_text("changed")
    with pytest.raises(ValueError, match="or a file changed since"):
        prepare(texts, tmp_path / "out", LETTERS)
    made = prepare(texts, tmp_path / "out", LETTERS, fresh=True)
    assert split_documents(Shards(tmp_path / "out"), "train")[0] == "changed"
    assert prepare(texts, tmp_path / "out", LETTERS) == made  # and what is finished is not done again
    with pytest.raises(ValueError, match="holds shards of other files, settings or another tokenizer"):
        prepare(texts, tmp_path / "out", Letters("abcdefghijklmnopqrstuvwxyz \n!"))


def test_a_folder_of_something_else_is_left_alone(texts, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt|holds texts"):
        prepare(texts, tmp_path, LETTERS)
    with pytest.raises(ValueError, match="is not a folder"):
        prepare(texts, tmp_path / "notes.txt", LETTERS)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    site = tmp_path / "site"
    site.mkdir()
    for name in ("manifest.json", "progress.json", "tokenizer.json"):
        (site / name).write_text('{"name": "something else"}')
    with pytest.raises(ValueError, match=r"holds manifest\.json and is no folder of shards"):
        prepare(texts, site, LETTERS, fresh=True)
    assert len(content(site)) == 3 and not is_prepared(site)


@pytest.mark.parametrize(
    ("contents", "chosen", "message"),
    [
        (["", " \n"], Settings(), "nothing is left for train: 0 documents"),
        (["a<|end|>b"], Settings(0.1, "<|end|>"), "nothing is left for validation: 2 documents"),
        (["Upper"], Settings(0), r"0\.txt: char tokenizer: character 'U'"),
    ],
)
def test_text_that_cannot_be_used_is_refused(tmp_path, contents, chosen, message):
    (tmp_path / "in").mkdir()
    for i, passage in enumerate(contents):
        (tmp_path / "in" / f"{i}.txt").write_text(passage)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "in", tmp_path / "out", LETTERS, chosen)
    with pytest.raises((ValueError, FileNotFoundError)):
        Shards(tmp_path / "out")


@pytest.mark.parametrize("values", [{"validation": 1.0}, {"validation": -0.1}, {"shard_tokens": 0}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="must"):
        Settings(**values)


@pytest.fixture
def prepared(texts, tmp_path, small):
    prepare(texts, tmp_path / "out", LETTERS, Settings(shard_tokens=300))
    verify(tmp_path / "out")
    return tmp_path / "out"


def change(path, old, new):
    raw = path.read_bytes()
    assert old in raw
    path.write_bytes(raw.replace(old, new, 1))


def tamper_byte(folder):
    raw = bytearray((folder / "train-00001.ids").read_bytes())
    raw[100] ^= 1
    (folder / "train-00001.ids").write_bytes(raw)


def tamper_header(folder, **values):
    path = folder / "train-00000.ids"
    header = shards.read_header(path)
    path.write_bytes(shards.Header(**{**vars(header), **values}).pack() + path.read_bytes()[64:])


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (tamper_byte, r"train-00001\.ids: its SHA-256 is not the manifest's"),
        (lambda f: (f / "train-00001.ids").unlink(), r"train-00001\.ids: the manifest names this file, but it is not"),
        (lambda f: os.truncate(f / "train-00000.ids", 200), r"train-00000\.ids: 200 bytes, but"),
        (lambda f: tamper_header(f, tokenizer="00" * 32), r"train-00000\.ids: made with another tokenizer"),
        (lambda f: change(f / "manifest.json", b'"uint16"', b'"uint32"'), "holds uint16, the manifest says uint32"),
        (lambda f: change(f / "manifest.json", b'"uint16"', b'"object"'), r"manifest\.json: not a manifest of shards"),
        (lambda f: change(f / "manifest.json", b'"train-00000.ids"', b'"../x"'), "lies outside of the folder"),
        (lambda f: change(f / "manifest.json", b'"version": 1', b'"version": 9'), "not a manifest of shards"),
        (lambda f: (f / "manifest.json").write_text("{}"), "not a manifest of shards"),
        (lambda f: (f / "manifest.json").unlink(), "no manifest.json in it"),
        (lambda f: Letters("abc").save(f / "tokenizer.json"), r"tokenizer\.json: not the tokenizer that the shards"),
    ],
)
def test_what_is_not_as_the_manifest_says_is_named(prepared, tamper, message):
    tamper(prepared)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        verify(prepared)


def test_the_hash_is_taken_once_and_again_when_asked(prepared, monkeypatch):
    taken: list[str] = []
    real = manifest.file_sha256
    monkeypatch.setattr(manifest, "file_sha256", lambda path: taken.append(path.name) or real(path))
    verify(prepared)
    assert taken == []
    verify(prepared, again=True)
    assert len(taken) >= 4
    path = prepared / "train-00000.ids"
    before = path.stat()
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    verify(prepared)  # behind the clock's back
    with pytest.raises(ValueError, match="SHA-256"):
        verify(prepared, again=True)


def test_a_vocabulary_larger_than_the_models_is_refused(prepared):
    assert Shards(prepared, vocab_size=29).row("train").dtype == np.uint16
    with pytest.raises(ValueError, match="ids up to 28, the model's vocabulary has 28"):
        Shards(prepared, vocab_size=28)
    with pytest.raises(ValueError, match="it has no 'test' split; there is train, validation"):
        Shards(prepared).row("test")


def test_windows_over_a_prepared_folder_cross_its_shards(prepared):
    row = Shards(prepared).row("train")
    windows = Windows(row, 100, stride=100)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in windows.batches(3)]).ravel(), row[: 100 * len(windows)])
