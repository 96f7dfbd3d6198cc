"""The book's data set and loader, under its names: windows of a text as tensors."""

from typing import Any

from tinygrad_llm import text
from tinygrad_llm.autograd import Tensor
from tinygrad_llm.autograd.creation import from_numpy
from tinygrad_llm.data.windows import Windows, ids_array
from tinygrad_llm.text import Tokenizer
from tinygrad_llm.utils.data import DataLoader, Dataset


class GPTDatasetV1(Dataset[tuple[Tensor, Tensor]]):
    """Example i is x = ids[s : s + max_length] and y, the same one step ahead, with s = i * stride: each (T,) int64.

    `<|endoftext|>` in the text becomes its one id where the tokenizer has it. Source: Raschka 2024, "Build a Large
    Language Model (From Scratch)", section 2.6.

    Raises: ValueError when the text does not fill one window.
    """

    def __init__(self, txt: str, tokenizer: Tokenizer, max_length: int, stride: int) -> None:
        allowed = {"<|endoftext|>"} & set(tokenizer.special_tokens)
        ids = tokenizer.encode(txt, allowed_special=allowed, disallowed_special=())
        self.windows = Windows(ids_array(ids, tokenizer.vocab_size), max_length, stride)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.windows[index]
        return from_numpy(x), from_numpy(y)


def create_dataloader_v1(
    txt: str,
    batch_size: int = 4,
    max_length: int = 256,
    stride: int = 128,
    shuffle: bool = True,
    drop_last: bool = True,
    num_workers: int = 0,
    tokenizer: Tokenizer | None = None,
) -> DataLoader[Any]:
    """Batches of windows of a text: x (B, T), y (B, T). tokenizer: GPT-2's unless another is given.

    Raises: as `GPTDatasetV1`, `DataLoader` and the tokenizer.
    """
    dataset = GPTDatasetV1(txt, tokenizer or text.build("gpt2", ""), max_length, stride)
    return DataLoader(dataset, batch_size, shuffle=shuffle, drop_last=drop_last, num_workers=num_workers)
