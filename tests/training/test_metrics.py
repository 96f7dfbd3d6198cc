import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm.training import Evaluation, MetricsFile, peak_memory, perplexity, read_metrics

FINITE = st.floats(allow_nan=False, allow_infinity=False)
EVALUATIONS = st.builds(
    Evaluation,
    step=st.integers(0),
    tokens=st.integers(0),
    train_loss=FINITE,
    val_loss=FINITE,
    lr=FINITE,
    tokens_per_second=FINITE,
)
KEYS = {"step", "tokens", "train_loss", "val_loss", "lr", "tokens_per_second", "grad_norm"}


@given(st.lists(EVALUATIONS, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory, evaluations):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        for count, evaluation in enumerate(evaluations, 1):
            metrics.write(evaluation)
            assert len(read_metrics(path)) == count  # there at once, not when the file is closed
    records = read_metrics(path)
    assert [Evaluation(**record) for record in records] == evaluations
    assert all(set(record) == KEYS for record in records)
    assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines())


@given(st.integers(0, 200))
def test_a_file_cut_anywhere_goes_on_with_whole_records(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        for step in range(10):
            metrics.write({"step": step, "val_loss": 1.5})
    content = path.read_bytes()[:length]
    path.write_bytes(content)
    whole = content.count(b"\n")
    assert [r["step"] for r in read_metrics(path)] == list(range(whole))
    with MetricsFile(path, append=True) as metrics:
        metrics.write({"step": 99})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [*range(whole), 99]


def test_without_append_a_file_starts_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    MetricsFile(path).close()
    assert read_metrics(path) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_never_written(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        with pytest.raises(ValueError):
            metrics.write({"val_loss": value})
        metrics.write({"val_loss": 1.0})
    assert read_metrics(path) == [{"val_loss": 1.0}]


@pytest.mark.parametrize(("line", "message"), [("{", "line 2 is not JSON"), ("[1]", "line 2 is not a JSON object")])
def test_a_line_that_is_no_record_is_named(tmp_path, line, message):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_metrics(path)


@given(st.integers(1, 10**6))
def test_perplexity_of_an_even_guess_is_the_number_of_choices(n):
    assert perplexity(math.log(n)) == pytest.approx(n)


def test_perplexity_of_an_exploded_loss_is_infinite():
    assert perplexity(1e9) == math.inf


def test_peak_memory_never_falls_and_sees_a_large_array():
    before = peak_memory()
    if before is None:
        pytest.skip("this system does not tell")
    block = bytearray(b"x" * (64 * 2**20 + before))  # more than was ever held, so that the peak must move
    grown = peak_memory()
    del block
    assert grown >= before + 64 * 2**20
    assert peak_memory() >= grown
