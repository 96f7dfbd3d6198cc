"""transformers as the judge: a random GPT-2 of its own computes, learns and writes the same here, and goes back."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.models import GPTModel, generate, save_pretrained

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

IDS = np.random.default_rng(0).integers(0, 97, (2, 20))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def theirs(request):
    torch.manual_seed(0)
    none = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = transformers.GPT2Config(
        vocab_size=97, n_positions=80, n_embd=48, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0,
        tie_word_embeddings=request.param, **none,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def both(theirs, tmp_path):
    """Theirs, and ours out of the folder that it writes, in shards."""
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    copy = type(theirs)(theirs.config)
    copy.load_state_dict(theirs.state_dict())
    return copy.train(), GPTModel.from_pretrained(tmp_path / "theirs").train()


def their_loss(model):
    logits = model(torch.tensor(IDS)).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(IDS[:, 1:]).flatten())


def our_loss(model):
    return model.loss(tg.tensor(IDS[:, :-1]), tg.tensor(IDS[:, 1:]))


def test_logits_and_every_gradient(both):
    theirs, ours = both
    expected = theirs(torch.tensor(IDS)).logits.detach().numpy()
    np.testing.assert_allclose(ours(tg.tensor(IDS)).detach().array, expected, atol=1e-4)
    their_loss(theirs).backward()
    our_loss(ours).backward()
    gradients = {name: p.grad.array for name, p in ours.named_parameters()}
    from tinygrad_llm.models.huggingface import pieces

    state = {name.removeprefix("transformer."): p.grad.numpy() for name, p in theirs.named_parameters()}
    places = pieces(ours.config)
    assert set(places) == set(state)
    for name, piece in places.items():
        wanted = state[name].T if piece.turned else state[name]
        assert np.linalg.norm(gradients[piece.ours] - wanted) <= 1e-4 * np.linalg.norm(wanted) + 1e-7, name


def test_twenty_steps_of_adamw(both):
    theirs, ours = both
    a = torch.optim.AdamW(theirs.parameters(), lr=1e-3)
    b = tg.optim.AdamW(ours.parameters(), lr=1e-3)
    for _ in range(20):
        expected, loss = their_loss(theirs), our_loss(ours)
        assert abs(expected.item() - loss.item()) <= 1e-3
        for optimizer, value in ((a, expected), (b, loss)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    assert loss.item() < 4.2


def test_fifty_greedy_tokens(both):
    theirs, ours = both
    prompt = IDS[:, :5]
    expected = theirs.eval().generate(
        torch.tensor(prompt), attention_mask=torch.ones(2, 5, dtype=torch.long), max_new_tokens=50, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    np.testing.assert_array_equal(generate(ours, tg.tensor(prompt), 50).array, expected.numpy())


def test_what_we_write_opens_there(both, tmp_path):
    theirs, ours = both
    save_pretrained(ours, tmp_path / "ours", layout="huggingface")
    again, info = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    expected = theirs.eval()(torch.tensor(IDS)).logits
    assert torch.equal(again.eval()(torch.tensor(IDS)).logits, expected)


def test_a_classifier_opens_there_with_equal_logits(both, tmp_path):
    ours = both[1].replace_head(3, bias=False).eval()
    save_pretrained(ours, tmp_path, layout="huggingface", classes=("a", "b", "c"))
    there = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path).eval()
    rows = np.where(np.arange(20) < np.array([[7], [20]]), np.maximum(IDS, 1), there.config.pad_token_id)
    expected = there(torch.tensor(rows)).logits.detach().numpy()
    found = ours.classify(tg.tensor(rows), tg.tensor([6, 19])).detach().array
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert there.config.id2label == {0: "a", 1: "b", 2: "c"}
