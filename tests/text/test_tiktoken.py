"""The published encodings. Their files may be absent: what needs them is skipped, the rest never asks the network."""

import base64
import hashlib
import io
import os
import pickle
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
from tinygrad_llm.text import __main__ as command
from tinygrad_llm.text import tiktoken as ours

CODE = """
import sys, urllib.request
def refuse(*arguments, **keywords): raise OSError("no network in this test")
urllib.request.urlopen = refuse
from tinygrad_llm.text import TiktokenTokenizer
tokenizer = TiktokenTokenizer()
print(tokenizer.vocab_size, tokenizer.encode("Hello, world"))
"""


def published_files() -> dict[str, bytes] | None:
    """The two files by their published names, from the cache folder alone."""
    try:
        found = {f.name: ours.find(f, ours.cache_folder()) for f in ours.GPT2_FILES}
    except ValueError:
        return None
    return None if None in found.values() else found  # type: ignore[return-value]


needs_files = pytest.mark.skipif(published_files() is None, reason="GPT-2's two files are not in tiktoken's cache")


def in_a_process(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*arguments, **keywords):
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def test_the_names_in_the_cache_are_those_of_tiktoken():
    assert {f.name: f.cache_name for f in ours.GPT2_FILES} == {
        "vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
        "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
    }


def test_addresses_and_hashes_are_those_that_tiktoken_asks_for(monkeypatch):
    from tiktoken_ext import openai_public

    asked = {}
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda **keywords: asked.update(keywords))
    openai_public.gpt2()
    assert {(f.url, f.sha256) for f in ours.GPT2_FILES} == {
        (asked["vocab_bpe_file"], asked["vocab_bpe_hash"]),
        (asked["encoder_json_file"], asked["encoder_json_hash"]),
    }


@pytest.mark.parametrize("encoding", ours.ENCODINGS)
def test_without_network_and_cache_the_message_says_how_to_go_on(monkeypatch, tmp_path, offline, encoding):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(ConnectionError) as caught:
        ours.vocabulary_files(encoding)
    message = str(caught.value)
    for file in ours.ENCODINGS[encoding].files:
        assert file.name in message and file.cache_name in message and file.sha256 in message
    assert "TIKTOKEN_CACHE_DIR" in message and str(tmp_path) in message and "--tokenizer char" in message
    assert f"fetch {encoding} --to FOLDER" in message
    assert list(tmp_path.iterdir()) == []


def test_the_network_is_given_a_time_limit(monkeypatch):
    limits = []

    def slow(url, timeout=None):
        limits.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", slow)
    with pytest.raises(ConnectionError, match="timed out"):
        ours.download(ours.GPT2_FILES[0], "gpt2")
    assert limits == [ours.SECONDS_TO_CONNECT]


def test_a_damaged_file_is_named_and_left_where_it_is(monkeypatch, tmp_path, offline):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    damaged = tmp_path / ours.GPT2_FILES[0].cache_name
    damaged.write_bytes(b"#version: 0.2\n")
    with pytest.raises(ValueError, match=rf"{damaged} is not OpenAI's vocab.bpe"):
        ours.vocabulary_files("gpt2")
    assert damaged.read_bytes() == b"#version: 0.2\n"


def test_a_wrong_answer_from_the_network_is_refused_and_not_kept(monkeypatch, tmp_path):
    class Reply:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self):
            return b"<html>Please log in</html>"

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: Reply())
    with pytest.raises(ConnectionError, match=r"not OpenAI's vocab\.bpe"):
        ours.vocabulary_files("gpt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["cache name", "own name", "link as text"])
def test_a_file_is_found_by_its_content_in_each_layout(tmp_path, layout):
    content = b"#version: 0.2\nt h\n"
    file = ours.VocabularyFile("tiny", "tiny.bpe", hashlib.sha256(content).hexdigest())
    assert ours.find(file, tmp_path) is None
    if layout == "link as text":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "tiny.bpe").write_bytes(content)
        (tmp_path / file.cache_name).write_text("elsewhere/tiny.bpe")
    else:
        (tmp_path / (file.cache_name if layout == "cache name" else file.name)).write_bytes(content)
    assert ours.find(file, tmp_path) == content


def test_a_download_lands_in_the_cache_folder_once(monkeypatch, tmp_path):
    content, asked = b"merges", []

    def reply(url, timeout):
        asked.append(url)
        return io.BytesIO(content)

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "new"))
    monkeypatch.setattr(urllib.request, "urlopen", reply)
    file = ours.VocabularyFile("tiny", "tiny.bpe", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(ours.ENCODINGS, "tiny", ours.Published("gpt2", (file,)))
    for _ in range(2):
        assert ours.vocabulary_files("tiny") == {file.cache_name: content}
    assert asked == [file.url]
    assert [p.name for p in (tmp_path / "new").iterdir()] == [file.cache_name]


def test_another_encoding_is_refused():
    with pytest.raises(ValueError, match="unknown encoding 'gpt5'; choose one of gpt2, r50k_base"):
        ours.TiktokenTokenizer("gpt5")


@pytest.mark.parametrize("encoding", [name for name in ours.ENCODINGS if name != "gpt2"])
def test_rank_files_and_patterns_are_those_of_tiktoken(monkeypatch, encoding):
    from tiktoken_ext import openai_public

    from tinygrad_llm.text import splitting

    asked = {}
    monkeypatch.setattr(
        openai_public, "load_tiktoken_bpe", lambda url, expected_hash: asked.update({url: expected_hash})
    )
    theirs = openai_public.ENCODING_CONSTRUCTORS[encoding]()
    published = ours.ENCODINGS[encoding]
    assert {f.url: f.sha256 for f in published.files} == asked
    sample = "I'LL pay 12345!!\r\n\n  now, don't:\n\t\tÉté 漢字🙂 x=[1,\n 2]   \n"
    pieces = list(splitting.pieces_of(sample, published.pattern))
    single = {bytes([b]): b for b in range(256)}
    whole = single | {
        piece.encode(): 256 + i for i, piece in enumerate(dict.fromkeys(pieces)) if len(piece.encode()) > 1
    }
    by_pattern = tiktoken.Encoding("x", pat_str=theirs["pat_str"], mergeable_ranks=whole, special_tokens={})
    assert by_pattern.decode_tokens_bytes(by_pattern.encode_ordinary(sample)) == [piece.encode() for piece in pieces]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A cl100k_base of 256 bytes and one merge, known by its hash, which neither tiktoken nor the cache has yet."""
    content = b"".join(base64.b64encode(bytes([b])) + f" {b}\n".encode() for b in range(256)) + b"YWI= 256\n"
    file = ours.VocabularyFile("encodings", "cl100k_base.tiktoken", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(ours.ENCODINGS, "cl100k_base", ours.Published("gpt4", (file,)))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    tiktoken.registry._find_constructors() if tiktoken.registry.ENCODING_CONSTRUCTORS is None else None

    def constructor():
        path = Path(os.environ["TIKTOKEN_CACHE_DIR"], file.cache_name)
        special = {"<|endoftext|>": 300}
        ranks = tiktoken.load.load_tiktoken_bpe(str(path))
        return {"name": "cl100k_base", "pat_str": r"\p{L}+|\P{L}", "mergeable_ranks": ranks, "special_tokens": special}

    monkeypatch.setitem(tiktoken.registry.ENCODING_CONSTRUCTORS, "cl100k_base", constructor)
    return file, content


def test_a_rank_file_is_known_by_its_hash(fake, tmp_path, offline):
    (tmp_path / "any-name").write_bytes(fake[1])
    tokenizer = text.load(tmp_path / "any-name")
    assert isinstance(tokenizer, ours.TiktokenTokenizer) and tokenizer.name == "cl100k_base"
    assert tokenizer.encode("ab<|endoftext|>", allowed_special="all") == [256, 300]
    tokenizer.save(tmp_path / "saved.json")
    for again in (
        text.load(tmp_path / "saved.json"),
        pickle.loads(pickle.dumps(tokenizer)),
        text.build("cl100k_base", ""),
    ):
        assert (again.name, again.encode("ab"), again.vocab_size) == ("cl100k_base", [256], 301)


def test_fetch_makes_a_folder_that_needs_no_network(fake, monkeypatch, tmp_path, capsys):
    file, content = fake
    asked = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: asked.append(url) or io.BytesIO(content))
    for _ in range(2):
        assert command.main(["fetch", "cl100k_base", "--to", str(tmp_path / "new" / "files")]) == 0
    assert asked == [file.url]
    assert [p.name for p in (tmp_path / "new" / "files").iterdir()] == [file.cache_name]
    assert f"TIKTOKEN_CACHE_DIR={tmp_path / 'new' / 'files'}" in capsys.readouterr().out
    assert not ours.is_cached("cl100k_base")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "new" / "files"))
    assert ours.is_cached("cl100k_base") and text.build("cl100k_base", "").encode("ab") == [256]


@needs_files
@pytest.mark.parametrize("layout", ["cache names", "published names", "links as text"])
def test_the_files_are_found_under_either_name_without_network(tmp_path, layout):
    for file in ours.GPT2_FILES:
        content = published_files()[file.name]
        if layout == "links as text":  # what git leaves of a symbolic link where it cannot make one
            (tmp_path / file.name).write_bytes(content)
            (tmp_path / "cache").mkdir(exist_ok=True)
            (tmp_path / "cache" / file.cache_name).write_text(f"../{file.name}")
        else:
            (tmp_path / (file.cache_name if layout == "cache names" else file.name)).write_bytes(content)
    folder = tmp_path / "cache" if layout == "links as text" else tmp_path
    before = sorted((p.name, p.stat().st_size) for p in folder.iterdir())
    done = in_a_process(folder)
    assert done.stdout == "50257 [15496, 11, 995]\n", done.stderr
    assert sorted((p.name, p.stat().st_size) for p in folder.iterdir()) == before  # nothing was changed


@needs_files
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decode_inverts_encode(passage):
    tokenizer = text.build("gpt2", "")
    ids = tokenizer.encode(passage)
    assert tokenizer.decode(ids) == passage
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@needs_files
def test_special_tokens_follow_the_policy():
    tokenizer = text.build("gpt2", "")
    assert tokenizer.special_tokens == {"<|endoftext|>": 50256}
    assert tokenizer.encode("a<|endoftext|>b", allowed_special="all") == [64, 50256, 65]
    ordinary = tokenizer.encode_ordinary("<|endoftext|>")
    assert 50256 not in ordinary and tokenizer.decode(ordinary) == "<|endoftext|>"
    assert tokenizer.encode("<|endoftext|>", disallowed_special=()) == ordinary
    with pytest.raises(ValueError, match=r"'<\|endoftext\|>' stands in the text at position 1"):
        tokenizer.encode("a<|endoftext|>")
    with pytest.raises(ValueError, match=r"'<x>', which is none of its special tokens"):
        tokenizer.encode("a", allowed_special={"<x>"})


@needs_files
def test_save_and_load(tmp_path):
    text.build("gpt2", "").save(tmp_path / "tokenizer.json")
    assert text.load(tmp_path / "tokenizer.json").encode("Hello, world") == [15496, 11, 995]


@needs_files
@pytest.mark.parametrize("i", [-1, 50257])
def test_an_id_outside_the_vocabulary_is_named(i):
    with pytest.raises(ValueError, match=rf"id {i} at position 0 is outside \[0, 50257\)"):
        text.build("gpt2", "").decode([i])
