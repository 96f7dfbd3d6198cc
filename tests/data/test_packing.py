import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm.data import PackedRows, documents_of
from tinygrad_llm.models import GPTModel
from tinygrad_llm.nn import functional as F
from tinygrad_llm.utils.data import DataLoader

V, T = 11, 8


@st.composite
def corpora(draw, longest=20):
    """Documents of ids that are all different, so that each id says where it comes from."""
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=12))
    ends = np.cumsum(lengths)
    return [np.arange(end - length, end) for length, end in zip(lengths, ends, strict=True)]


def small(**changes):
    tg.manual_seed(3)
    return GPTModel(
        {"vocab_size": V, "context_length": T, "emb_dim": 12, "n_heads": 3, "n_layers": 2, "drop_rate": 0.0, **changes}
    )


def tensors(batch):
    return [tg.from_numpy(part) for part in batch]


@given(corpora(), st.integers(1, 9), st.booleans())
def test_every_token_has_one_place_and_every_row_is_full_length(documents, max_length, split):
    packed = PackedRows(documents, max_length, split=split, pad_id=-7)
    ids, _, numbers, _ = packed.take(np.arange(len(packed)))
    assert ids.shape == (len(packed), max_length)
    real = numbers >= 0
    assert sorted(ids[real]) == list(range(sum(map(len, documents))))
    assert (ids[~real] == -7).all()
    for i, document in enumerate(documents):
        assert set(ids[numbers == i]) == set(document)
    assert real.any(axis=1).all() and (np.diff(real.astype(int), axis=1) <= 0).all()  # padding only at a row's end


@given(corpora(), st.integers(1, 9), st.booleans())
def test_a_target_is_the_next_id_of_the_same_document_and_no_prediction_is_lost(documents, max_length, split):
    packed = PackedRows(documents, max_length, split=split)
    ids, targets, numbers, _ = packed.take(np.arange(len(packed)))
    last = {int(document[-1]) for document in documents}
    for x, y, number in zip(ids.ravel(), targets.ravel(), numbers.ravel(), strict=True):
        assert y == (-100 if number < 0 or int(x) in last else x + 1)
    assert (targets != -100).sum() == sum(len(document) - 1 for document in documents)


@given(corpora(), st.integers(1, 9), st.booleans())
def test_positions_start_again_with_each_document(documents, max_length, split):
    batch = PackedRows(documents, max_length, split=split).take([0])
    for t in range(max_length):
        begins = t == 0 or batch.documents[0, t] != batch.documents[0, t - 1]
        if batch.documents[0, t] >= 0:
            assert batch.positions[0, t] == (0 if begins else batch.positions[0, t - 1] + 1)


@given(corpora(), st.integers(1, 9))
def test_cutting_leaves_padding_only_at_the_very_end(documents, max_length):
    packed = PackedRows(documents, max_length)
    numbers = packed.take(np.arange(len(packed))).documents
    assert (numbers.ravel()[: sum(map(len, documents))] >= 0).all()
    assert len(packed) == -(-sum(map(len, documents)) // max_length)


@given(corpora(), st.integers(1, 9))
def test_what_fits_a_row_is_never_cut_without_split(documents, max_length):
    packed = PackedRows(documents, max_length, split=False)
    numbers = packed.take(np.arange(len(packed))).documents
    for i, document in enumerate(documents):
        assert (numbers == i).any(axis=1).sum() == -(-len(document) // max_length)


@given(corpora(), st.integers(1, 9))
def test_no_two_rows_of_the_best_fit_would_fit_into_one(documents, max_length):
    packed = PackedRows(documents, max_length, split=False)
    numbers = packed.take(np.arange(len(packed))).documents
    filled = np.sort((numbers >= 0).sum(axis=1))
    assert len(filled) < 2 or filled[0] + filled[1] > max_length


def test_the_longest_are_placed_first_and_into_the_fullest_row():
    numbers = PackedRows([[0] * n for n in (3, 3, 7, 7)], 10, split=False).take([0, 1]).documents
    assert [sorted(set(row)) for row in numbers.tolist()] == [[1, 2], [0, 3]]
    numbers = PackedRows([[0] * n for n in (6, 7, 3)], 10, split=False).take([0, 1]).documents
    assert [sorted(set(row)) for row in numbers.tolist()] == [[1, 2], [-1, 0]]


@settings(max_examples=15)
@given(st.lists(st.lists(st.integers(0, V - 1), min_size=2, max_size=19), min_size=1, max_size=6), st.booleans())
def test_loss_and_gradients_are_those_of_separate_sequences(documents, split):
    packed = PackedRows(documents, T, split=split)
    batch = packed.take(np.arange(len(packed)))
    together, apart = small().double(), small().double()

    ids, targets, numbers, _ = tensors(batch)
    loss = together.loss(ids, targets, documents=numbers)
    loss.backward()

    total = 0.0
    predictions = int((batch.targets != -100).sum())
    for row in range(len(packed)):
        for number in set(batch.documents[row]) - {-1}:
            here = batch.documents[row] == number
            x, y = batch.ids[row, here], batch.targets[row, here]
            if (y == -100).all():
                continue
            part = F.cross_entropy(apart(tg.from_numpy(x[None]))[0], tg.from_numpy(y), reduction="sum") / predictions
            part.backward()
            total += part.item()
    assert abs(loss.item() - total) < 1e-12
    for (name, p), q in zip(together.named_parameters(), apart.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.array, q.grad.array, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("changes", [{}, {"checkpoint": True}, {"drop_rate": 0.3}])
def test_nothing_of_a_document_reaches_another(changes):
    checkpoint = changes.pop("checkpoint", False)
    model = small(**changes)
    model.checkpoint = checkpoint
    packed = PackedRows([[1, 2, 3], [4, 5, 6, 7], [8, 9]], T)
    ids, _, numbers, _ = tensors(packed.take([0]))
    changed = tg.from_numpy(np.where(numbers.array == 1, 10, ids.array))

    def logits(row):
        tg.manual_seed(0)
        return model(row, documents=numbers).detach().array

    different = (logits(ids) != logits(changed)).any(axis=-1)
    assert (different == (numbers.array == 1)).all()


def test_a_checkpointed_model_has_the_same_gradients():
    ids, targets, numbers, _ = tensors(PackedRows([[1, 2, 3], [4, 5, 6, 7, 1, 1], [8, 9]], T).take([0, 1]))
    models = small(), small()
    models[1].checkpoint = True
    for model in models:
        model.loss(ids, targets, documents=numbers).backward()
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert (p.grad.array == q.grad.array).all()


def test_in_float32_a_packed_loss_is_that_of_separate_sequences():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, V, size) for size in (3, 5, 2, 6)]
    model = small()
    ids, targets, numbers, positions = tensors(PackedRows(documents, T, split=False).take([0, 1]))
    sums = [
        F.cross_entropy(model(tg.from_numpy(d[None, :-1]))[0], tg.from_numpy(d[1:]), reduction="sum").item()
        for d in documents
    ]
    expected = sum(sums) / sum(len(d) - 1 for d in documents)
    assert model.loss(ids, targets, documents=numbers).item() == pytest.approx(expected, abs=1e-5)
    assert model.loss(ids, targets, documents=numbers, positions=positions).item() == pytest.approx(expected, abs=1e-5)
    unmasked = model.loss(ids, targets, positions=positions).item()
    assert abs(unmasked - expected) > 1e-4  # the mask is what makes them equal


def test_positions_choose_the_rows_of_the_table():
    model = small()
    ids = tg.tensor([[1, 2, 3]])
    assert (model(ids).array == model(ids, positions=tg.tensor([[0, 1, 2]])).array).all()
    assert (model(ids).array != model(ids, positions=tg.tensor([[5, 6, 7]])).array).any()
    with pytest.raises(IndexError):
        model(ids, positions=tg.tensor([[6, 7, 8]]))


def test_documents_and_positions_must_have_the_shape_of_ids():
    model, ids = small(), tg.tensor([[1, 2, 3]])
    for name in ("documents", "positions"):
        with pytest.raises(ValueError, match=rf"{name} \(3,\) must have the shape of ids \(1, 3\)"):
            model(ids, **{name: tg.tensor([0, 1, 2])})


@given(corpora(), st.integers(1, 9), st.booleans(), st.integers(1, 4))
def test_batches_are_the_rows_each_once(documents, max_length, split, batch):
    packed = PackedRows(documents, max_length, split=split)
    whole = packed.take(np.arange(len(packed)))
    for in_order, walked in zip(whole, zip(*packed.batches(batch), strict=True), strict=True):
        assert (np.concatenate(walked) == in_order).all()
    shuffled = np.concatenate([part.ids for part in packed.batches(batch, np.random.default_rng(0))])
    assert sorted(map(tuple, shuffled)) == sorted(map(tuple, whole.ids))
    assert len(list(packed.batches(batch, drop_last=True))) == len(packed) // batch
    assert (packed[-1].ids == whole.ids[-1]).all()


def test_a_loader_gives_batches_of_tensors():
    packed = PackedRows([[1, 2, 3], [4, 5, 6, 7], [8, 9]], T)
    (batch,) = DataLoader(packed, batch_size=2)
    for part, expected in zip(batch, packed.take([0, 1]), strict=True):
        assert (part.array == expected).all()
    assert small().loss(batch.ids, batch.targets, documents=batch.documents).item() > 0


@given(corpora(), st.integers(1, 9), st.booleans())
def test_the_report_counts_what_is_there(documents, max_length, split):
    packed = PackedRows(documents, max_length, split=split)
    numbers = packed.take(np.arange(len(packed))).documents
    report = packed.report()
    assert report.packed == (numbers >= 0).mean()
    assert report.padded_rows == sum(-(-len(d) // max_length) for d in documents)
    assert report.cut == sum((numbers == i).any(axis=1).sum() > 1 for i in range(len(documents)))
    assert f"{report.packed:.1%}" in str(report) and f"{report.padded:.1%}" in str(report)


@given(st.lists(st.integers(0, 3), max_size=30))
def test_a_long_row_is_cut_after_each_end(ids):
    parts = documents_of(ids, 0)
    assert [int(i) for part in parts for i in part] == ids
    assert all(0 not in part[:-1] for part in parts) and all(part[-1] == 0 for part in parts[:-1])
    assert all(len(part) for part in parts)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "there are no documents"),
        ([[1], []], "document 1 is empty; leave it out"),
        ([[1], [0.5]], r"document 1 must be one row of integers, found \(1,\) float64"),
        ([[[1, 2]]], r"document 0 must be one row of integers, found \(1, 2\)"),
    ],
)
def test_documents_that_cannot_be_packed_are_named(documents, message):
    with pytest.raises(ValueError, match=message):
        PackedRows(documents, 4)


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="max_length 0 must be at least 1"):
        PackedRows([[1]], 0)
    with pytest.raises(IndexError, match="index 1 is out of range for 1 rows"):
        PackedRows([[1]], 4)[1]
