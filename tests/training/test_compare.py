import json

import pytest

from tinygrad_llm.training.__main__ import main


def run(folder, *losses):
    folder.mkdir()
    records = [
        {"step": 10 * i, "tokens": 100 * i, "train_loss": x, "val_loss": x, "lr": 0.1, "tokens_per_second": 5.0}
        for i, x in enumerate(losses)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_runs_are_told_beside_each_other_the_best_first(tmp_path, capsys):
    first, second = run(tmp_path / "a", 4.0, 3.0, 3.5), run(tmp_path / "b", 4.0, 2.5)
    (tmp_path / "notes").mkdir()  # runs/* names what is no run, too
    picture = tmp_path / "picture.png"
    assert main(["compare", str(first), str(second), str(tmp_path / "notes"), "--out", str(picture)]) == 0
    head, _, b, a, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "steps", "tokens", "training", "validation", "best", "at", "step", "tokens/s"]
    assert b.split() == [str(second), "10", "100", "2.5000", "2.5000", "2.5000", "10", "5"]
    assert a.split() == [str(first), "20", "200", "3.5000", "3.5000", "3.0000", "10", "5"]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is the folder of a run"),
        ("", "is the folder of a run"),
        ("[\n", "not JSON"),
        ('{"a": 1}\n', "no evaluation"),
    ],
)
def test_what_is_no_run_is_refused_in_one_sentence(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "p.png")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "p.png").exists()
