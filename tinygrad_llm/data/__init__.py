"""Texts and windows over them: what a language model is trained on."""

from tinygrad_llm.data.corpora import Corpus, Floor, load, read
from tinygrad_llm.data.mixing import Mixture
from tinygrad_llm.data.packing import PackedBatch, PackedRows, PackingReport, documents_of
from tinygrad_llm.data.windows import Windows, ids_array, split

__all__ = [
    "Corpus", "Floor", "load", "read",
    "Windows", "ids_array", "split",
    "Mixture",
    "PackedBatch", "PackedRows", "PackingReport", "documents_of",
]  # fmt: skip
