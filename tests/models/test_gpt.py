"""The GPT on its own: counts, causality, tied weights, learning, the border."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import nn, optim
from tinygrad_llm.models import GPTConfig, GPTModel, gpt
from tinygrad_llm.nn import functional as F
from tinygrad_llm.nn import init

SMALL = GPTConfig(vocab_size=13, context_length=8, emb_dim=12, n_heads=3, n_layers=2, drop_rate=0.0)


def small(**changes):
    tg.manual_seed(1)
    return GPTModel({**SMALL.to_dict(), **changes})


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 163_009_536),
        ({"tie_weights": True}, 124_412_160),
        ({"tie_weights": True, "qkv_bias": True}, 124_439_808),
    ],
)
def test_gpt2_small_has_its_number_of_parameters(changes, count):
    with init.skip_random():  # pages that are never written take no memory
        model = GPTModel(GPTConfig(**changes))
    assert model.num_parameters() == count


def test_names_are_the_books():
    model = small(qkv_bias=True)
    assert [name for name, _ in model.named_children()] == [
        "tok_emb", "pos_emb", "drop_emb", "trf_blocks", "final_norm", "out_head",
    ]  # fmt: skip
    names = [name for name, _ in model.trf_blocks[1].named_parameters()]
    assert names == [
        "att.qkv.weight", "att.qkv.bias", "att.out_proj.weight", "att.out_proj.bias", "ff.layers.0.weight",
        "ff.layers.0.bias", "ff.layers.2.weight", "ff.layers.2.bias", "norm1.weight", "norm1.bias", "norm2.weight",
        "norm2.bias",
    ]  # fmt: skip
    assert model.config == GPTConfig(**{**SMALL.to_dict(), "qkv_bias": True})
    assert model.out_head.bias is None and model.trf_blocks[0].att.qkv.weight.shape == (36, 12)


@settings(max_examples=20)
@given(data=st.data(), length=st.integers(2, 8))
def test_later_tokens_never_reach_earlier_logits(data, length):
    model = small().eval()
    tokens = st.lists(st.integers(0, 12), min_size=length, max_size=length)
    ids = np.array([data.draw(tokens)])
    place = data.draw(st.integers(1, length - 1))
    changed = ids.copy()
    changed[0, place] = (changed[0, place] + data.draw(st.integers(1, 12))) % 13
    a, b = (model(tg.tensor(x)).numpy(force=True)[0] for x in (ids, changed))
    np.testing.assert_allclose(a[:place], b[:place], rtol=1e-5, atol=1e-6)
    assert not np.allclose(a[place], b[place], rtol=1e-3, atol=1e-5)  # while its own do depend on it


def test_rows_of_a_batch_do_not_mix():
    model, ids = small().eval(), tg.randint(0, 13, (4, 6))
    together = model(ids).numpy(force=True)
    for row in range(4):
        np.testing.assert_allclose(model(ids[row : row + 1]).numpy(force=True)[0], together[row], rtol=1e-5, atol=1e-6)


def test_tied_head_is_one_array():
    model = small(tie_weights=True)
    assert model.out_head.weight is model.tok_emb.weight
    assert "out_head.weight" not in dict(model.named_parameters()) and "out_head.weight" in model.state_dict()
    untied = small()
    assert model.num_parameters() == untied.num_parameters() - 13 * 12
    ids = tg.tensor([[1, 2, 3]])
    F.cross_entropy(model(ids).flatten(0, 1), tg.tensor([2, 3, 4])).backward()
    assert model.tok_emb.weight.grad.array[5].any()  # no input was token 5: the head alone reaches its row
    optim.SGD(model.parameters(), lr=1.0).step()
    assert model.out_head.weight.array is model.tok_emb.weight.array
    assert model.double().out_head.weight is model.tok_emb.weight


@pytest.mark.parametrize("tie_weights", [False, True])
def test_first_loss_is_near_that_of_guessing(tie_weights):
    tg.manual_seed(0)
    model = GPTModel(GPTConfig(500, 32, 64, 4, 4, 0.0, tie_weights=tie_weights))
    ids = tg.randint(0, 500, (4, 33))
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item()
    assert loss == pytest.approx(math.log(500), abs=0.3)


@pytest.mark.parametrize(("emb_dim", "std"), [(192, 0.04), (768, 0.02)])
def test_first_weights_are_gpt2s_and_wider_in_a_narrower_model(emb_dim, std):
    tg.manual_seed(0)
    model = GPTModel(GPTConfig(50, 16, emb_dim, 4, 2, 0.0, qkv_bias=True))
    for p in model.parameters():
        p.detach().fill_(3.0)
    model.reset_parameters()
    for name, p in model.named_parameters():
        values = p.numpy(force=True)
        if "norm" in name:
            assert np.unique(values).tolist() == [1.0 if name.endswith("weight") else 0.0], name
        elif name.endswith("bias"):
            assert not values.any(), name
        else:
            into_shortcut = "out_proj" in name or "layers.2" in name
            assert values.std() == pytest.approx(std / (2.0 if into_shortcut else 1.0), rel=0.05), name


def test_a_seed_decides_all_weights_and_every_batch_of_them_differs():
    one, two = small(), small()
    assert all(np.array_equal(a.array, b.array) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    two.reset_parameters()
    assert not np.array_equal(one.out_head.weight.array, two.out_head.weight.array)


@pytest.mark.parametrize("tie_weights", [False, True])
def test_it_learns_one_batch_by_heart(tie_weights):
    model = small(tie_weights=tie_weights)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    ids = tg.randint(0, 13, (4, 9))
    for _ in range(120):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    # what follows the same token twice, with other tokens before it, needs attention; all of it can be learnt
    assert loss.item() < 0.1
    assert (model.eval()(ids[:, :-1]).numpy(force=True).argmax(-1) == ids[:, 1:].numpy()).mean() > 0.95


def test_dropout_only_in_training():
    model, ids = small(drop_rate=0.5), tg.randint(0, 13, (2, 8))
    assert not np.array_equal(model(ids).numpy(force=True), model(ids).numpy(force=True))
    model.eval()
    np.testing.assert_array_equal(model(ids).numpy(force=True), model(ids).numpy(force=True))


def test_what_the_model_cannot_read_is_refused():
    model = small()
    for wrong in (13, -1):
        with pytest.raises(IndexError, match=rf"id {wrong} is not in a table of 13 rows \(0 to 12\)"):
            model(tg.tensor([[0, wrong]]))
    with pytest.raises(ValueError, match="9 positions do not fit the context of 1 to 8"):
        model(tg.zeros(1, 9, dtype=tg.int64))
    with pytest.raises(ValueError, match="0 positions do not fit"):
        model(tg.zeros(1, 0, dtype=tg.int64))
    with pytest.raises(ValueError, match=r"ids must be \(B, T\), not of shape \(3,\)"):
        model(tg.tensor([1, 2, 3]))
    with pytest.raises(RuntimeError, match=r"ids must be int64 or int32, not torch.float32"):
        model(tg.zeros(1, 3))
    assert model(tg.zeros(0, 3, dtype=tg.int64)).shape == (0, 3, 13)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 0), ("context_length", -1), ("emb_dim", 1.5), ("n_heads", True), ("n_layers", "2"),
        ("n_heads", 5), ("drop_rate", 1.0), ("drop_rate", -0.1), ("drop_rate", float("nan")), ("drop_rate", "a"),
        ("qkv_bias", 1), ("tie_weights", None),
    ],
)  # fmt: skip
def test_configuration_names_the_wrong_value(key, value):
    with pytest.raises(ValueError, match=f"GPTConfig: .*{key} .*{value}"):
        GPTConfig(**{**SMALL.to_dict(), key: value})


def test_configuration_round_trip_and_unknown_keys():
    assert GPTConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(ValueError, match=r"unknown key\(s\) 'n_layer'; known are vocab_size, "):
        GPTModel({**SMALL.to_dict(), "n_layer": 3})
    without = {key: value for key, value in SMALL.to_dict().items() if key != "n_heads"}
    with pytest.raises(ValueError, match="n_heads must be given with emb_dim 12"):
        GPTModel(without)  # 12 of GPT-2's heads would fit
    assert GPTConfig.from_dict({**without, "emb_dim": 768}).n_heads == 12
    with pytest.raises(AttributeError):
        SMALL.emb_dim = 3


def test_the_loss_is_that_of_the_logits_and_so_are_its_gradients():
    model = small().double()
    ids = tg.randint(0, SMALL.vocab_size, (2, 5))
    targets = ids.roll(-1, 1)
    targets[0, :3] = -100
    plain = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    plain.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = model.loss(ids, targets)
    loss.backward(retain_graph=True)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    for _ in range(2):
        for p, g in zip(model.parameters(), expected, strict=True):
            assert tg.allclose(p.grad, g, rtol=1e-9, atol=1e-12)
        model.zero_grad()
        loss.backward(retain_graph=True)  # the gradients that were handed over are computed again


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_hooks_between_the_blocks_are_called_and_change_nothing(rate):
    """A block hands the next one's norm on where nobody watches; who watches sees each module called once."""

    def losses_of(watched: list[str]) -> tuple[list[Any], list[str]]:
        tg.manual_seed(0)
        model = GPTModel(SMALL.to_dict() | {"n_layers": 3, "drop_rate": rate})
        seen: list[str] = []
        for name in watched:
            model.get_submodule(name).register_forward_hook(lambda *args, name=name: seen.append(name))
        ids = tg.randint(SMALL.vocab_size, (2, 5))
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        return [loss.item(), *(p.grad.tolist() for p in model.parameters())], seen

    plain, _ = losses_of([])
    for watched in ("0.norm1 1.norm1 2.norm2", "0 1", "1.att 1.ff", "2.drop_shortcut 2.drop_shortcut"):
        names = [f"trf_blocks.{name}" for name in watched.split()]
        found, seen = losses_of([*dict.fromkeys(names), "final_norm"])
        assert seen == [*names, "final_norm"] and found == plain


def test_the_loss_sees_hooks_on_the_head_and_heads_of_another_kind():
    model, ids = small(), tg.zeros(1, 3, dtype=tg.int64)
    seen = []
    handle = model.out_head.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    model.loss(ids, ids)
    handle.remove()
    assert seen == [(3, SMALL.vocab_size)]
    model.out_head = nn.Sequential(model.out_head, nn.Softmax(-1))
    assert model.loss(ids, ids).item() == pytest.approx(
        F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).item(), rel=1e-6
    )


# --- a batch in two parts side by side ---


def losses_in_parts(monkeypatch, number, change=lambda model: None):
    """A loss, its gradients, and the number of parts it was computed in."""
    monkeypatch.setattr(gpt, "PARTS", number)
    monkeypatch.setattr(gpt, "PART_TOKENS", 4)
    model = small()
    change(model)
    rng = np.random.default_rng(0)
    ids, targets = (tg.from_numpy(rng.integers(0, SMALL.vocab_size, (3, 6))) for _ in range(2))
    targets[0, :2] = -100
    loss = model.loss(ids, targets)
    loss.backward()
    return loss, [p.grad.numpy() for p in model.parameters()], len(model._parts(ids))


def test_parts_of_a_batch_give_the_loss_of_the_whole(monkeypatch):
    whole, gradients, one = losses_in_parts(monkeypatch, 1)
    loss, found, two = losses_in_parts(monkeypatch, 2)
    assert (one, two) == (1, 2)
    np.testing.assert_allclose(loss.item(), whole.item(), rtol=1e-6)
    for d, e in zip(found, gradients, strict=True):
        np.testing.assert_allclose(d, e, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("number", [1, 2])
def test_checkpoints_change_no_bit_of_a_batch_in_parts(monkeypatch, number):
    loss, gradients, _ = losses_in_parts(monkeypatch, number)
    again, found, parts = losses_in_parts(monkeypatch, number, lambda m: setattr(m, "checkpoint", True))
    assert parts == number and loss.item() == again.item()
    assert all(np.array_equal(d, e) for d, e in zip(found, gradients, strict=True))


class Own(nn.Linear):
    """A layer of the user's."""


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.drop_emb, "p", 0.1),
        lambda m: setattr(m.trf_blocks[0].att, "dropout", 0.1),
        lambda m: setattr(m.trf_blocks[1].ff.layers, "0", Own(SMALL.emb_dim, 4 * SMALL.emb_dim)),
        lambda m: m.final_norm.register_forward_hook(lambda *a: None),
        lambda m: m.out_head.weight.register_hook(lambda g: g),
    ],
    ids=["dropout", "attention dropout", "own layer", "hook", "hook of a parameter"],
)
def test_a_batch_stays_whole_where_a_layer_does_more_than_compute(monkeypatch, change):
    assert losses_in_parts(monkeypatch, 2, change)[2] == 1


def test_dropout_that_rests_does_not_stand_against_parts(monkeypatch):
    assert losses_in_parts(monkeypatch, 2, lambda m: (setattr(m.drop_emb, "p", 0.1), m.eval()))[2] == 2


def test_a_large_model_is_not_cut(monkeypatch):
    monkeypatch.setattr(gpt, "PART_PARAMETERS", 100)
    assert losses_in_parts(monkeypatch, 2)[2] == 1


def test_errors_of_a_cut_batch_are_those_of_a_whole_one(monkeypatch):
    monkeypatch.setattr(gpt, "PART_TOKENS", 4)
    model = small()
    ids = tg.zeros(3, 6, dtype=tg.int64)
    with pytest.raises(IndexError):
        model.loss(ids + SMALL.vocab_size, ids)
    with pytest.raises((ValueError, RuntimeError), match="target"):
        model.loss(ids, ids[:, :3])
    with pytest.raises(ValueError, match="ids must be"):
        model.loss(ids[0], ids[0])
