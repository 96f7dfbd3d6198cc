"""Loading weights takes their own memory and little more, whatever form they have: each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.numpy

import tinygrad_llm as tg
from tests.models.test_pretrained import book_names, openai_names, write_checkpoint
from tinygrad_llm.models import GPTModel

ROOT = Path(__file__).parents[2]
SIZES = {"vocab_size": 9000, "context_length": 64, "emb_dim": 512, "n_heads": 8, "n_layers": 4}
THEIRS = {"n_vocab": 9000, "n_ctx": 64, "n_embd": 512, "n_head": 8, "n_layer": 4}
MEASURE = """
import re, sys
from pathlib import Path
from tinygrad_llm.models import GPTModel, pretrained
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
heads = {"n_heads": 8} if sys.argv[1].endswith(".pth") else {}  # which a state dict does not tell
model = GPTModel.from_pretrained(sys.argv[1], **heads)
print(peak() - before, sum(p.array.nbytes for p in model.parameters()))
"""


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """69 MB of weights in each form."""
    tg.manual_seed(0)
    root = tmp_path_factory.mktemp("forms")
    gpt = GPTModel({**SIZES, "qkv_bias": True, "tie_weights": True})
    gpt.save_pretrained(root / "own")
    gpt.save_pretrained(root / "huggingface", layout="huggingface")
    (root / "shards").mkdir()
    tensors = safetensors.numpy.load_file(root / "huggingface" / "model.safetensors")
    places = {}
    for i, file in enumerate(("a.safetensors", "b.safetensors")):
        part = dict(list(tensors.items())[i::2])
        safetensors.numpy.save_file(part, root / "shards" / file)
        places |= dict.fromkeys(part, file)
    (root / "shards" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (root / "shards" / "config.json").write_bytes((root / "huggingface" / "config.json").read_bytes())
    write_checkpoint(root / "tensorflow", openai_names(root / "huggingface"))
    (root / "tensorflow" / "hparams.json").write_text(json.dumps(THEIRS))
    tg.save(gpt.state_dict(), root / "ours.pth")
    book = book_names(gpt)
    tg.save({name: t.clone() for name, t in book.items() if not name.startswith("out_head")}, root / "book.pth")
    return root


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("form", ["own", "huggingface", "shards", "tensorflow", "ours.pth", "book.pth"])
def test_the_peak_is_at_most_a_fifth_above_the_file(forms, form):
    path = forms / form
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    peak, weights = map(int, done.stdout.split())
    assert size == pytest.approx(weights, rel=0.02)
    assert 0.9 * size < peak <= 1.2 * size
