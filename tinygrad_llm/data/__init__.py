"""Texts and windows over them: what a language model is trained on."""

from tinygrad_llm.data.corpora import Corpus, Floor, load, read
from tinygrad_llm.data.packing import PackedBatch, PackedRows, PackingReport, documents_of
from tinygrad_llm.data.windows import Windows, ids_array, split

__all__ = ["Corpus", "Floor", "PackedBatch", "PackedRows", "PackingReport", "Windows", "documents_of", "ids_array", "load", "read", "split"]
