"""Adapters on disk: no bit changes, PEFT reads ours and we read PEFT's, and what does not fit is told at once."""

import json
import math

import numpy as np
import pytest
import safetensors.numpy

import tinygrad_llm as tg
from tests.nn.test_lora import EVERY, IDS, logits, model, stir
from tinygrad_llm import nn
from tinygrad_llm.models import generate, load_adapter, save_adapter, save_pretrained

FORMS = [
    {}, {"dora": True}, {"rslora": True, "dropout": 0.25}, {"split_qkv": True}, {"split_qkv": True, "rslora": True},
    {"targets": EVERY}, {"train": ("out_head", "final_norm")},
]  # fmt: skip


def spoil(folder, tensors=lambda t: None, **values):
    path = folder / "adapter_model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    tensors(arrays)
    safetensors.numpy.save_file(arrays, path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **values}))


@pytest.fixture
def folder(tmp_path):
    gpt = model()
    nn.apply_lora(gpt, rank=2)
    stir(gpt)
    save_adapter(gpt, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_no_bit_changes(tmp_path, options):
    gpt = model()
    nn.apply_lora(gpt, rank=3, alpha=5, **options)
    stir(gpt)
    save_adapter(gpt, tmp_path)
    again = model()
    load_adapter(again, tmp_path)
    np.testing.assert_array_equal(logits(again), logits(gpt))
    own, other = dict(gpt.named_parameters()), dict(again.named_parameters())
    assert set(own) == set(other)
    for name, parameter in own.items():
        np.testing.assert_array_equal(parameter.array, other[name].array)
        assert parameter.requires_grad == other[name].requires_grad, name
    assert {n: layer.settings for n, layer in nn.lora.adapted(gpt).items()} == {
        n: layer.settings for n, layer in nn.lora.adapted(again).items()
    }


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_that_was_trained_beside_it_comes_along(tmp_path, bias):
    gpt = model().replace_head(3, bias=bias)
    nn.apply_lora(gpt, rank=2, train=("out_head",))
    stir(gpt)
    save_adapter(gpt, tmp_path)
    again = model()
    load_adapter(again, tmp_path)
    np.testing.assert_array_equal(logits(again), logits(gpt))
    assert again.out_head.weight.requires_grad and not again.tok_emb.weight.requires_grad


def test_the_chapters_adapted_head_comes_along(tmp_path):
    gpt = model().replace_head(3)
    gpt.requires_grad_(False)
    nn.replace_linear_with_lora(gpt, 2, 4)
    stir(gpt)
    save_adapter(gpt, tmp_path)
    again = model()
    load_adapter(again, tmp_path)
    np.testing.assert_array_equal(logits(again), logits(gpt))


def test_two_adapters_in_one_model(folder, tmp_path):
    gpt = model()
    load_adapter(gpt, folder, "a")
    a = logits(gpt)
    nn.apply_lora(gpt, rank=1, targets=("qkv",), name="b")
    stir(gpt, 5)
    save_adapter(gpt, tmp_path / "again", "a")
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == (
        folder / "adapter_model.safetensors"
    ).read_bytes()
    nn.set_adapter(gpt, "a")
    np.testing.assert_array_equal(logits(gpt), a)


def test_all_that_does_not_fit_is_told_and_the_model_stays(folder):
    def change(arrays):
        root = "base_model.model.transformer.h."
        arrays[root + "7.attn.c_attn.lora_A.weight"] = np.ones((2, 8), np.float32)
        arrays[root + "0.attn.c_proj.lora_B.weight"] = np.ones((8, 5), np.float32)
        del arrays[root + "1.mlp.c_fc.lora_A.weight"]

    spoil(folder, change)
    gpt = model()
    names = [name for name, _ in gpt.named_parameters()]
    with pytest.raises(ValueError, match=r"h\.7\.attn\.c_attn\.lora_A\.weight name no layer"):
        load_adapter(gpt, folder)
    spoil(folder, lambda arrays: arrays.pop("base_model.model.transformer.h.7.attn.c_attn.lora_A.weight"))
    with pytest.raises(ValueError, match=r"lora_B has shape \(8, 5\), not \(8, 2\).*ff\.layers\.0 lacks lora_A"):
        load_adapter(gpt, folder)
    assert [name for name, _ in gpt.named_parameters()] == names


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": 4}, r"lora_A has shape \(2, 8\), not \(4, 8\)"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"bias": "all"}, "bias='all'"),
        ({"use_qalora": True}, "use_qalora=True"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the model"),
        ({"r": "two"}, "must be positive numbers"),
        ({"r": 2.0}, r"r a whole one, not \(2.0, 16.0\)"),
        ({"r": True}, "must be positive numbers"),
        ({"lora_dropout": "much"}, r"lora_dropout must lie in \[0, 1\), not 'much'"),
        ({"lora_dropout": 1.5}, r"lora_dropout must lie in \[0, 1\)"),
        ({"rank_pattern": ["a"]}, "rank_pattern must be an object, not list"),
        ({"rank_pattern": {"(": 3}}, r"rank_pattern has '\(', which is no pattern"),
        ({"rank_pattern": {"(?i)a": 3}}, "which is no pattern"),
        ({"lora_alpha": math.inf}, "must be positive numbers"),
        ({"rank_pattern": {".*": "x"}}, "rank_pattern must hold positive numbers, not 'x'"),
        ({"alpha_pattern": {".*": -1}}, "alpha_pattern must hold positive numbers, not -1"),
    ],
)
def test_another_kind_or_rank_is_refused(folder, values, message):
    spoil(folder, **values)
    with pytest.raises(ValueError, match=message):
        load_adapter(model(), folder)


def test_another_model_a_missing_file_and_a_merged_adapter(folder, tmp_path):
    with pytest.raises(ValueError, match=r"lora_A has shape \(2, 8\), not \(2, 16\)"):
        load_adapter(model(emb_dim=16), folder)
    gpt = model()
    with pytest.raises(ValueError, match="no adapter"):
        save_adapter(gpt, tmp_path)
    load_adapter(gpt, folder)
    with pytest.raises(ValueError, match="has an adapter 'default' already"):
        load_adapter(gpt, folder)
    nn.merge_lora(gpt)
    with pytest.raises(ValueError, match="call unmerge_lora first"):
        save_adapter(gpt, tmp_path)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_adapter(model(), folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="adapter_model"):
        load_adapter(model(), folder)


@pytest.mark.torch
class TestPEFT:
    """PEFT as the judge, on transformers' GPT-2."""

    @pytest.fixture
    def peft(self):
        pytest.importorskip("transformers")
        return pytest.importorskip("peft")

    @pytest.fixture
    def base(self, tmp_path):
        save_pretrained(model(tie_weights=True), tmp_path / "base", layout="huggingface")
        return tmp_path / "base"

    def theirs(self, base):
        from transformers import GPT2LMHeadModel

        return GPT2LMHeadModel.from_pretrained(base).eval()

    def their_logits(self, there):
        import torch

        return there(torch.tensor(IDS.array)).logits.detach().numpy()

    @pytest.mark.parametrize("options", FORMS[:6], ids=str)
    def test_it_opens_ours(self, peft, base, tmp_path, options):
        gpt = model(tie_weights=True)
        nn.apply_lora(gpt, rank=3, alpha=5, **options)
        stir(gpt)
        save_adapter(gpt, tmp_path / "ours")
        there = peft.PeftModel.from_pretrained(self.theirs(base), tmp_path / "ours").eval()
        np.testing.assert_allclose(self.their_logits(there), logits(gpt), atol=2e-5)

    @pytest.mark.parametrize(
        "options",
        [
            {"target_modules": ["c_attn"]},
            {"target_modules": ["c_attn", "c_proj", "c_fc"], "use_dora": True},
            {"target_modules": ["c_attn", "wte"], "use_rslora": True},
            {"target_modules": ["c_proj"], "rank_pattern": {"mlp.c_proj": 5}, "alpha_pattern": {"mlp.c_proj": 3}},
            {"target_modules": ["c_fc"], "modules_to_save": ["ln_f"]},
        ],
        ids=str,
    )
    def test_we_open_its_and_go_on(self, peft, base, tmp_path, options):
        """Twenty steps there, the same twenty here, and the gradients of the first."""
        import torch

        torch.manual_seed(0)
        there = peft.get_peft_model(self.theirs(base), peft.LoraConfig(r=2, lora_alpha=8, **options))
        with torch.no_grad():
            for parameter in there.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        there.save_pretrained(tmp_path / "theirs")
        gpt = model(tie_weights=True, drop_rate=0.0)
        load_adapter(gpt, tmp_path / "theirs")
        np.testing.assert_allclose(logits(gpt), self.their_logits(there), atol=2e-5)
        count = sum(p.numel() for p in there.parameters() if p.requires_grad)
        assert nn.lora.trainable(gpt).trainable == count
        a = torch.optim.AdamW([p for p in there.parameters() if p.requires_grad], lr=1e-2)
        b = tg.optim.AdamW([p for p in gpt.parameters() if p.requires_grad], lr=1e-2)
        assert self.step_both(a, there, b, gpt) <= 1e-4
        self.check_gradients(there, gpt, tmp_path)
        for _ in range(19):
            assert self.step_both(a, there, b, gpt) <= 1e-3
        assert gpt.loss(IDS, IDS).item() < 2.5

    def step_both(self, theirs, there, ours, gpt) -> float:
        """A step of AdamW on each side; returns how far the losses before it were apart."""
        import torch

        ids = torch.tensor(IDS.array)
        expected = torch.nn.functional.cross_entropy(there(ids).logits.flatten(0, 1), ids.flatten())
        loss = gpt.loss(IDS, IDS)
        for optimizer, value in ((theirs, expected), (ours, loss)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return abs(loss.item() - expected.item())

    def check_gradients(self, there, gpt, tmp_path):
        """Every gradient within 1e-4: ours, written as an adapter's numbers, against theirs under the same names."""
        kept = [(p, p.data) for p in gpt.parameters() if p.requires_grad]
        for parameter, _ in kept:
            parameter.data = parameter.grad
        save_adapter(gpt, tmp_path / "gradients")
        for parameter, value in kept:
            parameter.data = value
        found = safetensors.numpy.load_file(tmp_path / "gradients" / "adapter_model.safetensors")
        expected = {}
        for name, parameter in there.named_parameters():
            if parameter.grad is not None:
                name = name.replace(".default.weight", ".weight").replace(".default", "")
                name = name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector").replace(
                    "modules_to_save.", ""
                )
                expected[name] = parameter.grad.numpy()
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            assert np.linalg.norm(found[name] - gradient) <= 1e-4 * np.linalg.norm(gradient) + 1e-7, name

    @pytest.mark.parametrize("options", [{}, {"dora": True}, {"rslora": True}], ids=str)
    def test_ours_goes_on_there(self, peft, base, tmp_path, options):
        """Some steps here, then twenty on each side: equal losses, and equal texts at the end."""
        import torch

        gpt = model(tie_weights=True, drop_rate=0.0, context_length=64)
        save_pretrained(gpt, base, layout="huggingface")
        nn.apply_lora(gpt, rank=2, alpha=4, **options)
        b = tg.optim.AdamW([p for p in gpt.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(5):
            loss = gpt.loss(IDS, IDS)
            b.zero_grad()
            loss.backward()
            b.step()
        save_adapter(gpt, tmp_path / "ours")
        there = peft.PeftModel.from_pretrained(self.theirs(base), tmp_path / "ours", is_trainable=True)
        learning = [p for p in there.parameters() if p.requires_grad]
        assert nn.lora.trainable(gpt).trainable == sum(p.numel() for p in learning)
        a = torch.optim.AdamW(learning, lr=1e-2)
        b = tg.optim.AdamW([p for p in gpt.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(20):
            assert self.step_both(a, there, b, gpt) <= 1e-3
        prompt = IDS[:, :3]
        expected = there.eval().generate(
            input_ids=torch.tensor(prompt.array), attention_mask=torch.ones(2, 3, dtype=torch.long), max_new_tokens=50,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        np.testing.assert_array_equal(generate(gpt.eval(), prompt, 50).array, expected.numpy())

    def test_a_classifiers_head_goes_both_ways(self, peft, base, tmp_path):
        import torch
        from transformers import GPT2ForSequenceClassification

        gpt = model(tie_weights=True).replace_head(3, bias=False)
        nn.apply_lora(gpt, rank=2, train=("out_head",))
        stir(gpt)
        save_adapter(gpt, tmp_path / "ours")
        there = GPT2ForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=19)
        there = peft.PeftModel.from_pretrained(there, tmp_path / "ours").eval()
        expected = there(torch.tensor(IDS.array)).logits.detach().numpy()
        np.testing.assert_allclose(logits(gpt)[:, -1], expected, atol=2e-5)
        there.save_pretrained(tmp_path / "theirs")
        again = model(tie_weights=True)
        load_adapter(again, tmp_path / "theirs")
        np.testing.assert_allclose(logits(again), logits(gpt), atol=1e-6)
