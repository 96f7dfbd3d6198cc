"""Texts and windows over them: what a language model is trained on."""

from tinygrad_llm.data.corpora import Corpus, Floor, load, read
from tinygrad_llm.data.dataset import GPTDatasetV1, create_dataloader_v1
from tinygrad_llm.data.known import fetch
from tinygrad_llm.data.manifest import Manifest, Shards, is_prepared, verify
from tinygrad_llm.data.permutation import Permutation
from tinygrad_llm.data.preparation import Progress, Settings, prepare
from tinygrad_llm.data.shards import Row
from tinygrad_llm.data.stream import Prefetch, RandomWindows, ShuffledWindows, Stream
from tinygrad_llm.data.windows import Windows, ids_array, split

__all__ = [
    "Corpus",
    "Floor",
    "GPTDatasetV1",
    "Manifest",
    "Permutation",
    "Prefetch",
    "Progress",
    "RandomWindows",
    "Row",
    "Settings",
    "Shards",
    "ShuffledWindows",
    "Stream",
    "Windows",
    "create_dataloader_v1",
    "fetch",
    "ids_array",
    "is_prepared",
    "load",
    "prepare",
    "read",
    "split",
    "verify",
]
