import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.data import gradient_similarity, gradient_sketches, mask_tokens
from tinygrad_llm.models import GPTModel
from tinygrad_llm.nn import functional as F
from tinygrad_llm.optim import AdamW

V, T = 12, 8


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**32))
def test_each_row_has_as_many_masked_places_as_allowed(rows, length, least, more, seed):
    ids = np.arange(rows * length, dtype=np.uint16).reshape(rows, length)
    count = (least, least + more)
    masked = mask_tokens(ids, np.random.default_rng(seed), mask_id=999, count=count)
    holes = (masked == 999).sum(axis=1)
    assert ((holes >= min(least, length)) & (holes <= min(least + more, length))).all()
    assert (masked[masked != 999] == ids[masked != 999]).all() and masked.dtype == ids.dtype
    assert (ids == np.arange(rows * length).reshape(rows, length)).all()
    assert (masked == mask_tokens(ids, np.random.default_rng(seed), mask_id=999, count=count)).all()


def test_every_place_and_every_count_is_drawn():
    ids = np.zeros((3000, 6), int)
    holes = mask_tokens(ids, np.random.default_rng(0), mask_id=1)
    assert (np.bincount(holes.sum(axis=1), minlength=4)[1:] > 900).all()
    assert (abs(holes.mean(axis=0) - 2 / 6) < 0.04).all()


def test_a_random_id_is_one_of_the_vocabulary():
    drawn = mask_tokens(np.full((500, 4), 99), np.random.default_rng(0), vocab_size=V)
    assert set(np.unique(drawn)) == {*range(V), 99}


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "either mask_id or vocab_size"), ({"mask_id": 1, "vocab_size": 2}, "either"),
     ({"mask_id": 1, "count": (3, 1)}, "must be a range"), ({"mask_id": 1, "count": (-1, 1)}, "must be a range")],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mask_tokens(np.zeros((2, 2), int), np.random.default_rng(0), **options)


def counting(start, step=1):
    """A window of a row that counts on: x (T,), y (T,)."""
    row = (start + step * np.arange(T + 1)) % V
    return row[:-1], row[1:]


@pytest.fixture(scope="module")
def model():
    """A model that has begun to learn how to count."""
    tg.manual_seed(0)
    config = {"vocab_size": V, "context_length": T, "emb_dim": 16, "n_heads": 2, "n_layers": 1, "drop_rate": 0.1}
    model = GPTModel(config)
    optimizer = AdamW(model.parameters(), lr=3e-3)
    x, y = (tg.from_numpy(np.stack(part)) for part in zip(*(counting(s) for s in range(V)), strict=True))
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(x, y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


@pytest.mark.parametrize("size", [None, 512])
@pytest.mark.parametrize("part", ["all", "head"])
def test_planted_poison_scores_worst(model, size, part):
    rng = np.random.default_rng(1)
    examples = [counting(rng.integers(V)) for _ in range(20)]
    poison = [3, 11, 17]
    for place in poison:  # after 5 comes 0, whatever was counted
        x, y = examples[place]
        examples[place] = (x, np.where(x == 5, 0, np.roll(y, 3)))
    parameters = None if part == "all" else [model.out_head.weight]
    scores = gradient_similarity(
        model, examples, [counting(s) for s in range(0, V, 2)], parameters=parameters, size=size
    )
    assert sorted(np.argsort(scores)[:3]) == poison
    assert scores[poison].max() < 0.2 < np.delete(scores, poison).min()


def test_without_a_sketch_it_is_the_cosine_of_the_gradients(model):
    examples, trusted = [counting(1), counting(0, 2)], [counting(4), counting(7)]

    def gradient(example):
        model.eval()
        x, y = (tg.from_numpy(part[None].copy()) for part in example)
        model.loss(x, y).backward()
        found = np.concatenate([p.grad.array.reshape(-1) for p in model.parameters()]).astype(float)
        model.zero_grad()
        return found

    mean = sum(map(gradient, trusted)) / 2
    expected = [gradient(e) @ mean / np.linalg.norm(gradient(e)) / np.linalg.norm(mean) for e in examples]
    np.testing.assert_allclose(gradient_similarity(model, examples, trusted, size=None), expected, rtol=1e-5)
    sketched = gradient_similarity(model, examples, trusted, size=4096)
    assert abs(sketched - expected).max() < 5 / 64


def test_a_sketch_keeps_lengths():
    layer = nn.Linear(100, 100, bias=False)  # the gradient is 10,000 times 1: without signs a sketch would be too long
    (sketch,) = gradient_sketches(layer, [None], loss=lambda model, _: model.weight.sum(), size=1000)
    assert np.linalg.norm(sketch) == pytest.approx(100, rel=0.1)


def test_the_models_gradients_and_mode_stay_as_they_were(model):
    model.train()
    model.loss(*(tg.from_numpy(part[None].copy()) for part in counting(2))).backward()
    before = [p.grad.array.copy() for p in model.parameters()]
    first = gradient_similarity(model, [counting(1)], [counting(2)])
    assert model.training
    assert all((p.grad.array == old).all() for p, old in zip(model.parameters(), before, strict=True))
    assert (gradient_similarity(model, [counting(1)], [counting(2)]) == first).all()  # no dropout, one seed
    model.zero_grad()


def test_any_model_with_its_own_loss_can_be_judged():
    tg.manual_seed(0)
    layer, rng = nn.Linear(3, 2), np.random.default_rng(0)
    points = rng.normal(size=(30, 3)).astype(np.float32)
    labels = (points[:, 0] > 0).astype(int)
    labels[7] = 1 - labels[7]
    points[7, 0] *= 5

    def loss(model, example):
        point, label = example
        return F.cross_entropy(model(tg.from_numpy(point)[None]), tg.tensor([int(label)]))

    examples = list(zip(points, labels, strict=True))
    scores = gradient_similarity(layer, examples, examples[8:], loss=loss, size=None)
    assert scores.argmin() == 7


def test_what_is_missing_is_said(model):
    with pytest.raises(ValueError, match="no trusted examples"):
        gradient_similarity(model, [counting(1)], [])
    with pytest.raises(ValueError, match="there are no examples"):
        gradient_similarity(model, [], [counting(1)])
    with pytest.raises(ValueError, match="no parameter is trained"):
        next(gradient_sketches(model, [counting(1)], parameters=[]))
