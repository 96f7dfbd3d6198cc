"""The judge: both protocols against a server of our own, strict scores, retries, and what is kept."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.evaluation import Judge, NoAnswer, judge_all, judged, parse_score, prompt_for, read_judged


def judge(server, **options):
    return Judge(**{"address": server.address, "name": "wise", "wait": 0.0, "timeout": 20.0, **options})


@pytest.mark.parametrize(("api", "path"), [("openai", "/v1/chat/completions"), ("ollama", "/api/chat")])
def test_both_protocols(server, api, path):
    server.replies = [" 87.\n"]
    found = judged(judge(server, api=api, key="secret"), "How good?")
    assert (found.score, found.answers, found.prompt, found.judge) == (87, [" 87.\n"], "How good?", "wise")
    ((asked, body, key),) = server.asked
    assert asked == path and key == "Bearer secret" and "secret" not in json.dumps(vars(found))
    assert body["model"] == "wise" and body["messages"] == [{"role": "user", "content": "How good?"}]
    assert body["stream"] is False and (body["options"] if api == "ollama" else body)["temperature"] == 0


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/", "http://h:1/v1/chat/completions"),
        ("https://h/v1", "https://h/v1/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/my/own", "https://h/my/own"),
    ],
)
def test_addresses(address, url):
    assert Judge(address, "m").url == url
    assert Judge("http://h:1/api", "m", "ollama").url == "http://h:1/api/chat"


@pytest.mark.parametrize("answer", ["Score: 80", "80/100", "101", "-1", "8 0", "", "80.5", "eighty", "٨", "080 points"])
def test_an_answer_that_is_more_than_a_number_is_no_score(answer):
    assert parse_score(answer) is None


@given(st.integers(0, 100), st.text(" \n\t"), st.text(" \n\t"))
def test_a_number_with_space_around_is_a_score(score, before, after):
    assert parse_score(f"{before}{score}{after}") == parse_score(f"{before}{score}.{after}") == score


def test_what_is_no_score_is_asked_again_and_all_answers_are_kept(server):
    server.replies = ["I think 80", "about 85", "83"]
    found = judged(judge(server, retries=2), "?")
    assert found.score == 83 and found.answers == ["I think 80", "about 85", "83"]
    assert len({body["seed"] for _, body, _ in server.asked}) == 3
    server.replies = ["very good"]
    found = judged(judge(server, retries=1), "?")
    assert found.score is None and found.answers == ["very good"] * 2


def test_a_busy_server_is_tried_again_and_a_refusal_is_not(server):
    server.replies = [503, 429, "40"]
    assert judge(server, retries=2).ask("?") == "40"
    for status in (404, 302):
        server.replies, server.asked = [status], []
        with pytest.raises(NoAnswer, match=rf"wise at http://.* does not answer: HTTP {status} .*no such model"):
            judge(server).ask("?")
        assert len(server.asked) == 1
    server.replies, server.asked = [500], []
    with pytest.raises(NoAnswer, match="HTTP 500"):
        judge(server, retries=2).ask("?")
    assert len(server.asked) == 3


@pytest.mark.parametrize("reply", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": 3}}]}'])
def test_another_protocol_is_told(server, reply):
    server.replies = [reply]
    with pytest.raises(NoAnswer, match="does not speak the protocol of openai; it said"):
        judge(server).ask("?")


def test_no_answer_in_time_and_nobody_there(server):
    hold = threading.Event()
    server.replies = [lambda: str(hold.wait(20))]
    with pytest.raises(NoAnswer, match=r"does not answer: .*timed out"):
        judge(server, retries=0, timeout=0.05).ask("?")
    hold.set()
    with pytest.raises(NoAnswer, match=r"does not answer: .*refused"):
        Judge("http://127.0.0.1:9", "wise", retries=1, wait=0.0).ask("?")


def test_what_was_scored_is_kept_and_not_asked_again(server, tmp_path):
    path = tmp_path / "scores.jsonl"
    server.replies = ["10", "20", 404]
    with pytest.raises(NoAnswer, match=r"2 of 4 are in .*scores\.jsonl, to go on from"):
        judge_all(judge(server), ["a", "b", "c", "a"], path)
    kept = path.read_bytes()
    path.write_bytes(kept + b'{"judge": "wi')  # cut off by a crash
    server.replies, server.asked, told = ["fine", "30"], [], []
    found = judge_all(judge(server, retries=1), ["a", "b", "c", "a"], path, lambda place, record: told.append(place))
    assert [record.score for record in found] == [10, 20, 30, 10] and told == [2]
    assert [body["messages"][0]["content"] for _, body, _ in server.asked] == ["c", "c"]
    assert path.read_bytes().startswith(kept) and read_judged(path) == found[:3]
    server.asked = []
    judge_all(judge(server, name="other"), ["a"], path)  # another judge has its own mind
    assert len(server.asked) == 1


def test_what_got_no_score_is_asked_again(server, tmp_path):
    path = tmp_path / "scores.jsonl"
    server.replies = ["hm"]
    assert judge_all(judge(server, retries=0), ["a"], path)[0].score is None
    server.replies = ["7"]
    assert judge_all(judge(server, retries=0), ["a"], path)[0].score == 7
    assert [record.score for record in read_judged(path)] == [None, 7]


@pytest.mark.parametrize(
    "content",
    [
        b"my notes", b'{"loss": 1}\n', b'{"judge": "m", "prompt": "p", "answers": ["x"], "score": 101}\n',
        b'{"judge": "m", "prompt": "p", "answers": "x", "score": 1}\n', b'{"judge": "m"}\n',
        b'{"judge": "m", "prompt": "p", "answers": ["x"], "score": true}\n',
    ],
)  # fmt: skip
def test_a_file_of_something_else_stays_as_it_is(server, tmp_path, content):
    path = tmp_path / "scores.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"scores\.jsonl: .*name another file"):
        judge_all(judge(server), ["a"], path)
    assert path.read_bytes() == content and not server.asked


def test_prompts_and_options():
    text = prompt_for("say {response}", "{expected}", "yes", "{instruction}|{expected}|{response}|{other}")
    assert text == "say {response}|{expected}|yes|{other}"
    assert all(part in prompt_for("do this", "right", "wrong") for part in ("do this", "right", "wrong"))
    with pytest.raises(ValueError, match=r"must contain .response"):
        prompt_for("a", "b", "c", "rate it")
    for options, message in [
        ({"address": "localhost:11434"}, "--address localhost:11434: expected one such as"),
        ({"address": "file:///etc/passwd"}, "expected one such as"),
        ({"address": "http://h:port"}, "expected one such as"),
        ({"api": "smoke"}, "--api smoke: unknown"),
        ({"timeout": 0.0}, "--timeout 0 must be positive"),
        ({"retries": -1}, "--retries -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            Judge(**{"address": "http://h", "name": "m", **options})
    assert "secret" not in repr(Judge("http://h", "m", key="secret"))
