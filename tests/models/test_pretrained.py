"""Weights from elsewhere: every format gives the same model, and what is wrong with one is told at once."""

import hashlib
import json
import logging
import re
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

import tinygrad_llm as tg
from tinygrad_llm.models import GPTConfig, GPTModel, save_pretrained
from tinygrad_llm.models import hub as hub_module
from tinygrad_llm.models.tensorflow import crc32c, masked
from tinygrad_llm.nn import init

CONFIG = GPTConfig(vocab_size=19, context_length=6, emb_dim=8, n_heads=2, n_layers=2, drop_rate=0.1, qkv_bias=True)
IDS = tg.tensor([[1, 5, 2, 18, 0, 7]])


def model(**changes) -> GPTModel:
    tg.manual_seed(3)
    gpt = GPTModel({**CONFIG.to_dict(), **changes})
    with tg.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(tg.randn(parameter.shape) * 0.2)  # biases and norms of their own, too
    return gpt.eval()


def same(a: GPTModel, b: GPTModel) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(n == m and np.array_equal(x.array, y.array) for (n, x), (m, y) in pairs)


@pytest.fixture
def folder(tmp_path):
    """A tied model in Hugging Face's layout."""
    model(tie_weights=True).save_pretrained(tmp_path / "gpt", layout="huggingface")
    return tmp_path / "gpt"


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def put(folder, tensors):
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def change_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


class TestHuggingFace:
    @pytest.mark.parametrize("tied", [True, False])
    def test_round_trip_by_folder_and_by_file(self, tmp_path, tied):
        gpt = model(tie_weights=tied)
        gpt.save_pretrained(tmp_path, layout="huggingface")
        for source in (tmp_path, tmp_path / "model.safetensors"):
            again = GPTModel.from_pretrained(source)
            assert same(gpt, again) and again.config == gpt.config and not again.training
        assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]

    def test_matrices_are_turned_and_names_theirs(self, folder):
        tensors, gpt = tensors_of(folder), model(tie_weights=True)
        np.testing.assert_array_equal(
            tensors["transformer.h.1.attn.c_attn.weight"], gpt.trf_blocks[1].att.qkv.weight.array.T
        )
        assert tensors["transformer.h.0.mlp.c_fc.weight"].shape == (8, 32) and "lm_head.weight" not in tensors

    def test_without_the_prefix_and_with_masks_and_a_tied_head_besides(self, folder):
        tensors = {name.removeprefix("transformer."): a for name, a in tensors_of(folder).items()}
        mask = np.ones((1, 1, 6, 6), np.uint8)
        put(folder, {**tensors, "h.0.attn.bias": mask, "lm_head.weight": tensors["wte.weight"]})
        assert same(GPTModel.from_pretrained(folder), model(tie_weights=True))
        put(folder, {**tensors, "lm_head.weight": tensors["wte.weight"] + 1})
        with pytest.raises(ValueError, match=r"lm_head\.weight is not wte\.weight"):
            GPTModel.from_pretrained(folder)

    @pytest.mark.parametrize("kind", ["float16", "bfloat16"])
    def test_sixteen_bits_become_float32_unless_they_shall_stay(self, tmp_path, kind):
        gpt = model().to(getattr(tg, kind))
        gpt.save_pretrained(tmp_path, layout="huggingface")
        assert same(GPTModel.from_pretrained(tmp_path), gpt.float())
        assert GPTModel.from_pretrained(tmp_path, dtype=None).tok_emb.weight.dtype is getattr(tg, kind)

    def test_dropout_may_be_another(self, folder):
        assert GPTModel.from_pretrained(folder, drop_rate=0.0).config.drop_rate == 0
        change_config(folder, attn_pdrop=0.3)
        with pytest.raises(ValueError, match="its dropouts differ"):
            GPTModel.from_pretrained(folder)
        assert GPTModel.from_pretrained(folder, drop_rate=0.2).drop_emb.p == 0.2

    def test_shards(self, folder):
        tensors = tensors_of(folder)
        names = list(tensors)
        files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, part in files.items():
            safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / file)
        places = {name: file for file, part in files.items() for name in part}
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": places}))
        (folder / "model.safetensors").unlink()
        assert same(GPTModel.from_pretrained(folder), model(tie_weights=True))

        index.write_text(json.dumps({"weight_map": {**places, names[0]: "b.safetensors"}}))
        with pytest.raises(ValueError, match=re.escape(names[0]) + " are not in the files"):
            GPTModel.from_pretrained(folder)
        index.write_text(json.dumps({"weight_map": {**places, "x": "c.safetensors", "y": "d.safetensors"}}))
        with pytest.raises(FileNotFoundError, match=r"c\.safetensors, d\.safetensors are not there"):
            GPTModel.from_pretrained(folder)
        index.write_text(json.dumps({"weight_map": {**places, "x": "../a.safetensors"}}))
        with pytest.raises(ValueError, match="outside of its folder"):
            GPTModel.from_pretrained(folder)
        index.write_text(json.dumps({"weight_map": places}))
        cut(folder / "b.safetensors")
        with pytest.raises(ValueError, match=r"b\.safetensors: not a whole safetensors file"):
            GPTModel.from_pretrained(folder)

    def test_everything_that_is_wrong_with_the_tensors_is_told_at_once(self, folder):
        tensors = tensors_of(folder)
        del tensors["transformer.ln_f.bias"], tensors["transformer.h.1.mlp.c_proj.weight"]
        tensors["extra"] = np.ones(2, np.float32)
        tensors["transformer.wpe.weight"] = np.ones((3, 8), np.float32)
        tensors["transformer.h.0.ln_1.bias"] = np.ones(8, np.int64)
        put(folder, tensors)
        with pytest.raises(ValueError) as caught:
            GPTModel.from_pretrained(folder)
        for part in (
            "missing are h.1.mlp.c_proj.weight, ln_f.bias", "not expected are extra",
            "wpe.weight has shape (3, 8), not (6, 8)", "h.0.ln_1.bias holds int64",
        ):  # fmt: skip
            assert part in str(caught.value)

    def test_another_architecture_is_told_with_all_that_differs(self, folder):
        change_config(folder, model_type="gpt_neo", activation_function="relu", n_inner=5)
        with pytest.raises(ValueError, match=r"'gpt_neo'.*activation_function is 'relu'.*n_inner is 5"):
            GPTModel.from_pretrained(folder)

    def test_a_config_that_promises_too_much_takes_no_memory(self, folder):
        change_config(folder, n_embd=2**24, n_positions=2**30)
        with pytest.raises(ValueError, match="has shape"):
            GPTModel.from_pretrained(folder)
        change_config(folder, n_layer=10**9)
        with pytest.raises(ValueError, match="promises 1000000000 layers"):
            GPTModel.from_pretrained(folder)

    def test_a_file_cut_short_and_numbers_that_are_none(self, folder):
        tensors = tensors_of(folder)
        put(folder, {**tensors, "transformer.wpe.weight": tensors["transformer.wpe.weight"] * np.inf})
        with pytest.raises(ValueError, match=r"wpe\.weight holds nan or infinity"):
            GPTModel.from_pretrained(folder)
        cut(folder / "model.safetensors")
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            GPTModel.from_pretrained(folder)

    @pytest.mark.parametrize("labels", [{"x": "a"}, ["a", "b"]])
    def test_classes_without_numbers_are_refused(self, folder, labels):
        change_config(folder, architectures=["GPT2ForSequenceClassification"], id2label=labels)
        with pytest.raises(ValueError, match=r"config\.json: id2label must give the name of each number"):
            GPTModel.from_pretrained(folder)

    def test_a_classifier_keeps_its_classes(self, tmp_path):
        gpt = model(tie_weights=True).replace_head(3, bias=False)
        save_pretrained(gpt, tmp_path, layout="huggingface", classes=("ham", "spam", "tea"))
        again = GPTModel.from_pretrained(tmp_path)
        np.testing.assert_array_equal(again(IDS).detach().array, gpt(IDS).detach().array)
        assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "ham", "1": "spam", "2": "tea"}
        with pytest.raises(ValueError, match="out_head has a bias"):
            save_pretrained(gpt.replace_head(3), tmp_path, layout="huggingface")

    def test_without_biases_in_attention_gpt2_gets_zeros(self, tmp_path):
        gpt = model(qkv_bias=False)
        gpt.save_pretrained(tmp_path, layout="huggingface")
        again = GPTModel.from_pretrained(tmp_path)
        np.testing.assert_allclose(again(IDS).detach().array, gpt(IDS).detach().array, atol=1e-6)


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def test_a_folder_of_our_own_layout_loads_too(tmp_path):
    gpt = model(qkv_bias=False)
    gpt.save_pretrained(tmp_path)
    assert same(GPTModel.from_pretrained(tmp_path), gpt)
    with pytest.raises(ValueError, match="layout must be"):
        gpt.save_pretrained(tmp_path, layout="onnx")


def book_names(gpt: GPTModel) -> dict:
    """The state dict as the book's model has it."""
    found = {}
    for name, tensor in gpt.state_dict().items():
        if ".qkv." in name:
            for part, piece in zip(("W_query", "W_key", "W_value"), tensor.chunk(3), strict=True):
                found[name.replace("qkv", part)] = piece
        elif "norm" in name:
            found[name.replace("weight", "scale").replace("bias", "shift")] = tensor
        else:
            found[name] = tensor
    return {**found, "trf_blocks.0.att.mask": tg.ones(6, 6)}


class TestBook:
    @pytest.mark.parametrize("nested", [True, False])
    @pytest.mark.parametrize("qkv_bias", [True, False])
    def test_its_names_and_ours(self, tmp_path, nested, qkv_bias):
        gpt = model(qkv_bias=qkv_bias)
        for state in (book_names(gpt), gpt.state_dict()):
            kept = {"model_state_dict": state, "optimizer_state_dict": {"lr": 1.0}} if nested else state
            tg.save(kept, tmp_path / "model.pth")
            assert same(GPTModel.from_pretrained(tmp_path / "model.pth", n_heads=2), gpt)

    def test_a_tied_head_stays_tied_and_a_copy_of_the_table_is_a_head_of_its_own(self, tmp_path):
        gpt = model(tie_weights=True)
        for clone, tied in ((False, True), (True, False)):
            state = gpt.state_dict()
            if clone:
                state["out_head.weight"] = state["out_head.weight"].clone()
            tg.save(state, tmp_path / "model.pth")
            again = GPTModel.from_pretrained(tmp_path / "model.pth", n_heads=2)
            assert again.config.tie_weights == tied and (again.out_head.weight is again.tok_emb.weight) == tied
            np.testing.assert_array_equal(again(IDS).detach().array, gpt(IDS).detach().array)

    def test_tensors_whose_numbers_lie_in_another_order_or_with_others_between(self, tmp_path):
        gpt = model()
        state = gpt.state_dict()
        state["out_head.weight"] = state["out_head.weight"].T.contiguous().T
        state["final_norm.weight"] = tg.cat([state["final_norm.weight"], tg.ones(8)]).reshape(2, 8).T.contiguous()[:, 0]
        tg.save(state, tmp_path / "model.pth")
        assert same(GPTModel.from_pretrained(tmp_path / "model.pth", n_heads=2), gpt)

    def test_the_model_does_not_need_the_file_any_more(self, tmp_path):
        gpt = model()
        tg.save(gpt.state_dict(), tmp_path / "model.pth")
        again = GPTModel.from_pretrained(tmp_path / "model.pth", n_heads=2)
        (tmp_path / "model.pth").write_bytes(b"")
        assert same(again, gpt)

    def test_a_damaged_file(self, tmp_path):
        gpt = model()
        tg.save(gpt.state_dict(), tmp_path / "model.pth")
        good = (tmp_path / "model.pth").read_bytes()
        (tmp_path / "model.pth").write_bytes(good[:-8])
        with pytest.raises(ValueError, match=r"model\.pth: no zip archive"):
            GPTModel.from_pretrained(tmp_path / "model.pth", n_heads=2)
        spoilt = bytearray(good)
        spoilt[good.index(gpt.tok_emb.weight.array.tobytes())] ^= 255
        (tmp_path / "model.pth").write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"data/0 is damaged: its checksum"):
            GPTModel.from_pretrained(tmp_path / "model.pth", n_heads=2)

    def test_the_number_of_heads_is_never_guessed_but_for_gpt2s_sizes(self, tmp_path):
        gpt = model(emb_dim=64, n_heads=4)
        tg.save(book_names(gpt), tmp_path / "model.pth")
        with pytest.raises(ValueError, match=r"64 channels in 2 layers .* say n_heads=.*save_pretrained\(folder\)"):
            GPTModel.from_pretrained(tmp_path / "model.pth")
        with pytest.raises(ValueError, match="n_heads must be a whole number of at least 1, not 0"):
            GPTModel.from_pretrained(tmp_path / "model.pth", n_heads=0)
        GPTModel.from_pretrained(tmp_path / "model.pth", n_heads=4).save_pretrained(tmp_path / "folder")  # as it says
        again = GPTModel.from_pretrained(tmp_path / "folder")
        assert np.array_equal(again(IDS).detach().array, gpt(IDS).detach().array)

    def test_gpt2s_own_heads_are_known(self, tmp_path):
        sizes = {"vocab_size": 2, "context_length": 1, "qkv_bias": False}
        with init.skip_random():
            state = GPTModel({**sizes, "emb_dim": 768, "n_heads": 12, "n_layers": 12, "tie_weights": True}).state_dict()
        for name in state:  # one number for all of a tensor, so that the file is no larger than its names
            state[name] = tg.zeros(1).expand(state[name].shape)
        tg.save(state, tmp_path / "model.pth")
        assert GPTModel.from_pretrained(tmp_path / "model.pth", dtype=tg.float16).config.n_heads == 12

    def test_what_the_file_does_not_tell_must_be_said(self, tmp_path):
        state = book_names(model())
        tg.save(state, tmp_path / "model.pth")
        with pytest.raises(ValueError, match="say n_heads="):
            GPTModel.from_pretrained(tmp_path / "model.pth")
        del state["trf_blocks.1.att.W_key.bias"], state["final_norm.shift"]
        tg.save(state, tmp_path / "model.pth")
        with pytest.raises(ValueError, match=r"missing are trf_blocks\.1\.att\.W_key\.bias, final_norm\.bias"):
            GPTModel.from_pretrained(tmp_path / "model.pth", n_heads=2)
        tg.save([1, 2], tmp_path / "model.pth")
        with pytest.raises(ValueError, match="no state dict"):
            GPTModel.from_pretrained(tmp_path / "model.pth")


def varint(number: int) -> bytes:
    groups = []
    while True:
        number, low = number >> 7, number & 127
        groups.append(low | (128 if number else 0))
        if not number:
            return bytes(groups)


def field(number: int, value) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def write_checkpoint(folder, tensors: dict[str, np.ndarray], entries_a_block: int = 5) -> None:
    """A checkpoint as TensorFlow writes it, keys compressed, several blocks."""
    folder.mkdir()
    data, entries = b"", [(b"", field(1, 1) + field(3, field(1, 1)))]
    for name in sorted(tensors):
        content = tensors[name].astype("<f4").tobytes()
        shape = b"".join(field(2, field(1, size)) for size in tensors[name].shape)
        place = field(4, len(data)) if data else b""  # protocol buffers leave zeros out
        entries.append((name.encode(), field(1, 1) + field(2, shape) + place + field(5, len(content))))
        data += content
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    file, handles = b"", []

    def block(pairs) -> bytes:
        nonlocal file
        content, before = b"", b""
        for key, value in pairs:
            shared = next((i for i, (a, b) in enumerate(zip(key, before)) if a != b), min(len(key), len(before)))  # noqa: B905
            content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
            before = key
        content += struct.pack("<II", 0, 1)  # one restart
        handle = varint(len(file)) + varint(len(content))
        file += content + b"\0" + struct.pack("<I", masked(crc32c(content + b"\0")))
        return handle

    for start in range(0, len(entries), entries_a_block):
        part = entries[start : start + entries_a_block]
        handles.append((part[-1][0], block(part)))
    footer = block([]) + block(handles)
    file += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    (folder / "model.ckpt.index").write_bytes(file)
    sizes = {"n_vocab": 19, "n_ctx": 6, "n_embd": 8, "n_head": 2, "n_layer": 2}
    (folder / "hparams.json").write_text(json.dumps(sizes))


def openai_names(folder) -> dict[str, np.ndarray]:
    found = {}
    for name, array in tensors_of(folder).items():
        path = (
            name.removeprefix("transformer.").replace("h.", "h", 1)
            if ".h." in name
            else name.removeprefix("transformer.")
        )
        path, _, kind = path.rpartition(".")
        last = "" if path in ("wte", "wpe") else "/b" if kind == "bias" else "/g" if "ln_" in path else "/w"
        turned = array[None] if last == "/w" else array
        found["model/" + path.replace(".", "/") + last] = turned
    return found


class TestTensorFlow:
    @pytest.fixture
    def openai(self, folder, tmp_path):
        write_checkpoint(tmp_path / "124M", openai_names(folder))
        return tmp_path / "124M"

    def test_checksum(self):
        assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's polynomial, its usual check value

    def test_round_trip(self, openai):
        gpt = GPTModel.from_pretrained(openai)
        assert same(gpt, model(tie_weights=True)) and gpt.config.tie_weights and gpt.config.qkv_bias

    def test_every_spoilt_byte_of_the_index_is_noticed(self, openai):
        path = openai / "model.ckpt.index"
        good = path.read_bytes()
        unused = {*range(len(good) - 48, len(good) - 8)}  # the footer's handles are padded
        for place in range(0, len(good), 7):
            path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
            if place not in unused:
                with pytest.raises(ValueError, match=r"model\.ckpt\.index: "):
                    GPTModel.from_pretrained(openai)

    @pytest.mark.parametrize("length", [0, 10, 60, 400])
    def test_a_short_index(self, openai, length):
        path = openai / "model.ckpt.index"
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match=r"model\.ckpt\.index: "):
            GPTModel.from_pretrained(openai)

    def test_short_data_and_none(self, openai):
        data = openai / "model.ckpt.data-00000-of-00001"
        cut(data)
        with pytest.raises(ValueError, match="the data files end before model/wte"):
            GPTModel.from_pretrained(openai)
        data.unlink()
        with pytest.raises(FileNotFoundError, match="data-00000-of-00001 is not there"):
            GPTModel.from_pretrained(openai)

    def test_missing_and_extra_names(self, folder, tmp_path):
        tensors = openai_names(folder)
        del tensors["model/h1/mlp/c_fc/w"]
        write_checkpoint(tmp_path / "124M", {**tensors, "beta1_power": np.ones(())})
        with pytest.raises(ValueError, match=r"missing are model/h1/mlp/c_fc/w; not expected are beta1_power"):
            GPTModel.from_pretrained(tmp_path / "124M")


class TestHub:
    def test_a_name_is_downloaded_and_checked(self, folder, monkeypatch, tmp_path):
        asked = []

        def hf_hub_download(repository, file, local_files_only=False):
            asked.append((repository, file, local_files_only))
            if local_files_only and len(asked) < 3:
                raise OSError("not in the cache")
            return str(folder / file)

        monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
        assert same(GPTModel.from_pretrained("gpt2-medium"), model(tie_weights=True))
        gpt2 = "openai-community/gpt2-medium"
        assert asked[:2] == [(gpt2, "config.json", True), (gpt2, "config.json", False)]
        assert asked[2:] == [(gpt2, "model.safetensors", True)]  # which is in the cache
        wrong = folder / ("0" * 64)
        (folder / "model.safetensors").rename(wrong)
        (folder / "model.safetensors").symlink_to(wrong)
        with pytest.raises(ValueError, match="damaged"):
            GPTModel.from_pretrained("gpt2")

    def test_a_cache_as_the_library_lays_it_out_needs_no_network(self, folder, monkeypatch, tmp_path):
        constants = pytest.importorskip("huggingface_hub.constants")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        root, commit = tmp_path / "hub" / "models--openai-community--gpt2", "a" * 40
        snapshot = root / "snapshots" / commit
        for path in (root / "refs", root / "blobs", snapshot):
            path.mkdir(parents=True)
        (root / "refs" / "main").write_text(commit)
        for name in ("config.json", "model.safetensors"):
            content = (folder / name).read_bytes()
            blob = root / "blobs" / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            (snapshot / name).symlink_to(blob)
        assert same(GPTModel.from_pretrained("gpt2"), model(tie_weights=True))
        assert same(GPTModel.from_pretrained("openai-community/gpt2"), model(tie_weights=True))
        blob.write_bytes(content[:-1] + b"?")
        with pytest.raises(ValueError, match="damaged, its SHA-256"):
            GPTModel.from_pretrained("gpt2")

    def test_without_a_network_it_says_what_to_do(self, monkeypatch, caplog):
        def hf_hub_download(repository, file, local_files_only=False):
            logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s")
            raise OSError("no route\nand more")

        monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
        with pytest.raises(
            ConnectionError, match=r"config\.json and model\.safetensors of .*gpt2-xl .*no route.*that folder"
        ):
            GPTModel.from_pretrained("gpt2-xl")
        assert len(caplog.records) == 1  # the look into the cache alone
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(ImportError, match=r"tinygrad_llm\[hub\]"):
            GPTModel.from_pretrained("gpt2")

    def test_other_names_are_none(self, tmp_path):
        assert not hub_module.is_name("gpt3")
        with pytest.raises(FileNotFoundError, match="known names are gpt2, gpt2-medium"):
            GPTModel.from_pretrained(tmp_path / "gpt3")
        (tmp_path / "a.bin").touch()
        with pytest.raises(ValueError, match="the format is not known"):
            GPTModel.from_pretrained(tmp_path / "a.bin")
