"""Frozen weights in eight bits: what a model with them computes, learns, saves and refuses."""

import copy
import tracemalloc

import numpy as np
import pytest
from hypothesis import given

import tinygrad_llm as tg
from tests.nn.test_lora import EVERY, FORMS, IDS, logits, model, stir
from tinygrad_llm import nn
from tinygrad_llm.autograd.ops import int8 as int8_ops
from tinygrad_llm.models import GPTModel, generate, load_adapter, save_adapter
from tinygrad_llm.nn import lora
from tinygrad_llm.nn.int8 import Int8Embedding, Int8Linear, Int8Weight
from tinygrad_llm.serialization.tensors import read_tensors, write_tensors
from tinygrad_llm.testing import tensors


def packed(**changes) -> GPTModel:
    """A frozen model in eight bits."""
    gpt = model(**changes).requires_grad_(False)
    nn.quantize_frozen(gpt)
    return gpt


def plain_twin(gpt: GPTModel) -> GPTModel:
    """The same model with float32 weights of the same values."""
    twin = copy.deepcopy(gpt)
    nn.unpack_frozen(twin)
    assert not any(isinstance(module, Int8Weight) for module in twin.modules())
    return twin


def gradients(gpt: GPTModel) -> dict[str, np.ndarray]:
    gpt.zero_grad()
    gpt.loss(IDS, IDS).backward()
    return {name: p.grad.array.copy() for name, p in gpt.named_parameters() if p.grad is not None}


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * (1 + np.abs(expected).max()))


def weight_bytes(gpt: GPTModel) -> int:
    return sum(t.array.nbytes for t in (*gpt.parameters(), *gpt.buffers()))


@given(weight=tensors(shape=(3, 70), requires_grad=False), x=tensors(shape=(2, 5, 70), requires_grad=False))
def test_a_layer_is_within_the_bound_of_its_weight_and_computes_with_what_it_keeps(weight, x):
    layer = nn.Linear(70, 3).double()
    layer.weight = nn.Parameter(weight.double())
    small = Int8Linear(layer)
    for columns in (slice(0, 64), slice(64, 70)):
        w, again = weight.array[:, columns], small.weight.array[:, columns]
        assert (np.abs(w - again) <= np.abs(w).max(axis=1, keepdims=True) / 254 * (1 + 1e-6)).all()
    x, y = x.double().requires_grad_(), small.unpacked()
    np.testing.assert_allclose(small(x).detach().array, y(x).detach().array, atol=1e-12)
    expected = tg.autograd.grad((y(x) ** 2).sum(), [x])[0].array
    np.testing.assert_allclose(tg.autograd.grad((small(x) ** 2).sum(), [x])[0].array, expected, atol=1e-9)


def test_a_table_gives_the_rows_of_its_weight_and_refuses_what_is_outside():
    table = nn.Embedding(5, 70)
    small = Int8Embedding(table)
    ids = tg.tensor([[4, 0], [2, 2]])
    np.testing.assert_array_equal(small(ids).array, small.weight.array[ids.array])
    np.testing.assert_array_equal(small.unpacked()(ids).array, small(ids).array)
    assert small(ids).dtype is tg.float32 and small(ids[:0]).shape == (0, 2, 70)
    with pytest.raises(IndexError, match="id 5 is not in a table of 5 rows"):
        small(tg.tensor([5]))


def test_the_weight_never_stands_unpacked_as_a_whole(monkeypatch):
    monkeypatch.setattr(int8_ops, "AT_ONCE", 2**14)
    layer = Int8Linear(nn.Linear(256, 4096))
    x = tg.randn(4, 256, requires_grad=True)
    tracemalloc.start()
    try:
        layer(x).sum().backward()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 4096 * 256 / 4  # a quarter of it in float32, outputs and gradients included


def test_the_weights_of_a_model_take_little_more_than_a_quarter():
    gpt = model(emb_dim=64, vocab_size=500)
    nn.apply_lora(gpt, rank=1)
    before, logits_before = weight_bytes(gpt), logits(gpt)
    found = nn.quantize_frozen(gpt)
    assert found.layers == 10 and found.after == found.before * (1 + 4 / 64) / 4
    assert before - weight_bytes(gpt) == found.before - found.after
    assert str(found).startswith("10 layers in eight bits, 0.5 MB of weights in 0.1 MB")
    assert 0 < np.abs(logits(gpt) - logits_before).max() < 0.05
    assert isinstance(gpt.out_head, nn.Linear)
    assert str(lora.trainable(gpt)) == str(lora.trainable(plain_twin(gpt)))


@pytest.mark.parametrize("first", ["apply", "pack"])
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_adapters_learn_as_beside_plain_weights_of_the_same_values(options, first):
    gpt = model()
    for act in ("apply", "pack") if first == "apply" else ("pack", "apply"):
        if act == "apply":
            nn.apply_lora(gpt, rank=2, **options)
        else:
            gpt.requires_grad_(False) if first == "pack" else None
            nn.quantize_frozen(gpt)
    stir(gpt)
    twin = plain_twin(gpt)
    close(logits(gpt), logits(twin))
    expected, found = gradients(twin), gradients(gpt)
    assert expected.keys() == found.keys() and expected
    for name, gradient in expected.items():
        close(found[name], gradient)


def test_a_packed_layer_that_shall_learn_is_a_plain_one_again():
    gpt = packed()
    nn.apply_lora(gpt, rank=2, train=("tok_emb", "trf_blocks.1"))
    found = {path for path, module in gpt.named_modules() if isinstance(module, Int8Weight)}
    block = "trf_blocks.0."
    assert found == {"pos_emb", *(f"{block}{name}.linear" for name in lora.BLOCK_LAYERS[2:]),
                     *(f"{block}att.{name}.linear" for name in lora.BLOCK_LAYERS[:2])}  # fmt: skip
    learning = gradients(gpt)
    assert {"tok_emb.weight", "trf_blocks.1.att.qkv.linear.weight", "trf_blocks.1.norm1.weight"} <= learning.keys()
    np.testing.assert_allclose(logits(gpt), logits(packed()), atol=1e-5)


def test_dropout_before_the_adapter_is_drawn_as_beside_plain_weights():
    gpt = model()
    nn.apply_lora(gpt, rank=2, dropout=0.5)
    nn.quantize_frozen(gpt)
    stir(gpt)
    twin = plain_twin(gpt)
    results = []
    for each in (gpt.train(), twin.train()):
        tg.manual_seed(7)
        results.append(logits(each))
    np.testing.assert_allclose(*results, atol=1e-5)
    assert np.abs(results[0] - logits(gpt.eval())).max() > 1e-3


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_merging_unpacks_and_unmerging_gives_every_bit_back(options):
    gpt = packed()
    nn.apply_lora(gpt, rank=2, **options)
    stir(gpt)
    state = {name: tensor.array.copy() for name, tensor in gpt.state_dict().items()}
    adapted = logits(gpt)
    nn.merge_lora(gpt)
    nn.merge_lora(gpt)
    close(logits(gpt), adapted)
    assert all(type(layer.linear) in (nn.Linear, nn.Embedding) for layer in lora.adapted(gpt).values())
    for act in (nn.quantize_frozen, nn.unpack_frozen):
        with pytest.raises(RuntimeError, match="an adapter is merged"):
            act(gpt)
    nn.unmerge_lora(gpt)
    assert state.keys() == gpt.state_dict().keys()
    for name, tensor in gpt.state_dict().items():
        if "head" not in name:  # it is not packed
            np.testing.assert_array_equal(tensor.array, state[name], err_msg=name)
    close(logits(gpt), adapted)


def test_merged_removed_and_unpacked_it_is_a_plain_model_that_other_tools_load(tmp_path):
    gpt = packed(tie_weights=True)
    assert isinstance(gpt.pos_emb, Int8Embedding) and gpt.out_head.weight is gpt.tok_emb.weight  # a tied head stays
    nn.apply_lora(gpt, rank=2)
    stir(gpt)
    adapted = logits(gpt)
    nn.merge_lora(gpt)
    lora.remove_lora(gpt)
    for layout in ("own", "huggingface"):
        with pytest.raises(ValueError, match=r"packed in eight bits.*unpack_frozen\(model\)"):
            gpt.save_pretrained(tmp_path, layout=layout)
    assert not list(tmp_path.iterdir())
    nn.unpack_frozen(gpt)
    gpt.save_pretrained(tmp_path, layout="huggingface")
    np.testing.assert_allclose(logits(GPTModel.from_pretrained(tmp_path)), adapted, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"targets": EVERY}, {"dora": True}, {"train": ("final_norm",)}], ids=str)
def test_an_adapter_is_saved_and_put_on_a_packed_model_again(tmp_path, options):
    gpt = packed()
    nn.apply_lora(gpt, rank=2, **options)
    stir(gpt)
    save_adapter(gpt, tmp_path)
    again = packed()
    load_adapter(again, tmp_path)
    np.testing.assert_array_equal(logits(again), logits(gpt))


def test_a_layer_that_an_adapter_brings_whole_is_a_plain_one_again(tmp_path):
    gpt = model()
    nn.apply_lora(gpt, rank=2, targets=("qkv",), train=("tok_emb", "ff.layers.0"))
    stir(gpt)
    save_adapter(gpt, tmp_path)
    again = packed()
    load_adapter(again, tmp_path)
    np.testing.assert_array_equal(again.tok_emb.weight.array, gpt.tok_emb.weight.array)
    first = again.trf_blocks[1].ff.layers[0]
    assert type(first) is nn.Linear and first.weight.requires_grad and again.tok_emb.weight.requires_grad
    assert isinstance(again.pos_emb, Int8Embedding)


def test_the_state_dict_and_a_deep_copy_hold_every_bit(tmp_path):
    gpt, again = packed(), packed()
    nn.apply_lora(gpt, rank=2)
    nn.apply_lora(again, rank=2)
    stir(gpt)
    state = gpt.state_dict()
    assert state["trf_blocks.0.att.qkv.linear.codes"].dtype is tg.int8
    assert state["trf_blocks.0.att.qkv.linear.scales"].shape == (24, 1)
    copied = copy.deepcopy(gpt)
    with tg.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
        for buffer in again.buffers():
            buffer.zero_()
    arrays = {name: tensor.array for name, tensor in again.state_dict().items()}
    write_tensors(tmp_path / "state.safetensors", {name: tensor.array for name, tensor in state.items()})
    read_tensors(tmp_path / "state.safetensors", arrays)
    np.testing.assert_array_equal(logits(again), logits(gpt))
    again.load_state_dict(copied.state_dict())
    np.testing.assert_array_equal(logits(again), logits(gpt))
    copied.tok_emb.codes.array[...] = 0
    np.testing.assert_array_equal(logits(again), logits(gpt))


def test_it_writes_with_the_cache_as_without():
    gpt = packed()
    np.testing.assert_array_equal(
        generate(gpt, IDS[:, :2], 4).array, generate(plain_twin(gpt), IDS[:, :2], 4, cache=False).array
    )


@pytest.mark.parametrize("name", ["tok_emb", "trf_blocks.1.att.qkv", "trf_blocks.0.ff.layers.2"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_and_the_model_stays(name, bad):
    gpt = model().requires_grad_(False)
    gpt.get_submodule(name).weight.array[0, 0] = bad
    with pytest.raises(ValueError, match=f"{name}: the weight holds nan or infinity"):
        nn.quantize_frozen(gpt)
    assert not any(isinstance(module, Int8Weight) for module in gpt.modules())


def test_other_wishes_that_cannot_be():
    gpt = model()
    with pytest.raises(ValueError, match="nothing to pack: a weight that learns stays"):
        nn.quantize_frozen(gpt)
    gpt.requires_grad_(False)
    with pytest.raises(ValueError, match="no layer matches c_attn; there are tok_emb"):
        nn.quantize_frozen(gpt, ("qkv", "c_attn"))
    with pytest.raises(ValueError, match=r"the weight is torch.bfloat16; make the model float32"):
        nn.quantize_frozen(gpt.bfloat16())
    with pytest.raises(ValueError, match="nothing to pack"):
        nn.quantize_frozen(model(tie_weights=True).requires_grad_(False), ("tok_emb", "out_head"))
    with pytest.raises(RuntimeError, match=r"int8_linear: the last dimension of input \[2, 3\] must match codes"):
        Int8Linear(nn.Linear(4, 2))(tg.randn(2, 3))
    with pytest.raises(RuntimeError, match=r"int8_linear: input is torch\.float64"):
        Int8Linear(nn.Linear(4, 2))(tg.randn(2, 4, dtype=tg.float64))
