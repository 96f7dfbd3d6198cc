"""score_rows: rows of any lengths at once get the numbers that each gets alone, token by token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.models import GPTModel, score_rows, scoring

CONTEXT = 6
CONFIG = {"vocab_size": 11, "context_length": CONTEXT, "emb_dim": 8, "n_heads": 2, "n_layers": 2, "drop_rate": 0.5}
tg.manual_seed(0)
GPT = GPTModel(CONFIG).double()
rows = st.lists(st.lists(st.integers(0, 10), min_size=2, max_size=20), min_size=1, max_size=6)


@given(rows, st.data(), st.integers(0, CONTEXT - 1), st.integers(1, 4))
def test_rows_together_are_the_rows_alone(rows, data, overlap, batch):
    first = [data.draw(st.integers(1, len(row) - 1)) for row in rows]
    together = score_rows(GPT, rows, first, overlap=overlap, batch=batch)
    for row, start, found in zip(rows, first, together, strict=True):
        (alone,) = score_rows(GPT, [row], [start], overlap=overlap)
        np.testing.assert_allclose(found.logp, alone.logp, rtol=0, atol=1e-12)
        assert found.likeliest.tolist() == alone.likeliest.tolist()
        assert len(found.logp) == len(row) - start


@given(st.integers(1, 40), st.integers(0, 39), st.integers(1, 9), st.data())
def test_windows_judge_every_position_once_with_what_was_promised_before_it(positions, known, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    plan = list(scoring.windows(0, positions, known, size, overlap))
    assert [t for w in plan for t in range(w.known, w.end)] == list(range(known, positions))
    for w in plan:
        assert 0 <= w.begin <= w.known < w.end <= positions and w.end - w.begin <= size
        assert w.known - w.begin >= min(overlap, w.known)
    if plan and plan[-1].end == positions >= size:
        assert plan[-1].end - plan[-1].begin == size


@given(st.lists(st.integers(0, 10), min_size=2, max_size=CONTEXT + 1))
def test_numbers_are_those_of_the_logits(row):
    with tg.no_grad():
        logits = GPT.eval()(tg.tensor([row[:-1]])).numpy()[0]
    logp = scoring.log_softmax(logits)
    (found,) = score_rows(GPT.train(), [row])
    assert GPT.training  # as it was, though dropout was off for the while
    np.testing.assert_allclose(found.logp, logp[range(len(row) - 1), row[1:]], atol=1e-12)
    assert found.likeliest.tolist() == (logits.argmax(-1) == row[1:]).tolist()


def test_any_module_is_read_and_few_logits_stand_at_once(monkeypatch):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 11)

        def forward(self, ids):
            return self.table(ids)

    table, row = Table(), [3, 1, 4, 1, 5, 9, 2, 6]
    (found,) = score_rows(table, [row], context_size=3)
    logp = scoring.log_softmax(table.table.weight.detach().numpy())
    np.testing.assert_allclose(found.logp, logp[row[:-1], row[1:]], atol=1e-6)
    (whole,) = score_rows(GPT, [row])
    monkeypatch.setattr(scoring, "BLOCK", 22)
    seen = []
    handle = GPT.out_head.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    (parts,) = score_rows(GPT, [row])
    handle.remove()
    assert seen and max(seen) == 2
    np.testing.assert_allclose(parts.logp, whole.logp, atol=1e-12)


def test_what_cannot_be_judged_is_refused():
    for arguments, message in [
        (([[1, 2], [3]],), "row 1 of 1 tokens has none from number 1 on"),
        (([[1, 2]], [2]), "row 0 of 2 tokens has none from number 2 on"),
        (([[1, 2]], [0]), "from number 0 on"),
        (([[1, 2]], None, 0), "context_size must be at least 1"),
        (([[1, 2]], None, 4, 4), "not 4 and 4"),
        (([[1, 2]], None, 4, 0, 0), "batch must be at least 1, not 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            score_rows(GPT, *arguments)
    spoiled = GPTModel(CONFIG)
    spoiled.out_head.weight.array[3] = np.inf
    with pytest.raises(ValueError, match="nan or infinite"):
        score_rows(spoiled, [[1, 2]])
