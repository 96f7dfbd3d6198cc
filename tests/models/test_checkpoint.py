"""Models on disk: what is written is read, what is damaged is refused by name."""

import json
import os
import stat

import numpy as np
import pytest
import safetensors.numpy

import tinygrad_llm as tg
from tinygrad_llm.models import GPTConfig, GPTModel, load, save_pretrained

CONFIG = GPTConfig(vocab_size=11, context_length=6, emb_dim=8, n_heads=2, n_layers=2, drop_rate=0.3, qkv_bias=True)


def model(**changes):
    return GPTModel({**CONFIG.to_dict(), **changes})


@pytest.mark.parametrize("tie_weights", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_round_trip(tmp_path, tie_weights, dtype):
    gpt = model(tie_weights=tie_weights).to(getattr(tg, dtype))
    folder = tmp_path / "deep" / "folder"
    save_pretrained(gpt, folder)
    again = load(folder)
    assert again.config == gpt.config and not again.training
    assert (again.out_head.weight is again.tok_emb.weight) == tie_weights
    for (name, a), (other, b) in zip(gpt.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other and a.dtype is b.dtype
        np.testing.assert_array_equal(a.array, b.array)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_files_are_plain(tmp_path):
    save_pretrained(model(tie_weights=True), tmp_path)
    assert GPTConfig.from_dict(json.loads((tmp_path / "config.json").read_text())).tie_weights
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert "tok_emb.weight" in tensors and "out_head.weight" not in tensors
    umask = os.umask(0)
    os.umask(umask)
    for name in ("config.json", "model.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_loading_draws_no_random_numbers(tmp_path):
    save_pretrained(model(), tmp_path)
    tg.manual_seed(1)
    load(tmp_path)
    after = tg.rand(2).tolist()
    tg.manual_seed(1)
    assert after == tg.rand(2).tolist()


def test_every_wrong_tensor_is_listed(tmp_path):
    save_pretrained(model(), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    del tensors["final_norm.bias"], tensors["pos_emb.weight"]
    tensors["extra"] = np.ones(2, np.float32)
    tensors["tok_emb.weight"] = np.ones((3, 8), np.float32)
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(RuntimeError) as caught:
        load(tmp_path)
    text = str(caught.value)
    for part in ("pos_emb.weight", "final_norm.bias", '"extra"', "size mismatch for tok_emb.weight"):
        assert part in text


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load(tmp_path)
    save_pretrained(model(), tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    good_config, good_weights = config.read_bytes(), weights.read_bytes()
    for content in (b"{", b"[1]", b"\xff\xfe", b'{"emb_dim": -1}', b'{"colour": 3}'):
        config.write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.json: "):
            load(tmp_path)
    config.write_bytes(good_config)
    for content in (b"", b"nonsense", good_weights[:-8], b"\xff" * 64):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors: not a readable safetensors file"):
            load(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: there is no such file"):
        load(tmp_path)


def test_a_config_that_promises_more_than_the_file_holds_is_refused_before_it_is_built(tmp_path):
    save_pretrained(model(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG.to_dict(), "emb_dim": 2**20, "n_layers": 4000}))
    with pytest.raises(ValueError, match=r"cannot hold the .* weights that config\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "vocab_size, context_length, emb_dim, n_heads, n_layers are missing"), (None, "no such file")],
)
def test_a_config_must_be_there_and_name_the_shape(tmp_path, text, message):
    save_pretrained(model(), tmp_path)
    (tmp_path / "config.json").unlink()
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a.astype(np.int64), "pos_emb.weight holds torch.int64"),
        (lambda a: a * np.nan, "pos_emb.weight holds nan"),
    ],
)
def test_weights_that_are_no_weights_are_refused_by_name(tmp_path, spoil, message):
    save_pretrained(model(), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({**tensors, "pos_emb.weight": spoil(tensors["pos_emb.weight"])}, path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="limits are those of POSIX")
def test_a_full_disk_is_an_error_of_the_system_and_keeps_the_older_files(tmp_path):
    import resource
    import signal

    def full(code):
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            code()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)

    save_pretrained(model(), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(OSError, match="File too large"):
        full(lambda: save_pretrained(model(), tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}
