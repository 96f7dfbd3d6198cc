from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm.data import Labelled, classification_batch, partition, read_records
from tinygrad_llm.models import GPTModel
from tinygrad_llm.utils.data import DataLoader

SHARED = next((p / "shared" / "data" for p in Path(__file__).parents if (p / "shared" / "data").is_dir()), Path())


@st.composite
def labelled(draw, least=1):
    counts = draw(st.lists(st.integers(least, 30), min_size=2, max_size=4))
    names = [f"c{i}" for i, count in enumerate(counts) for _ in range(count)]
    order = draw(st.permutations(range(len(names))))
    return Labelled.from_records([{"label": names[i], "text": f"text {i} of {names[i]}"} for i in order])


@given(labelled())
def test_labels_are_the_places_of_the_classes(data):
    assert data.classes == tuple(sorted(data.classes))
    for text, label in zip(data.texts, data.labels, strict=True):
        assert text.endswith(data.classes[label])


@given(labelled(), st.integers(0, 99))
def test_balanced_has_as_many_of_each_as_the_smallest(data, seed):
    balanced = data.balanced(seed)
    assert set(balanced.counts().values()) == {min(data.counts().values())}
    places = [data.texts.index(text) for text in balanced.texts]
    assert places == sorted(set(places))  # in order, none twice
    assert balanced.texts == data.balanced(seed).texts


def test_balanced_draws_from_all():
    data = Labelled.from_records([{"text": f"{i}", "label": str(int(i > 0))} for i in range(30)])
    assert len({data.balanced(seed).texts[1] for seed in range(60)}) > 15


@given(labelled(10), st.integers(0, 99), st.booleans())
def test_split_is_a_partition_shuffled_by_the_seed(data, seed, stratified):
    parts = data.split(seed=seed, stratified=stratified)
    assert sorted(text for part in parts for text in part.texts) == sorted(data.texts)
    assert [p.texts for p in parts] == [p.texts for p in data.split(seed=seed, stratified=stratified)]
    assert parts[0].texts != data.split(seed=seed + 1, stratified=stratified)[0].texts
    for part in parts:
        assert all(text.endswith(data.classes[label]) for text, label in zip(part.texts, part.labels, strict=True))
    if stratified:
        for name, count in data.counts().items():
            assert [part.counts()[name] for part in parts[:2]] == [int(count * 0.7 + 1e-9), int(count * 0.1 + 1e-9)]
    else:
        assert len(parts[0]) == int(len(data) * 0.7 + 1e-9)


@given(st.integers(1, 400), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_partition_cuts_in_order_and_the_last_part_has_the_rest(n, weights):
    fractions = [w / sum(weights) for w in weights]
    sizes = [n * w // sum(weights) for w in weights[:-1]]
    if 0 in [*sizes, n - sum(sizes)]:
        with pytest.raises(ValueError, match="leave a part empty"):
            partition(range(n), fractions)
        return
    parts = partition(range(n), fractions)
    assert [len(part) for part in parts[:-1]] == sizes
    assert [i for part in parts for i in part] == list(range(n))


@pytest.mark.parametrize(("n", "fractions", "sizes"), [
    (1494, (0.7, 0.1, 0.2), [1045, 149, 300]), (1100, (0.85, 0.1, 0.05), [935, 110, 55]), (100, (0.29, 0.71), [29, 71]),
])  # fmt: skip
def test_partition_has_the_chapters_sizes(n, fractions, sizes):
    assert [len(part) for part in partition(range(n), fractions)] == sizes


@pytest.mark.parametrize("fractions", [(), (0.5, 0.6), (1.5, -0.5)])
def test_fractions_that_are_no_partition_are_refused(fractions):
    with pytest.raises(ValueError, match="positive and sum to 1"):
        partition(range(9), fractions)


@pytest.mark.skipif(not (SHARED / "SMSSpamCollection").exists(), reason="needs the SMS collection")
def test_the_sms_collection_gives_the_chapters_parts():
    records = read_records(SHARED / "SMSSpamCollection", format="tsv", columns=["label", "text"])
    data = Labelled.from_records(records)
    assert data.counts() == {"ham": 4827, "spam": 747}
    assert data.balanced().counts() == {"ham": 747, "spam": 747}
    assert [len(part) for part in data.balanced().split()] == [1045, 149, 300]


GOOD = {"text": "t", "label": "a"}


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        ([GOOD, {"text": "t", "lable": "b"}], {}, "record 1 has no column 'label'; its columns are text, lable"),
        ([GOOD], {"text": "body"}, "record 0 has no column 'body'"),
        ([GOOD, {"text": " ", "label": "b"}], {}, "record 1: the text in column 'text' is empty: ' '"),
        ([GOOD, {"text": None, "label": "b"}], {}, "record 1: the text in column 'text' is empty: None"),
        ([GOOD, {"text": "t", "label": ""}], {}, "record 1: '' in column 'label' is no label"),
        ([GOOD, {"text": "t", "label": 0.5}], {}, "record 1: 0.5 in column 'label' is no label"),
        ([GOOD, GOOD], {}, r"all 2 records have one class, \['a'\]"),
        ([], {}, "all 0 records have one class"),
        ([GOOD, {"text": "t", "label": "b"}], {"classes": ["a", "c"]}, "record 1: label 'b' is none of a, c"),
    ],
)
def test_records_that_cannot_be_told_apart_are_refused(records, options, message):
    with pytest.raises(ValueError, match=message):
        Labelled.from_records(records, **options)


def test_classes_keep_the_order_they_are_given_in():
    data = Labelled.from_records([GOOD, {"text": "u", "label": 7}], classes=["7", "a", "z"])
    assert data.labels.tolist() == [1, 0] and data.counts() == {"7": 1, "a": 1, "z": 0}
    with pytest.raises(ValueError, match="a class has no texts"):
        data.balanced()


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), min_size=1, max_size=5), st.integers(1, 9))
def test_a_batch_is_padded_and_knows_its_last_real_tokens(rows, max_length):
    pairs = [(ids, i) for i, ids in enumerate(rows)]
    batch = classification_batch(pairs, 0, max_length=max_length)
    cut = [ids[:max_length] for ids in rows]
    assert batch.ids.shape == (len(rows), max(map(len, cut)))
    assert [row[row > 0].tolist() for row in batch.ids] == cut
    assert batch.ids[np.arange(len(rows)), batch.last].tolist() == [ids[-1] for ids in cut]
    assert batch.labels.tolist() == list(range(len(rows)))
    assert classification_batch(pairs, 0, length=12).ids.shape == (len(rows), 12)


def test_the_last_real_token_is_read_the_same_whatever_the_padding():
    tg.manual_seed(0)
    config = {"vocab_size": 10, "context_length": 8, "emb_dim": 8, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0}
    model = GPTModel(config)
    batch = classification_batch([([1, 2], 0), ([3, 4, 5, 6, 7], 1)], 9)
    together = model(tg.from_numpy(batch.ids)).array[np.arange(2), batch.last]
    alone = [model(tg.tensor([ids])).array[0, -1] for ids in ([1, 2], [3, 4, 5, 6, 7])]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_loader_makes_such_batches():
    pairs = [([1] * n, n % 2) for n in range(1, 8)]
    batches = list(DataLoader(pairs, batch_size=3, collate_fn=partial(classification_batch, pad_id=0)))
    assert [batch.ids.shape for batch in batches] == [(3, 3), (3, 6), (1, 7)]


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="row 1 has no ids"):
        classification_batch([([1], 0), ([], 1)])
    with pytest.raises(ValueError, match="a row of 3 ids does not fit length 2; cut it with max_length=2"):
        classification_batch([([1, 2, 3], 0)], length=2)


@pytest.mark.parametrize("name", ["SMSSpamCollection", "SMSSpamCollection.tsv", "a.txt"])
@pytest.mark.parametrize("header", ["", "Label\tText\n", "label\ttext\n", "\ufeffTEXT\tlabel\n", "\n"])
def test_two_columns_of_tsv_need_no_names(tmp_path, name, header):
    rows = [("ham", "Go until\u2026"), ("spam", "WINNER \"!!\""), ("ham", "text"), ("label", "text me")]
    turned = "TEXT" in header
    lines = ["\t".join(row[::-1] if turned else row) + "\n" for row in rows]
    (tmp_path / name).write_text(header + "".join(lines), encoding="utf-8")
    found = Labelled.from_file(tmp_path / name)
    assert [(found.classes[n], text) for n, text in zip(found.labels, found.texts, strict=True)] == rows


@pytest.mark.parametrize(
    ("name", "content", "how", "message"),
    [
        ("a.tsv", "id\tlabel\ttext\n1\ta\tx\n2\tb\ty\n", {}, None),
        ("a.tsv", "Stars\tReview\na\tx\nb\ty\n", {"text": "review", "label": "stars"}, None),
        ("a.csv", "Text,LABEL\nx,a\ny,b\n", {}, None),
        ("a.json", '[{"Text": "x", "Label": "a"}, {"Text": "y", "Label": "b"}]', {}, None),
        ("a.tsv", "a\tx\nb\ty\n", {"text": "review"}, "no column 'review'; its columns are a, x; say which are meant"),
        ("a.csv", "a,x\nb,y\n", {}, "no column 'text'; its columns are a, x; say which are meant by text= and label="),
        ("a.tsv", "a\tx\t1\nb\ty\t2\n", {}, "no column 'text'; its columns are a, x, 1"),
    ],
)
def test_columns_are_found_whatever_their_case(tmp_path, name, content, how, message):
    (tmp_path / name).write_text(content)
    if message is None:
        found = Labelled.from_file(tmp_path / name, **how)
        assert (found.texts, found.classes, found.labels.tolist()) == (["x", "y"], ("a", "b"), [0, 1])
    else:
        with pytest.raises(ValueError, match=message):
            Labelled.from_file(tmp_path / name, **how)
