"""GPT-2's tokenizer. The published files may be absent: what needs them is skipped, the rest never asks the network."""

import hashlib
import io
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import text
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
        found = {f.name: ours.find(f, ours.cache_folder()) for f in ours.FILES}
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
    assert {f.name: f.cache_name for f in ours.FILES} == {
        "vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
        "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
    }


def test_addresses_and_hashes_are_those_that_tiktoken_asks_for(monkeypatch):
    from tiktoken_ext import openai_public

    asked = {}
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda **keywords: asked.update(keywords))
    openai_public.gpt2()
    assert {(f.url, f.sha256) for f in ours.FILES} == {
        (asked["vocab_bpe_file"], asked["vocab_bpe_hash"]),
        (asked["encoder_json_file"], asked["encoder_json_hash"]),
    }


def test_without_network_and_cache_the_message_says_how_to_go_on(monkeypatch, tmp_path, offline):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(ConnectionError) as caught:
        ours.vocabulary_files()
    message = str(caught.value)
    for file in ours.FILES:
        assert file.name in message and file.cache_name in message
    assert "TIKTOKEN_CACHE_DIR" in message and str(tmp_path) in message and "--tokenizer char" in message
    assert list(tmp_path.iterdir()) == []


def test_the_network_is_given_a_time_limit(monkeypatch):
    limits = []

    def slow(url, timeout=None):
        limits.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", slow)
    with pytest.raises(ConnectionError, match="timed out"):
        ours.download(ours.FILES[0])
    assert limits == [ours.SECONDS_TO_CONNECT]


def test_a_damaged_file_is_named_and_left_where_it_is(monkeypatch, tmp_path, offline):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    damaged = tmp_path / ours.FILES[0].cache_name
    damaged.write_bytes(b"#version: 0.2\n")
    with pytest.raises(ValueError, match=rf"{damaged} is not OpenAI's vocab.bpe"):
        ours.vocabulary_files()
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
        ours.vocabulary_files()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["cache name", "own name", "link as text"])
def test_a_file_is_found_by_its_content_in_each_layout(tmp_path, layout):
    content = b"#version: 0.2\nt h\n"
    file = ours.VocabularyFile("tiny.bpe", hashlib.sha256(content).hexdigest())
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
    file = ours.VocabularyFile("tiny.bpe", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(ours, "FILES", (file,))
    for _ in range(2):
        assert ours.vocabulary_files() == {file.cache_name: content}
    assert asked == [file.url]
    assert [p.name for p in (tmp_path / "new").iterdir()] == [file.cache_name]


def test_another_encoding_is_refused():
    with pytest.raises(ValueError, match="'cl100k_base' is not supported"):
        ours.TiktokenTokenizer("cl100k_base")


@needs_files
@pytest.mark.parametrize("layout", ["cache names", "published names", "links as text"])
def test_the_files_are_found_under_either_name_without_network(tmp_path, layout):
    for file in ours.FILES:
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
