import os
from pathlib import Path

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import text
from tinygrad_llm.data import GPTDatasetV1, Settings, Shards, Windows, create_dataloader_v1, prepare

PASSAGE = "In the heart of the city stood the old library, a relic from a bygone era. " * 8


@pytest.fixture(scope="module")
def verdict():
    """The short story, and GPT-2's tokenizer; both lie outside of the project."""
    path = Path(os.environ.get("TINYGRAD_LLM_DATA", ""), "the-verdict.txt")
    if not path.is_file():
        pytest.skip("TINYGRAD_LLM_DATA names no folder with the-verdict.txt")
    try:
        return path, text.build("gpt2", "")
    except (ConnectionError, ValueError):
        pytest.skip("GPT-2's files are not there")


def test_the_chapters_windows_of_four_tokens_come_out_exactly(verdict):
    path, _ = verdict
    first, second, *_ = create_dataloader_v1(path.read_text(), batch_size=1, max_length=4, stride=1, shuffle=False)
    assert [part.tolist() for part in first] == [[[40, 367, 2885, 1464]], [[367, 2885, 1464, 1807]]]
    assert [part.tolist() for part in second] == [[[367, 2885, 1464, 1807]], [[2885, 1464, 1807, 3619]]]
    x, y = next(iter(create_dataloader_v1(path.read_text(), batch_size=8, max_length=4, stride=4, shuffle=False)))
    assert x.tolist() == [
        [40, 367, 2885, 1464], [1807, 3619, 402, 271], [10899, 2138, 257, 7026], [15632, 438, 2016, 257],
        [922, 5891, 1576, 438], [568, 340, 373, 645], [1049, 5975, 284, 502], [284, 3285, 326, 11],
    ]  # fmt: skip
    assert y.tolist() == [
        [367, 2885, 1464, 1807], [3619, 402, 271, 10899], [2138, 257, 7026, 15632], [438, 2016, 257, 922],
        [5891, 1576, 438, 568], [340, 373, 645, 1049], [5975, 284, 502, 284], [3285, 326, 11, 287],
    ]  # fmt: skip


@pytest.mark.parametrize("stride", [1, 4])
def test_from_shards_they_are_the_same(verdict, tmp_path, stride):
    pytest.importorskip("filelock")
    path, tokenizer = verdict
    prepare(path, tmp_path / "out", tokenizer, Settings(0))
    row = Shards(tmp_path / "out").row()
    assert len(row) == 5146 and row[-1] == 50256
    loader = create_dataloader_v1(path.read_text(), batch_size=8, max_length=4, stride=stride, shuffle=False)
    windows = Windows(row[:-1], 4, stride).batches(8, drop_last=True)
    for (x, y), (a, b) in zip(loader, windows, strict=True):
        np.testing.assert_array_equal(x.array, a)
        np.testing.assert_array_equal(y.array, b)


def test_the_examples_are_windows_as_tensors():
    tokenizer = text.build("char", PASSAGE)
    dataset = GPTDatasetV1(PASSAGE, tokenizer, max_length=16, stride=5)
    windows = Windows(tokenizer.encode(PASSAGE), 16, 5)
    assert len(dataset) == len(windows)
    for (x, y), (a, b) in zip((dataset[i] for i in range(len(dataset))), windows.batches(1), strict=True):
        assert x.dtype == tg.int64 and x.tolist() == a[0].tolist() and y.tolist() == b[0].tolist()
    with pytest.raises(ValueError, match="do not fill one window"):
        GPTDatasetV1("In", tokenizer, 4, 1)


@pytest.mark.torch
@pytest.mark.parametrize("workers", [0, 1])
def test_shuffled_batches_come_in_pytorchs_order(workers):
    torch = pytest.importorskip("torch")
    tokenizer = text.build("char", PASSAGE)
    dataset = GPTDatasetV1(PASSAGE, tokenizer, 8, 4)
    theirs = [
        (torch.from_numpy(x.array), torch.from_numpy(y.array)) for x, y in (dataset[i] for i in range(len(dataset)))
    ]
    for library in (tg, torch):
        library.manual_seed(123)
    ours = create_dataloader_v1(PASSAGE, 4, 8, 4, num_workers=workers, tokenizer=tokenizer)
    judge = torch.utils.data.DataLoader(theirs, batch_size=4, shuffle=True, drop_last=True)
    assert [(x.tolist(), y.tolist()) for x, y in ours] == [(x.tolist(), y.tolist()) for x, y in judge]


def test_an_end_of_text_in_the_text_is_one_id(verdict):
    _, tokenizer = verdict
    x, _ = GPTDatasetV1("Hello, do you like tea? <|endoftext|> In the sunlit terraces", tokenizer, 12, 1)[0]
    assert x.tolist()[:8] == [15496, 11, 466, 345, 588, 8887, 30, 220] and x[8].item() == 50256
