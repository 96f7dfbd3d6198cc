import copy
import math

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.data import MixedBatches, Mixture, PackedRows, Prefetch, ShuffledWindows, Windows
from tinygrad_llm.models import GPTModel
from tinygrad_llm.training import PRESETS, NonFiniteLoss, Trainer, adamw, mean_loss, next_token_loss, rate_factor

RECIPE = PRESETS["shakespeare-char"].recipe.replace(
    layers=1, heads=2, channels=16, context=8, batch=4, steps=6, eval_every=2, eval_windows=10, lr=1e-2
)
IDS = np.arange(400) * 7 % 11


def trainer(recipe=RECIPE, seed=0):
    tg.manual_seed(seed)
    train, validation = Windows(IDS[:300], recipe.context), Windows(IDS[300:], recipe.context, stride=recipe.context)
    return Trainer(GPTModel(recipe.model_config(11)), recipe, train, validation, np.random.default_rng(seed))


def losses(recipe=RECIPE, seed=0):
    found = []
    trainer(recipe, seed).run(on_step=lambda t: found.append(t.last_loss))
    return found


def test_the_first_loss_is_that_of_an_even_guess():
    assert losses()[0] == pytest.approx(math.log(11), abs=0.3)


def test_it_learns_a_rule_to_the_end():
    t = trainer(RECIPE.replace(steps=150, warmup=10))
    assert t.run()
    assert t.evaluations[-1].val_loss < 0.1 < math.log(11) < t.evaluations[0].val_loss + 0.1


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_seed_decides_every_loss_to_the_last_bit(dropout):
    recipe = RECIPE.replace(dropout=dropout)
    assert losses(recipe) == losses(recipe)
    assert losses(recipe) != losses(recipe, seed=1)


def test_evaluations_come_when_the_recipe_says_and_count_the_tokens():
    t = trainer(RECIPE.replace(steps=5))
    seen = []
    t.run(on_evaluation=lambda _, evaluation: seen.append(evaluation))
    assert seen == t.evaluations
    assert [e.step for e in seen] == [0, 2, 4, 5]
    assert [e.tokens for e in seen] == [0, 64, 128, 160]  # 4 windows of 8 tokens a step
    assert seen[0].tokens_per_second == 0 and all(e.tokens_per_second > 0 for e in seen[1:])
    assert seen[-1].lr == pytest.approx(t.recipe.min_lr)


def test_evaluating_changes_nothing_in_the_training():
    often, seldom = RECIPE.replace(eval_every=1, dropout=0.2), RECIPE.replace(eval_every=6, dropout=0.2)
    assert losses(often) == losses(seldom)


def test_stop_ends_the_run_after_the_step_at_work():
    t = trainer()
    assert not t.run(stop=lambda: t.step == 3)
    assert t.step == 3 and t.schedule.last_epoch == 3


def test_accumulated_parts_are_the_mean_of_one_large_batch():
    whole, parts = trainer(RECIPE.replace(batch=8, clip=0.0)), trainer(RECIPE.replace(accumulate=2, clip=0.0))
    for t in (whole, parts):
        t.train_step()
    assert parts.last_loss == pytest.approx(whole.last_loss, rel=1e-6)
    assert parts.tokens == whole.tokens
    for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        np.testing.assert_allclose(a.grad.array, b.grad.array, atol=1e-6, rtol=1e-4)


def test_the_gradient_is_clipped_as_a_whole_and_0_means_never():
    norms = {}
    for clip in (0.01, 0.0):
        t = trainer(RECIPE.replace(clip=clip))
        t.train_step()
        norms[clip] = math.sqrt(sum(float((p.grad.array**2).sum()) for p in t.model.parameters()))
    assert norms[0.01] == pytest.approx(0.01, rel=1e-3) and norms[0.0] > 0.1


def test_it_learns_from_the_stream_that_it_is_given_and_goes_on_from_its_state():
    def streamed(state=None):
        train = Windows(IDS[:300], RECIPE.context)
        stream = ShuffledWindows(train, RECIPE.batch, 3)
        if state:
            stream.load_state_dict(state)
        tg.manual_seed(0)
        model = GPTModel(RECIPE.model_config(11))
        return Trainer(model, RECIPE, train, Windows(IDS, 8, stride=8), np.random.default_rng(0), stream=stream)

    t, again = streamed(), streamed({**streamed().stream.state_dict(), "position": 2 * RECIPE.batch})
    assert t.train_step() != trainer().train_step()
    t.train_step()
    again.model.load_state_dict(t.model.state_dict())
    assert t.train_step() == again.train_step() and t.stream.position == 3 * RECIPE.batch


def test_each_step_begins_without_the_gradients_of_the_one_before():
    t = trainer(RECIPE.replace(clip=0.0))
    t.train_step()
    before = copy.deepcopy(t.model.state_dict())
    x, y = t.train.random(t.recipe.batch, copy.deepcopy(t.rng))  # the batch that is next
    t.train_step()
    used = [p.grad.array.copy() for p in t.model.parameters()]
    t.model.load_state_dict(before)
    t.model.zero_grad()
    next_token_loss(t.model, (x, y)).backward()
    for grad, p in zip(used, t.model.parameters(), strict=True):
        np.testing.assert_allclose(grad, p.grad.array, rtol=1e-5, atol=1e-7)


def test_only_matrices_are_decayed():
    model = GPTModel(RECIPE.model_config(11))
    groups = adamw(model, RECIPE).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        assert decay[id(p)] == (0.1 if p.ndim >= 2 else 0.0), name


def test_a_frozen_parameter_is_left_alone():
    model = GPTModel(RECIPE.model_config(11))
    model.tok_emb.weight.requires_grad_(False)
    trained = {id(p) for group in adamw(model, RECIPE).param_groups for p in group["params"]}
    assert id(model.tok_emb.weight) not in trained and len(trained) == len(list(model.parameters())) - 1


def test_the_mean_loss_weighs_every_token_the_same_and_restores_the_mode():
    t = trainer(RECIPE.replace(dropout=0.5))
    t.model.train()
    batches = list(t.validation.batches(5))  # 12 windows: 5, 5, 2
    assert len(batches[-1][0]) != len(batches[0][0])
    one = mean_loss(t.model, [t.validation.take(range(len(t.validation)))])
    assert mean_loss(t.model, batches) == pytest.approx(one, rel=1e-5)
    assert t.model.training and t.model.drop_emb.training
    with pytest.raises(ValueError, match="no batch"):
        mean_loss(t.model, [])


def test_the_loss_is_the_mean_surprise_at_the_next_token():
    t = trainer()
    x, y = t.validation.take([0, 3])
    t.model.eval()
    logits = t.model(tg.from_numpy(x)).array.astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, y[..., None], -1)).mean()
    assert next_token_loss(t.model, (x, y)).item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_with_more_windows_than_the_text_has_is_refused():
    with pytest.raises(ValueError, match="--batch 293: the training text has only 292 windows of 8 tokens"):
        trainer(RECIPE.replace(batch=293))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_run_before_the_parameters_are_touched(value):
    t = trainer()
    t.train_step()
    t.train_step()
    good = t.last_loss
    t.model.out_head.weight.array[3, 5] = value
    before = [p.array.copy() for p in t.model.parameters()]
    with np.errstate(all="ignore"), pytest.raises(NonFiniteLoss, match=rf"step 3: .* {good:.4f} at step 2; try"):
        t.train_step()
    assert t.step == 2
    for p, old in zip(t.model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.array, old)


def test_a_gradient_that_is_no_number_ends_the_run_before_the_parameters_are_touched():
    t = trainer()
    t.model.final_norm.weight.register_hook(lambda g: g * math.nan)
    before = [p.array.copy() for p in t.model.parameters()]
    with pytest.raises(NonFiniteLoss, match="step 1: the norm of the gradient is nan; no step before it went well"):
        t.train_step()
    for p, old in zip(t.model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.array, old)


def test_an_evaluation_that_is_no_number_is_not_recorded():
    t = trainer()
    t.model.out_head.weight.array[:] = math.nan
    with pytest.raises(NonFiniteLoss, match="step 0: the training loss is nan"):
        t.evaluate()
    assert t.evaluations == []


def test_any_module_from_ids_to_logits_can_be_trained():
    class Bigram(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 11)

        def forward(self, ids):
            return self.table(ids)

    recipe = RECIPE.replace(steps=100, lr=0.5, warmup=1)
    t = Trainer(Bigram(), recipe, Windows(IDS, 8), Windows(IDS, 8, stride=8), np.random.default_rng(0))
    assert t.run() and t.evaluations[-1].val_loss < 0.1


def packed_stream():
    rng = np.random.default_rng(3)
    documents = [IDS[start : start + size] for start, size in rng.integers((0, 2), (300, 14), (40, 2)).tolist()]
    rows = {"cut": PackedRows(documents, 8), "whole": PackedRows(documents, 8, split=False)}
    return MixedBatches(Mixture(rows), RECIPE.batch)


def test_packed_rows_of_a_mixture_train_and_each_document_counts_as_if_alone():
    t = trainer(RECIPE.replace(steps=60, warmup=5))
    t.stream = packed_stream()
    batch = packed_stream().mixture.batch(60)
    assert (batch.targets == -100).any() and (batch.documents == -1).any()
    total = count = 0
    for ids, targets, documents in zip(batch.ids, batch.targets, batch.documents, strict=True):
        for document in set(documents.tolist()) - {-1}:
            at = documents == document
            if size := int((targets[at] != -100).sum()):
                total += next_token_loss(t.model, (ids[None, at], targets[None, at])).item() * size
                count += size
    before = mean_loss(t.model, [batch])
    assert before == pytest.approx(total / count, rel=1e-5)
    t.run()
    assert mean_loss(t.model, [batch]) < before / 2


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_packed_run_goes_on_from_the_state_of_its_stream(ahead):
    def stream():
        return Prefetch(packed_stream(), ahead) if ahead else packed_stream()

    first, again = stream(), stream()
    for _ in range(5):
        next(first)
    again.load_state_dict(first.state_dict())
    for _ in range(4):
        np.testing.assert_array_equal(next(first), next(again))


def test_a_model_that_knows_no_documents_takes_no_packed_rows():
    with pytest.raises(TypeError, match="packed rows need a GPTModel, found Linear"):
        next_token_loss(nn.Linear(2, 2), next(packed_stream()))


def test_parts_of_unequal_targets_make_the_step_of_one_large_batch():
    x, y = (a.copy() for a in trainer().train.take(range(8)))
    y[:4, 2:], y[6:] = -100, -100  # 8 targets in the first part, 16 in the second
    gradients = []
    for batches in ([(x, y)], [(x[:4], y[:4]), (x[4:], y[4:])]):
        t = trainer(RECIPE.replace(accumulate=len(batches), clip=0.0))
        t.stream = iter(batches)
        t.train_step()
        gradients.append((t.last_loss, [p.grad.array for p in t.model.parameters()]))
        assert t.tokens == 24
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-6)
    for a, b in zip(gradients[0][1], gradients[1][1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4)


def test_a_jump_of_the_loss_is_skipped_and_told():
    recipe, told = RECIPE.replace(steps=40, spike=6.0, lr=1e-3), []
    t = trainer(recipe)
    t.run(stop=lambda: t.step == 30)
    good = t.stream
    t.stream = iter([(np.zeros((4, 8), int), np.full((4, 8), 10)), *(next(good) for _ in range(10))])
    t.guard.mean, t.guard.variance = 0.5, 1e-4  # so that this batch lies far outside
    before = [p.array.copy() for p in t.model.parameters()]

    def on_skip(t, error):
        told.append(str(error))
        assert all((p.array == old).all() for p, old in zip(t.model.parameters(), before, strict=True))
        t.guard.mean, t.guard.variance = 2.4, 1.0

    t.run(on_skip=on_skip)
    assert t.skipped == 1 and len(told) == 1 and t.step == 40
    assert "step 31: the loss jumped to" in told[0]


def test_a_run_ends_when_its_patience_does():
    t = trainer(RECIPE.replace(steps=40, eval_every=1, patience=3, lr=0.0, min_lr=0.0))
    assert not t.run(stop=t.out_of_patience) and t.step == 3  # nothing is learned: the first evaluation stays the best
    assert not trainer().out_of_patience()


@pytest.mark.parametrize("schedule", ["cosine", "constant", "inverse-sqrt", "warmup-stable-decay"])
def test_every_schedule_climbs_to_the_highest_rate_and_keeps_its_shape(schedule):
    recipe = RECIPE.replace(steps=100, warmup=10, lr=1.0, min_lr=0.1, schedule=schedule, decay=0.3)
    rates = [rate_factor(recipe)(t) for t in range(101)]
    assert rates[:10] == pytest.approx([(t + 1) / 11 for t in range(10)]) and max(rates) == rates[10] == 1.0
    expected = {
        "cosine": (0.55, 0.1),
        "constant": (1.0, 1.0),
        "inverse-sqrt": ((11 / 56) ** 0.5, (11 / 101) ** 0.5),
        "warmup-stable-decay": (1.0, 0.1),
    }[schedule]
    assert (rates[55], rates[100]) == pytest.approx(expected)
    if schedule == "warmup-stable-decay":
        assert rates[70] == 1.0 and rates[85] == pytest.approx(0.55)


def test_what_is_judged_may_be_no_windows_where_a_stream_gives_the_batches():
    class Judged:
        def __len__(self):
            return 1

        def take(self, indices):
            return IDS[None, :8], IDS[None, 1:9]

        def spread(self, count, batch):
            return iter([(IDS[None, :8], IDS[None, 1:9])])

    tg.manual_seed(0)
    model, rng = GPTModel(RECIPE.model_config(11)), np.random.default_rng(0)
    stream = ShuffledWindows(Windows(IDS, 8), 4, 0)
    t = Trainer(model, RECIPE, Judged(), Judged(), rng, stream=stream)
    t.run()
    expected = mean_loss(model, Judged().spread(1, 1))
    assert t.evaluations[-1].val_loss == t.evaluations[-1].train_loss == expected
    with pytest.raises(ValueError, match="Judged is no Windows to draw from; give a stream"):
        Trainer(model, RECIPE, Judged(), Judged(), rng)
