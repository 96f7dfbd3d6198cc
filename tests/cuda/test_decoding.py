"""Writing by the GPU's kernels: the tokens are those of the CPU, whatever was recorded, and nothing waits."""

from __future__ import annotations

import types
import warnings

import numpy as np
import pytest

import tinygrad_llm as tg
from tests.cuda import emulated, pretend, recorded
from tests.cuda.kinds import back
from tinygrad_llm import cuda
from tinygrad_llm.kernels.cuda import launch, sdp, step
from tinygrad_llm.models import GPTConfig, GPTModel, Reader, Sampling, beam_search, decoding, generate_batch, stream

VOCABULARY, CONTEXT = 29, 20
CONFIG = GPTConfig(VOCABULARY, CONTEXT, emb_dim=16, n_heads=2, n_layers=2, drop_rate=0.2, qkv_bias=True)
SAMPLINGS = [
    Sampling(), Sampling(1.0), Sampling(0.8, 5, 0.9), Sampling(0.0, repetition_penalty=1.5),
    Sampling(1.2, min_p=0.05, repetition_penalty=1.3),
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No more warps than there is work for, no cuDNN, no collection after each replay: nothing is freed on the way."""
    monkeypatch.setattr(step, "BUSY", 16)
    monkeypatch.setitem(sdp.allowed, "cudnn", False)
    monkeypatch.setattr(recorded, "gc", types.SimpleNamespace(collect=lambda: 0))


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
    rows, launched = prompts(3, 1, 6), recorded.launched
    for slide, count, eos, alone in ((5, 12, 7, True), (14, 22, None, False)):
        written = []
        for place in ("cpu", "cuda"):
            generator = seeded(3) if alone else tg.Generator().manual_seed(5)
            with emulated.gpu():
                options = {"sampling": sampling, "slide": slide, "eos_id": eos, "generator": generator}
                found = generate_batch(build().to(place), rows, count, **options)
            streams = generator if alone else [generator]
            written.append((found, [one.get_state().tolist() for one in streams]))
        assert written[0] == written[1]
    assert recorded.launched > launched + 6


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


def test_two_who_read_in_turns():
    def write(place):
        gpt = build().to(place)
        reader, rows = Reader(gpt), ([1, 2], [2, 1])
        writers = [stream(gpt, row, 12, reader=reader, sampling=Sampling(1.0), generator=g)
                   for row, g in zip(rows, seeded(2), strict=True)]  # fmt: skip
        return [next(writers[i]) for i in (0, 0, 0, 1, 1, 0, 1, 1, 0, 0)]

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
            tolerance = {tg.float32: 1e-5, tg.bfloat16: 0.04, tg.float16: 0.005}[dtype]
            assert np.linalg.norm(found - wanted) < tolerance * np.linalg.norm(wanted)
            for row in written:
                row.append(sum(row) % VOCABULARY)
        assert found.dtype == np.float32  # by a step


def test_biases_that_were_changed_in_place_count():
    """Also where a step has a copy of them in float32."""
    rows = prompts(*[3] * 12)
    with emulated.gpu():
        gpt = build(tg.bfloat16).cuda()
        reader, found = Reader(gpt), []
        reader(rows)
        for change in (0.0, 0.5):
            with tg.no_grad():
                gpt.trf_blocks[-1].ff.layers[2].bias.mul_(1 + change).add_(change * tg.arange(16.0, device="cuda"))
            found.append(back(reader(rows)))  # the last id again, by a step
        wanted = back(Reader(gpt)(rows))
    assert np.linalg.norm(found[1] - wanted) < 0.04 * np.linalg.norm(wanted) < np.linalg.norm(found[0] - wanted)


def test_a_product_fetches_what_the_second_after_it_reads():
    """Around the end of a step, too."""
    with emulated.gpu():
        reader, read, fetched = Reader(build().cuda()), [], []
        reader([[1, 2]])
        start = launch.start

        def record(file, name, definitions, grid, block, args, shared):
            if name == "few_rows":
                read.append(args[5].data.ptr)
                fetched.append(args[-2].data.ptr)
            start(file, name, definitions, grid, block, args, shared)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launch, "start", record)
            reader([[1, 2, 3]])
    assert fetched == read[2:] + read[:2] and len(set(read)) == 9


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
    with emulated.gpu(), pytest.warns(UserWarning, match="launch by launch .this GPU records nothing"):
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


@pytest.mark.parametrize("change", ["wide", "float64", "lora", "profile", "head", "widths"])
def test_other_models_are_written_with_as_before(change):
    gpt = build(tg.float64 if change == "float64" else tg.float32, **({"emb_dim": 260} if change == "wide" else {}))
    if change == "lora":
        tg.nn.replace_linear_with_lora(gpt, 2, 4)
    if change == "head":
        gpt.replace_head(7)
    if change == "widths":
        gpt.trf_blocks[1].ff.layers[0], gpt.trf_blocks[1].ff.layers[2] = tg.nn.Linear(16, 8), tg.nn.Linear(8, 16)
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
            assert not decoding.serves(Reader(there).plain) or change == "profile"
    assert found == wanted and not launches["attention_step"]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [tg.float32, tg.bfloat16, tg.float16])
@pytest.mark.parametrize("rows", [1, 12])
def test_what_was_recorded_gives_the_tokens_of_the_launches(dtype, rows, monkeypatch):
    gpt, some = build(dtype).cuda(), prompts(*range(1, rows + 1))
    for sampling in SAMPLINGS:
        found = []
        for worth in (1, 1000):
            monkeypatch.setattr(decoding, "WORTH", worth)
            found.append(generate_batch(gpt, some, 19 - rows, sampling=sampling, generator=seeded(rows)))
        assert found[0] == found[1]
        if dtype is tg.float32:
            assert found[0] == generate_batch(build(), some, 19 - rows, sampling=sampling, generator=seeded(rows))
