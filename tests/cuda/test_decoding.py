"""Writing by the GPU's kernels: the tokens are those of the CPU, whatever was recorded, and nothing waits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda import emulated, pretend, recorded
from tests.cuda.kinds import back
from tinygrad_llm import cuda
from tinygrad_llm.kernels.cuda import launch, step
from tinygrad_llm.models import GPTConfig, GPTModel, Reader, Sampling, beam_search, decoding, generate_batch, stream

VOCABULARY, CONTEXT = 29, 20
CONFIG = GPTConfig(VOCABULARY, CONTEXT, emb_dim=24, n_heads=3, n_layers=2, drop_rate=0.2, qkv_bias=True)
SAMPLINGS = [
    Sampling(), Sampling(1.0), Sampling(0.8, 5, 0.9), Sampling(0.0, repetition_penalty=1.5),
    Sampling(1.2, min_p=0.05, repetition_penalty=1.3),
]  # fmt: skip


@pytest.fixture(autouse=True)
def few_warps(monkeypatch):
    """As many as there is work for: the processor has no multiprocessors to keep busy."""
    monkeypatch.setattr(step, "BUSY", 16)


def build(dtype=tg.float32, **changes):
    tg.manual_seed(3)
    gpt = GPTModel(CONFIG.to_dict() | changes).eval()
    for p in gpt.parameters():
        p.detach().mul_(3.0).add_(0.05)
    return gpt.to(dtype)


def prompts(*lengths):
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(0, VOCABULARY, length).tolist() for length in lengths]


def seeded(count, seed=0):
    return [tg.Generator().manual_seed(seed + i) for i in range(count)]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_same_tokens(sampling):
    """Rows of several lengths, some of which end; a window that moves; a number of steps that is worth recording."""
    rows, gpt, launched = prompts(3, 1, 6), build(), recorded.launched
    for slide, count, eos in ((1, 12, 7), (14, 24, None)):
        options = {"sampling": sampling, "slide": slide, "eos_id": eos}
        wanted = generate_batch(gpt, rows, count, generator=seeded(3), **options)
        one = tg.Generator().manual_seed(5)
        wanted_of_one = generate_batch(gpt, rows, count, generator=one, **options)
        with emulated.gpu():
            there, again = build().cuda(), tg.Generator().manual_seed(5)
            assert generate_batch(there, rows, count, generator=seeded(3), **options) == wanted
            assert generate_batch(there, rows, count, generator=again, **options) == wanted_of_one
        assert again.get_state().tolist() == one.get_state().tolist()
    assert recorded.launched > launched + 20


def test_the_generator_is_where_the_cpu_leaves_it_when_nobody_reads_on():
    states, texts = [], []
    for place in ("cpu", "cuda"):
        with emulated.gpu():
            generator, gpt = tg.Generator().manual_seed(1), build().to(place)
            written = stream(gpt, [1, 2], 30, sampling=Sampling(1.0), generator=generator)
            texts.append([next(written) for _ in range(6)])
            written.close()
            states.append(generator.get_state().tolist())
            reader = Reader(gpt)  # which goes on where somebody has stopped
            row = [1, 2]
            for count in (5, 1, 4):
                row += list(stream(gpt, row, count, sampling=Sampling(1.0), generator=generator, reader=reader))
                row.append(3)
            texts.append(row)
    assert states[0] == states[1] and texts[:2] == texts[2:]


def test_what_was_recorded_is_used_again_and_exchanged_weights_count():
    def write(place):
        gpt = build().to(place)
        reader, row = Reader(gpt), [1]
        for change in (False, False, True):
            if change:
                with tg.no_grad():
                    for p in gpt.parameters():
                        p.data = p.data * 1.5
                reader.known = [[]]  # read all again
            row += stream(gpt, row, 6, reader=reader)
        return row

    wanted = write("cpu")
    with emulated.gpu():
        assert write("cuda") == wanted


def test_beams():
    ids = tg.tensor(prompts(4, 4))
    wanted = beam_search(build(), ids, 10, 3, eos_id=4, slide=8).tolist()
    with emulated.gpu(), launch.counted() as launches:
        assert beam_search(build().cuda(), ids.cuda(), 10, 3, eos_id=4, slide=8).tolist() == wanted
    assert launches["attention_step"] > 0


@pytest.mark.parametrize("rows", [1, 3, 12])
@pytest.mark.parametrize("dtype", [tg.float32, tg.bfloat16, tg.float16])
def test_logits_are_those_of_the_same_weights_in_float64(dtype, rows):
    exact = Reader(build(dtype).double())
    with emulated.gpu():
        reader = Reader(build(dtype).cuda())
        written = prompts(*range(2, rows + 2))
        for _ in range(3):
            found, wanted = back(reader(written)), exact(written)
            tolerance = {4: 1e-4, 2: 0.06 if dtype is tg.bfloat16 else 0.008}[dtype.itemsize]
            np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
            for row in written:
                row.append(sum(row) % VOCABULARY)
        assert found.dtype == np.float32  # by a step


@pytest.mark.parametrize("dtype", [tg.float32, tg.bfloat16])
def test_rows_of_a_large_batch_are_written_as_alone(dtype):
    rows = prompts(*[2] * 10)
    with emulated.gpu():
        gpt = build(dtype).cuda()
        together = generate_batch(gpt, rows, 6)
        alone = [[*row, *stream(gpt, row, 6)] for row in rows]
    assert sum(a == b for a, b in zip(together, alone, strict=True)) >= (10 if dtype is tg.float32 else 8)


def test_what_cannot_be_recorded_is_launched(monkeypatch):
    wanted = list(stream(build(), [1, 2], 15))

    def refuse(self, *args):
        raise RuntimeError("this GPU records nothing")

    monkeypatch.setattr(cuda.CUDAGraph, "capture_begin", refuse)
    with emulated.gpu(), pytest.warns(UserWarning, match="launch by launch: this GPU records nothing"):
        assert list(stream(build().cuda(), [1, 2], 15)) == wanted


def test_spoiled_logits_and_ids_that_are_none_are_refused():
    with emulated.gpu():
        gpt = build().cuda()
        reader = Reader(gpt)
        reader([[1, 2]])
        with pytest.raises(IndexError, match="id 29 is outside of the vocabulary of 29"):
            reader([[1, 2, VOCABULARY]])
        written = stream(gpt, [1, 2], 12)
        next(written), next(written)
        with tg.no_grad():
            gpt.final_norm.weight.fill_(float("nan"))
        with pytest.raises(ValueError, match="nan or infinite"):
            list(written)


@pytest.mark.parametrize("change", ["wide", "float64", "lora", "profile"])
def test_other_models_are_written_with_as_before(change):
    gpt = build(tg.float64 if change == "float64" else tg.float32, **({"emb_dim": 390} if change == "wide" else {}))
    if change == "lora":
        tg.nn.replace_linear_with_lora(gpt, 2, 4)
    wanted = list(stream(gpt, [1, 2], 4))
    with pretend.gpu(), emulated.launch.counted() as launches, warnings.catch_warnings():
        from tinygrad_llm import kernels

        with kernels.use("reference"):
            there = gpt.cuda()
            if change == "profile":
                with tg.profiler.profile():
                    found = list(stream(there, [1, 2], 4))
            else:
                found = list(stream(there, [1, 2], 4))
            assert not decoding.steps(Reader(there).plain) or change == "profile"
    assert found == wanted and not launches["attention_step"]
