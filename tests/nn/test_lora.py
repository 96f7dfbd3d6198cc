"""LoRA's layers: what they add, what learns, what it costs, merging and switching."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import nn
from tinygrad_llm.autograd import gradcheck
from tinygrad_llm.autograd.graph import captured
from tinygrad_llm.models import GPTConfig, GPTModel
from tinygrad_llm.models import gpt as gpt_module
from tinygrad_llm.nn import lora

CONFIG = GPTConfig(vocab_size=23, context_length=8, emb_dim=8, n_heads=2, n_layers=2, drop_rate=0.0, qkv_bias=True)
IDS = tg.tensor([[1, 5, 2, 18, 0, 7], [3, 3, 22, 4, 1, 2]])
EVERY = (*lora.BLOCK_LAYERS, "tok_emb", "pos_emb", "out_head")
FORMS = [
    {}, {"dora": True}, {"rslora": True}, {"split_qkv": True}, {"targets": EVERY}, {"targets": ("trf_blocks.0.*",)}
]  # fmt: skip


def model(**changes) -> GPTModel:
    tg.manual_seed(3)
    return GPTModel({**CONFIG.to_dict(), **changes}).eval()


def stir(model, seed=0) -> None:
    """Give every adapter at work numbers as if it had learned."""
    tg.manual_seed(seed)
    with tg.no_grad():
        for layer in lora.adapted(model).values():
            for parameter in () if layer.lora is None else layer.lora.parameters():
                parameter.add_(tg.randn(parameter.shape) * 0.3)


def logits(model) -> np.ndarray:
    with tg.no_grad():
        return model(IDS).numpy()


def test_the_chapters_layer_adds_its_product():
    linear = nn.Linear(4, 6)
    x = tg.randn(3, 4)
    layer = nn.LinearWithLoRA(linear, rank=2, alpha=8)
    np.testing.assert_array_equal(layer(x).detach().array, linear(x).detach().array)
    assert np.abs(layer.lora.A.array).max() <= 0.5 and layer.lora.A.array.any()  # Kaiming's bound is 1 / sqrt(4)
    with tg.no_grad():
        layer.lora.B.normal_()
    expected = linear(x) + 8 * (x @ layer.lora.A @ layer.lora.B)
    np.testing.assert_allclose(layer(x).detach().array, expected.detach().array, atol=1e-5)
    np.testing.assert_allclose((linear(x) + layer.lora(x)).detach().array, expected.detach().array, atol=1e-5)


def test_the_chapters_count():
    """GPT-2 small's shapes without its vocabulary, which the count does not depend on."""
    gpt = model(emb_dim=768, n_heads=12, n_layers=1)
    gpt.replace_head(2)
    gpt.requires_grad_(False)
    nn.replace_linear_with_lora(gpt, rank=16, alpha=16)
    assert lora.trainable(gpt).trainable == (2_666_528 - 12_320) // 12 + 12_320


def test_parts_are_what_three_layers_would_be():
    whole, x = nn.LoRALayer(4, 9, 2, 1.5, parts=3), tg.randn(5, 4)
    with tg.no_grad():
        whole.B.normal_()
    for i, out in enumerate(np.split(whole(x).detach().array, 3, axis=1)):
        one = nn.LoRALayer(4, 3, 2, 1.5)
        one.A, one.B = (
            nn.Parameter(whole.A[:, 2 * i : 2 * i + 2].detach()),
            nn.Parameter(whole.B[:, 3 * i : 3 * i + 3].detach()),
        )
        np.testing.assert_allclose(out, one(x).detach().array, atol=1e-5)
        np.testing.assert_allclose(whole.delta()[3 * i : 3 * i + 3], one.delta(), atol=1e-6)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_nothing_changes_at_first_and_only_adapters_learn(options):
    plain = logits(model())
    gpt = model()
    counts = nn.apply_lora(gpt, rank=2, **options)
    np.testing.assert_allclose(logits(gpt), plain, atol=1e-6)
    gpt.loss(IDS, IDS).backward()
    for name, parameter in gpt.named_parameters():
        assert (parameter.grad is not None) == (".adapters." in name) == parameter.requires_grad, name
    assert counts.trainable == sum(p.numel() for n, p in gpt.named_parameters() if ".adapters." in n)
    assert f"{counts.trainable:,} of {counts.total:,} parameters learn" in str(counts)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_merging_and_back(options, tied):
    gpt = model(tie_weights=tied)
    before = logits(gpt)
    nn.apply_lora(gpt, rank=2, **options)
    stir(gpt)
    adapted = logits(gpt)
    assert np.abs(adapted - before).max() > 0.01
    nn.merge_lora(gpt)
    nn.merge_lora(gpt)  # a second time changes nothing
    np.testing.assert_allclose(logits(gpt), adapted, atol=1e-5)
    nn.unmerge_lora(gpt)
    np.testing.assert_allclose(logits(gpt), adapted, atol=1e-5)
    assert gpt.config.tie_weights == tied
    nn.set_adapter(gpt, None)
    np.testing.assert_allclose(logits(gpt), before, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"targets": EVERY}], ids=str)
def test_merged_and_removed_it_is_a_plain_model_that_other_tools_load(tmp_path, options):
    gpt = model(tie_weights=True)
    nn.apply_lora(gpt, rank=2, **options)
    stir(gpt)
    adapted = logits(gpt)
    with pytest.raises(ValueError, match="merge adapters with merge_lora and remove_lora"):
        gpt.save_pretrained(tmp_path, layout="huggingface")
    nn.merge_lora(gpt)
    lora.remove_lora(gpt)
    gpt.save_pretrained(tmp_path, layout="huggingface")
    np.testing.assert_allclose(logits(GPTModel.from_pretrained(tmp_path)), adapted, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"split_qkv": True}], ids=str)
def test_dropout_is_of_what_the_adapter_reads(options):
    gpt = model()
    nn.apply_lora(gpt, rank=2, dropout=0.5, **options)
    stir(gpt)
    rested = logits(gpt)
    gpt.train()
    assert np.abs(logits(gpt) - rested).max() > 1e-3
    nn.set_adapter(gpt, None)
    np.testing.assert_array_equal(logits(gpt), logits(model()))


def test_gradients():
    tg.manual_seed(0)
    layer = nn.LinearWithLoRA(nn.Linear(3, 6).double(), 2, 0.7, parts=3).double()
    with tg.no_grad():
        layer.lora.B.normal_()
    assert gradcheck(layer, tg.randn(2, 4, 3, dtype=tg.float64, requires_grad=True))


def test_doras_gradient_takes_the_norm_as_constant():
    tg.manual_seed(0)
    box = nn.Sequential(nn.Linear(3, 4)).double()
    nn.apply_lora(box, rank=2, targets=("0",), dora=True)
    layer = box[0]
    with tg.no_grad():
        layer.lora.B.normal_()
    x = tg.randn(5, 3, dtype=tg.float64)
    w = layer.weight.array + layer.lora.delta()
    norms = np.linalg.norm(w, axis=1)
    np.testing.assert_allclose(layer._norms(), norms)
    layer(x).sum().backward()
    np.testing.assert_allclose(layer.lora.magnitude.grad.array, (x.array @ w.T / norms).sum(0))
    share = layer.lora.magnitude.array / norms  # (4,)
    expected = layer.lora.alpha * (x.array @ layer.lora.A.array).sum(0)[:, None] * share
    np.testing.assert_allclose(layer.lora.B.grad.array, expected)


def test_a_frozen_weight_keeps_no_activation_and_makes_no_gradient():
    """Below the first adapter nothing is recorded; above, a frozen product holds its weight alone."""
    tg.manual_seed(0)
    gpt = model(emb_dim=16, n_layers=1)
    nn.apply_lora(gpt, rank=1, targets=("ff.layers.2",))
    x = tg.randn(2, 6, 16)
    assert gpt.trf_blocks[0].att(x).node is None
    frozen, y = gpt.trf_blocks[0].ff.layers[0], tg.randn(2, 6, 16, requires_grad=True)
    held = {id(a.base if a.base is not None else a) for a in captured(frozen(y).node.pull)}
    assert id(y.array) not in held
    gpt.features(IDS).sum().backward()
    assert frozen.weight.grad is None


def gradients_in_parts(monkeypatch, number, options, pack):
    """A model's gradients where batches of 4 tokens and more may be computed in so many parts; and in how many."""
    monkeypatch.setattr(gpt_module, "PARTS", number)
    monkeypatch.setattr(gpt_module, "PART_TOKENS", 4)
    gpt = model()
    nn.apply_lora(gpt, rank=2, **options)
    if pack:
        nn.quantize_frozen(gpt)
    stir(gpt)
    gpt.train()
    tg.manual_seed(0)
    gpt.loss(IDS, IDS).backward()
    learning = {name: p.grad.array for name, p in gpt.named_parameters() if p.requires_grad}
    return learning, len(gpt._parts(IDS))


@pytest.mark.parametrize("pack", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("options", [*FORMS, {"dropout": 0.5}], ids=str)
def test_a_batch_in_two_parts_gives_the_gradients_of_the_whole(monkeypatch, options, pack):
    """But for dropout, whose draws have an order."""
    whole, one = gradients_in_parts(monkeypatch, 1, options, pack)
    found, two = gradients_in_parts(monkeypatch, 2, options, pack)
    assert (one, two) == (1, 1 if "dropout" in options else 2)
    assert whole.keys() == found.keys()
    for name, gradient in whole.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * (1 + np.abs(gradient).max()))


def test_several_adapters_take_turns():
    gpt, before = model(), logits(model())
    nn.apply_lora(gpt, rank=2, name="a")
    stir(gpt, 1)
    a = logits(gpt)
    nn.apply_lora(gpt, rank=3, name="b", targets=("qkv",))
    stir(gpt, 2)
    b = logits(gpt)
    assert np.abs(a - b).max() > 1e-3
    for name, expected in (("a", a), ("b", b), (None, before), ("a", a)):
        nn.set_adapter(gpt, name)
        np.testing.assert_array_equal(logits(gpt), expected)
        learning = {n.split(".adapters.")[1].split(".")[0] for n, p in gpt.named_parameters() if p.requires_grad}
        assert learning == ({name} if name else set())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("qkv", "c_attn")}, "no layer matches c_attn; there are tok_emb"),
        ({"rank": 0}, "rank 0 must be"),
        ({"dropout": 1.0}, r"dropout 1.0 in \[0, 1\)"),
        ({"dora": True, "split_qkv": True}, "do not go together"),
        ({"dora": True, "targets": ("qkv", "tok_emb")}, "not for an embedding; leave out tok_emb"),
    ],
)
def test_a_wish_that_cannot_be_is_refused(options, message):
    gpt = model()
    names = set(gpt.state_dict())
    with pytest.raises(ValueError, match=message):
        nn.apply_lora(gpt, **options)
    assert set(gpt.state_dict()) == names and all(p.requires_grad for p in gpt.parameters())


def test_names_and_states_that_do_not_fit():
    gpt = model()
    nn.apply_lora(gpt, rank=2)
    with pytest.raises(ValueError, match="there is an adapter 'default' already"):
        nn.apply_lora(gpt, rank=2)
    with pytest.raises(ValueError, match="no adapter 'x'; there are default"):
        nn.set_adapter(gpt, "x")
    nn.merge_lora(gpt)
    with pytest.raises(RuntimeError, match="call unmerge_lora first"):
        nn.set_adapter(gpt, None)
