"""python -m tinygrad_llm.evaluation: tables, JSON, and mistakes in one sentence."""

import json

import pytest

from tests.evaluation.parts import TEXT, TOKENIZER, gpt
from tinygrad_llm.evaluation import Question, accuracy, answer_questions, text_loss
from tinygrad_llm.evaluation.__main__ import main
from tinygrad_llm.models import load


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    gpt().float().save_pretrained(folder)
    TOKENIZER.save(folder / "tokenizer.json")
    return folder


def command(capsys, *arguments):
    """Exit code, standard output and standard error."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as error:
        code = error.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_perplexity(run, tmp_path, capsys):
    one, two, report = tmp_path / "one.txt", tmp_path / "two.txt", tmp_path / "report.json"
    one.write_text(TEXT, encoding="utf-8")
    two.write_text("the cat sat", encoding="utf-8")
    code, shown, _ = command(capsys, "perplexity", "--model", run, one, two, "--stride", 3, "--json", report)
    values, model = json.loads(report.read_text()), load(run)
    expected = text_loss(model, TOKENIZER, TEXT, stride=3)
    assert code == 0 and values["texts"][str(one)] == expected.to_dict()
    assert values["all"] == (expected + text_loss(model, TOKENIZER, "the cat sat", stride=3)).to_dict()
    assert [line.split()[0] for line in shown.splitlines()[2:]] == [str(one), str(two), "all"]
    assert f"{expected.perplexity:,.2f}" in shown and f"{expected.bits_per_byte:.4f}" in shown


def test_choices(run, tmp_path, capsys):
    records = [{"q": "the cat", "c": ["sat", "or", "not"], "a": 0}, {"q": "the", "c": ["dog", "is"], "a": "is"}]
    path, report = tmp_path / "questions.jsonl", tmp_path / "report.json"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    keys = ["--context=q", "--choices=c", "--answer=a"]
    code, shown, _ = command(capsys, "choices", "--model", run, path, *keys, "--json", report, "--batch", 2)
    answered = answer_questions(load(run), TOKENIZER, Question.from_records(records, "q", "c", "a"))
    values = json.loads(report.read_text())
    assert code == 0 and values["accuracy"] == {n: accuracy(answered, n) for n in ("sum", "token", "byte")}
    assert values["chance"] == pytest.approx(5 / 12) and "2 questions" in shown
    assert values["questions"][1]["nats"] == pytest.approx(answered[1].nats.tolist(), abs=1e-5)


def test_match(tmp_path, capsys):
    path, report = tmp_path / "responses.json", tmp_path / "report.json"
    path.write_text(json.dumps([
        {"output": "Paris", "model_response": " Paris"}, {"output": ["2", "two"], "model_response": "Two"},
        {"output": "x", "model_response": "y"},
    ]))  # fmt: skip
    code, shown, _ = command(capsys, "match", path, "--json", report)
    assert code == 0 and json.loads(report.read_text())["right"] == [True, False, False] and "33.33%" in shown
    assert "66.67%" in command(capsys, "match", path, "--ignore-case")[1]


def test_judge(server, tmp_path, capsys, monkeypatch):
    path, report = tmp_path / "responses.json", tmp_path / "report.json"
    entry = {"instruction": "Say it in French.", "input": "cat", "output": "chat"}
    path.write_text(json.dumps([{**entry, "model_response": "chat"}, {**entry, "model_response": "chien"}]))
    monkeypatch.setenv("THE_KEY", "secret")
    arguments = ["judge", path, "--address", server.address, "--judge", "wise", "--key-from", "THE_KEY"]
    server.replies = ["100", "20"]
    code, shown, told = command(capsys, *arguments, "--json", report)
    values = json.loads(report.read_text())
    assert code == 0 and "60.00" in shown and told.splitlines() == ["1/2: 100", "2/2: 20"]
    assert values["mean"] == 60 and [record["answers"] for record in values["records"]] == [["100"], ["20"]]
    first = values["records"][0]["prompt"]
    assert all(part in first for part in ("Say it in French.\ncat", "chat")) and server.asked[0][2] == "Bearer secret"
    scores = (tmp_path / "responses-judged.jsonl").read_text()
    assert scores.count("\n") == 2 and "secret" not in scores + report.read_text()

    server.asked = []
    assert command(capsys, *arguments)[0] == 0 and not server.asked  # nothing is asked twice
    server.replies = [404]
    code, shown, told = command(capsys, *arguments[:-3], "unknown", "--retries", 0)
    assert code == 2 and told.count("\n") == 1 and "does not answer: HTTP 404" in told
    assert (tmp_path / "responses-judged.jsonl").read_text() == scores


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["perplexity", "--model", "RUN", "absent.txt"], "No such file"),
        (["perplexity", "--model", "nowhere", "HERE/text"], "there is no such folder or file"),
        (["perplexity", "--model", "RUN", "HERE/empty"], "empty: text_loss: 0 tokens leave nothing to judge"),
        (["perplexity", "--model", "RUN", "HERE/bytes"], "bytes: not UTF-8 at byte 0"),
        (["perplexity", "--model", "RUN", "HERE/text", "--stride", "13"], "--stride 13: must lie in 1..12"),
        (["perplexity", "--model", "RUN", "HERE/text", "--context", "0"], "--context 0: must lie in 1..12"),
        (["perplexity", "--model", "RUN", "HERE/text", "--batch", "0"], "--batch 0: must be at least 1"),
        (["perplexity", "--model", "RUN", "HERE/text", "--json", "HERE/no/x"], "or in none that exists"),
        (["choices", "--model", "RUN", "HERE/entries.json"], "entries.json: record 0 has no 'context'"),
        (["match", "HERE/entries.json"], "entries.json: record 0 has no 'model_response'; it has a"),
        (["match", "HERE/text"], "unknown format"),
        (["judge", "HERE/entries.json", "--address", "x", "--judge", "m"], "--address x: expected one such as"),
        (["judge", "HERE/entries.json", "--address", "http://h", "--judge", "m", "--key-from", "NO_SUCH"], "NO_SUCH"),
        (["judge", "HERE/entries.json", "--address", "http://h", "--judge", "m"], "has no 'instruction'"),
        (["guess"], "invalid choice"),
        (["perplexity", "HERE/text"], "required: --model"),
    ],
)
def test_a_mistake_is_one_sentence(run, tmp_path, capsys, arguments, message):
    (tmp_path / "text").write_text("the cat sat")
    (tmp_path / "empty").write_text("")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "entries.json").write_text('[{"a": 1}]')
    given = [a.replace("RUN", str(run)).replace("HERE", str(tmp_path)) for a in arguments]
    code, shown, told = command(capsys, *given)
    assert code == 2 and told.count("\n") == 1 and message in told and not shown
    assert told.startswith("python -m tinygrad_llm.evaluation")
